// The gradients of every route that is more than a top-K of a softmax: of its tokens, a launch, and the products with a
// jittered input. The other products are those of route-backward.cu. No sum depends on the order in which blocks run.
#include "route-draws.cuh"
#include "route-gradients.cuh"
#include "route-products.cuh"
#include "route-scores.cuh"

namespace moe {

// ------------------------------------------------------------------------------------------------ slopes

/// d(coefficient · cv²) / dS_e.
struct VariationSlope {
  const float* S;  // [E]
  double mean, squared, factor;

  __device__ static VariationSlope of(const float* S, int E, double coefficient, double* scratch) {
    const Variation v = variationOf(S, E, scratch);
    return {S, v.mean, v.squared, coefficient * 2 / (E * (v.mean * v.mean + variationEpsilon))};
  }
  __device__ float operator()(int e) const { return static_cast<float>(factor * (S[e] - mean - squared * mean)); }
};

/// d(scaled losses) by what the tokens of a piece added to their sums.
struct Slopes {
  double balanceFactor;
  const float* counts;  // [E] of the scope
  VariationSlope importance, load;
  float z;

  __device__ float balance(int e) const { return static_cast<float>(balanceFactor * counts[e]); }

  /// By a whole block.
  __device__ static Slopes of(const RouteBackward& b, const RoutePieces& pieces, int64_t piece, double* scratch) {
    const LossOptions& losses = b.losses;
    Slopes slopes{};
    if (losses.loadBalanceOn) {
      const int parts = losses.expertGroups > 0 ? losses.expertGroups : b.E;
      slopes.balanceFactor = loadBalanceFactor(b, pieces, piece, parts, scratch);
      slopes.counts = b.lossCounts + pieces.scopeOf(piece) * b.E;
    }
    if (losses.importanceOn) slopes.importance = VariationSlope::of(b.importance, b.E, losses.importance, scratch);
    if (losses.loadOn) slopes.load = VariationSlope::of(b.load, b.E, losses.load, scratch);
    const float tokens = b.values[RouteValue::lossTokenCount];
    slopes.z = losses.zOn && tokens > 0 ? 2 * losses.z / tokens : 0.0f;
    return slopes;
  }
};

// ------------------------------------------------------------------------------------------------ distributions

/// Calls add(e, gradient) with the gradient of logit / divisor for a softmax whose gradient is gradAt(e).
template <class GradAt, class Add>
__device__ inline void softmaxBackward(const Distribution& softmax, int E, const GradAt& gradAt, const Add& add) {
  // Against the gradient of the largest nothing cancels when that is close to 1.
  const float shift = gradAt(softmax.top(E));
  float mean = 0;
  for (int e = lane(); e < E; e += warpSize_) mean += softmax.score(e) * (gradAt(e) - shift);
  mean = warpSum(mean);
  __syncwarp();
  for (int e = lane(); e < E; e += warpSize_) add(e, softmax.score(e) * ((gradAt(e) - shift) - mean));
}

/// The same for the shares of a distribution.
template <class GradAt, class Add>
__device__ inline void shareBackward(const Distribution& d, int E, const GradAt& gradAt, const Add& add) {
  if (d.isSoftmax) return softmaxBackward(d, E, gradAt, add);
  const float shift = gradAt(d.top(E));
  double mean = 0;
  for (int e = lane(); e < E; e += warpSize_) mean += static_cast<double>(d.share(e)) * (gradAt(e) - shift);
  const float center = shift + static_cast<float>(warpSum(mean));
  __syncwarp();
  for (int e = lane(); e < E; e += warpSize_) {
    const float slope = d.share(e) > 0 ? logisticSlope(d.logits[e] / d.divisor) / d.sum : 0.0f;
    add(e, (gradAt(e) - center) * slope);
  }
}

// ------------------------------------------------------------------------------------------------ tokens

/// The gradients of one live token's scores.
class ChoiceGradients {
 public:
  __device__ ChoiceGradients(const RouteBackward& b, int64_t t, const VariationSlope* importance)
      : b_(b),
        t_(t),
        importance_(importance),
        indices_(b.indices + t * b.K),
        used_(b.used ? b.used + t * b.K : indices_),
        kept_(b.kept ? b.kept + t * b.K : nullptr),
        scores_(b.scores + t * b.K),
        usedScores_(b.usedScores ? b.usedScores + t * b.K : scores_) {
    if (b.expertSlots > 0) return;
    first_ = WeightSlopes::of(b.router, scores_, b.K, [this](int k) { return gradFirst(k); });
    if (kept_) {
      double sum = 0, projection = 0;
      for (int k = lane(); k < b.K; k += warpSize_) sum += kept_[k] ? usedScores_[k] : 0.0f;
      sum = warpSum(sum);
      for (int k = lane(); k < b.K; k += warpSize_) projection += gradUsed(k) * usedScores_[k];
      projection = warpSum(projection);
      settled_ = {sum > 0 ? b.router.weightScale / sum : 0.0, sum > 0 ? projection / sum : 0.0, 1, 0};
    } else if (b.used) {
      settled_ = WeightSlopes::of(b.router, usedScores_, b.K, [this](int k) { return gradUsed(k); });
    }
  }

  /// row [E] += the gradient of each score where it was chosen, and where experts chose of those that took the token. A
  /// caller's routing may name an expert twice, so each lane adds to experts of its own.
  __device__ void scatter(float* row) const {
    if (b_.expertSlots > 0) {
      for (int32_t i = b_.tokenOffsets[t_]; i < b_.tokenOffsets[t_ + 1]; ++i) {
        const int64_t slot = b_.rowSlot[b_.tokenRows[i]];
        const auto e = static_cast<int>(slot / b_.expertSlots);
        if (e % warpSize_ == lane()) row[e] += b_.router.weightScale * b_.gradWeights[slot];
      }
      return;
    }
    for (int k = 0; k < b_.K; ++k) {
      if (isOwn(indices_[k])) row[indices_[k]] += static_cast<float>(gradScore(k));
      if (isSettled() && isOwn(used_[k])) row[used_[k]] += static_cast<float>(gradUsedScore(k));
    }
  }

  /// row [E] += the gradients of the logits that a softmax over the selected alone was taken of.
  __device__ void throughSelected(float* row) const {
    softmaxOfSelectedBackward(
        scores_, indices_, b_.K, [this](int k) { return gradScore(k); }, 1.0f, row);
    if (isSettled())
      softmaxOfSelectedBackward(
          usedScores_, used_, b_.K, [this](int k) { return gradUsedScore(k); }, 1.0f, row);
  }

 private:
  __device__ static bool isOwn(int32_t e) { return e >= 0 && e % warpSize_ == lane(); }
  __device__ bool isSettled() const { return b_.used || kept_; }
  /// Whether the k-th weight was made after the plan.
  __device__ bool isSettled(int k) const { return b_.used || (kept_ && kept_[k]); }

  __device__ double grad(int k) const { return used_[k] < 0 ? 0.0 : b_.gradWeights[t_ * b_.K + k]; }
  /// By the weights before drops, which the importance loss is about; what is used may have others.
  __device__ double gradFirst(int k) const {
    const double byLoss = importance_ && indices_[k] >= 0 ? (*importance_)(indices_[k]) : 0.0f;
    return byLoss + (isSettled(k) ? 0.0 : grad(k));
  }
  __device__ double gradUsed(int k) const { return isSettled(k) ? grad(k) : 0.0; }
  __device__ double gradScore(int k) const { return first_(gradFirst(k), scores_[k]); }
  __device__ double gradUsedScore(int k) const {
    return kept_ && !kept_[k] ? 0.0 : settled_(gradUsed(k), usedScores_[k]);
  }

  const RouteBackward& b_;
  const int64_t t_;
  const VariationSlope* importance_;
  const int32_t *indices_, *used_, *kept_;
  const float *scores_, *usedScores_;
  WeightSlopes first_{}, settled_{};
};

/// Adds the load loss to gradLogits and gradNoisy; gradDeviations, where there are any, are set to theirs. All [E].
__device__ inline void loadBackward(const RouteBackward& b, const TokenScores& token, const VariationSlope& slopes,
                                    const float* noiseLogits, float* gradLogits, float* gradNoisy,
                                    float* gradDeviations) {
  const LoadRanks ranks = LoadRanks::of(token.noisy, b.E, b.K);
  double byLast = 0, byNext = 0;
  for (int e = lane(); e < b.E; e += warpSize_) {
    if (!token.open.isOpen(e)) continue;
    const LoadChance chance = LoadChance::of(b.router, b.losses.loadThreshold, token, ranks, noiseLogits, e);
    if (chance.threshold < 0) continue;
    const double slope = slopes(e) * chance.slope();
    gradLogits[e] += static_cast<float>(slope / b.router.temperatureNow());
    if (gradDeviations) gradDeviations[e] = static_cast<float>(-slope * chance.distance);
    if (chance.threshold == ranks.last.expert)
      byLast += slope;
    else
      byNext += slope;
  }
  byLast = warpSum(byLast);
  byNext = warpSum(byNext);
  if (ranks.last.expert >= 0 && ranks.last.expert % warpSize_ == lane())
    gradNoisy[ranks.last.expert] -= static_cast<float>(byLast);
  if (ranks.next.expert >= 0 && ranks.next.expert % warpSize_ == lane())
    gradNoisy[ranks.next.expert] -= static_cast<float>(byNext);
}

/// gradLogits and gradNoiseLogits of a live token. row [E] is the warp's own.
__device__ inline void tokenBackward(const RouteBackward& b, int64_t t, const Slopes& slopes, float* row) {
  const int E = b.E;
  const RouterOptions& router = b.router;
  const LossOptions& losses = b.losses;
  const bool inLosses = isLive(b.lossMask, t);
  const bool cleanSoftmax = losses.importanceOn && losses.importanceFrom == ImportanceFrom::Softmax;
  const bool overSelected = router.selectBy == SelectBy::Logits && router.scoring == Scoring::Softmax;
  // Without noise a softmax over all experts serves weights and losses at once.
  const bool scoresAreP = router.scoring == Scoring::Softmax && !overSelected && !b.noisy;
  const bool gates = losses.importanceOn && !cleanSoftmax && inLosses;
  const float inverse = 1.0f / router.temperatureNow();
  const float* noiseLogits = rowOf(b.noiseLogits, t, E);
  float* gradLogits = b.gradLogits + t * E;
  float* gradNoiseLogits = b.gradNoiseLogits ? b.gradNoiseLogits + t * E : nullptr;
  const auto inRow = [row](int e) { return row[e]; };

  TokenScores token;
  token.set(router, E, b.logits + t * E, allowedOf(b.allowed, t, E), rowOf(b.noisy, t, E));
  const ChoiceGradients choices(b, t, gates ? &slopes.importance : nullptr);

  // By P: the load balance, and scores that are picked from it.
  for (int e = lane(); e < E; e += warpSize_) {
    row[e] = losses.loadBalanceOn && inLosses ? slopes.balance(e) : 0.0f;
    gradLogits[e] = 0;
    if (gradNoiseLogits) gradNoiseLogits[e] = 0;
  }
  if (scoresAreP) choices.scatter(row);
  __syncwarp();
  if (scoresAreP || losses.loadBalanceOn)
    shareBackward(token.open, E, inRow, [&](int e, float gradient) { gradLogits[e] += inverse * gradient; });

  // By the logits with noise, and by the noise's deviation.
  if (!scoresAreP || losses.loadOn || gradNoiseLogits) {
    for (int e = lane(); e < E; e += warpSize_) row[e] = 0;
    if (overSelected) {
      choices.throughSelected(row);
    } else if (!scoresAreP) {
      choices.scatter(row);
      __syncwarp();
      if (router.scoring == Scoring::Softmax)
        softmaxBackward(token.noisy, E, inRow, [row](int e, float gradient) { row[e] = gradient; });
      else
        for (int e = lane(); e < E; e += warpSize_) row[e] *= logisticSlope(token.noisy.logit(e) / token.noisy.divisor);
    }
    if (losses.loadOn && inLosses) loadBackward(b, token, slopes.load, noiseLogits, gradLogits, row, gradNoiseLogits);
    for (int e = lane(); e < E; e += warpSize_) gradLogits[e] += row[e] * inverse;
  }
  if (gradNoiseLogits) {
    __syncwarp();
    for (int e0 = 4 * lane(); e0 < E; e0 += 4 * warpSize_) {
      Normal4 noise{};
      if (b.noise.drawn) noise = drawnNoise(router, b.noise, t, e0);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int e = e0 + i;
        if (e < E) gradNoiseLogits[e] = (gradNoiseLogits[e] + row[e] * noise.value[i]) * logistic(noiseLogits[e]);
      }
    }
  }

  // By the softmax without temperature: importance and z.
  if (!inLosses || !(cleanSoftmax || losses.zOn)) return;
  const Distribution clean = token.clean(E);
  const float zSlope = losses.zOn ? slopes.z * clean.logSumExp() : 0.0f;
  if (cleanSoftmax)
    softmaxBackward(clean, E, slopes.importance, [&](int e, float gradient) { gradLogits[e] += gradient; });
  for (int e = lane(); e < E; e += warpSize_) gradLogits[e] += zSlope * clean.score(e);
}

/// A block for each piece.
extern "C" __global__ void __launch_bounds__(routeThreads, 1)
    routeGeneralBackward(const __grid_constant__ RouteBackward b, const __grid_constant__ RoutePieces pieces,
                         const __grid_constant__ RouteGradientSums sums, const __grid_constant__ RouteRows rows,
                         const __grid_constant__ Guard guard) {
  if (!enter(guard)) return;
  __shared__ double scratch[routeWarps];
  __shared__ Slopes slopes;
  const int64_t piece = blockIdx.x, begin = pieces.begin(piece), end = pieces.end(piece);
  clearCounters(sums);
  const Slopes own = Slopes::of(b, pieces, piece, scratch);
  if (threadIdx.x == 0) slopes = own;
  __syncthreads();
  float* row = rows.experts + (piece * routeWarps + warp()) * b.E;
  for (int64_t t = begin + warp(); t < end; t += routeWarps) {
    if (isLive(b.mask, t))
      tokenBackward(b, t, slopes, row);
    else
      for (int e = lane(); e < b.E; e += warpSize_) {
        b.gradLogits[t * b.E + e] = 0;
        if (b.gradNoiseLogits) b.gradNoiseLogits[t * b.E + e] = 0;
      }
    __syncwarp();
  }
  if (b.gradBias) sumBias(b, sums, piece, begin, end);
}

// ------------------------------------------------------------------------------------------------ products

#define MOE_ROUTE_JITTERED_PRODUCTS(name, type)                                                                \
  extern "C" __global__ void __launch_bounds__(routeThreads, 2) routeJitteredProducts_##name(                  \
      const __grid_constant__ RouteBackward b, const __grid_constant__ RoutePieces pieces,                     \
      const __grid_constant__ RouteGradientSums sums, const int64_t inputTiles, const int64_t weightTiles,     \
      const __grid_constant__ Guard guard) {                                                                   \
    if (enter(guard)) routeProduct<type>(b, pieces, sums, inputTiles, weightTiles, Jitter{b.router, b.noise}); \
  }
MOE_FLOAT_TYPES(MOE_ROUTE_JITTERED_PRODUCTS)

}  // namespace moe
