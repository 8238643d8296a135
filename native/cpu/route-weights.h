// From the scores of the selected experts to their gate weights, and back, for one token. A missing choice has index -1
// and score 0.
#pragma once

#include <cstdint>

#include "../core/backend.h"

namespace moe::cpu {

/// scores [K] = softmax over the selected of logits / divisor.
void softmaxOfSelected(const float* logits, float divisor, const int32_t* indices, int K, float* scores);
/// gradLogits [E] += the way back, over the divisor.
void softmaxOfSelectedBackward(const float* scores, const int32_t* indices, const double* gradScores, int K,
                               double divisor, float* gradLogits);

/// weights [K] = weightScale · scores, over their norm when they are renormalised.
void weigh(const RouterOptions& router, const float* scores, int K, float* weights);
/// The k-th weight without weightScale: what the random second choice goes by.
float unscaled(const RouterOptions& router, const float* scores, int K, int k);
/// gradScores [K] may be gradWeights itself.
void weighBackward(const RouterOptions& router, const float* scores, const double* gradWeights, int K,
                   double* gradScores);

/// weights [K] = weightScale · scores / Σ of the kept scores; 0 for the others.
void weighKept(const RouterOptions& router, const float* scores, const int32_t* kept, int K, float* weights);
/// gradScores [K] may be gradWeights itself.
void weighKeptBackward(const RouterOptions& router, const float* scores, const int32_t* kept, const double* gradWeights,
                       int K, double* gradScores);

}  // namespace moe::cpu
