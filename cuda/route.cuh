// What both halves of the route stage (route.cu, route-backward.cu) are made of.
#pragma once

#include "../native/shared/math.h"
#include "../native/shared/route-sums.h"
#include "common.cuh"

namespace moe {

constexpr int routeWarps = RouteSums::warps, routeThreads = routeWarps * warpSize_;

/// What the kernels leave out of a plain route, which is a top-K of a softmax without noise: they have the rest of the
/// options in instantiations of their own.
enum class RouteKind { Plain, General };

/// What the products do with a token's input in a column: nothing.
struct Unchanged {
  __device__ float operator()(float x, int64_t, int) const { return x; }
};

/// e^(l/τ - maximum) / sum for any of a token's logits l.
struct Softmax {
  float temperature, maximum, sum;

  __device__ float operator()(float logit) const { return exp(logit / temperature - maximum) / sum; }
  __device__ float logSumExp() const { return maximum + log(sum); }
};

/// Of a row of logits, by a whole warp. False when one of them is not finite.
__device__ inline bool softmaxOf(const float* logits, int E, float temperature, Softmax& softmax) {
  float highest = -INFINITY;
  bool finite = true;
  for (int e = lane(); e < E; e += warpSize_) {
    const float x = logits[e] / temperature;
    finite = finite && fabsf(x) < INFINITY;
    highest = fmaxf(highest, x);
  }
  if (!__all_sync(wholeWarp, finite)) return false;
  highest = warpReduce<Maximum>(highest);
  float sum = 0;
  for (int e = lane(); e < E; e += warpSize_) sum += exp(logits[e] / temperature - highest);
  softmax = {temperature, highest, warpSum(sum)};
  return true;
}

/// x^p for x in [0, 1], where the digits lost to p·ln x do not matter: what loses many is small.
__device__ inline float power(float x, float p) { return x < 0x1p-126f ? 0.0f : exp(p * log(x)); }

/// ‖scores‖_p over [K], by a whole warp, in double like the CPU: single scores may be tiny.
__device__ inline double normOf(const RouterOptions& router, const float* scores, int K) {
  if (router.normP == 1 || router.normP == 2) {
    double sum = 0;
    for (int k = lane(); k < K; k += warpSize_)
      sum += router.normP == 1 ? static_cast<double>(scores[k]) : static_cast<double>(scores[k]) * scores[k];
    sum = warpSum(sum);
    return router.normP == 1 ? sum : sqrt(sum);
  }
  // Of shares of the largest score, so that no power underflows.
  float largest = 0;
  for (int k = lane(); k < K; k += warpSize_) largest = fmaxf(largest, scores[k]);
  largest = warpReduce<Maximum>(largest);
  if (largest == 0) return 0;
  float sum = 0;
  for (int k = lane(); k < K; k += warpSize_) sum += power(scores[k] / largest, router.normP);
  // The sum is in [1, K].
  return static_cast<double>(largest) * exp(log(warpSum(sum)) / router.normP);
}

/// Of S [E]: mean, population variance, and cv² = variance / (mean² + 1e-10). By a whole block.
struct Variation {
  double mean, squared;
};

constexpr double variationEpsilon = 1e-10;

__device__ inline Variation variationOf(const float* S, int E, double* scratch) {
  double sum = 0;
  for (int e = threadIdx.x; e < E; e += blockDim.x) sum += S[e];
  const double mean = blockSum(sum, scratch) / E;
  double squares = 0;
  for (int e = threadIdx.x; e < E; e += blockDim.x) squares += (S[e] - mean) * (S[e] - mean);
  __syncthreads();
  const double variance = blockSum(squares, scratch) / E;
  __syncthreads();
  return {mean, variance / (mean * mean + variationEpsilon)};
}

/// True in every thread of the block that comes last of `blocks`; what the others have written is then visible.
__device__ inline bool isLast(uint32_t* finished, uint32_t blocks) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(finished, 1u) == blocks - 1;
  __syncthreads();
  __threadfence();
  return last;
}

}  // namespace moe
