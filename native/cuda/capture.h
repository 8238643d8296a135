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
  CudaCapture(std::shared_ptr<Executables> executables, std::shared_ptr<Faults> faults)
      : executables_(std::move(executables)), faults_(std::move(faults)) {}
  ~CudaCapture() override;

  struct Fallible {
    uint32_t number;
    std::shared_ptr<CudaOutcome> outcome;
  };

  CUgraphExec executable = nullptr;
  /// What all tensors from outside are worth, written before every replay.
  std::shared_ptr<CudaOutcome> entry;
  bool entryGood = false;
  /// Its operations that can fail.
  std::vector<Fallible> fallible;
  /// All that kernels of the graph write to.
  std::vector<std::shared_ptr<CudaOutcome>> outcomes;

 private:
  const std::shared_ptr<Executables> executables_;
  const std::shared_ptr<Faults> faults_;
};

}  // namespace moe::cuda
