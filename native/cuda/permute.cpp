// The permute stage: grids and workspace.
#include "../shared/permute.h"

#include <algorithm>

#include "backend.h"
#include "carver.h"
#include "plan-grid.h"

namespace moe::cuda {

namespace {

constexpr unsigned warpsPerBlock = threads / 32;

/// Whether this is for buildQueuedPlan: buildPlan knows the rest.
bool needsQueue(const BuildPlan& p) {
  const CapacityOptions& c = p.capacity;
  if (p.withheld || p.carried || p.actual) return true;
  const bool ordered = c.priority == Priority::Random || c.priority == Priority::Given;
  return c.slots >= 0 && (c.groupSize > 0 || c.buffer > 0 || c.dynamic || ordered);
}

PlanGrid planGrid(const BuildPlan& p, const Properties& properties) {
  if (needsQueue(p)) return sortGrid(p.T * p.K, p.E, properties);
  return planGrid(p.T * p.K, p.E, 32, properties);
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

size_t carve(QueueWorkspace& w, void* block, const BuildPlan& p, int64_t blocks) {
  Carver carver(block);
  const int64_t E = p.E, all = p.T * p.K;
  w.groupSize = std::max<int64_t>(1, p.capacity.groupSize > 0 ? std::min(p.capacity.groupSize, p.T) : p.T);
  w.groups = std::max<int64_t>(1, (p.T + w.groupSize - 1) / w.groupSize);
  carver.take(w.assignedCounts, blocks * E);
  if (p.withheld) carver.take(w.queuedCounts, blocks * E);
  if (p.capacity.slots < 0) return carver.bytes();
  carver.take(w.keptCounts, blocks * E);
  carver.take(w.counts, blocks * std::max<int64_t>(E, sortDigits));
  carver.take(w.queue, all);
  if (p.capacity.priority != Priority::Position) {
    carver.take(w.spare, all);
    carver.take(w.order, all);
  }
  carver.take(w.rank, all);
  carver.take(w.asking, all);
  if (p.actual)
    w.actual = p.actual;
  else
    carver.take(w.actual, all);
  carver.take(w.first, w.groups * E);
  carver.take(w.asked, w.groups * E);
  carver.take(w.taken, w.groups * E);
  carver.take(w.waiting, E + 3);
  if (p.compared && p.capacity.overflow == Overflow::NextChoice) carver.take(w.place, all);
  return carver.bytes();
}

unsigned warpBlocks(int64_t warps) { return static_cast<unsigned>((warps + warpsPerBlock - 1) / warpsPerBlock); }

}  // namespace

int CudaBackend::mostExperts() const { return static_cast<int>(mostBins(properties_)); }

size_t CudaBackend::workspaceBytes(const BuildPlan& p) const {
  const PlanGrid grid = planGrid(p, properties_);
  PlanWorkspace plain;
  QueueWorkspace queue;
  return needsQueue(p) ? carve(queue, nullptr, p, grid.blocks) : carve(plain, nullptr, p, grid.blocks);
}

void CudaBackend::buildPlan(const BuildPlan& p) {
  const PlanGrid grid = planGrid(p, properties_);
  const bool given = p.capacity.priority == Priority::Given;
  if (p.indices || given) expectFaults({.indices = p.E}, true);
  if (given) launch("checkPriorities", {blocksFor(p.T * p.K, threads)}, threads, 0, p);
  if (!needsQueue(p)) {
    PlanWorkspace w;
    carve(w, p.workspace, p, grid.blocks);
    return launchTogether("buildPlan", grid.blocks, grid.threads, grid.sharedBytes, p, w);
  }
  QueueWorkspace w;
  carve(w, p.workspace, p, grid.blocks);
  launchTogether("buildQueuedPlan", grid.blocks, grid.threads, grid.sharedBytes, p, w);
}

void CudaBackend::dispatch(const Dispatch& d) {
  launch(typed("dispatch", d.dtype), {warpBlocks(d.plan.R)}, threads, 0, d);
}

void CudaBackend::combine(const Combine& c) {
  if (c.router.gradLogits) {
    constexpr int64_t tokens = routedTokens * routedWarps, columns = routedColumns * 32;
    const Dim grid{static_cast<unsigned>((c.plan.T + tokens - 1) / tokens),
                   static_cast<unsigned>(std::min<int64_t>((c.H + columns - 1) / columns, 65535))};
    return launch(typed("combineRouted", c.dtype), grid, routedWarps * 32, 0, c);
  }
  launch(typed("combine", c.dtype), {warpBlocks(c.plan.T)}, threads, 0, c);
}

void CudaBackend::combineBackward(const CombineBackward& b) {
  launch(typed("combineBackward", b.dtype), {warpBlocks(std::max(b.plan.T, b.plan.R))}, threads, 0, b);
}

void CudaBackend::carry(const Carry& c) { launch(typed("carry", c.dtype), {warpBlocks(c.T)}, threads, 0, c); }

void CudaBackend::carryBackward(const CarryBackward& b) {
  launch(typed("carryBackward", b.dtype), {warpBlocks(b.T)}, threads, 0, b);
}

}  // namespace moe::cuda
