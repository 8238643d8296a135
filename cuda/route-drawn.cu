// The hash and the random router: experts are drawn, there is nothing to score and no loss.
#include "route-draws.cuh"
#include "route-scores.cuh"
#include "route-tokens.cuh"

namespace moe {

/// The K experts of a live token with the largest draws, all with the same weight. compared [E] is the token's, or the
/// warp's own.
__device__ inline void drawToken(const RouteForward& f, int64_t t, float* compared, const Guard& guard) {
  const auto refuse = [&](Fault fault, FaultValue value) {
    if (lane() == 0) noteFault(guard, fault, t, value);
    clearToken(f, t);
  };
  if (!isGoodType(f.allowed, t)) return refuse(Fault::TokenType, faultValue(t, f.allowed.tokenTypes[t]));
  if (f.givenIndices && !copyIndices(f, t)) return refuse(Fault::RoutingIndex, badIndex(f, t));
  int32_t* indices = f.indices + t * f.K;
  if (!f.givenIndices || f.compared) {
    const int32_t* allowed = allowedOf(f.allowed, t, f.E);
    for (int e = lane(); e < f.E; e += warpSize_)
      compared[e] = allowed && !allowed[e] ? -INFINITY : drawnExpert(f, t, e);
    __syncwarp();
  }
  if (!f.givenIndices) chooseExperts(compared, f.E, f.K, indices);
  for (int k = lane(); k < f.K; k += warpSize_)
    f.scores[t * f.K + k] = indices[k] < 0 ? 0.0f : 1.0f / static_cast<float>(f.K);
  __syncwarp();
  weighChoices(f, t);
}

/// A block for each piece, at least one.
extern "C" __global__ void __launch_bounds__(routeThreads, 2)
    routeDrawn(const __grid_constant__ RouteForward f, const __grid_constant__ RoutePieces pieces,
               const __grid_constant__ RouteRows rows, const __grid_constant__ Guard guard) {
  if (!enter(guard, true)) return;
  if (blockIdx.x == 0 && threadIdx.x < RouteValue::count) f.values[threadIdx.x] = 0;
  const int64_t piece = blockIdx.x;
  if (piece >= pieces.count()) return;
  float* row = rows.experts + (piece * routeWarps + warp()) * f.E;
  for (int64_t t = pieces.begin(piece) + warp(); t < pieces.end(piece); t += routeWarps) {
    if (isLive(f.mask, t))
      drawToken(f, t, f.compared ? f.compared + t * f.E : row, guard);
    else
      clearToken(f, t);
    __syncwarp();
  }
}

}  // namespace moe
