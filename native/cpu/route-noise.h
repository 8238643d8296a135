// The noise of a route: on the input (jitter) or on the logits.
#pragma once

#include "../core/backend.h"
#include "../shared/noise.h"
#include "parallel.h"

namespace moe::cpu {

/// The factors of one token, [H].
void drawJitter(const RouterOptions& router, const RouteNoise& noise, int64_t token, int H, float* factors);

/// The noise on one token's logits before its deviation, [E].
void drawLogitNoise(const RouterOptions& router, const RouteNoise& noise, int64_t token, int E, float* values);

/// noisy [E] of one token: its logits over the temperature, with what is drawn or given; minus infinity where not
/// allowed.
void addNoise(const RouteForward& route, int64_t token, const int32_t* allowed);

/// What the hash or random router compares of one token's experts, [E]; minus infinity where not allowed.
void drawValues(const RouteForward& route, int64_t token, float* values);

/// The deviation of the noise on one logit; noiseLogits [E] or null of the token.
inline float deviationAt(const RouterOptions& router, const float* noiseLogits, int e) {
  return noiseLogits ? deviationOf(noiseLogits[e]) : router.noiseScale;
}

}  // namespace moe::cpu
