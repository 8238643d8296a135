// A recorded step as a CUDA graph.
#pragma once

#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "../core/backend.h"
#include "outcomes.h"

namespace moe::cuda {

/// The executable graphs of a device. Closed with it: who holds one may outlive the context.
class Executables {
 public:
  ~Executables() { close(); }
  void add(CUgraphExec executable);
  void destroy(CUgraphExec executable);
  void close();

 private:
  std::mutex mutex_;
  std::set<CUgraphExec> live_;
};

class CudaCapture final : public Capture {
 public:
  explicit CudaCapture(std::shared_ptr<Executables> executables) : executables_(std::move(executables)) {}
  ~CudaCapture() override {
    if (executable) executables_->destroy(executable);
  }

  struct Origin {
    uint32_t number;
    const char* operation;
    FaultLimits limits;
    std::shared_ptr<CudaOutcome> outcome;
  };

  CUgraphExec executable = nullptr;
  /// What all tensors from outside are worth, written before every replay.
  std::shared_ptr<CudaOutcome> entry;
  bool entryGood = false;
  /// Of operations that can fail.
  std::vector<Origin> origins;
  /// All that kernels of the graph write to.
  std::vector<std::shared_ptr<CudaOutcome>> outcomes;

 private:
  const std::shared_ptr<Executables> executables_;
};

}  // namespace moe::cuda
