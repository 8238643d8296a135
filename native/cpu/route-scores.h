// What follows from one token's logits before any choice, in forward and backward alike: the probabilities P of the
// losses, the scores that weights are made of, and what the choice compares. An expert that the token may not use has
// logit minus infinity.
#pragma once

#include <cstdint>
#include <vector>

#include "../core/backend.h"
#include "simd/row.h"

namespace moe::cpu {

class TokenScores {
 public:
  TokenScores(const RowKernels& row, const RouterOptions& router, int E);

  /// logits [E]; allowed [E] or null: all; noisy [E], over the temperature, or null: no noise. False when one of them
  /// is not finite. The rows must last as long as what is asked here.
  bool set(const float* logits, const int32_t* allowed, const float* noisy);

  /// [E] the logits, minus infinity where not allowed.
  const float* open() const { return open_; }
  /// [E] the logits with noise are noisy() / noisyDivisor().
  const float* noisy() const { return noisy_ ? noisy_ : open_; }
  float noisyDivisor() const { return noisy_ ? 1.0f : router_.temperatureNow(); }
  /// [E] P, by the logits over the temperature and without noise.
  const float* probabilities() const { return probabilities_.data(); }
  /// [E] by the logits with noise.
  const float* scores() const { return scores_; }
  /// clean() [E] is the softmax of the logits without temperature once this has been asked.
  ExpSum cleanSum();
  const float* clean() const { return clean_; }

  /// scores [K] of the selected experts, 0 where the index is -1.
  void ofSelected(const int32_t* indices, int K, float* scores) const;

  /// [E] what the choice compares, minus infinity where nothing may be chosen. selectionBias [E] or null.
  const float* compared(const float* selectionBias);

  /// [E] the logits with noise plus shifts, minus infinity where not allowed: what the Sinkhorn router compares.
  const float* shifted(const float* shifts);

  /// gradLogits [E] += back from the gradient of P.
  void probabilitiesBackward(const float* gradP, float* gradLogits) const;
  /// gradNoisy [E] += back from gradScores [K] of the selected experts, indices [K].
  void scoresBackward(const int32_t* indices, const double* gradScores, int K, float* gradNoisy);

 private:
  void softmaxOf(const float* x, float divisor, float* p);
  bool isSoftmax() const { return router_.scoring == Scoring::Softmax; }

  const RowKernels& row_;
  const RouterOptions& router_;
  int E_;
  const int32_t* allowed_ = nullptr;
  const float *open_ = nullptr, *noisy_ = nullptr, *scores_ = nullptr, *clean_ = nullptr;
  ExpSum tempered_{};     // of the softmax behind P
  float sigmoidSum_ = 0;  // of the sigmoids behind P
  // [E] each
  std::vector<float> masked_, probabilities_, sigmoids_, noisyScores_, cleanRow_, compared_, gradient_;
};

}  // namespace moe::cpu
