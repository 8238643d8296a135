// AdamW over a fixed list of parameters: the moments, the counters, and the queuing of a step.
#pragma once

#include <memory>
#include <vector>

#include "parameter.h"

namespace moe {

class AdamW : public std::enable_shared_from_this<AdamW> {
 public:
  /// Parameters that `previous` has too, if there is one, share their state with it, which is then over.
  AdamW(std::shared_ptr<Device> device, std::vector<ParameterPtr> parameters, const AdamW* previous);

  /// Updates every trainable parameter that has a gradient since the last clear, then counts the gradients as cleared.
  /// When one of them is poisoned nothing is changed.
  void step(const AdamWScalars& scalars);
  /// What the replays of a recorded step take from here on.
  void setScalars(const AdamWScalars& scalars) { scalars_ = scalars; }

  /// Makes the masters anew whose parameters were written since; before they are saved.
  void refreshMasters();
  /// Takes the masters as belonging to the values, both having been loaded.
  void adoptMasters();

  const std::vector<TensorPtr>& means() const { return means_; }
  const std::vector<TensorPtr>& variances() const { return variances_; }
  const std::vector<TensorPtr>& masters() const { return masters_; }  // null for float32 parameters
  const std::vector<TensorPtr>& steps() const { return steps_; }      // int32 [1] each
  const TensorPtr& skipped() const { return skipped_; }               // int32 [1]
  const TensorPtr& gradNorm() const { return gradNorm_; }             // [1]

 private:
  bool takeOver(const AdamW& previous, const ParameterPtr& parameter);
  void refreshMaster(size_t i);

  std::shared_ptr<Device> device_;
  std::vector<ParameterPtr> parameters_;
  std::vector<TensorPtr> means_, variances_, steps_;
  std::vector<TensorPtr> masters_;
  std::vector<uint64_t> masterVersions_;  // of the value that each master belongs to
  TensorPtr skipped_, gradNorm_;
  AdamWScalars scalars_{};
};

}  // namespace moe
