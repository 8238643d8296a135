// What follows from one token's logits before any choice, in forward and backward alike, for every kind of router: the
// probabilities P of the losses, the scores that weights are made of, and the noise. By a whole warp.
#pragma once

#include "../native/shared/noise.h"
#include "route-choice.cuh"

namespace moe {

__device__ inline const float* rowOf(const float* matrix, int64_t t, int E) {
  return matrix ? matrix + t * E : nullptr;
}

__device__ inline bool isGoodType(const AllowedExperts& allowed, int64_t t) {
  return !allowed.table || (allowed.tokenTypes[t] >= 0 && allowed.tokenTypes[t] < allowed.types);
}

/// [E] of a live token of a good type, or null: all.
__device__ inline const int32_t* allowedOf(const AllowedExperts& allowed, int64_t t, int E) {
  return allowed.table ? allowed.table + int64_t{allowed.tokenTypes[t]} * E : nullptr;
}

__device__ inline float logistic(float x) { return 1.0f / (1.0f + exp(-x)); }

/// σ'(x), to the last digits where σ is close to 1.
__device__ inline float logisticSlope(float x) {
  const float tail = exp(-fabsf(x));
  return tail / ((1.0f + tail) * (1.0f + tail));
}

// ------------------------------------------------------------------------------------------------ distributions

/// A softmax or a sigmoid over the experts that a token may use.
struct Distribution {
  const float* logits;     // [E]
  const int32_t* allowed;  // [E] or null: all
  float divisor;
  bool isSoftmax;
  float maximum, sum;  // of a softmax; of a sigmoid the sum is Σ σ

  __device__ bool isOpen(int e) const { return !allowed || allowed[e] != 0; }
  /// The logit as it is compared, minus infinity where not allowed.
  __device__ float logit(int e) const { return isOpen(e) ? logits[e] : -INFINITY; }
  __device__ float score(int e) const {
    if (!isOpen(e)) return 0;
    const float x = logits[e] / divisor;
    return isSoftmax ? exp(x - maximum) / sum : logistic(x);
  }
  /// The scores over their sum.
  __device__ float share(int e) const { return isSoftmax || sum <= 0 ? score(e) : score(e) * (1.0f / sum); }

  /// Sets the sums.
  __device__ void measure(int E) {
    maximum = -INFINITY;
    if (isSoftmax) {
      for (int e = lane(); e < E; e += warpSize_)
        if (isOpen(e)) maximum = fmaxf(maximum, logits[e] / divisor);
      maximum = warpReduce<Maximum>(maximum);
    }
    float own = 0;
    for (int e = lane(); e < E; e += warpSize_)
      if (isOpen(e)) own += isSoftmax ? exp(logits[e] / divisor - maximum) : logistic(logits[e] / divisor);
    sum = warpSum(own);
  }

  __device__ float logSumExp() const { return maximum + log(sum); }
  /// The expert with the largest logit, of equal ones the lower.
  __device__ int top(int E) const {
    int best = 0;
    forFirst(
        E, 1, [this](int e) { return logit(e); }, [&](int, Ranked first) { best = first.expert; });
    return best;
  }
};

/// Of one token: P by the logits over the temperature, and the scores, which have the noise.
struct TokenScores {
  Distribution open, noisy;

  /// noisy [E] over the temperature, or null: no noise. False when a logit is not finite.
  __device__ bool set(const RouterOptions& router, int E, const float* logits, const int32_t* allowed,
                      const float* noisyLogits) {
    const bool isSoftmax = router.scoring == Scoring::Softmax;
    open = {logits, allowed, router.temperatureNow(), isSoftmax, 0, 1};
    noisy = noisyLogits ? Distribution{noisyLogits, allowed, 1.0f, isSoftmax, 0, 1} : open;
    bool finite = true;
    for (int e = lane(); e < E; e += warpSize_) {
      finite = finite && fabsf(isSoftmax ? logits[e] / router.temperatureNow() : logits[e]) < INFINITY;
      finite = finite && (!noisyLogits || !open.isOpen(e) || fabsf(noisyLogits[e]) < INFINITY);
    }
    if (!__all_sync(wholeWarp, finite)) return false;
    open.measure(E);
    if (noisyLogits)
      noisy.measure(E);
    else
      noisy = open;
    return true;
  }

  /// The softmax without temperature of the importance and z losses.
  __device__ Distribution clean(int E) const {
    Distribution clean = open;
    if (open.isSoftmax && open.divisor == 1) return clean;
    clean.isSoftmax = true;
    clean.divisor = 1;
    clean.measure(E);
    return clean;
  }

  /// scores [K] of the selected experts, 0 where the index is -1.
  __device__ void ofSelected(const RouterOptions& router, const int32_t* indices, int K, float* scores) const {
    if (router.selectBy == SelectBy::Logits && open.isSoftmax)
      softmaxOfSelected([this](int e) { return noisy.logit(e); }, noisy.divisor, indices, K, scores);
    else
      for (int k = lane(); k < K; k += warpSize_) scores[k] = indices[k] < 0 ? 0.0f : noisy.score(indices[k]);
    __syncwarp();
  }
};

// ------------------------------------------------------------------------------------------------ noise

/// The noise on four neighbouring logits of a token before its deviation.
__device__ inline Normal4 drawnNoise(const RouterOptions& router, const RouteNoise& noise, int64_t t, int e) {
  return logitNoise(router.noise, noiseBits(valueOf(noise.key), noise.tokenOffset + t, static_cast<uint32_t>(e / 4)));
}

/// The deviation of the noise on one logit; noiseLogits [E] or null of the token.
__device__ inline float deviationAt(const RouterOptions& router, const float* noiseLogits, int e) {
  return noiseLogits ? deviationOf(noiseLogits[e]) : router.noiseScale;
}

/// f.noisy of one token: its logits over the temperature, with what is drawn or given; minus infinity where not
/// allowed.
__device__ inline void addNoise(const RouteForward& f, int64_t t, const int32_t* allowed) {
  const RouterOptions& router = f.router;
  const float* logits = f.logits + t * f.E;
  const float* noiseLogits = rowOf(f.noiseLogits, t, f.E);
  float* noisy = f.noisy + t * f.E;
  for (int e0 = 4 * lane(); e0 < f.E; e0 += 4 * warpSize_) {
    Normal4 drawn{};
    if (!f.givenNoise) drawn = drawnNoise(router, f.noise, t, e0);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int e = e0 + i;
      if (e >= f.E) break;
      const float noise = f.givenNoise ? f.givenNoise[t * f.E + e] : drawn.value[i];
      if (allowed && !allowed[e])
        noisy[e] = -INFINITY;
      else if (router.noise == NoiseType::Gumbel)
        noisy[e] = (logits[e] + noise) / router.temperatureNow();
      else
        noisy[e] =
            logits[e] / router.temperatureNow() + noise * (f.givenNoise ? 1.0f : deviationAt(router, noiseLogits, e));
    }
  }
  __syncwarp();
}

// ------------------------------------------------------------------------------------------------ load

/// The noisy logits that the chances of the load loss are taken against: the K-th and the one after it. An expert of
/// -1 means that there is none.
struct LoadRanks {
  Ranked last, next;

  __device__ static LoadRanks of(const Distribution& noisy, int E, int K) {
    LoadRanks ranks{{-INFINITY, -1}, {-INFINITY, -1}};
    forFirst(
        E, min(K + 1, E), [&](int e) { return noisy.logit(e); },
        [&](int k, Ranked ranked) {
          if (ranked.value == -INFINITY) return;
          if (k == K - 1) ranks.last = ranked;
          if (k == K) ranks.next = ranked;
        });
    return ranks;
  }

  /// Whether an expert that the token may use is among the K first.
  __device__ bool has(const Distribution& noisy, int e) const {
    return last.expert < 0 || !last.isBefore({noisy.logits[e], e});
  }
};

/// The chance that an expert's noise drawn anew would have it chosen, of one that the token may use.
struct LoadChance {
  int threshold;  // whose noisy logit is to be beaten; -1: chosen for certain
  double distance, deviation;

  __device__ static LoadChance of(const RouterOptions& router, LoadThreshold rule, const TokenScores& token,
                                  const LoadRanks& ranks, const float* noiseLogits, int e) {
    const bool isChosen = rule == LoadThreshold::ExcludingSelf && ranks.has(token.noisy, e);
    const Ranked beaten{isChosen ? ranks.next.value : ranks.last.value,
                        isChosen ? ranks.next.expert : ranks.last.expert};
    if (beaten.expert < 0) return {-1, 0, 1};
    const double threshold = static_cast<double>(beaten.value) / token.noisy.divisor;
    const double deviation = deviationAt(router, noiseLogits, e);
    return {beaten.expert,
            (static_cast<double>(token.open.logits[e]) / router.temperatureNow() - threshold) / deviation, deviation};
  }

  __device__ float value() const {
    constexpr double sqrtHalf = 0.70710678118654752440;
    return threshold < 0 ? 1.0f : static_cast<float>(0.5 * erfc(-distance * sqrtHalf));
  }
  /// d value / d distance, over the deviation.
  __device__ double slope() const {
    constexpr double inverseRootOfTwoPi = 0.39894228040143267794;
    return ::exp(-0.5 * distance * distance) * inverseRootOfTwoPi / deviation;
  }
};

}  // namespace moe
