#include "modules.h"

#include <string>

namespace moe {

namespace {

int64_t rowsOf(const TensorPtr& tensor, int width, const char* name) {
  if (tensor->size() % width != 0)
    throw Error(ErrorCode::Shape, std::string(name) + " must have rows of " + std::to_string(width) + " elements");
  return tensor->size() / width;
}

void checkFloat(const TensorPtr& tensor, const char* name) {
  if (tensor->dtype() == DType::Int32)
    throw Error(ErrorCode::DType, std::string(name) + " must be of a float dtype, got int32");
}

}  // namespace

TensorPtr Pass::backward(const TensorPtr& gradOutput, float scale) {
  if (spent_) throw Error(ErrorCode::StalePass, "backward() of this pass has already run; it runs once");
  watched_.check(*output_, "the input or a parameter");
  if (gradOutput) {
    checkTensor(gradOutput, output_->size(), output_->dtype(), "gradOutput");
    device_->materialise(gradOutput);
  }
  TensorPtr gradInput = queueBackward(gradOutput, scale);
  spent_ = true;
  watched_.clear();
  release();
  return gradInput;
}

// ------------------------------------------------------------------------------------------------ Linear

LinearPass::LinearPass(const TensorPtr& input, ParameterPtr weight, ParameterPtr bias, int in, int out)
    : Pass(input->device()), input_(input), weight_(std::move(weight)), bias_(std::move(bias)), in_(in), out_(out) {
  const DType dtype = weight_->value()->dtype();
  checkTensor(input, input->size(), dtype, "input");
  rows_ = rowsOf(input, in, "input");
  device_->materialise(input);
  output_ = device_->empty(dtype, rows_ * out);
  watch(input_);
  watch(weight_->value());
  if (bias_) watch(bias_->value());
  GroupedGemmForward gemm{.dtype = dtype,
                          .R = rows_,
                          .E = 1,
                          .in = in_,
                          .out = out_,
                          .input = input_->data(),
                          .weight = dataOf(weight_),
                          .bias = dataOf(bias_),
                          .output = output_->data()};
  const TensorPtr workspace = device_->workspace(gemm);
  Operands operands{{input_->health(), weight_->value()->health()}, {output_->health()}, {}};
  if (bias_) operands.inputs.push_back(bias_->value()->health());
  device_->enqueue("Linear.forward", std::move(operands),
                   [gemm](Backend& backend) { backend.groupedGemmForward(gemm); });
}

TensorPtr LinearPass::queueBackward(const TensorPtr& gradOutput, float) {
  TensorPtr gradInput = device_->empty(input_->dtype(), rows_ * in_);
  Operands operands{{gradOutput->health(), input_->health(), weight_->value()->health()}, {gradInput->health()}, {}};
  const GradTarget weight = gradTarget(weight_, operands), bias = gradTarget(bias_, operands);
  GroupedGemmBackward gemm{.dtype = input_->dtype(),
                           .R = rows_,
                           .E = 1,
                           .in = in_,
                           .out = out_,
                           .input = input_->data(),
                           .weight = dataOf(weight_),
                           .gradOutput = gradOutput->data(),
                           .gradInput = gradInput->data(),
                           .gradWeight = weight.data,
                           .gradBias = bias.data,
                           .accumulateWeight = weight.accumulate,
                           .accumulateBias = bias.accumulate};
  const TensorPtr workspace = device_->workspace(gemm);
  device_->enqueue("Linear.backward", std::move(operands),
                   [gemm](Backend& backend) { backend.groupedGemmBackward(gemm); });
  markGradsWritten({weight_, bias_});
  return gradInput;
}

// ------------------------------------------------------------------------------------------------ Embedding

EmbeddingPass::EmbeddingPass(const TensorPtr& indices, ParameterPtr weight, int count, int size)
    : Pass(indices->device()), indices_(indices), weight_(std::move(weight)), count_(count), size_(size) {
  checkTensor(indices, indices->size(), DType::Int32, "indices");
  device_->materialise(indices);
  output_ = device_->empty(weight_->value()->dtype(), indices->size() * size);
  watch(indices_);
  watch(weight_->value());
  const EmbeddingForward embedding{.dtype = output_->dtype(),
                                   .N = indices_->size(),
                                   .count = count_,
                                   .size = size_,
                                   .indices = indices_->ints(),
                                   .weight = dataOf(weight_),
                                   .output = output_->data()};
  device_->enqueue("Embedding.forward", {{indices_->health(), weight_->value()->health()}, {output_->health()}, {}},
                   [embedding](Backend& backend) { backend.embeddingForward(embedding); });
}

TensorPtr EmbeddingPass::queueBackward(const TensorPtr& gradOutput, float) {
  TensorPtr none = device_->empty(gradOutput->dtype(), 0);
  Operands operands{{gradOutput->health(), indices_->health(), output_->health()}, {}, {}};
  const GradTarget weight = gradTarget(weight_, operands);
  if (!weight.data) return none;
  EmbeddingBackward embedding{.dtype = gradOutput->dtype(),
                              .N = indices_->size(),
                              .count = count_,
                              .size = size_,
                              .indices = indices_->ints(),
                              .gradOutput = gradOutput->data(),
                              .gradWeight = weight.data,
                              .accumulateWeight = weight.accumulate};
  const TensorPtr workspace = device_->workspace(embedding);
  device_->enqueue("Embedding.backward", std::move(operands),
                   [embedding](Backend& backend) { backend.embeddingBackward(embedding); });
  markGradsWritten({weight_});
  return none;
}

// ------------------------------------------------------------------------------------------------ RMSNorm

RmsNormPass::RmsNormPass(const TensorPtr& input, ParameterPtr weight, int size, float epsilon)
    : Pass(input->device()), input_(input), weight_(std::move(weight)), size_(size) {
  const DType dtype = weight_->value()->dtype();
  checkTensor(input, input->size(), dtype, "input");
  rows_ = rowsOf(input, size, "input");
  device_->materialise(input);
  output_ = device_->empty(dtype, input->size());
  inverseRms_ = device_->empty(DType::Float32, rows_);
  watch(input_);
  watch(weight_->value());
  const RmsNormForward norm{.dtype = dtype,
                            .N = rows_,
                            .size = size_,
                            .epsilon = epsilon,
                            .input = input_->data(),
                            .weight = dataOf(weight_),
                            .output = output_->data(),
                            .inverseRms = inverseRms_->floats()};
  device_->enqueue("RMSNorm.forward",
                   {{input_->health(), weight_->value()->health()}, {output_->health(), inverseRms_->health()}, {}},
                   [norm](Backend& backend) { backend.rmsNormForward(norm); });
}

TensorPtr RmsNormPass::queueBackward(const TensorPtr& gradOutput, float) {
  TensorPtr gradInput = device_->empty(input_->dtype(), input_->size());
  Operands operands{{gradOutput->health(), input_->health(), inverseRms_->health(), weight_->value()->health()},
                    {gradInput->health()},
                    {}};
  const GradTarget weight = gradTarget(weight_, operands);
  RmsNormBackward norm{.dtype = input_->dtype(),
                       .N = rows_,
                       .size = size_,
                       .input = input_->data(),
                       .weight = dataOf(weight_),
                       .inverseRms = inverseRms_->floats(),
                       .gradOutput = gradOutput->data(),
                       .gradInput = gradInput->data(),
                       .gradWeight = weight.data,
                       .accumulateWeight = weight.accumulate};
  const TensorPtr workspace = device_->workspace(norm);
  device_->enqueue("RMSNorm.backward", std::move(operands),
                   [norm](Backend& backend) { backend.rmsNormBackward(norm); });
  markGradsWritten({weight_});
  return gradInput;
}

// ------------------------------------------------------------------------------------------------ cross-entropy

CrossEntropyPass::CrossEntropyPass(const TensorPtr& logits, const TensorPtr& targets, int classes)
    : Pass(logits->device()), logits_(logits), targets_(targets), classes_(classes) {
  checkFloat(logits, "logits");
  rows_ = rowsOf(logits, classes, "logits");
  checkTensor(targets, rows_, DType::Int32, "targets");
  device_->materialise(logits);
  device_->materialise(targets);
  logSumExp_ = device_->empty(DType::Float32, rows_);
  meanAndCount_ = device_->empty(DType::Float32, 2);
  output_ = device_->empty(DType::Float32, 1);
  watch(logits_);
  watch(targets_);
  CrossEntropyForward loss{.dtype = logits_->dtype(),
                           .N = rows_,
                           .classes = classes_,
                           .logits = logits_->data(),
                           .targets = targets_->ints(),
                           .logSumExp = logSumExp_->floats(),
                           .loss = meanAndCount_->floats()};
  const TensorPtr workspace = device_->workspace(loss);
  device_->enqueue(
      "crossEntropy",
      {{logits_->health(), targets_->health()}, {logSumExp_->health(), meanAndCount_->health(), output_->health()}, {}},
      [loss, scalar = output_->floats()](Backend& backend) {
        backend.crossEntropyForward(loss);
        backend.copy(scalar, loss.loss, sizeof(float));
      });
}

TensorPtr CrossEntropyPass::queueBackward(const TensorPtr&, float scale) {
  TensorPtr gradLogits = device_->empty(logits_->dtype(), logits_->size());
  const CrossEntropyBackward loss{.dtype = logits_->dtype(),
                                  .N = rows_,
                                  .classes = classes_,
                                  .scale = scale,
                                  .logits = logits_->data(),
                                  .targets = targets_->ints(),
                                  .logSumExp = logSumExp_->floats(),
                                  .loss = meanAndCount_->floats(),
                                  .gradLogits = gradLogits->data()};
  device_->enqueue("crossEntropy.backward",
                   {{logits_->health(), targets_->health(), meanAndCount_->health()}, {gradLogits->health()}, {}},
                   [loss](Backend& backend) { backend.crossEntropyBackward(loss); });
  return gradLogits;
}

// ------------------------------------------------------------------------------------------------ element-wise

TensorPtr add(const TensorPtr& a, const TensorPtr& b) {
  Device& device = a->device();
  checkFloat(a, "a");
  checkTensor(b, a->size(), a->dtype(), "b");
  device.materialise(a);
  device.materialise(b);
  TensorPtr output = device.empty(a->dtype(), a->size());
  const Add op{.dtype = a->dtype(), .n = a->size(), .a = a->data(), .b = b->data(), .output = output->data()};
  device.enqueue("add", {{a->health(), b->health()}, {output->health()}, {}},
                 [op](Backend& backend) { backend.add(op); });
  return output;
}

TensorPtr clone(const TensorPtr& tensor) {
  Device& device = tensor->device();
  device.materialise(tensor);
  TensorPtr output = device.empty(tensor->dtype(), tensor->size());
  device.enqueue("clone", {{tensor->health()}, {output->health()}, {}},
                 [from = tensor->data(), to = output->data(), bytes = tensor->bytes()](Backend& backend) {
                   backend.copy(to, from, bytes);
                 });
  return output;
}

TensorPtr convert(const TensorPtr& tensor, DType dtype) {
  if (tensor->dtype() == dtype) return clone(tensor);
  TensorPtr output = tensor->device().empty(dtype, tensor->size());
  convertInto(tensor, output);
  return output;
}

void convertInto(const TensorPtr& tensor, const TensorPtr& output) {
  Device& device = tensor->device();
  device.materialise(tensor);
  const Convert op{.from = tensor->dtype(),
                   .to = output->dtype(),
                   .n = tensor->size(),
                   .input = tensor->data(),
                   .output = output->data()};
  device.enqueue("to", {{tensor->health()}, {output->health()}, {}}, [op](Backend& backend) { backend.convert(op); });
}

TensorPtr randomNormal(Device& device, DType dtype, int64_t size, uint64_t seed, uint32_t purpose, float std) {
  TensorPtr output = device.empty(dtype, size);
  const RandomNormal op{
      .dtype = dtype, .n = size, .seed = seed, .purpose = purpose, .std = std, .output = output->data()};
  device.enqueue("randn", {{}, {output->health()}, {}}, [op](Backend& backend) { backend.randomNormal(op); });
  return output;
}

TensorPtr filled(Device& device, DType dtype, int64_t size, float value) {
  if (value == 0) return device.zeros(dtype, size);
  TensorPtr output = device.empty(dtype, size);
  const std::vector<float> values(static_cast<size_t>(size), value);
  device.write(output, values.data(), DType::Float32);
  return output;
}

}  // namespace moe
