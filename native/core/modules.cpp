#include "modules.h"

#include <string>

namespace moe {

namespace {

int64_t rowsOf(const TensorPtr& tensor, int width, const char* name) {
  if (tensor->size() % width != 0)
    throw Error(ErrorCode::Shape, std::string(name) + " must have rows of " + std::to_string(width) + " elements");
  return tensor->size() / width;
}

}  // namespace

TensorPtr Pass::backward(const TensorPtr& gradOutput, float scale) {
  if (spent_) throw Error(ErrorCode::StalePass, "backward() of this pass has already run; it runs once");
  for (const auto& [tensor, version] : watched_)
    if (tensor->version != version)
      throw Error(ErrorCode::StalePass, "the input or a parameter was written since this pass's forward");
  if (gradOutput) {
    checkTensor(gradOutput, output_->size(), DType::Float32, "gradOutput");
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
  checkTensor(input, input->size(), DType::Float32, "input");
  rows_ = rowsOf(input, in, "input");
  device_->materialise(input);
  output_ = device_->empty(DType::Float32, rows_ * out);
  watch(input_);
  watch(weight_->value());
  const GroupedGemmForward gemm{
      rows_, 1, in_, out_, nullptr, input_->floats(), valueOf(weight_), valueOf(bias_), output_->floats()};
  Operands operands{{input_->health(), weight_->value()->health()}, {output_->health()}, {}};
  if (bias_) operands.inputs.push_back(bias_->value()->health());
  device_->enqueue("Linear.forward", std::move(operands),
                   [gemm](Backend& backend) { backend.groupedGemmForward(gemm); });
}

TensorPtr LinearPass::queueBackward(const TensorPtr& gradOutput, float) {
  TensorPtr gradInput = device_->empty(DType::Float32, rows_ * in_);
  makeGrads({weight_, bias_});
  Operands operands{{gradOutput->health(), input_->health(), weight_->value()->health()}, {gradInput->health()}, {}};
  const GradTarget weight = gradTarget(weight_, operands), bias = gradTarget(bias_, operands);
  const GroupedGemmBackward gemm{rows_,
                                 1,
                                 in_,
                                 out_,
                                 nullptr,
                                 input_->floats(),
                                 valueOf(weight_),
                                 gradOutput->floats(),
                                 gradInput->floats(),
                                 weight.data,
                                 bias.data,
                                 weight.accumulate,
                                 bias.accumulate};
  device_->enqueue("Linear.backward", std::move(operands),
                   [gemm](Backend& backend) { backend.groupedGemmBackward(gemm); });
  return gradInput;
}

// ------------------------------------------------------------------------------------------------ Embedding

EmbeddingPass::EmbeddingPass(const TensorPtr& indices, ParameterPtr weight, int count, int size)
    : Pass(indices->device()), indices_(indices), weight_(std::move(weight)), count_(count), size_(size) {
  checkTensor(indices, indices->size(), DType::Int32, "indices");
  device_->materialise(indices);
  output_ = device_->empty(DType::Float32, indices->size() * size);
  watch(indices_);
  const EmbeddingForward embedding{indices_->size(), count_,           size_,
                                   indices_->ints(), valueOf(weight_), output_->floats()};
  device_->enqueue("Embedding.forward", {{indices_->health(), weight_->value()->health()}, {output_->health()}, {}},
                   [embedding](Backend& backend) { backend.embeddingForward(embedding); });
}

TensorPtr EmbeddingPass::queueBackward(const TensorPtr& gradOutput, float) {
  Operands operands{{gradOutput->health(), indices_->health(), output_->health()}, {}, {}};
  const GradTarget weight = gradTarget(weight_, operands);
  if (!weight.data) return nullptr;
  const EmbeddingBackward embedding{indices_->size(), count_,           size_, indices_->ints(), gradOutput->floats(),
                                    weight.data,      weight.accumulate};
  device_->enqueue("Embedding.backward", std::move(operands),
                   [embedding](Backend& backend) { backend.embeddingBackward(embedding); });
  return nullptr;
}

// ------------------------------------------------------------------------------------------------ RMSNorm

RmsNormPass::RmsNormPass(const TensorPtr& input, ParameterPtr weight, int size, float epsilon)
    : Pass(input->device()), input_(input), weight_(std::move(weight)), size_(size) {
  checkTensor(input, input->size(), DType::Float32, "input");
  rows_ = rowsOf(input, size, "input");
  device_->materialise(input);
  output_ = device_->empty(DType::Float32, input->size());
  inverseRms_ = device_->empty(DType::Float32, rows_);
  watch(input_);
  watch(weight_->value());
  const RmsNormForward norm{
      rows_, size_, epsilon, input_->floats(), valueOf(weight_), output_->floats(), inverseRms_->floats()};
  device_->enqueue("RMSNorm.forward",
                   {{input_->health(), weight_->value()->health()}, {output_->health(), inverseRms_->health()}, {}},
                   [norm](Backend& backend) { backend.rmsNormForward(norm); });
}

TensorPtr RmsNormPass::queueBackward(const TensorPtr& gradOutput, float) {
  TensorPtr gradInput = device_->empty(DType::Float32, input_->size());
  Operands operands{{gradOutput->health(), input_->health(), inverseRms_->health(), weight_->value()->health()},
                    {gradInput->health()},
                    {}};
  const GradTarget weight = gradTarget(weight_, operands);
  const RmsNormBackward norm{rows_,
                             size_,
                             input_->floats(),
                             valueOf(weight_),
                             inverseRms_->floats(),
                             gradOutput->floats(),
                             gradInput->floats(),
                             weight.data,
                             weight.accumulate};
  device_->enqueue("RMSNorm.backward", std::move(operands),
                   [norm](Backend& backend) { backend.rmsNormBackward(norm); });
  return gradInput;
}

// ------------------------------------------------------------------------------------------------ cross-entropy

CrossEntropyPass::CrossEntropyPass(const TensorPtr& logits, const TensorPtr& targets, int classes)
    : Pass(logits->device()), logits_(logits), targets_(targets), classes_(classes) {
  checkTensor(logits, logits->size(), DType::Float32, "logits");
  rows_ = rowsOf(logits, classes, "logits");
  checkTensor(targets, rows_, DType::Int32, "targets");
  device_->materialise(logits);
  device_->materialise(targets);
  logSumExp_ = device_->empty(DType::Float32, rows_);
  meanAndCount_ = device_->empty(DType::Float32, 2);
  output_ = device_->empty(DType::Float32, 1);
  watch(logits_);
  watch(targets_);
  const CrossEntropyForward loss{
      rows_, classes_, logits_->floats(), targets_->ints(), logSumExp_->floats(), meanAndCount_->floats()};
  device_->enqueue(
      "crossEntropy",
      {{logits_->health(), targets_->health()}, {logSumExp_->health(), meanAndCount_->health(), output_->health()}, {}},
      [loss, scalar = output_->floats()](Backend& backend) {
        backend.crossEntropyForward(loss);
        backend.copy(scalar, loss.loss, sizeof(float));
      });
}

TensorPtr CrossEntropyPass::queueBackward(const TensorPtr&, float scale) {
  TensorPtr gradLogits = device_->empty(DType::Float32, logits_->size());
  const CrossEntropyBackward loss{rows_,
                                  classes_,
                                  scale,
                                  logits_->floats(),
                                  targets_->ints(),
                                  logSumExp_->floats(),
                                  meanAndCount_->floats(),
                                  gradLogits->floats()};
  device_->enqueue("crossEntropy.backward",
                   {{logits_->health(), targets_->health(), meanAndCount_->health()}, {gradLogits->health()}, {}},
                   [loss](Backend& backend) { backend.crossEntropyBackward(loss); });
  return gradLogits;
}

// ------------------------------------------------------------------------------------------------ element-wise

TensorPtr add(const TensorPtr& a, const TensorPtr& b) {
  Device& device = a->device();
  checkTensor(a, a->size(), DType::Float32, "a");
  checkTensor(b, a->size(), DType::Float32, "b");
  device.materialise(a);
  device.materialise(b);
  TensorPtr output = device.empty(DType::Float32, a->size());
  device.enqueue(
      "add", {{a->health(), b->health()}, {output->health()}, {}},
      [op = Add{a->size(), a->floats(), b->floats(), output->floats()}](Backend& backend) { backend.add(op); });
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
  Device& device = tensor->device();
  device.materialise(tensor);
  TensorPtr output = device.empty(dtype, tensor->size());
  device.enqueue("to", {{tensor->health()}, {output->health()}, {}},
                 [dtype, from = tensor->data(), to = output->data(), n = tensor->size()](Backend& backend) {
                   if (dtype == DType::Float32)
                     backend.toFloat(static_cast<float*>(to), static_cast<const int32_t*>(from), n);
                   else
                     backend.toInt(static_cast<int32_t*>(to), static_cast<const float*>(from), n);
                 });
  return output;
}

TensorPtr randomNormal(Device& device, int64_t size, uint64_t seed, uint32_t purpose, float std) {
  TensorPtr output = device.empty(DType::Float32, size);
  device.enqueue("randn", {{}, {output->health()}, {}},
                 [data = output->floats(), size, seed, purpose, std](Backend& backend) {
                   backend.randomNormal(data, size, seed, purpose, std);
                 });
  return output;
}

TensorPtr filled(Device& device, int64_t size, float value) {
  if (value == 0) return device.zeros(DType::Float32, size);
  TensorPtr output = device.empty(DType::Float32, size);
  const std::vector<float> values(static_cast<size_t>(size), value);
  device.write(output, values.data());
  return output;
}

}  // namespace moe
