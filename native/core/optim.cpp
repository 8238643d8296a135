#include "optim.h"

namespace moe {

AdamW::AdamW(std::shared_ptr<Device> device, std::vector<ParameterPtr> parameters)
    : device_(std::move(device)), parameters_(std::move(parameters)) {
  for (const ParameterPtr& parameter : parameters_) {
    means_.push_back(device_->zeros(DType::Float32, parameter->value()->size()));
    variances_.push_back(device_->zeros(DType::Float32, parameter->value()->size()));
    steps_.push_back(device_->zeros(DType::Int32, 1));
  }
  skipped_ = device_->zeros(DType::Int32, 1);
  gradNorm_ = device_->zeros(DType::Float32, 1);
}

void AdamW::step(const AdamWOptions& options) {
  std::vector<AdamWTensor> tensors;
  Operands operands;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    Parameter& parameter = *parameters_[i];
    if (!parameter.trainable || !parameter.hasGrad()) continue;
    const TensorPtr& value = parameter.value();
    operands.inputs.push_back(parameter.grad()->health());
    operands.inputs.push_back(value->health());
    tensors.push_back({value->size(), value->floats(), parameter.grad()->floats(), means_[i]->floats(),
                       variances_[i]->floats(), steps_[i]->ints()});
    ++value->version;
    parameter.grad()->cleared = true;
  }
  device_->enqueue("AdamW.step", std::move(operands),
                   [options, tensors = std::move(tensors), skipped = skipped_->ints(),
                    gradNorm = gradNorm_->floats()](Backend& backend) {
                     backend.adamwStep({tensors.data(), static_cast<int>(tensors.size()), options.learningRate,
                                        options.beta1, options.beta2, options.epsilon, options.weightDecay,
                                        options.maxGradNorm, skipped, gradNorm});
                   });
}

}  // namespace moe
