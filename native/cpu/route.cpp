// The route stage, forward and backward: the order of its parts. Scores are in route-scores.cpp, groups of experts in
// route-select.cpp, gate weights in route-weights.cpp and, where the plan has a say in them, route-settle.cpp, noise in
// route-noise.cpp, the balancing losses' sums and slopes in route-losses.cpp, the products with the router's weight in
// narrow.cpp.
#include <algorithm>
#include <string>
#include <vector>

#include "../core/error.h"
#include "../shared/activation.h"
#include "backend.h"
#include "element.h"
#include "lowest.h"
#include "narrow.h"
#include "route-expert-choice.h"
#include "route-losses.h"
#include "route-noise.h"
#include "route-scores.h"
#include "route-sinkhorn.h"
#include "route-tokens.h"
#include "route-weights.h"
#include "route-worker.h"

namespace moe::cpu {

namespace {

void clearToken(const RouteForward& f, int64_t t) {
  for (float* rows : {f.logits, f.noisy, f.noiseLogits})
    if (rows) std::fill_n(rows + t * f.E, f.E, 0.0f);
  if (f.expertSlots > 0) {
    std::fill_n(f.compared + t * f.E, f.E, -INFINITY);
    return;
  }
  std::fill_n(f.indices + t * f.K, f.K, -1);
  std::fill_n(f.scores + t * f.K, f.K, 0.0f);
  std::fill_n(f.weights + t * f.K, f.K, 0.0f);
  if (f.withheld) f.withheld[t] = 0;
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

/// Hash and random: the K experts of a token with the largest draws, all with the same weight.
void drawExperts(const RouteForward& f, ThreadPool& pool, const RowKernels& row) {
  const int E = f.E, K = f.K;
  std::vector<float> values(static_cast<size_t>(pool.threads()) * E);
  Lowest badIndex;
  pool.parallelRanges(f.T, tokensPerPiece, [&](int64_t begin, int64_t end, int worker) {
    for (int64_t t = begin; t < end; ++t) {
      if (!isLive(f.mask, t)) {
        clearToken(f, t);
        continue;
      }
      int32_t* indices = f.indices + t * K;
      if (f.givenIndices && !copyIndices(f, t)) {
        badIndex.note(t);
        continue;
      }
      float* drawn = f.compared ? f.compared + t * E : values.data() + static_cast<int64_t>(worker) * E;
      drawValues(f, t, drawn);
      if (!f.givenIndices) row.selectTopK(drawn, E, K, indices);
      for (int k = 0; k < K; ++k) f.scores[t * K + k] = indices[k] < 0 ? 0.0f : 1.0f / static_cast<float>(K);
      weigh(f.router, f.scores + t * K, K, f.weights + t * K);
      if (f.withheld)
        f.withheld[t] = !keepsSecond(valueOf(f.secondKey), f.noise.tokenOffset + t,
                                     unscaled(f.router, f.scores + t * K, K, 1), f.router.secondThreshold);
    }
  });
  throwIfBadIndex(f, badIndex);
  std::fill_n(f.values, RouteValue::count, 0.0f);
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

void checkTypes(const AllowedExperts& allowed, const int32_t* mask, int64_t T) {
  if (!allowed.table) return;
  for (int64_t t = 0; t < T; ++t) {
    const int32_t type = allowed.tokenTypes[t];
    if (!isLive(mask, t) || (type >= 0 && type < allowed.types)) continue;
    throw Error(ErrorCode::InvalidArgument, "tokenTypes of token " + std::to_string(t) + " must be in [0, " +
                                                std::to_string(allowed.types) + "), got " + std::to_string(type));
  }
}

/// jittered [T,H] = the input of live tokens times what is drawn.
template <class Element>
void jitterInput(const RouterOptions& router, const RouteNoise& noise, const std::vector<int32_t>& live,
                 const Element* input, int H, float* jittered, ThreadPool& pool) {
  pool.parallelRanges(static_cast<int64_t>(live.size()), tokensPerPiece, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t t = live[i];
      drawJitter(router, noise, t, H, jittered + t * H);
      for (int h = 0; h < H; ++h) jittered[t * H + h] *= toFloat(input[t * H + h]);
    }
  });
}

size_t jitterBytes(const RouterOptions& router, const RouteNoise& noise, const void* input, int64_t T, int H) {
  return input && hasJitter(router, noise) ? static_cast<size_t>(T) * H * sizeof(float) : 0;
}

/// The choices of one token and what they weigh. shifts [E] are what balances them, or none.
void choose(const RouteForward& f, int64_t t, TokenScores& token, const std::vector<float>& shifts,
            const RowKernels& row) {
  const int E = f.E, K = f.K;
  int32_t* indices = f.indices + t * K;
  float* scores = f.scores + t * K;
  if (!f.givenIndices || f.compared) {
    const float* compared = shifts.empty() ? token.compared(f.selectionBias) : token.shifted(shifts.data());
    if (!f.givenIndices) row.selectTopK(compared, E, K, indices);
    if (f.compared) std::copy_n(compared, E, f.compared + t * E);
  }
  token.ofSelected(indices, K, scores);
  weigh(f.router, scores, K, f.weights + t * K);
  if (f.withheld)
    f.withheld[t] = !keepsSecond(valueOf(f.secondKey), f.noise.tokenOffset + t, unscaled(f.router, scores, K, 1),
                                 f.router.secondThreshold);
}

}  // namespace

// ------------------------------------------------------------------------------------------------ forward

size_t CpuBackend::workspaceBytes(const RouteForward& f) const {
  const size_t jitter = f.givenLogits ? 0 : jitterBytes(f.router, f.noise, f.input, f.T, f.H);
  return std::max(jitter, f.balances ? static_cast<size_t>(f.T) * f.E * sizeof(float) : 0);
}

void CpuBackend::routeForward(const RouteForward& f) {
  const StageTimer timer(*this, "routeForward");
  if (f.givenWeights) return copyGiven(f, pool_);
  const int E = f.E, K = f.K;
  const RouterOptions& router = f.router;
  checkTypes(f.allowed, f.mask, f.T);

  if (router.draws()) return drawExperts(f, pool_, row_);

  const std::vector<int32_t> live = liveTokens(f.mask, f.T);
  if (f.givenLogits) copyLogits(f, pool_);
  withElement(f.dtype, [&]<class Element>() {
    const Element* input = elements<Element>(f.input);
    const Narrow<Element> product{pool_, scratch_, gemm_, row_, live, f.H, E};
    if (f.noiseLogits) product.forward(input, f.noiseWeight, nullptr, f.noiseLogits);
    if (f.givenLogits) return;
    if (!hasJitter(router, f.noise)) return product.forward(input, f.weight, f.bias, f.logits);
    auto* jittered = static_cast<float*>(f.workspace);
    jitterInput(router, f.noise, live, input, f.H, jittered, pool_);
    Narrow<float>{pool_, scratch_, gemm_, row_, live, f.H, E}.forward(jittered, f.weight, f.bias, f.logits);
  });

  std::vector<float> shifts;  // [E] of the Sinkhorn router in training
  if (f.balances && (!f.givenIndices || f.compared)) shifts = sinkhornShifts(f, live, pool_);

  const bool choosesTokens = f.expertSlots > 0;
  const LossOptions& losses = f.losses;
  const bool cleanSoftmax = losses.importanceOn && losses.importanceFrom == ImportanceFrom::Softmax;
  const bool countsUnbiased = losses.loadBalanceOn && losses.counts == LossCounts::Unbiased;
  const RoutePieces pieces(losses, f.T);
  RouteSums sums(f, pieces);
  std::vector<RouteWorker> perWorker(pool_.threads(), RouteWorker(row_, router, losses, E, K));
  Lowest badIndex, notFinite;
  pool_.parallelFor(pieces.count(), [&](int64_t piece, int worker) {
    RouteWorker& own = perWorker[worker];
    TokenScores& token = own.scores;
    for (int64_t t = pieces.begin(piece); t < pieces.end(piece); ++t) {
      if (!isLive(f.mask, t)) {
        clearToken(f, t);
        continue;
      }
      if (f.givenIndices && !copyIndices(f, t)) {
        badIndex.note(t);
        continue;
      }
      const int32_t* allowed = allowedOf(f.allowed, t, E);
      if (f.noisy) addNoise(f, t, allowed);
      if (!token.set(f.logits + t * E, allowed, rowOf(f.noisy, t, E))) {
        notFinite.note(t);
        continue;
      }

      int32_t* indices = choosesTokens ? own.counted.data() : f.indices + t * K;
      float* weights = choosesTokens ? nullptr : f.weights + t * K;
      if (choosesTokens)
        for (int e = 0; e < E; ++e) f.compared[t * E + e] = allowed && !allowed[e] ? -INFINITY : token.scores()[e];
      else
        choose(f, t, token, shifts, row_);

      if (countsUnbiased) row_.selectTopK(token.noisy(), E, K, own.counted.data());
      if (losses.loadOn) own.load.set(token.open(), token.noisy(), token.noisyDivisor(), rowOf(f.noiseLogits, t, E));
      float logSumExp = 0;
      if (cleanSoftmax || losses.zOn) {
        const ExpSum sum = token.cleanSum();
        logSumExp = sum.maximum + moe::log(sum.sum);
      }
      sums.add(piece,
               {.probabilities = token.probabilities(),
                .clean = token.clean(),
                .logSumExp = logSumExp,
                .indices = indices,
                .counted = countsUnbiased ? own.counted.data() : indices,
                .weights = weights,
                .chances = losses.loadOn ? own.load.chances() : nullptr},
               isLive(f.lossMask, t));
    }
  });
  throwIfBadIndex(f, badIndex);
  if (notFinite.found())
    throw Error(ErrorCode::NonFinite, "router logits of token " + std::to_string(notFinite.value()) + " are not finite",
                "look for NaN or infinity in the layer's input and in the router's weight");
  if (choosesTokens) chooseTokens(f, pool_);
  sums.finish();
}

// ------------------------------------------------------------------------------------------------ backward

size_t CpuBackend::workspaceBytes(const RouteBackward& b) const {
  return jitterBytes(b.router, b.noise, b.input, b.T, b.H);
}

namespace {

/// gradInput += gradLogits · weight and gradWeight (+)= gradLogitsᵀ · input, the input as forward jittered it.
template <class Element>
void productBackward(const RouteBackward& b, const std::vector<int32_t>& live, ThreadPool& pool, Scratch& scratch,
                     const GemmKernels& gemm, const RowKernels& row) {
  const Element* input = elements<Element>(b.input);
  Element* gradInput = elements<Element>(b.gradInput);
  const int64_t H = b.H;
  if (!hasJitter(b.router, b.noise)) {
    const Narrow<Element> product{pool, scratch, gemm, row, live, b.H, b.E};
    if (gradInput) product.backwardInput(b.gradLogits, b.weight, gradInput);
    if (b.gradWeight) product.backwardWeight(b.gradLogits, input, b.gradWeight, b.accumulateWeight);
    return;
  }
  auto* rows = static_cast<float*>(b.workspace);  // [T,H] the jittered input, then its gradient
  const Narrow<float> product{pool, scratch, gemm, row, live, b.H, b.E};
  if (b.gradWeight) {
    jitterInput(b.router, b.noise, live, input, b.H, rows, pool);
    product.backwardWeight(b.gradLogits, rows, b.gradWeight, b.accumulateWeight);
  }
  if (!gradInput) return;
  pool.parallelRanges(b.T, tokensPerPiece,
                      [&](int64_t begin, int64_t end, int) { std::fill(rows + begin * H, rows + end * H, 0.0f); });
  product.backwardInput(b.gradLogits, b.weight, rows);
  std::vector<float> factors(static_cast<size_t>(pool.threads()) * H);
  pool.parallelRanges(static_cast<int64_t>(live.size()), tokensPerPiece, [&](int64_t begin, int64_t end, int worker) {
    float* own = factors.data() + worker * H;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t t = live[i];
      drawJitter(b.router, b.noise, t, b.H, own);
      for (int h = 0; h < H; ++h) {
        Element& grad = gradInput[t * H + h];
        grad = roundTo<Element>(toFloat(grad) + own[h] * rows[t * H + h]);
      }
    }
  });
}

}  // namespace

void CpuBackend::routeBackward(const RouteBackward& b) {
  const StageTimer timer(*this, "routeBackward");
  const int E = b.E;
  const RouterOptions& router = b.router;
  const float temperature = router.temperatureNow();
  const LossOptions& losses = b.losses;
  const bool cleanSoftmax = losses.importanceOn && losses.importanceFrom == ImportanceFrom::Softmax;
  const bool overSelected = router.selectBy == SelectBy::Logits && router.scoring == Scoring::Softmax;
  // Without noise a softmax over all experts serves weights and losses at once.
  const bool scoresAreP = router.scoring == Scoring::Softmax && !overSelected && !b.noisy;
  const bool afterPlan = b.used || b.kept;
  const RoutePieces pieces(losses, b.T);
  const RouteSlopes slopes(b);
  std::vector<float> biasSums(b.gradBias ? static_cast<size_t>(pieces.count()) * E : 0);  // [pieces,E]
  std::vector<RouteWorker> perWorker(pool_.threads(), RouteWorker(row_, router, losses, E, b.K));

  pool_.parallelFor(pieces.count(), [&](int64_t piece, int worker) {
    RouteWorker& own = perWorker[worker];
    TokenScores& token = own.scores;
    float *gradP = own.gradP.data(), *gradNoisy = own.gradNoisy.data(), *gradDeviations = own.gradDeviations.data();
    if (losses.loadBalanceOn) slopes.balance(pieces.scopeOf(piece), own.balance.data());

    for (int64_t t = pieces.begin(piece); t < pieces.end(piece); ++t) {
      float* gradLogits = b.gradLogits + t * E;
      std::fill_n(gradLogits, E, 0.0f);
      if (b.gradNoiseLogits) std::fill_n(b.gradNoiseLogits + t * E, E, 0.0f);
      if (!isLive(b.mask, t)) continue;
      const bool inLosses = isLive(b.lossMask, t);
      const int32_t* indices = b.expertSlots > 0 ? own.counted.data() : b.indices + t * b.K;
      const int K = b.expertSlots > 0 ? own.takersOf(b, t) : b.K;
      const float* scores = b.scores ? b.scores + t * b.K : nullptr;
      const int32_t* used = b.used ? b.used + t * K : indices;
      const float* usedScores = b.usedScores ? b.usedScores + t * K : scores;
      const float* noiseLogits = rowOf(b.noiseLogits, t, E);
      token.set(b.logits + t * E, allowedOf(b.allowed, t, E), rowOf(b.noisy, t, E));

      if (b.expertSlots == 0)
        own.weightsBackward(b, t, inLosses && losses.importanceOn && !cleanSoftmax ? slopes.importance() : nullptr);

      // By P: the load balance, and scores that are picked from it.
      if (losses.loadBalanceOn && inLosses)
        std::copy_n(own.balance.data(), E, gradP);
      else
        std::fill_n(gradP, E, 0.0f);
      if (scoresAreP)
        for (int k = 0; k < K; ++k) {
          if (indices[k] >= 0) gradP[indices[k]] += static_cast<float>(own.gradScores[k]);
          if (used[k] >= 0 && afterPlan) gradP[used[k]] += static_cast<float>(own.gradUsed[k]);
        }
      if (scoresAreP || losses.loadBalanceOn) token.probabilitiesBackward(gradP, gradLogits);

      // By the logits with noise, and by the noise's deviation.
      std::fill_n(gradNoisy, E, 0.0f);
      std::fill_n(gradDeviations, E, 0.0f);
      if (overSelected) {
        softmaxOfSelectedBackward(scores, indices, own.gradScores.data(), K, 1.0, gradNoisy);
        if (afterPlan) softmaxOfSelectedBackward(usedScores, used, own.gradUsed.data(), K, 1.0, gradNoisy);
      } else if (!scoresAreP) {
        token.scoresBackward(indices, own.gradScores.data(), K, gradNoisy);
        if (afterPlan) token.scoresBackward(used, own.gradUsed.data(), K, gradNoisy);
      }
      if (losses.loadOn && inLosses) {
        own.load.set(token.open(), token.noisy(), token.noisyDivisor(), noiseLogits);
        own.load.backward(slopes.load(), gradLogits, gradNoisy, gradDeviations);
      }
      if (!scoresAreP || losses.loadOn)
        for (int e = 0; e < E; ++e) gradLogits[e] += gradNoisy[e] / temperature;
      if (b.gradNoiseLogits) {
        if (b.noise.drawn) drawLogitNoise(router, b.noise, t, E, own.noise.data());
        for (int e = 0; e < E; ++e) {
          if (b.noise.drawn) gradDeviations[e] += gradNoisy[e] * own.noise[e];
          b.gradNoiseLogits[t * E + e] = gradDeviations[e] * moe::sigmoid(noiseLogits[e]);
        }
      }

      // By the softmax without temperature: importance and z.
      if (inLosses && (cleanSoftmax || losses.zOn)) {
        const ExpSum sum = token.cleanSum();
        if (cleanSoftmax) {
          const int64_t top = std::max_element(token.open(), token.open() + E) - token.open();
          row_.softmaxBackward(token.clean(), slopes.importance(), slopes.importance()[top], 1.0f, E, gradLogits, true);
        }
        if (losses.zOn)
          row_.float32.addScaled(slopes.z() * (sum.maximum + moe::log(sum.sum)), token.clean(), E, gradLogits);
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
  const std::vector<int32_t> live = liveTokens(b.mask, b.T);
  withElement(b.dtype, [&]<class Element>() {
    if (b.weight && (b.gradInput || b.gradWeight)) productBackward<Element>(b, live, pool_, scratch_, gemm_, row_);
    if (!b.gradNoiseLogits) return;
    const Narrow<Element> product{pool_, scratch_, gemm_, row_, live, b.H, E};
    if (b.gradInput) product.backwardInput(b.gradNoiseLogits, b.noiseWeight, elements<Element>(b.gradInput));
    if (b.gradNoiseWeight)
      product.backwardWeight(b.gradNoiseLogits, elements<Element>(b.input), b.gradNoiseWeight, b.accumulateNoiseWeight);
  });
}

}  // namespace moe::cpu
