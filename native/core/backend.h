// THE SEAM between the layer and a device. Every stage of a MoE layer, forward and backward, as one pure virtual call
// on raw device pointers (shared/operations.h); core/layer.cpp and core/modules.cpp decide the order, a backend decides
// how.
//
// allocate(), release(), staging(), prepare(), waitIdle(), mostExperts() and workspaceBytes() come from the thread that
// owns the device; the rest comes from its queue, one call at a time and in order. What fails at once throws
// moe::Error; what fails later, on a device that is only given its work, is found through the outcome that end()
// answers. Either way the queue poisons what should have been written.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "../shared/operations.h"
#include "error.h"
#include "health.h"

namespace moe {

/// What the device can do at best, measured: the floor beside which a bench puts its figures.
struct DeviceLimits {
  double flopsPerSecond;          // float32 multiply-adds from registers, all threads
  double bfloat16FlopsPerSecond;  // the same of bfloat16: dot products or tensor cores; without them those of float32
  double readBytesPerSecond;      // from main memory, all threads
};

/// What one kernel took on a GPU, by its events, or one stage on the CPU.
struct KernelTime {
  std::string kernel;
  double milliseconds;
};

/// A captured step, of the backend's own kind.
class Capture {
 public:
  virtual ~Capture() = default;
};

class Backend {
 public:
  virtual ~Backend() = default;

  /// Null when the system has no such block. Blocks are aligned to 256 bytes.
  virtual void* allocate(size_t bytes) = 0;
  virtual void release(void* block, size_t bytes) = 0;
  /// Host memory that write() takes its data from; null when there is none.
  virtual std::shared_ptr<char[]> staging(size_t bytes) = 0;
  /// Makes what so many operations that are queued, or about to be, need to tell how they went; false when there is no
  /// memory for it.
  virtual bool prepare(size_t /*operations*/) { return true; }
  /// Returns when the device has done what it was given and every completion has been called. The queue is idle.
  virtual void waitIdle() {}
  /// How many experts a plan can have.
  virtual int mostExperts() const { return std::numeric_limits<int>::max(); }

  /// Around the calls of one operation, so that a backend can follow failures on the device. end() answers the outcome
  /// of the outputs; null when it is known by now that they are good.
  virtual void begin(const char* /*name*/, const Operands&) {}
  virtual OutcomePtr end() { return nullptr; }

  virtual void write(void* device, const std::shared_ptr<char[]>& staging, size_t bytes) = 0;
  /// Copies after everything queued before; `host` lasts until the completion. `outcome` is that of the memory's
  /// tensor.
  virtual void read(void* host, const void* device, size_t bytes, const OutcomePtr& outcome, Completion completion) = 0;
  /// Completes after everything queued before, with the failures that the device found since the last call.
  virtual void collectFailures(std::function<void(std::vector<FailurePtr>)> completion) { completion({}); }

  /// The operations of a recorded step, `count` of them, as one piece of work of the device: queued here in order, and
  /// run by none but replay(). `inputs` are the states of what they read from outside, left changed. Null where that is
  /// nothing else than to run them again; `operations` is not called then.
  virtual std::unique_ptr<Capture> capture(const std::vector<HealthPtr>& /*inputs*/, size_t /*count*/,
                                           const std::function<void()>& /*operations*/) {
    return nullptr;
  }
  /// `inputs` are also the states of the gradients that the step adds to.
  virtual void replay(Capture&, const std::vector<HealthPtr>& /*inputs*/) {}

  virtual void copy(void* to, const void* from, size_t bytes) = 0;
  virtual void zero(void* block, size_t bytes) = 0;
  virtual void convert(const Convert&) = 0;
  virtual void randomNormal(const RandomNormal&) = 0;
  virtual DeviceLimits measureLimits() = 0;
  /// Times every kernel or stage from here to kernelTimes(), which waits for them.
  virtual void timeKernels() = 0;
  virtual std::vector<KernelTime> kernelTimes() = 0;

  virtual void routeForward(const RouteForward&) = 0;
  virtual void routeBackward(const RouteBackward&) = 0;
  virtual void settleWeights(const SettleWeights&) = 0;
  virtual void countAssignments(const CountAssignments&) = 0;
  virtual void selectionBiasStep(const SelectionBiasStep&) = 0;

  virtual void buildPlan(const BuildPlan&) = 0;
  virtual void buildExpertPlan(const BuildExpertPlan&) = 0;
  virtual void dispatch(const Dispatch&) = 0;
  virtual void combine(const Combine&) = 0;
  virtual void combineBackward(const CombineBackward&) = 0;
  virtual void carry(const Carry&) = 0;
  virtual void carryBackward(const CarryBackward&) = 0;

  virtual void expertsForward(const ExpertsForward&) = 0;
  virtual void expertsBackward(const ExpertsBackward&) = 0;
  virtual void groupedGemmForward(const GroupedGemmForward&) = 0;
  virtual void groupedGemmBackward(const GroupedGemmBackward&) = 0;

  virtual void sigmoidGateForward(const SigmoidGateForward&) = 0;
  virtual void sigmoidGateBackward(const SigmoidGateBackward&) = 0;
  virtual void embeddingForward(const EmbeddingForward&) = 0;
  virtual void embeddingBackward(const EmbeddingBackward&) = 0;
  virtual void rmsNormForward(const RmsNormForward&) = 0;
  virtual void rmsNormBackward(const RmsNormBackward&) = 0;
  virtual void crossEntropyForward(const CrossEntropyForward&) = 0;
  virtual void crossEntropyBackward(const CrossEntropyBackward&) = 0;
  virtual void add(const Add&) = 0;

  virtual void adamwStep(const AdamWStep&) = 0;

  /// Bytes of the operation's `workspace`, from shapes and flags alone: pointers may still be null.
  virtual size_t workspaceBytes(const RouteForward&) const { return 0; }
  virtual size_t workspaceBytes(const RouteBackward&) const { return 0; }
  virtual size_t workspaceBytes(const BuildPlan&) const { return 0; }
  virtual size_t workspaceBytes(const BuildExpertPlan&) const { return 0; }
  virtual size_t workspaceBytes(const ExpertsForward&) const { return 0; }
  virtual size_t workspaceBytes(const ExpertsBackward&) const { return 0; }
  virtual size_t workspaceBytes(const GroupedGemmForward&) const { return 0; }
  virtual size_t workspaceBytes(const GroupedGemmBackward&) const { return 0; }
  virtual size_t workspaceBytes(const SigmoidGateBackward&) const { return 0; }
  virtual size_t workspaceBytes(const EmbeddingBackward&) const { return 0; }
  virtual size_t workspaceBytes(const RmsNormBackward&) const { return 0; }
  virtual size_t workspaceBytes(const CrossEntropyForward&) const { return 0; }
  virtual size_t workspaceBytes(const AdamWStep&) const { return 0; }
};

}  // namespace moe
