#include "optim.h"

#include <algorithm>

#include "modules.h"

namespace moe {

AdamW::AdamW(std::shared_ptr<Device> device, std::vector<ParameterPtr> parameters, const AdamW* previous)
    : device_(std::move(device)), parameters_(std::move(parameters)) {
  for (const ParameterPtr& parameter : parameters_) {
    if (previous && takeOver(*previous, parameter)) continue;
    const TensorPtr& value = parameter->value();
    means_.push_back(device_->zeros(DType::Float32, value->size()));
    variances_.push_back(device_->zeros(DType::Float32, value->size()));
    steps_.push_back(device_->zeros(DType::Int32, 1));
    masters_.push_back(value->dtype() == DType::Float32 ? nullptr : convert(value, DType::Float32));
    masterVersions_.push_back(value->version);
  }
  skipped_ = previous ? previous->skipped_ : device_->zeros(DType::Int32, 1);
  gradNorm_ = previous ? previous->gradNorm_ : device_->zeros(DType::Float32, 1);
}

bool AdamW::takeOver(const AdamW& previous, const ParameterPtr& parameter) {
  const auto found = std::find(previous.parameters_.begin(), previous.parameters_.end(), parameter);
  if (found == previous.parameters_.end()) return false;
  const size_t i = found - previous.parameters_.begin();
  means_.push_back(previous.means_[i]);
  variances_.push_back(previous.variances_[i]);
  steps_.push_back(previous.steps_[i]);
  masters_.push_back(previous.masters_[i]);
  masterVersions_.push_back(previous.masterVersions_[i]);
  return true;
}

void AdamW::refreshMaster(size_t i) {
  const TensorPtr& value = parameters_[i]->value();
  if (!masters_[i] || masterVersions_[i] == value->version) return;
  convertInto(value, masters_[i]);
  masterVersions_[i] = value->version;
}

void AdamW::refreshMasters() {
  for (size_t i = 0; i < parameters_.size(); ++i) refreshMaster(i);
}

void AdamW::adoptMasters() {
  for (size_t i = 0; i < parameters_.size(); ++i) masterVersions_[i] = parameters_[i]->value()->version;
}

void AdamW::step(const AdamWScalars& scalars) {
  scalars_ = scalars;
  std::vector<size_t> updated;
  for (size_t i = 0; i < parameters_.size(); ++i)
    if (parameters_[i]->trainable && parameters_[i]->hasGrad()) updated.push_back(i);
  device_->hold(shared_from_this());
  device_->nowAndOnReplay([this, updated] {
    for (const size_t i : updated) refreshMaster(i);
  });

  std::vector<AdamWTensor> tensors;
  Operands operands;
  operands.outputs.push_back(gradNorm_->health());
  for (const size_t i : updated) {
    const TensorPtr &value = parameters_[i]->value(), &grad = parameters_[i]->grad();
    if (masters_[i]) operands.inputs.push_back(masters_[i]->health());
    operands.inputs.push_back(grad->health());
    operands.inputs.push_back(value->health());
    tensors.push_back({.dtype = value->dtype(),
                       .n = value->size(),
                       .value = value->data(),
                       .master = masters_[i] ? masters_[i]->floats() : nullptr,
                       .grad = grad->floats(),
                       .mean = means_[i]->floats(),
                       .variance = variances_[i]->floats(),
                       .steps = steps_[i]->ints()});
  }
  AdamWStep step{.tensors = tensors.data(),
                 .count = static_cast<int>(tensors.size()),
                 .scalars = scalars,
                 .replayed = device_->replayed<AdamWScalars>([this, maxGradNorm = scalars.maxGradNorm] {
                   AdamWScalars now = scalars_;
                   now.maxGradNorm = maxGradNorm;
                   return now;
                 }),
                 .skipped = skipped_->ints(),
                 .gradNorm = gradNorm_->floats()};
  const TensorPtr workspace = device_->workspace(step);
  device_->enqueue("AdamW.step", std::move(operands), [step, tensors = std::move(tensors)](Backend& backend) mutable {
    step.tensors = tensors.data();
    backend.adamwStep(step);
  });
  device_->nowAndOnReplay([this, updated = std::move(updated)] {
    for (const size_t i : updated) {
      masterVersions_[i] = ++parameters_[i]->value()->version;
      parameters_[i]->grad()->clear();
    }
  });
}

}  // namespace moe
