// From the gradients of a token's gate weights back to its scores and logits, by a whole warp.
#pragma once

#include "route.cuh"

namespace moe {

/// Back through scale and renormalisation: dL/d(score) = scale·(g - slope·projection) with g by the weight.
struct WeightSlopes {
  double scale, projection, norm;
  float power;  // of the slope; 0: it is 1

  /// gradWeight(k) for the weights of scores [K].
  template <class GradWeight>
  __device__ static WeightSlopes of(const RouterOptions& router, const float* scores, int K,
                                    const GradWeight& gradWeight) {
    WeightSlopes slopes{router.weightScale, 0, 1, 0};
    if (!router.renormalize) return slopes;
    slopes.power = router.normP - 1;
    slopes.norm = normOf(router, scores, K);
    const double divisor = slopes.norm + router.normEpsilon;
    for (int k = lane(); k < K; k += warpSize_) slopes.projection += gradWeight(k) * scores[k];
    slopes.projection = divisor > 0 ? warpSum(slopes.projection) / divisor : 0.0;
    slopes.scale = divisor > 0 ? slopes.scale / divisor : 0.0;
    return slopes;
  }

  __device__ double operator()(double gradWeight, float score) const {
    float slope = 1;
    if (power != 0) slope = score > 0 ? moe::power(static_cast<float>(score / norm), power) : 0.0f;
    return scale * (gradWeight - projection * slope);
  }
};

/// Back through the softmax over the selected logits alone: gradLogits [E] += it, over the divisor. A caller's routing
/// may name an expert twice, so each lane adds to experts of its own.
template <class GradScore>
__device__ inline void softmaxOfSelectedBackward(const float* scores, const int32_t* indices, int K,
                                                 const GradScore& gradScore, float divisor, float* gradLogits) {
  // Against the gradient of the largest score nothing cancels when that score is close to 1.
  int best = 0;
  for (int k = 1; k < K; ++k)
    if (scores[k] > scores[best]) best = k;
  const double shift = gradScore(best);
  double mean = 0;
  for (int k = lane(); k < K; k += warpSize_) mean += scores[k] * (gradScore(k) - shift);
  mean = warpSum(mean);
  for (int k = 0; k < K; ++k)
    if (indices[k] >= 0 && indices[k] % warpSize_ == lane())
      gradLogits[indices[k]] += static_cast<float>(scores[k] * (gradScore(k) - shift - mean) / divisor);
}

/// The slope of the load-balance loss by P_e is this times the counts of a piece's scope, over `parts` experts or
/// groups of them. By a whole block.
__device__ inline double loadBalanceFactor(const RouteBackward& b, const RoutePieces& pieces, int64_t piece, int parts,
                                           double* scratch) {
  double filled = 0;
  for (int64_t scope = threadIdx.x; scope < pieces.scopes; scope += routeThreads) filled += b.lossTokens[scope] > 0;
  filled = blockSum(filled, scratch);
  __syncthreads();
  const double n = b.lossTokens[pieces.scopeOf(piece)];
  const double perToken = b.losses.counts == LossCounts::FirstChoice ? 1 : b.K;
  return n > 0 ? b.losses.loadBalance * parts / (n * n * perToken * filled) : 0.0;
}

}  // namespace moe
