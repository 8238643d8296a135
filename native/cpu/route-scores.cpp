#include "route-scores.h"

#include <algorithm>
#include <cmath>

#include "../shared/activation.h"
#include "route-select.h"
#include "route-weights.h"

namespace moe::cpu {

namespace {

bool isFinite(const float* x, int E, const int32_t* allowed) {
  float zero = 0;  // 0·x is 0 for finite x only
  for (int e = 0; e < E; ++e) zero += allowed && !allowed[e] ? 0.0f : x[e] * 0.0f;
  return zero == 0.0f;
}

/// σ'(x), to the last digits where σ is close to 1.
float sigmoidSlope(float x) {
  const float tail = moe::exp(-std::abs(x));
  return tail / ((1.0f + tail) * (1.0f + tail));
}

}  // namespace

TokenScores::TokenScores(const RowKernels& row, const RouterOptions& router, int E)
    : row_(row),
      router_(router),
      E_(E),
      masked_(E),
      probabilities_(E),
      sigmoids_(E),
      noisyScores_(E),
      cleanRow_(E),
      compared_(E),
      gradient_(E) {}

bool TokenScores::set(const float* logits, const int32_t* allowed, const float* noisy) {
  allowed_ = allowed;
  open_ = logits;
  noisy_ = noisy;
  clean_ = nullptr;
  if (allowed || !isSoftmax()) {
    if (!isFinite(logits, E_, nullptr)) return false;
  }
  if (noisy && !isFinite(noisy, E_, allowed)) return false;
  if (allowed) {
    for (int e = 0; e < E_; ++e) masked_[e] = allowed[e] ? logits[e] : -INFINITY;
    open_ = masked_.data();
  }

  float* P = probabilities_.data();
  if (isSoftmax()) {
    tempered_ = row_.softmax(open_, router_.temperatureNow(), E_, P);
    if (!allowed && !tempered_.finite) return false;
    if (allowed)
      for (int e = 0; e < E_; ++e) P[e] = allowed[e] ? P[e] : 0.0f;
    scores_ = P;
  } else {
    row_.sigmoid(open_, router_.temperatureNow(), E_, sigmoids_.data());
    sigmoidSum_ = 0;
    for (const float s : sigmoids_) sigmoidSum_ += s;
    const float inverse = sigmoidSum_ > 0 ? 1.0f / sigmoidSum_ : 0.0f;
    for (int e = 0; e < E_; ++e) P[e] = sigmoids_[e] * inverse;
    scores_ = sigmoids_.data();
  }
  if (!noisy) return true;
  float* scores = noisyScores_.data();
  if (isSoftmax())
    row_.softmax(noisy, 1.0f, E_, scores);
  else
    row_.sigmoid(noisy, 1.0f, E_, scores);
  if (allowed)
    for (int e = 0; e < E_; ++e) scores[e] = allowed[e] ? scores[e] : 0.0f;
  scores_ = scores;
  return true;
}

ExpSum TokenScores::cleanSum() {
  if (isSoftmax() && router_.temperatureNow() == 1) {
    clean_ = probabilities_.data();
    return tempered_;
  }
  const ExpSum sum = row_.softmax(open_, 1.0f, E_, cleanRow_.data());
  if (allowed_)
    for (int e = 0; e < E_; ++e) cleanRow_[e] = allowed_[e] ? cleanRow_[e] : 0.0f;
  clean_ = cleanRow_.data();
  return sum;
}

void TokenScores::ofSelected(const int32_t* indices, int K, float* scores) const {
  if (router_.selectBy == SelectBy::Logits && isSoftmax())
    return softmaxOfSelected(noisy(), noisyDivisor(), indices, K, scores);
  for (int k = 0; k < K; ++k) scores[k] = indices[k] < 0 ? 0.0f : scores_[indices[k]];
}

const float* TokenScores::compared(const float* selectionBias) {
  if (!selectionBias && router_.groupCount == 0) return noisy();
  const bool byScores = router_.selectBy == SelectBy::Scores;
  const float* values = byScores ? scores_ : noisy();
  const float divisor = byScores ? 1.0f : noisyDivisor();
  for (int e = 0; e < E_; ++e) {
    const float bias = selectionBias ? selectionBias[e] : 0.0f;
    compared_[e] = allowed_ && !allowed_[e] ? -INFINITY : values[e] / divisor + bias;
  }
  if (router_.groupCount > 0) restrictToGroups(row_, router_, E_, compared_.data());
  return compared_.data();
}

const float* TokenScores::shifted(const float* shifts) {
  const float divisor = noisyDivisor();
  for (int e = 0; e < E_; ++e) compared_[e] = allowed_ && !allowed_[e] ? -INFINITY : noisy()[e] / divisor + shifts[e];
  return compared_.data();
}

void TokenScores::probabilitiesBackward(const float* gradP, float* gradLogits) const {
  const float* P = probabilities_.data();
  const float temperature = router_.temperatureNow();
  const int64_t top = std::max_element(open_, open_ + E_) - open_;
  if (isSoftmax()) {
    row_.softmaxBackward(P, gradP, gradP[top], 1.0f / temperature, E_, gradLogits, true);
    return;
  }
  if (sigmoidSum_ <= 0) return;
  double mean = 0;
  for (int e = 0; e < E_; ++e) mean += static_cast<double>(P[e]) * (gradP[e] - gradP[top]);
  const float shift = gradP[top] + static_cast<float>(mean), scale = 1.0f / (sigmoidSum_ * temperature);
  for (int e = 0; e < E_; ++e)
    if (P[e] > 0) gradLogits[e] += scale * (gradP[e] - shift) * sigmoidSlope(open_[e] / temperature);
}

void TokenScores::scoresBackward(const int32_t* indices, const double* gradScores, int K, float* gradNoisy) {
  const float divisor = noisyDivisor();
  if (!isSoftmax()) {
    for (int k = 0; k < K; ++k)
      if (indices[k] >= 0)
        gradNoisy[indices[k]] += static_cast<float>(gradScores[k]) * sigmoidSlope(noisy()[indices[k]] / divisor);
    return;
  }
  std::fill(gradient_.begin(), gradient_.end(), 0.0f);
  for (int k = 0; k < K; ++k)
    if (indices[k] >= 0) gradient_[indices[k]] += static_cast<float>(gradScores[k]);
  const int64_t top = std::max_element(noisy(), noisy() + E_) - noisy();
  row_.softmaxBackward(scores_, gradient_.data(), gradient_[top], 1.0f, E_, gradNoisy, true);
}

}  // namespace moe::cpu
