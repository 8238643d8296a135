// The balanced assignment that the Sinkhorn router chooses by: see native/shared/sinkhorn.h. All blocks run at once and
// meet after each step; the experts' factors are those of every block alike, so that all stop at the same step.
#include "../native/shared/sinkhorn.h"
#include "rank.cuh"
#include "route-scores.cuh"

namespace moe {

constexpr int tileTokens = RoutePieces::tileTokens;

/// costs [E] = exp(logits - their maximum), which no factor of the token can tell from exp(logits); 0 where an expert
/// is not allowed, and for a token at fault, which the route reports.
__device__ inline void setCosts(const RouteForward& f, int64_t t, float* costs) {
  const bool counts = isLive(f.mask, t) && isGoodType(f.allowed, t);
  const int32_t* allowed = counts ? allowedOf(f.allowed, t, f.E) : nullptr;
  if (counts && f.noisy) addNoise(f, t, allowed);
  const float* logits = (f.noisy ? f.noisy : f.logits) + t * f.E;
  const float divisor = f.noisy ? 1.0f : f.router.temperatureNow();
  float highest = -INFINITY;
  for (int e = lane(); counts && e < f.E; e += warpSize_)
    if (!allowed || allowed[e]) highest = fmaxf(highest, logits[e]);
  highest = warpReduce<Maximum>(highest);
  for (int e = lane(); e < f.E; e += warpSize_) {
    const float cost = !counts || (allowed && !allowed[e]) ? 0.0f : exp((logits[e] - highest) / divisor);
    costs[e] = fabsf(cost) < INFINITY ? cost : 0.0f;
  }
}

/// loads [E] of a piece: what its tokens, given their share each, put on the experts. By a whole block.
__device__ inline void addLoads(const float* costs, int64_t tokens, int E, double liveTokens, const double* factors,
                                double* tokenFactors, double* loads) {
  for (int64_t first = 0; first < tokens; first += tileTokens) {
    const int count = static_cast<int>(min(int64_t{tileTokens}, tokens - first));
    for (int i = warp(); i < count; i += routeWarps) {
      const float* cost = costs + (first + i) * E;
      double sum = 0;
      for (int e = lane(); e < E; e += warpSize_) sum += factors[e] * cost[e];
      sum = warpSum(sum);
      if (lane() == 0) tokenFactors[i] = sinkhornFactor(sum, liveTokens);
    }
    __syncthreads();
    for (int e = threadIdx.x; e < E; e += routeThreads) {
      double load = first == 0 ? 0.0 : loads[e];
      for (int i = 0; i < count; ++i) load += tokenFactors[i] * costs[(first + i) * E + e];
      loads[e] = load;
    }
    __syncthreads();
  }
}

/// Dynamic shared memory: double [E].
extern "C" __global__ void __launch_bounds__(routeThreads, 2)
    routeSinkhorn(const __grid_constant__ RouteForward f, const __grid_constant__ RoutePieces pieces,
                  const __grid_constant__ SinkhornWork work, const __grid_constant__ Guard guard) {
  if (!enter(guard)) return;
  extern __shared__ double factors[];
  __shared__ double tokenFactors[tileTokens], scratch[routeWarps];
  const int64_t count = pieces.count();
  const auto tokensOf = [&](int64_t piece) { return pieces.end(piece) - pieces.begin(piece); };
  for (int64_t piece = blockIdx.x; piece < count; piece += gridDim.x) {
    double live = 0;
    for (int64_t t = pieces.begin(piece) + warp(); t < pieces.end(piece); t += routeWarps) {
      setCosts(f, t, work.costs + t * f.E);
      live += lane() == 0 && isLive(f.mask, t) ? 1.0 : 0.0;
    }
    live = blockSum(live, scratch);
    if (threadIdx.x == 0) work.live[piece] = live;
    __syncthreads();
  }
  for (int e = threadIdx.x; e < f.E; e += routeThreads) factors[e] = 1;
  gridBarrier();
  double own = 0;
  for (int64_t piece = threadIdx.x; piece < count; piece += routeThreads) own += work.live[piece];
  const double live = blockSum(own, scratch);
  __syncthreads();

  double change = live > 0 ? INFINITY : 0;
  for (int step = 0; change >= Sinkhorn::tolerance && step < Sinkhorn::maxSteps; ++step) {
    // In turn, so that a block may write the next while another still reads these.
    double* loads = work.loads + (step & 1) * count * f.E;
    for (int64_t piece = blockIdx.x; piece < count; piece += gridDim.x)
      addLoads(work.costs + pieces.begin(piece) * f.E, tokensOf(piece), f.E, live, factors, tokenFactors,
               loads + piece * f.E);
    gridBarrier();
    double moved = 0;
    for (int e = threadIdx.x; e < f.E; e += routeThreads) {
      double load = 0;
      for (int64_t piece = 0; piece < count; ++piece) load += loads[piece * f.E + e];
      const double factor = sinkhornFactor(load, f.E);
      moved += fabs(factor - factors[e]) / f.E;
      factors[e] = factor;
    }
    change = blockSum(moved, scratch);
    __syncthreads();
  }
  if (blockIdx.x == 0)
    for (int e = threadIdx.x; e < f.E; e += routeThreads) work.shifts[e] = static_cast<float>(::log(factors[e]));
}

}  // namespace moe
