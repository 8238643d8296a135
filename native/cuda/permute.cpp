// The permute stage: grids and workspace.
#include "../shared/permute.h"

#include <algorithm>

#include "backend.h"
#include "carver.h"

namespace moe::cuda {

namespace {

constexpr unsigned threads = 256, warpsPerBlock = threads / 32;

struct PlanGrid {
  unsigned blocks, threads;
  size_t sharedBytes;
};

/// Every warp has counts of all experts in shared memory: with many experts there are fewer warps.
PlanGrid planGrid(const BuildPlan& p, const Properties& properties) {
  constexpr int64_t mostCounts = 8192, assignmentsPerThread = 8;
  const auto warps = static_cast<unsigned>(std::clamp<int64_t>(mostCounts / p.E, 8, 32));
  const int64_t perBlock = warps * 32 * assignmentsPerThread;
  const int64_t blocks = std::clamp<int64_t>((p.T * p.K + perBlock - 1) / perBlock, 1, properties.multiprocessors);
  return {static_cast<unsigned>(blocks), warps * 32, ((warps + 3) * static_cast<size_t>(p.E) + 1) * sizeof(int32_t)};
}

/// Whether the queue may keep others than each expert's first assignments by token.
bool queues(const BuildPlan& p) {
  if (p.capacity.slots < 0) return false;
  return p.capacity.priority == Priority::Score || (p.capacity.firstChoicesFirst && p.K > 1);
}

size_t carve(PlanWorkspace& w, void* block, const BuildPlan& p, int64_t blocks) {
  Carver carver(block);
  const int64_t E = p.E;
  carver.take(w.counts, blocks * E);
  if (queues(p)) {
    carver.take(w.keep, p.T * p.K);
    carver.take(w.keptCounts, blocks * E);
    if (p.capacity.priority == Priority::Position) {
      carver.take(w.queueCounts, blocks * E);
    } else {
      carver.take(w.tokenScore, p.T);
      carver.take(w.digits, E * cutDigits);
      carver.take(w.cuts, E);
    }
  }
  return carver.bytes();
}

unsigned warpBlocks(int64_t warps) { return static_cast<unsigned>((warps + warpsPerBlock - 1) / warpsPerBlock); }

}  // namespace

size_t CudaBackend::workspaceBytes(const BuildPlan& p) const {
  PlanWorkspace w;
  return carve(w, nullptr, p, planGrid(p, properties_).blocks);
}

void CudaBackend::buildPlan(const BuildPlan& p) {
  const PlanGrid grid = planGrid(p, properties_);
  PlanWorkspace w;
  carve(w, p.workspace, p, grid.blocks);
  if (p.indices) expectFaults({.indices = p.E}, true);
  launchTogether("buildPlan", grid.blocks, grid.threads, grid.sharedBytes, p, w);
}

void CudaBackend::dispatch(const Dispatch& d) {
  launch(typed("dispatch", d.dtype), {warpBlocks(d.plan.R)}, threads, 0, d);
}

void CudaBackend::combine(const Combine& c) {
  launch(typed("combine", c.dtype), {warpBlocks(c.plan.T)}, threads, 0, c);
}

void CudaBackend::combineBackward(const CombineBackward& b) {
  launch(typed("combineBackward", b.dtype), {warpBlocks(std::max(b.plan.T, b.plan.R))}, threads, 0, b);
}

}  // namespace moe::cuda
