// The CPU backend: declares every operation of the seam; the stages are defined in the file of their name.
#pragma once

#include <chrono>
#include <memory>
#include <vector>

#include "../core/backend.h"
#include "isa.h"
#include "parallel.h"
#include "scratch.h"

namespace moe::cpu {

struct GemmKernels;
struct RowKernels;
struct LimitKernels;
struct DotKernels;
struct Kernels;

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(int threads);
  ~CpuBackend() override;

  // memory.cpp
  void* allocate(size_t bytes) override;
  void release(void* block, size_t bytes) override;
  std::shared_ptr<char[]> staging(size_t bytes) override;
  void write(void* device, const std::shared_ptr<char[]>& staging, size_t bytes) override;
  void read(void* host, const void* device, size_t bytes, const OutcomePtr&, Completion completion) override;
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
  size_t workspaceBytes(const RouteForward&) const override;
  size_t workspaceBytes(const RouteBackward&) const override;
  using Backend::workspaceBytes;

  // route-select.cpp
  void countAssignments(const CountAssignments&) override;
  void selectionBiasStep(const SelectionBiasStep&) override;

  // permute.cpp
  void buildPlan(const BuildPlan&) override;
  void buildExpertPlan(const BuildExpertPlan&) override;
  void dispatch(const Dispatch&) override;
  void combine(const Combine&) override;
  void combineBackward(const CombineBackward&) override;
  void carry(const Carry&) override;
  void carryBackward(const CarryBackward&) override;

  // experts-forward.cpp, experts-backward.cpp, experts-grouped.cpp
  void expertsForward(const ExpertsForward&) override;
  void expertsBackward(const ExpertsBackward&) override;
  void groupedGemmForward(const GroupedGemmForward&) override;
  void groupedGemmBackward(const GroupedGemmBackward&) override;

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

  // optim.cpp
  void adamwStep(const AdamWStep&) override;

 private:
  CpuBackend(int threads, const Kernels& kernels);

  /// Notes, while times are taken, what a stage takes until the end of the scope.
  class StageTimer {
   public:
    StageTimer(CpuBackend& backend, const char* stage) : backend_(backend), stage_(stage) {}
    ~StageTimer() {
      if (!backend_.timing_) return;
      const std::chrono::duration<double, std::milli> passed = std::chrono::steady_clock::now() - start_;
      backend_.times_.push_back({stage_, passed.count()});
    }
    StageTimer(const StageTimer&) = delete;
    StageTimer& operator=(const StageTimer&) = delete;

   private:
    CpuBackend& backend_;
    const char* stage_;
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  };

  ThreadPool pool_;
  const GemmKernels& gemm_;     // simd/gemm.h
  const RowKernels& row_;       // simd/row.h
  const LimitKernels& limits_;  // simd/limits.h
  const DotKernels* dot_;       // dot/dot.h
  Scratch scratch_;             // of the stage that runs
  bool timing_ = false;
  std::vector<KernelTime> times_;  // since timeKernels()
};

}  // namespace moe::cpu
