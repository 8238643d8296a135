// What the route's forward kernels do for one token by a whole warp, whatever the scores are: the choice, the caller's
// indices, gate weights.
#pragma once

#include "route.cuh"

namespace moe {

/// A value and whose it is. By falling value, of equal ones the lower expert comes first.
struct Ranked {
  float value;
  int expert;

  __device__ bool isBefore(const Ranked& other) const {
    return value > other.value || (value == other.value && expert < other.expert);
  }
};

/// Calls visit(k, ranked) in every lane for the K first of E values, K <= E. Each lane offers the first of its own, and
/// looks for the next when its offer wins.
template <class ValueAt, class Visit>
__device__ inline void forFirst(int E, int K, const ValueAt& valueAt, const Visit& visit) {
  const auto offerAfter = [&](Ranked last) {
    Ranked first{-INFINITY, E};
    for (int e = lane(); e < E; e += warpSize_)
      if (const Ranked own{valueAt(e), e}; last.isBefore(own) && own.isBefore(first)) first = own;
    return first;
  };
  Ranked mine = offerAfter({INFINITY, -1});
  for (int k = 0; k < K; ++k) {
    Ranked first = mine;
    for (int distance = warpSize_ / 2; distance > 0; distance /= 2) {
      const Ranked other{__shfl_xor_sync(wholeWarp, first.value, distance),
                         __shfl_xor_sync(wholeWarp, first.expert, distance)};
      if (other.isBefore(first)) first = other;
    }
    visit(k, first);
    if (first.expert == mine.expert) mine = offerAfter(first);
  }
}

/// scores [K] = softmax over the selected, of logitAt(e) / divisor; 0 where the index is -1.
template <class LogitAt>
__device__ inline void softmaxOfSelected(const LogitAt& logitAt, float divisor, const int32_t* indices, int K,
                                         float* scores) {
  float highest = -INFINITY;
  for (int k = lane(); k < K; k += warpSize_)
    if (indices[k] >= 0) highest = fmaxf(highest, logitAt(indices[k]) / divisor);
  highest = warpReduce<Maximum>(highest);
  float sum = 0;
  for (int k = lane(); k < K; k += warpSize_)
    if (indices[k] >= 0) sum += exp(logitAt(indices[k]) / divisor - highest);
  sum = warpSum(sum);
  // It is no number when none of the selected has a finite logit.
  for (int k = lane(); k < K; k += warpSize_)
    scores[k] = indices[k] >= 0 && sum > 0 ? exp(logitAt(indices[k]) / divisor - highest) / sum : 0.0f;
}

/// What a weight is of its score: `scale`, over the norm of the scores when they are renormalised.
__device__ inline double weightFactor(const RouterOptions& router, const float* scores, int K, double scale) {
  if (!router.renormalize) return scale;
  const double divisor = normOf(router, scores, K) + router.normEpsilon;
  return divisor > 0 ? scale / divisor : 0.0;
}

__device__ inline void weigh(const RouterOptions& router, const float* scores, int K, float* weights) {
  const double factor = weightFactor(router, scores, K, router.weightScale);
  for (int k = lane(); k < K; k += warpSize_) weights[k] = static_cast<float>(factor * scores[k]);
}

/// The caller's indices of a token, written out. False when one is outside [-1,E).
__device__ inline bool copyIndices(const RouteForward& f, int64_t t) {
  bool good = true;
  for (int k = lane(); k < f.K; k += warpSize_) {
    const int32_t e = f.givenIndices[t * f.K + k];
    good = good && e >= -1 && e < f.E;
    f.indices[t * f.K + k] = e;
  }
  __syncwarp();
  return __all_sync(wholeWarp, good);
}

/// The first of a token's indices that is no expert; there is one. Its place comes after those of all token types,
/// whose faults are told first.
__device__ inline FaultValue badIndex(const RouteForward& f, int64_t t) {
  int64_t slot = t * f.K;
  while (f.givenIndices[slot] >= -1 && f.givenIndices[slot] < f.E) ++slot;
  return faultValue(f.T + slot, f.givenIndices[slot]);
}

/// A token without choices.
__device__ inline void clearChoices(const RouteForward& f, int64_t t) {
  for (int k = lane(); k < f.K; k += warpSize_) {
    f.indices[t * f.K + k] = -1;
    f.scores[t * f.K + k] = 0;
    f.weights[t * f.K + k] = 0;
  }
}

}  // namespace moe
