// What the general kernels write for one token, whatever it is that they compare. By a whole warp.
#pragma once

#include "../native/shared/noise.h"
#include "route-choice.cuh"

namespace moe {

/// indices [K] by what is compared, -1 where nothing is left.
__device__ inline void chooseExperts(const float* compared, int E, int K, int32_t* indices) {
  forFirst(
      E, K, [&](int e) { return compared[e]; },
      [&](int k, Ranked first) {
        if (lane() == 0) indices[k] = first.value == -INFINITY ? -1 : first.expert;
      });
  __syncwarp();
}

/// Gate weights of a token's scores, and whether its second choice is kept.
__device__ inline void weighChoices(const RouteForward& f, int64_t t) {
  const float* scores = f.scores + t * f.K;
  weigh(f.router, scores, f.K, f.weights + t * f.K);
  if (!f.withheld) return;
  const auto second = static_cast<float>(weightFactor(f.router, scores, f.K, 1.0) * scores[1]);
  if (lane() == 0)
    f.withheld[t] = !keepsSecond(valueOf(f.secondKey), f.noise.tokenOffset + t, second, f.router.secondThreshold);
}

/// Of padding and of a token at fault.
__device__ inline void clearToken(const RouteForward& f, int64_t t) {
  for (int e = lane(); e < f.E; e += warpSize_) {
    if (f.noisy) f.noisy[t * f.E + e] = 0;
    if (f.expertSlots > 0) f.compared[t * f.E + e] = -INFINITY;
  }
  if (f.expertSlots > 0) return;
  clearChoices(f, t);
  if (f.withheld && lane() == 0) f.withheld[t] = 0;
}

}  // namespace moe
