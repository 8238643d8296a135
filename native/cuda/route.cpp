// The route stage: grids and workspaces of cuda/route.cu and cuda/route-backward.cu.
#include <algorithm>

#include "../shared/route-sums.h"
#include "backend.h"

namespace moe::cuda {

namespace {

constexpr unsigned threads = 256;
constexpr int inputTokens = 16;  // of a tile of gradInput

unsigned blocks(int64_t count) { return static_cast<unsigned>(count); }

int64_t columnTiles(const RouteBackward& b) { return (b.H + threads - 1) / threads; }

}  // namespace

size_t CudaBackend::workspaceBytes(const RouteForward& f) const {
  if (f.givenWeights) return 0;
  return RouteSums{}.carve(nullptr, RoutePieces::of(f.losses, f.T), f);
}

void CudaBackend::routeForward(const RouteForward& f) {
  expectFaults(f.E, f.givenWeights != nullptr);
  if (f.givenWeights) {
    launch("routeGiven", {blocks(std::max<int64_t>(1, (f.T + 7) / 8))}, threads, 0, f);
    return;
  }
  const RoutePieces pieces = RoutePieces::of(f.losses, f.T);
  RouteSums sums{};
  sums.carve(static_cast<char*>(f.workspace), pieces, f);
  launch(typed("route", f.dtype), {blocks(pieces.count())}, threads, RoutePieces::keptBytes(f.E), f, pieces, sums);
  launch("routeLosses", {blocks(std::max<int64_t>(1, pieces.scopes))}, threads, f.E * sizeof(double), f, pieces, sums);
}

size_t CudaBackend::workspaceBytes(const RouteBackward& b) const {
  return RouteGradientSums{}.carve(nullptr, RoutePieces::of(b.losses, b.T), b);
}

void CudaBackend::routeBackward(const RouteBackward& b) {
  const RoutePieces pieces = RoutePieces::of(b.losses, b.T);
  RouteGradientSums sums{};
  sums.carve(static_cast<char*>(b.workspace), pieces, b);
  launch("routeTokensBackward", {blocks(pieces.count())}, threads, (2 + threads / 32) * b.E * sizeof(float), b, pieces,
         sums);
  const int64_t inputTiles = b.gradInput ? (b.T + inputTokens - 1) / inputTokens * columnTiles(b) : 0;
  const int64_t weightTiles = b.gradWeight ? static_cast<int64_t>(RouteGradientSums::tiles(b)) * sums.splits : 0;
  launch(typed("routeProducts", b.dtype), {blocks(inputTiles + weightTiles + (b.gradBias ? 1 : 0))}, threads, 0, b,
         pieces, sums, inputTiles, weightTiles);
}

}  // namespace moe::cuda
