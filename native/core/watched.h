// The tensors that a pass was made of, and whether they still are what its forward has seen.
#pragma once

#include <vector>

#include "device.h"

namespace moe {

class Watched {
 public:
  struct Seen {
    TensorPtr tensor;
    uint64_t version, replays;
  };

  void add(const TensorPtr& tensor) {
    if (tensor) seen_.push_back({tensor, tensor->version, tensor->replays});
  }

  /// Throws StalePass when one was written since, or when the pass with this output was made before the step that is
  /// recorded now. A replay writes the tensors of its step together with the passes made of them.
  void check(const Tensor& output, const char* what) const {
    const Graph* const graph = output.device().recording();
    if (graph && !graph->owns(output))
      throw Error(
          ErrorCode::StalePass,
          "backward() inside of device.graph() of a pass that was made before: it runs once, not in every replay",
          "make the pass in the step");
    for (const Seen& seen : seen_) {
      const bool together = seen.tensor->arena() && seen.tensor->arena() == output.arena();
      if (seen.tensor->version != seen.version || (!together && seen.tensor->replays != seen.replays))
        throw Error(ErrorCode::StalePass, std::string(what) + " was written since this pass's forward");
    }
  }

  const std::vector<Seen>& seen() const { return seen_; }
  void clear() { seen_.clear(); }

 private:
  std::vector<Seen> seen_;
};

}  // namespace moe
