// A trainable tensor and its gradient.
#pragma once

#include <initializer_list>
#include <memory>

#include "device.h"

namespace moe {

/// Where a backward puts a gradient: null data when the parameter is frozen or absent.
struct GradTarget {
  float* data = nullptr;
  bool accumulate = false;
};

class Parameter {
 public:
  explicit Parameter(TensorPtr value) : value_(std::move(value)) {}

  const TensorPtr& value() const { return value_; }
  bool trainable = true;
  bool hasGrad() const { return grad_ && !grad_->cleared; }

  /// Made when first asked for, cleared.
  const TensorPtr& grad() {
    if (!grad_) {
      grad_ = value_->device().empty(DType::Float32, value_->size());
      grad_->cleared = true;
    }
    return grad_;
  }

  /// For a backward that is about to be queued: the first one after a clear writes, later ones add.
  GradTarget target(Operands& operands) {
    if (!trainable) return {};
    const bool accumulate = !grad()->cleared;
    grad_->cleared = false;
    operands.gradients.push_back(grad_->health());
    return {grad_->floats(), accumulate};
  }

  /// Costs no memory traffic: the gradient counts as zero from here on, and as healthy.
  void zeroGrad() {
    if (!grad_) return;
    grad_->cleared = true;
    value_->device().enqueue("zeroGrad", {{}, {grad_->health()}, {}}, [](Backend&) {});
  }

 private:
  TensorPtr value_, grad_;
};
using ParameterPtr = std::shared_ptr<Parameter>;

/// Makes the gradients that a backward is about to write, so that running out of memory cannot leave some of them
/// marked as written. Comes before the first gradTarget().
inline void makeGrads(std::initializer_list<ParameterPtr> parameters) {
  for (const ParameterPtr& parameter : parameters)
    if (parameter && parameter->trainable) parameter->grad();
}

inline GradTarget gradTarget(const ParameterPtr& parameter, Operands& operands) {
  return parameter ? parameter->target(operands) : GradTarget{};
}

inline void* dataOf(const ParameterPtr& parameter) { return parameter ? parameter->value()->data() : nullptr; }

inline float* floatsOf(const ParameterPtr& parameter) { return parameter ? parameter->value()->floats() : nullptr; }

}  // namespace moe
