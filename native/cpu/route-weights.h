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
void weighBackward(const RouterOptions& router, const float* scores, const double* gradWeights, int K,
                   double* gradScores);

}  // namespace moe::cpu
