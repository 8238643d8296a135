#include "route-weights.h"

#include <algorithm>
#include <cmath>

#include "../shared/math.h"

namespace moe::cpu {

void softmaxOfSelected(const float* logits, float divisor, const int32_t* indices, int K, float* scores) {
  float highest = -INFINITY;
  for (int k = 0; k < K; ++k)
    if (indices[k] >= 0) highest = std::max(highest, logits[indices[k]] / divisor);
  float sum = 0;
  for (int k = 0; k < K; ++k) {
    scores[k] = indices[k] < 0 ? 0.0f : moe::exp(logits[indices[k]] / divisor - highest);
    sum += scores[k];
  }
  for (int k = 0; k < K; ++k) scores[k] = sum > 0 ? scores[k] / sum : 0.0f;
}

void softmaxOfSelectedBackward(const float* scores, const int32_t* indices, const double* gradScores, int K,
                               double divisor, float* gradLogits) {
  // Against the gradient of the largest score nothing cancels when that score is close to 1.
  const double shift = gradScores[std::max_element(scores, scores + K) - scores];
  double mean = 0;
  for (int k = 0; k < K; ++k) mean += scores[k] * (gradScores[k] - shift);
  for (int k = 0; k < K; ++k)
    if (indices[k] >= 0)
      gradLogits[indices[k]] += static_cast<float>(scores[k] * (gradScores[k] - shift - mean) / divisor);
}

namespace {

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

}  // namespace

namespace {

/// What a weight without weightScale is of its score.
double shareOf(const RouterOptions& router, const float* scores, int K) {
  if (!router.renormalize) return 1;
  const double divisor = normOf(router, scores, K) + router.normEpsilon;
  return divisor > 0 ? 1 / divisor : 0.0;
}

}  // namespace

float unscaled(const RouterOptions& router, const float* scores, int K, int k) {
  return k < K ? static_cast<float>(shareOf(router, scores, K) * scores[k]) : 0.0f;
}

void weigh(const RouterOptions& router, const float* scores, int K, float* weights) {
  const double factor = router.weightScale * shareOf(router, scores, K);
  for (int k = 0; k < K; ++k) weights[k] = static_cast<float>(factor * scores[k]);
}

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

namespace {

double keptSum(const float* scores, const int32_t* kept, int K) {
  double sum = 0;
  for (int k = 0; k < K; ++k) sum += kept[k] ? scores[k] : 0.0f;
  return sum;
}

}  // namespace

void weighKept(const RouterOptions& router, const float* scores, const int32_t* kept, int K, float* weights) {
  const double sum = keptSum(scores, kept, K), factor = sum > 0 ? router.weightScale / sum : 0.0;
  for (int k = 0; k < K; ++k) weights[k] = kept[k] ? static_cast<float>(factor * scores[k]) : 0.0f;
}

void weighKeptBackward(const RouterOptions& router, const float* scores, const int32_t* kept, const double* gradWeights,
                       int K, double* gradScores) {
  const double sum = keptSum(scores, kept, K), factor = sum > 0 ? router.weightScale / sum : 0.0;
  double mean = 0;
  for (int k = 0; k < K; ++k)
    if (kept[k] && sum > 0) mean += gradWeights[k] * scores[k] / sum;
  for (int k = 0; k < K; ++k) gradScores[k] = kept[k] ? factor * (gradWeights[k] - mean) : 0.0;
}

}  // namespace moe::cpu
