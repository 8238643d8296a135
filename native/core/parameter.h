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
  bool hasGrad() const {
    if (grad_) grad_->device().consult(grad_);
    return grad_ && !grad_->cleared;
  }

  /// Made when first asked for, cleared.
  const TensorPtr& grad() {
    if (!grad_) {
      grad_ = value_->device().empty(DType::Float32, value_->size(), true);
      grad_->clear();
    }
    return grad_;
  }

  /// For a backward that is about to be queued: the first one after a clear writes, later ones add. See markWritten().
  GradTarget target(Operands& operands) {
    if (!trainable) return {};
    operands.gradients.push_back(grad()->health());
    grad_->device().consult(grad_);
    return {grad_->floats(), !grad_->cleared};
  }

  void markWritten() {
    if (trainable && grad_) grad_->device().nowAndOnReplay([grad = grad_] { grad->cleared = false; });
  }

  /// Costs no memory traffic: the gradient counts as zero from here on, and as healthy.
  void zeroGrad() {
    Device& device = value_->device();
    device.checkOpen();
    if (!grad_) return;
    device.settle(grad_);
    device.nowAndOnReplay([grad = grad_] { grad->clear(); });
    device.enqueue("zeroGrad", {{}, {grad_->health()}, {}}, [](Backend&) {});
  }

 private:
  TensorPtr value_, grad_;
};
using ParameterPtr = std::shared_ptr<Parameter>;

inline GradTarget gradTarget(const ParameterPtr& parameter, Operands& operands) {
  return parameter ? parameter->target(operands) : GradTarget{};
}

/// Once the backward that writes them is queued: one that ran out of memory before has not touched any gradient.
inline void markGradsWritten(std::initializer_list<ParameterPtr> parameters) {
  for (const ParameterPtr& parameter : parameters)
    if (parameter) parameter->markWritten();
}

inline void* dataOf(const ParameterPtr& parameter) { return parameter ? parameter->value()->data() : nullptr; }

inline float* floatsOf(const ParameterPtr& parameter) { return parameter ? parameter->value()->floats() : nullptr; }

}  // namespace moe
