// The route stage: logits, scores, top-K and gate weights, forward and backward. The balancing losses' sums and slopes
// are in route-losses.cpp, the products with the router's weight in narrow.cpp.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "../core/error.h"
#include "../shared/math.h"
#include "backend.h"
#include "element.h"
#include "lowest.h"
#include "narrow.h"
#include "route-losses.h"
#include "simd/row.h"

namespace moe::cpu {

namespace {

constexpr int64_t tokensPerPiece = 64;

bool isLive(const int32_t* mask, int64_t t) { return !mask || mask[t] != 0; }

/// The K largest of values [E] in falling order; of equal ones the lower index first.
void selectTopK(const float* values, int E, int K, int32_t* indices) {
  int filled = 0;
  for (int e = 0; e < E; ++e) {
    if (filled == K && values[e] <= values[indices[K - 1]]) continue;
    int at = filled < K ? filled++ : K - 1;
    for (; at > 0 && values[e] > values[indices[at - 1]]; --at) indices[at] = indices[at - 1];
    indices[at] = e;
  }
}

/// scores [K] = softmax over the selected logits alone.
void softmaxOfSelected(const float* logits, float temperature, const int32_t* indices, int K, float* scores) {
  float highest = -INFINITY;
  for (int k = 0; k < K; ++k)
    if (indices[k] >= 0) highest = std::max(highest, logits[indices[k]] / temperature);
  float sum = 0;
  for (int k = 0; k < K; ++k) {
    scores[k] = indices[k] < 0 ? 0.0f : moe::exp(logits[indices[k]] / temperature - highest);
    sum += scores[k];
  }
  for (int k = 0; k < K; ++k) scores[k] = sum > 0 ? scores[k] / sum : 0.0f;
}

/// ‖scores‖_p. Powers are those of shares of the largest: those of small scores would all be 0 for a large p.
double normOf(const RouterOptions& router, const float* scores, int K) {
  double sum = 0;
  if (router.normP == 1 || router.normP == 2) {
    for (int k = 0; k < K; ++k) {
      const double s = scores[k];
      sum += router.normP == 1 ? s : s * s;
    }
    return router.normP == 1 ? sum : std::sqrt(sum);
  }
  const double largest = *std::max_element(scores, scores + K);
  if (!(largest > 0)) return 0;
  for (int k = 0; k < K; ++k)
    if (scores[k] > 0) sum += std::pow(scores[k] / largest, router.normP);
  return largest * std::pow(sum, 1.0 / router.normP);
}

/// weights [K] of scores [K].
void weigh(const RouterOptions& router, const float* scores, int K, float* weights) {
  double factor = router.weightScale;
  if (router.renormalize) {
    const double divisor = normOf(router, scores, K) + router.normEpsilon;
    factor = divisor > 0 ? factor / divisor : 0.0;
  }
  for (int k = 0; k < K; ++k) weights[k] = static_cast<float>(factor * scores[k]);
}

void clearToken(const RouteForward& f, int64_t t) {
  if (f.logits) std::fill_n(f.logits + t * f.E, f.E, 0.0f);
  std::fill_n(f.indices + t * f.K, f.K, -1);
  std::fill_n(f.scores + t * f.K, f.K, 0.0f);
  std::fill_n(f.weights + t * f.K, f.K, 0.0f);
}

/// The caller's indices of one live token, written out. False when one is outside [-1,E).
bool copyIndices(const RouteForward& f, int64_t t) {
  const int32_t* given = f.givenIndices + t * f.K;
  for (int k = 0; k < f.K; ++k)
    if (given[k] < -1 || given[k] >= f.E) return false;
  std::copy_n(given, f.K, f.indices + t * f.K);
  return true;
}

void throwIfBadIndex(const RouteForward& f, const Lowest& lowest) {
  if (!lowest.found()) return;
  const int64_t t = lowest.value();
  const int32_t* given = f.givenIndices + t * f.K;
  const int32_t bad = *std::find_if(given, given + f.K, [&](int32_t e) { return e < -1 || e >= f.E; });
  throw Error(ErrorCode::InvalidArgument, "routing.indices of token " + std::to_string(t) + " must be experts in [0, " +
                                              std::to_string(f.E) + "), got " + std::to_string(bad));
}

/// With the caller's weights nothing is scored.
void copyGiven(const RouteForward& f, ThreadPool& pool) {
  Lowest badIndex;
  pool.parallelRanges(f.T, tokensPerPiece, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      if (!isLive(f.mask, t)) {
        clearToken(f, t);
        continue;
      }
      if (!copyIndices(f, t)) badIndex.note(t);
      std::copy_n(f.givenWeights + t * f.K, f.K, f.scores + t * f.K);
      std::copy_n(f.givenWeights + t * f.K, f.K, f.weights + t * f.K);
    }
  });
  throwIfBadIndex(f, badIndex);
  std::fill_n(f.values, RouteValue::count, 0.0f);
}

/// logits [T,E] = givenLogits + bias, live tokens only.
void copyLogits(const RouteForward& f, ThreadPool& pool) {
  pool.parallelRanges(f.T, tokensPerPiece, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t)
      for (int e = 0; isLive(f.mask, t) && e < f.E; ++e)
        f.logits[t * f.E + e] = f.givenLogits[t * f.E + e] + (f.bias ? f.bias[e] : 0.0f);
  });
}

/// Per-worker room for rows of E floats.
class Rows {
 public:
  Rows(const ThreadPool& pool, int E, int perWorker)
      : E_(E), perWorker_(perWorker), floats_(static_cast<size_t>(pool.threads()) * perWorker * E) {}
  float* of(int worker, int row) { return floats_.data() + (static_cast<size_t>(worker) * perWorker_ + row) * E_; }

 private:
  int E_, perWorker_;
  std::vector<float> floats_;
};

}  // namespace

// ------------------------------------------------------------------------------------------------ forward

void CpuBackend::routeForward(const RouteForward& f) {
  if (f.givenWeights) return copyGiven(f, pool_);
  const int E = f.E, K = f.K;
  const RouterOptions& router = f.router;

  if (f.givenLogits) {
    copyLogits(f, pool_);
  } else {
    const std::vector<int32_t> live = liveTokens(f.mask, f.T);
    withElement(f.dtype, [&]<class Element>() {
      const Narrow<Element> product{pool_, row_, live, f.H, E};
      product.forward(elements<Element>(f.input), f.weight, f.bias, f.logits);
    });
  }

  const bool cleanSoftmax = f.losses.importanceOn && f.losses.importanceFrom == ImportanceFrom::Softmax;
  const bool tempered = router.temperature != 1;
  const RoutePieces pieces(f.losses, f.T);
  RouteSums sums(f, pieces);
  Rows scratch(pool_, E, 2);
  Lowest badIndex, notFinite;
  pool_.parallelFor(pieces.count(), [&](int64_t piece, int worker) {
    float* probabilities = scratch.of(worker, 0);
    float* clean = tempered ? scratch.of(worker, 1) : probabilities;
    for (int64_t t = pieces.begin(piece); t < pieces.end(piece); ++t) {
      if (!isLive(f.mask, t)) {
        clearToken(f, t);
        continue;
      }
      const float* logits = f.logits + t * E;
      int32_t* indices = f.indices + t * K;
      float* scores = f.scores + t * K;
      float* weights = f.weights + t * K;
      if (f.givenIndices && !copyIndices(f, t)) {
        badIndex.note(t);
        continue;
      }
      ExpSum sum = row_.softmax(logits, router.temperature, E, probabilities);
      if (!sum.finite) {
        notFinite.note(t);
        continue;
      }
      if (tempered && (cleanSoftmax || f.losses.zOn)) sum = row_.softmax(logits, 1.0f, E, clean);

      if (!f.givenIndices) selectTopK(logits, E, K, indices);
      if (router.selectBy == SelectBy::Logits)
        softmaxOfSelected(logits, router.temperature, indices, K, scores);
      else
        for (int k = 0; k < K; ++k) scores[k] = indices[k] < 0 ? 0.0f : probabilities[indices[k]];
      weigh(router, scores, K, weights);

      sums.add(piece, {probabilities, clean, sum.maximum + moe::log(sum.sum), indices, weights}, isLive(f.lossMask, t));
    }
  });
  throwIfBadIndex(f, badIndex);
  if (notFinite.found())
    throw Error(ErrorCode::NonFinite, "router logits of token " + std::to_string(notFinite.value()) + " are not finite",
                "look for NaN or infinity in the layer's input and in the router's weight");
  sums.finish();
}

// ------------------------------------------------------------------------------------------------ backward

namespace {

/// gradScores [K]: back through scale and renormalisation.
void weighBackward(const RouterOptions& router, const float* scores, const double* gradWeights, int K,
                   double* gradScores) {
  const double scale = router.weightScale;
  if (!router.renormalize) {
    for (int k = 0; k < K; ++k) gradScores[k] = scale * gradWeights[k];
    return;
  }
  const double norm = normOf(router, scores, K), divisor = norm + router.normEpsilon;
  double projection = 0;
  for (int k = 0; k < K; ++k) projection += gradWeights[k] * scores[k];
  for (int k = 0; k < K; ++k) {
    const double s = scores[k];
    // d‖s‖_p / ds_k = (s_k/‖s‖_p)^(p-1)
    const double slope = router.normP == 1 ? 1.0 : s > 0 ? std::pow(s / norm, router.normP - 1.0) : 0.0;
    gradScores[k] = divisor > 0 ? scale / divisor * (gradWeights[k] - projection / divisor * slope) : 0.0;
  }
}

/// gradLogits += back through the softmax over the selected logits alone.
void softmaxOfSelectedBackward(const float* scores, const int32_t* indices, const double* gradScores, int K,
                               double temperature, float* gradLogits) {
  // Against the gradient of the largest score nothing cancels when that score is close to 1.
  const double shift = gradScores[std::max_element(scores, scores + K) - scores];
  double mean = 0;
  for (int k = 0; k < K; ++k) mean += scores[k] * (gradScores[k] - shift);
  for (int k = 0; k < K; ++k)
    if (indices[k] >= 0)
      gradLogits[indices[k]] += static_cast<float>(scores[k] * (gradScores[k] - shift - mean) / temperature);
}

}  // namespace

void CpuBackend::routeBackward(const RouteBackward& b) {
  const int E = b.E, K = b.K;
  const RouterOptions& router = b.router;
  const LossOptions& losses = b.losses;
  const bool cleanSoftmax = losses.importanceOn && losses.importanceFrom == ImportanceFrom::Softmax;
  const bool tempered = router.temperature != 1;
  const RoutePieces pieces(losses, b.T);
  const RouteSlopes slopes(b);
  std::vector<float> biasSums(b.gradBias ? static_cast<size_t>(pieces.count()) * E : 0);  // [pieces,E]
  std::vector<double> scratchK(static_cast<size_t>(pool_.threads()) * 2 * K);
  Rows scratch(pool_, E, 4);

  pool_.parallelFor(pieces.count(), [&](int64_t piece, int worker) {
    double* gradWeights = scratchK.data() + static_cast<size_t>(worker) * 2 * K;
    double* gradScores = gradWeights + K;
    float* probabilities = scratch.of(worker, 0);
    float* clean = tempered ? scratch.of(worker, 1) : probabilities;
    float* gradP = scratch.of(worker, 2);
    float* balance = scratch.of(worker, 3);
    if (losses.loadBalanceOn) slopes.balance(pieces.scopeOf(piece), balance);

    for (int64_t t = pieces.begin(piece); t < pieces.end(piece); ++t) {
      float* gradLogits = b.gradLogits + t * E;
      std::fill_n(gradLogits, E, 0.0f);
      if (!isLive(b.mask, t)) continue;
      const bool inLosses = isLive(b.lossMask, t);
      const float* logits = b.logits + t * E;
      const int32_t* indices = b.indices + t * K;
      const float* scores = b.scores + t * K;
      const int64_t top = std::max_element(logits, logits + E) - logits;

      for (int k = 0; k < K; ++k) {
        gradWeights[k] = indices[k] < 0 ? 0.0 : b.gradWeights[t * K + k];
        if (losses.importanceOn && !cleanSoftmax && inLosses && indices[k] >= 0)
          gradWeights[k] += slopes.importance()[indices[k]];
      }
      weighBackward(router, scores, gradWeights, K, gradScores);

      // By the probabilities: the load balance, and the scores picked from them.
      ExpSum sum = row_.softmax(logits, router.temperature, E, probabilities);
      if (losses.loadBalanceOn && inLosses)
        std::copy_n(balance, E, gradP);
      else
        std::fill_n(gradP, E, 0.0f);
      if (router.selectBy == SelectBy::Scores)
        for (int k = 0; k < K; ++k)
          if (indices[k] >= 0) gradP[indices[k]] += static_cast<float>(gradScores[k]);
      row_.softmaxBackward(probabilities, gradP, gradP[top], 1.0f / router.temperature, E, gradLogits, true);
      if (router.selectBy == SelectBy::Logits)
        softmaxOfSelectedBackward(scores, indices, gradScores, K, router.temperature, gradLogits);

      // By the softmax without temperature: importance and z.
      if (inLosses && (cleanSoftmax || losses.zOn)) {
        if (tempered) sum = row_.softmax(logits, 1.0f, E, clean);
        if (cleanSoftmax)
          row_.softmaxBackward(clean, slopes.importance(), slopes.importance()[top], 1.0f, E, gradLogits, true);
        if (losses.zOn) row_.float32.addScaled(slopes.z() * (sum.maximum + moe::log(sum.sum)), clean, E, gradLogits);
      }
      if (b.gradBias) row_.float32.addScaled(1.0f, gradLogits, E, biasSums.data() + piece * E);
    }
  });

  if (b.gradBias)
    for (int e = 0; e < E; ++e) {
      double sum = 0;
      for (int64_t piece = 0; piece < pieces.count(); ++piece) sum += biasSums[piece * E + e];
      b.gradBias[e] = static_cast<float>(sum) + (b.accumulateBias ? b.gradBias[e] : 0.0f);
    }
  if (!b.input || (!b.gradInput && !b.gradWeight)) return;
  const std::vector<int32_t> live = liveTokens(b.mask, b.T);
  withElement(b.dtype, [&]<class Element>() {
    const Narrow<Element> product{pool_, row_, live, b.H, E};
    if (b.gradInput) product.backwardInput(b.gradLogits, b.weight, elements<Element>(b.gradInput));
    if (b.gradWeight)
      product.backwardWeight(b.gradLogits, elements<Element>(b.input), b.gradWeight, b.accumulateWeight);
  });
}

}  // namespace moe::cpu
