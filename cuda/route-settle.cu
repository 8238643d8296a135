// What of the route waits for the plan: weights of the experts used instead of those first chosen, and over the sum of
// what is kept; and the counts of assignments that the selection bias is stepped by.
#include "route-scores.cuh"

namespace moe {

// ------------------------------------------------------------------------------------------------ weights

/// usedScores [K] of experts that are not all those first chosen.
__device__ inline void scoreUsed(const SettleWeights& s, int64_t t, const int32_t* used, float* usedScores) {
  if (s.router.draws()) {
    for (int k = lane(); k < s.K; k += warpSize_) usedScores[k] = used[k] < 0 ? 0.0f : 1.0f / static_cast<float>(s.K);
    return;
  }
  TokenScores token;
  token.set(s.router, s.E, s.logits + t * s.E, allowedOf(s.allowed, t, s.E), rowOf(s.noisy, t, s.E));
  token.ofSelected(s.router, used, s.K, usedScores);
}

/// weights [K] = weightScale · scores / Σ of the kept scores; 0 for the others.
__device__ inline void weighKept(const RouterOptions& router, const float* scores, const int32_t* kept, int K,
                                 float* weights) {
  double sum = 0;
  for (int k = lane(); k < K; k += warpSize_) sum += kept[k] ? scores[k] : 0.0f;
  sum = warpSum(sum);
  const double factor = sum > 0 ? router.weightScale / sum : 0.0;
  for (int k = lane(); k < K; k += warpSize_) weights[k] = kept[k] ? static_cast<float>(factor * scores[k]) : 0.0f;
}

/// A warp for each token.
extern "C" __global__ void __launch_bounds__(routeThreads, 2)
    settleWeights(const __grid_constant__ SettleWeights s, const __grid_constant__ Guard guard) {
  if (!enter(guard)) return;
  const int64_t t = int64_t{blockIdx.x} * routeWarps + warp();
  if (t >= s.T) return;
  const int32_t *indices = s.indices + t * s.K, *kept = s.kept + t * s.K;
  const float* scores = s.scores + t * s.K;
  float* weights = s.weights + t * s.K;
  if (s.actual) {
    int32_t* used = s.used + t * s.K;
    float* usedScores = s.usedScores + t * s.K;
    bool same = true;
    for (int k = lane(); k < s.K; k += warpSize_) {
      used[k] = kept[k] ? s.actual[t * s.K + k] : indices[k];
      usedScores[k] = scores[k];
      same = same && used[k] == indices[k];
    }
    __syncwarp();
    if (!__all_sync(wholeWarp, same)) {
      scoreUsed(s, t, used, usedScores);
      __syncwarp();
      weigh(s.router, usedScores, s.K, weights);
      for (int k = lane(); k < s.K; k += warpSize_)
        if (!kept[k]) weights[k] = 0;
    }
    scores = usedScores;
  }
  if (s.router.renormalizeAfterDrop) weighKept(s.router, scores, kept, s.K, weights);
}

// ------------------------------------------------------------------------------------------------ selection bias

extern "C" __global__ void __launch_bounds__(routeThreads, 2)
    countAssignments(const __grid_constant__ CountAssignments c, const __grid_constant__ Guard guard) {
  if (!enter(guard)) return;
  for (int e = blockIdx.x * routeThreads + threadIdx.x; e < c.E; e += gridDim.x * routeThreads)
    c.totals[e] += c.counts[e];
}

/// One block.
extern "C" __global__ void __launch_bounds__(routeThreads, 2)
    selectionBiasStep(const __grid_constant__ SelectionBiasStep s, const __grid_constant__ Guard guard) {
  if (!enter(guard)) return;
  __shared__ int64_t scratch[routeWarps];
  int64_t own = 0;
  for (int e = threadIdx.x; e < s.E; e += routeThreads) own += s.totals[e];
  const int64_t total = blockSum(own, scratch);
  for (int e = threadIdx.x; e < s.E; e += routeThreads) {
    const int64_t share = s.totals[e] * s.E;
    s.bias[e] += share < total ? s.rate : share > total ? -s.rate : 0.0f;
    s.totals[e] = 0;
  }
}

}  // namespace moe
