// Experts that choose their tokens: grids and workspaces of cuda/expert-choice.cu.
#include <algorithm>

#include "../shared/permute.h"
#include "backend.h"
#include "carver.h"
#include "plan-grid.h"

namespace moe::cuda {

namespace {

/// How many experts are sorted together.
int32_t expertsAtOnce(const RouteForward& f) {
  return static_cast<int32_t>(std::clamp<int64_t>(INT32_MAX / std::max<int64_t>(1, f.T), 1, f.E));
}

PlanGrid gridOf(const RouteForward& f, const Properties& properties) {
  return sortGrid(expertsAtOnce(f) * f.T, 1, properties);
}

PlanGrid gridOf(const BuildExpertPlan& p, const Properties& properties) { return sortGrid(p.E * p.C, p.E, properties); }

size_t carve(SortSpace& space, void* block, int64_t items, int64_t blocks) {
  Carver carver(block);
  carver.take(space.items, items);
  carver.take(space.spare, items);
  carver.take(space.counts, blocks * sortDigits);
  return carver.bytes();
}

}  // namespace

size_t CudaBackend::chooseTokensBytes(const RouteForward& f) const {
  SortSpace space;
  return carve(space, nullptr, expertsAtOnce(f) * f.T, gridOf(f, properties_).blocks);
}

void CudaBackend::chooseTokens(const RouteForward& f) {
  const PlanGrid grid = gridOf(f, properties_);
  SortSpace space;
  carve(space, f.workspace, expertsAtOnce(f) * f.T, grid.blocks);
  launchTogether("chooseTokens", grid.blocks, grid.threads, grid.sharedBytes, f, space, expertsAtOnce(f));
}

size_t CudaBackend::workspaceBytes(const BuildExpertPlan& p) const {
  if (p.E == 0) return 0;
  SortSpace space;
  return carve(space, nullptr, p.E * p.C, gridOf(p, properties_).blocks);
}

void CudaBackend::buildExpertPlan(const BuildExpertPlan& p) {
  const PlanGrid grid = gridOf(p, properties_);
  SortSpace space;
  carve(space, p.workspace, p.E * p.C, grid.blocks);
  launchTogether("buildExpertPlan", grid.blocks, grid.threads, grid.sharedBytes, p, space);
}

}  // namespace moe::cuda
