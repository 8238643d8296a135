// The CUDA backend: gives the operations of the seam to one stream and waits for none of them. The stages are in the
// files of their name; their kernels are in cuda/.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "../core/backend.h"
#include "../shared/status.h"
#include "capture.h"
#include "completions.h"
#include "context.h"
#include "driver.h"
#include "event.h"
#include "kernels.h"
#include "outcomes.h"
#include "pinned.h"
#include "tiles.h"

namespace moe {

struct RowGradient;
struct WeightGradients;
struct BiasGradients;

}  // namespace moe

namespace moe::cuda {

/// Of a block, of kernels that need no other number.
inline constexpr unsigned threads = 256;

struct Dim {
  unsigned x = 1, y = 1, z = 1;
};

/// "add" and BFloat16 give "add_bfloat16".
std::string typed(const char* kernel, DType dtype);

class Stream {
 public:
  Stream() { MOE_CUDA(cuStreamCreate, &stream_, CU_STREAM_NON_BLOCKING); }
  ~Stream() { driver().cuStreamDestroy_v2(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  CUstream get() const { return stream_; }

 private:
  CUstream stream_ = nullptr;
};

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(int ordinal);
  ~CudaBackend() override;

  // backend.cpp
  void* allocate(size_t bytes) override;
  void release(void* block, size_t bytes) override;
  std::shared_ptr<char[]> staging(size_t bytes) override;
  bool prepare(size_t operations) override;
  void waitIdle() override;
  void begin(const char* name, const Operands& operands) override;
  OutcomePtr end() override;
  void write(void* device, const std::shared_ptr<char[]>& staging, size_t bytes) override;
  void read(void* host, const void* device, size_t bytes, const OutcomePtr& outcome, Completion completion) override;
  void collectFailures(std::function<void(std::vector<FailurePtr>)> completion) override;

  // capture.cpp
  std::unique_ptr<Capture> capture(const std::vector<HealthPtr>& inputs, size_t count,
                                   const std::function<void()>& operations) override;
  void replay(Capture& capture, const std::vector<HealthPtr>& inputs) override;

  // memory.cpp
  void copy(void* to, const void* from, size_t bytes) override;
  void zero(void* block, size_t bytes) override;
  void convert(const Convert&) override;
  void randomNormal(const RandomNormal&) override;

  // limits.cpp
  DeviceLimits measureLimits() override;
  void timeKernels() override;
  std::vector<KernelTime> kernelTimes() override;

  // route.cpp
  void routeForward(const RouteForward&) override;
  void routeBackward(const RouteBackward&) override;
  void settleWeights(const SettleWeights&) override;
  void countAssignments(const CountAssignments&) override;
  void selectionBiasStep(const SelectionBiasStep&) override;
  size_t workspaceBytes(const RouteForward&) const override;
  size_t workspaceBytes(const RouteBackward&) const override;

  // permute.cpp
  int mostExperts() const override;
  void buildPlan(const BuildPlan&) override;
  void dispatch(const Dispatch&) override;
  void combine(const Combine&) override;
  void combineBackward(const CombineBackward&) override;
  void carry(const Carry&) override;
  void carryBackward(const CarryBackward&) override;
  size_t workspaceBytes(const BuildPlan&) const override;

  // expert-choice.cpp
  void buildExpertPlan(const BuildExpertPlan&) override;
  size_t workspaceBytes(const BuildExpertPlan&) const override;

  // experts.cpp
  void expertsForward(const ExpertsForward&) override;
  void expertsBackward(const ExpertsBackward&) override;
  void groupedGemmForward(const GroupedGemmForward&) override;
  void groupedGemmBackward(const GroupedGemmBackward&) override;
  size_t workspaceBytes(const ExpertsForward&) const override;
  size_t workspaceBytes(const ExpertsBackward&) const override;
  size_t workspaceBytes(const GroupedGemmForward&) const override;
  size_t workspaceBytes(const GroupedGemmBackward&) const override;

  // modules.cpp
  void sigmoidGateForward(const SigmoidGateForward&) override;
  void sigmoidGateBackward(const SigmoidGateBackward&) override;
  void embeddingForward(const EmbeddingForward&) override;
  void embeddingBackward(const EmbeddingBackward&) override;
  void rmsNormForward(const RmsNormForward&) override;
  void rmsNormBackward(const RmsNormBackward&) override;
  void crossEntropyForward(const CrossEntropyForward&) override;
  void crossEntropyBackward(const CrossEntropyBackward&) override;
  void add(const Add&) override;
  size_t workspaceBytes(const SigmoidGateBackward&) const override;
  size_t workspaceBytes(const EmbeddingBackward&) const override;
  size_t workspaceBytes(const RmsNormBackward&) const override;
  size_t workspaceBytes(const CrossEntropyForward&) const override;

  // optim.cpp
  void adamwStep(const AdamWStep&) override;
  size_t workspaceBytes(const AdamWStep&) const override;

 private:
  /// The operation between begin() and end().
  struct Operation {
    const char* name = "";
    const Operands* operands = nullptr;
    bool canFail = false, failsInFirst = false, entered = false;
    FaultLimits limits;
    uint32_t number = 0;
    std::shared_ptr<CudaOutcome> outcome;  // of the outputs; null when nothing can be wrong
  };

  /// Gives a kernel to the stream, with the Guard of this operation as its last parameter. Nothing of an empty grid.
  template <class... Parameters>
  void launch(const std::string& kernel, Dim grid, unsigned block, size_t sharedBytes,
              const Parameters&... parameters) {
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
    Guard guard = nextGuard();
    void* list[] = {const_cast<void*>(static_cast<const void*>(&parameters))..., &guard};
    launchKernel(kernel, grid, block, sharedBytes, list);
  }

  /// The same for kernels whose blocks wait for each other: they all run at once, so there are no more than
  /// multiprocessors.
  template <class... Parameters>
  void launchTogether(const std::string& kernel, unsigned blocks, unsigned block, size_t sharedBytes,
                      const Parameters&... parameters) {
    Guard guard = nextGuard();
    void* list[] = {const_cast<void*>(static_cast<const void*>(&parameters))..., &guard};
    launchKernel(kernel, {blocks}, block, sharedBytes, list, true);
  }

  /// Comes before the first launch of an operation whose kernels may find faults; `inFirst` when the first one does.
  void expectFaults(const FaultLimits& limits, bool inFirst);
  /// Copies host data that the caller may change afterwards.
  void upload(void* device, const std::vector<uint64_t>& words);

  /// Blocks of that many threads for so many items: enough to fill the device, the rest is looped over.
  unsigned blocksFor(int64_t items, unsigned threads) const;

  // expert-choice.cpp
  /// Part of routeForward() where experts choose: writes their indices and weights from `compared`, in so many bytes of
  /// f.workspace.
  void chooseTokens(const RouteForward& f);
  size_t chooseTokensBytes(const RouteForward& f) const;

  // experts.cpp
  void rowProduct(const GroupedGemmForward&, bool clearTail);
  void rowGradient(const RowGradient&, DType dtype);
  void parameterGradients(const WeightGradients&, const BiasGradients&, DType dtype);

  void launchKernel(const std::string& kernel, Dim grid, unsigned block, size_t sharedBytes, void** parameters,
                    bool together = false);
  Guard nextGuard();
  Guard enter();
  static std::vector<const Status*> distinctStatuses(const std::vector<HealthPtr>& inputs);
  /// Launches kernels that write to `status` what the inputs are worth, until no more than `rest` are left of them.
  void mergeInto(Status* status, std::vector<const Status*>& inputs, size_t rest);
  std::shared_ptr<CudaOutcome> makeOutcome();
  /// Whether one of the operation's inputs has an outcome that the next replay overwrites.
  bool dependsOnReplay() const;
  /// Of an operation that can fail, before it is given to the stream.
  struct Recent {
    std::shared_ptr<CudaOutcome> outcome;
    uint32_t number;
    bool ofReplay;  // it has no number, and inherits what the operations of one replay have found
  };
  void noteRecent(Recent recent);
  /// Set by the stream when it has come so far.
  Completions::Passed tellPassing();
  /// Once the stream has come so far, adds what the recent operations have found to found_, and calls `then`.
  void findFailures(bool awaited, std::function<void(CUresult)> then);
  FailurePtr lost(CUresult result, const char* call) const;

  const std::shared_ptr<const Context> context_;
  Kernels kernels_;
  const Stream stream_;
  Properties properties_;
  const std::shared_ptr<PinnedPool> pinned_;
  const std::shared_ptr<StatusPool> statuses_;
  const std::shared_ptr<Executables> executables_ = std::make_shared<Executables>();
  CudaCapture* capturing_ = nullptr;
  const std::shared_ptr<Faults> faults_ = std::make_shared<Faults>();
  Operation operation_;
  struct TimedLaunch {
    std::string kernel;
    Event from, to;
  };
  bool timing_ = false;
  std::vector<TimedLaunch> timed_;    // since timeKernels()
  std::vector<Recent> recent_;        // oldest first
  std::atomic<bool> finding_{false};  // findFailures() is on its way
  std::vector<FailurePtr> found_;     // of the thread of completions_
  Completions completions_;           // last: its thread uses the rest
};

}  // namespace moe::cuda
