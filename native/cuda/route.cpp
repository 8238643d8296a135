// The route stage: grids and workspaces of the kernels cuda/route*.cu. A top-K of a softmax without noise is plain and
// has kernels that know of nothing else; every other route has the general ones.
#include <algorithm>

#include "../shared/route-sums.h"
#include "../shared/sinkhorn.h"
#include "backend.h"

namespace moe::cuda {

namespace {

constexpr int inputTokens = 16;     // of a tile of gradInput
constexpr int plainExperts = 1024;  // up to which the plain backward has its rows in shared memory

unsigned blocks(int64_t count) { return static_cast<unsigned>(count); }

bool isPlain(const RouterOptions& router, const LossOptions& losses, const RouteNoise& noise,
             const AllowedExperts& allowed) {
  return router.type == RouterType::TopK && router.scoring == Scoring::Softmax && !losses.loadOn &&
         losses.counts != LossCounts::Unbiased && losses.expertGroups == 0 && !hasJitter(router, noise) &&
         !allowed.table;
}

bool isPlain(const RouteForward& f) {
  return isPlain(f.router, f.losses, f.noise, f.allowed) && f.router.groupCount == 0 && !f.selectionBias && !f.noisy &&
         !f.noiseLogits && !f.compared && !f.withheld;
}

bool isPlain(const RouteBackward& b) {
  return b.E <= plainExperts && isPlain(b.router, b.losses, b.noise, b.allowed) && !b.noisy && !b.noiseLogits &&
         !b.used && !b.kept;
}

/// Whether there is anything to balance.
bool balances(const RouteForward& f) { return f.balances && (!f.givenIndices || f.compared) && f.T > 0; }

/// The workspace of a forward: one function both counts and carves.
struct ForwardMemory {
  RouteSums sums{};
  RouteRows rows{};
  SinkhornWork sinkhorn{};

  size_t carve(void* block, const RoutePieces& pieces, const RouteForward& f) {
    auto* bytes = static_cast<char*>(block);
    const auto rest = [&](size_t used) { return bytes ? bytes + used : nullptr; };
    size_t used = sums.carve(bytes, pieces, f);
    if (isPlain(f)) return used;
    used += rows.carve(rest(used), pieces, f.E, f.router.groupCount);
    if (balances(f)) used += sinkhorn.carve(rest(used), f.T, f.E, RoutePieces::of({}, f.T).count());
    return used;
  }
};

struct BackwardMemory {
  RouteGradientSums sums{};
  RouteRows rows{};

  size_t carve(void* block, const RoutePieces& pieces, const RouteBackward& b) {
    auto* bytes = static_cast<char*>(block);
    const size_t used = sums.carve(bytes, pieces, b);
    return isPlain(b) ? used : used + rows.carve(bytes ? bytes + used : nullptr, pieces, b.E, 0);
  }
};

}  // namespace

// ------------------------------------------------------------------------------------------------ forward

size_t CudaBackend::workspaceBytes(const RouteForward& f) const {
  if (f.givenWeights) return 0;
  const size_t bytes = ForwardMemory{}.carve(nullptr, RoutePieces::of(f.losses, f.T), f);
  return f.expertSlots > 0 ? std::max(bytes, chooseTokensBytes(f)) : bytes;
}

void CudaBackend::routeForward(const RouteForward& f) {
  expectFaults({.indices = f.E, .tokenTypes = f.allowed.types}, f.givenWeights || f.router.draws());
  if (f.givenWeights) {
    launch("routeGiven", {blocks(std::max<int64_t>(1, (f.T + 7) / 8))}, threads, 0, f);
    return;
  }
  const RoutePieces pieces = RoutePieces::of(f.losses, f.T);
  ForwardMemory memory;
  memory.carve(f.workspace, pieces, f);
  const Dim scopes{blocks(std::max<int64_t>(1, pieces.scopes))};
  const size_t lossBytes = f.E * sizeof(double);
  if (isPlain(f)) {
    launch(typed("route", f.dtype), {blocks(pieces.count())}, threads, RoutePieces::keptBytes(f.E), f, pieces,
           memory.sums);
    launch("routeLosses", scopes, threads, lossBytes, f, pieces, memory.sums);
    return;
  }
  if (f.router.draws()) {
    launch("routeDrawn", {blocks(std::max<int64_t>(1, pieces.count()))}, threads, 0, f, pieces, memory.rows);
    return;
  }
  constexpr int tile = RoutePieces::tileTokens;
  launch(typed("routeLogits", f.dtype), {blocks((f.T + tile - 1) / tile), f.noiseLogits ? 2u : 1u}, threads, 0, f);
  if (balances(f)) {
    const RoutePieces all = RoutePieces::of({}, f.T);
    const auto together = static_cast<unsigned>(std::min<int64_t>(all.count(), properties_.multiprocessors));
    launchTogether("routeSinkhorn", together, threads, f.E * sizeof(double), f, all, memory.sinkhorn);
  }
  const float* shifts = memory.sinkhorn.shifts;
  launch("routeGeneral", {blocks(pieces.count())}, threads, 0, f, pieces, memory.sums, memory.rows, shifts);
  launch("routeGeneralLosses", scopes, threads, lossBytes, f, pieces, memory.sums);
  if (f.expertSlots > 0) chooseTokens(f);
}

// ------------------------------------------------------------------------------------------------ backward

size_t CudaBackend::workspaceBytes(const RouteBackward& b) const {
  return BackwardMemory{}.carve(nullptr, RoutePieces::of(b.losses, b.T), b);
}

void CudaBackend::routeBackward(const RouteBackward& b) {
  const RoutePieces pieces = RoutePieces::of(b.losses, b.T);
  BackwardMemory memory;
  memory.carve(b.workspace, pieces, b);
  if (isPlain(b))
    launch("routeTokensBackward", {blocks(pieces.count())}, threads, (2 + threads / 32) * b.E * sizeof(float), b,
           pieces, memory.sums);
  else
    launch("routeGeneralBackward", {blocks(pieces.count())}, threads, 0, b, pieces, memory.sums, memory.rows);

  const auto multiply = [&](const char* kernel, const RouteBackward& p, const RouteGradientSums& sums) {
    const int64_t columns = (p.H + threads - 1) / threads;
    const int64_t inputTiles = p.gradInput && p.weight ? (p.T + inputTokens - 1) / inputTokens * columns : 0;
    const int64_t weightTiles = p.gradWeight ? static_cast<int64_t>(RouteGradientSums::tiles(p)) * sums.splits : 0;
    const int64_t all = inputTiles + weightTiles + (p.gradBias ? 1 : 0);
    if (all > 0) launch(typed(kernel, p.dtype), {blocks(all)}, threads, 0, p, pieces, sums, inputTiles, weightTiles);
  };
  multiply(hasJitter(b.router, b.noise) ? "routeJitteredProducts" : "routeProducts", b, memory.sums);
  if (!b.gradNoiseLogits) return;
  RouteBackward noise = b;
  noise.weight = b.noiseWeight;
  noise.gradLogits = b.gradNoiseLogits;
  noise.gradWeight = b.gradNoiseWeight;
  noise.gradBias = nullptr;
  noise.accumulateWeight = b.accumulateNoiseWeight;
  RouteGradientSums sums = memory.sums;
  if (b.gradWeight) sums.finished += RouteGradientSums::tiles(b);
  multiply("routeProducts", noise, sums);
}

// ------------------------------------------------------------------------------------------------ after the plan

void CudaBackend::settleWeights(const SettleWeights& s) {
  launch("settleWeights", {blocks((s.T + threads / 32 - 1) / (threads / 32))}, threads, 0, s);
}

void CudaBackend::countAssignments(const CountAssignments& c) {
  launch("countAssignments", {blocksFor(c.E, threads)}, threads, 0, c);
}

void CudaBackend::selectionBiasStep(const SelectionBiasStep& s) { launch("selectionBiasStep", {1}, threads, 0, s); }

}  // namespace moe::cuda
