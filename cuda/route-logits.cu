// The logits of a router that is more than a top-K of a softmax, and those of learned noise: the first launch of its
// route forward.
#include "route-draws.cuh"
#include "route-logits.cuh"

namespace moe {

/// A block for each tile of tokens: blockIdx.y 0 the logits, 1 those of learned noise.
template <class T>
__device__ void routeTile(const RouteForward& f) {
  __shared__ LogitTiles tiles;
  const int64_t first = int64_t{blockIdx.x} * tileTokens;
  const int count = static_cast<int>(min(int64_t{tileTokens}, f.T - first));
  const auto placeIn = [&](float* logits) { return TileLogits{logits + first * f.E, f.E}; };
  LogitOperands operands = LogitOperands::of(f);
  if (blockIdx.y == 1) {
    operands.weight = f.noiseWeight;
    operands.bias = nullptr;
    multiplyLogits<T>(operands, first, count, tiles, placeIn(f.noiseLogits));
  } else if (f.givenLogits) {
    copyLogits(f, first, count, placeIn(f.logits));
  } else if (hasJitter(f.router, f.noise)) {
    multiplyLogits<T>(operands, first, count, tiles, placeIn(f.logits), Jitter{f.router, f.noise});
  } else {
    multiplyLogits<T>(operands, first, count, tiles, placeIn(f.logits));
  }
}

#define MOE_ROUTE_LOGITS(name, type)                                                                    \
  extern "C" __global__ void __launch_bounds__(routeThreads, 2)                                         \
      routeLogits_##name(const __grid_constant__ RouteForward f, const __grid_constant__ Guard guard) { \
    if (enter(guard)) routeTile<type>(f);                                                               \
  }
MOE_FLOAT_TYPES(MOE_ROUTE_LOGITS)

}  // namespace moe
