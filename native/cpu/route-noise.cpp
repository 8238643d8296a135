#include "route-noise.h"

#include <algorithm>
#include <cmath>

#include "route-tokens.h"

namespace moe::cpu {

void drawJitter(const RouterOptions& router, const RouteNoise& noise, int64_t token, int H, float* factors) {
  for (int h = 0; h < H; h += 4) {
    const Philox4 bits = noiseBits(valueOf(noise.key), noise.tokenOffset + token, static_cast<uint32_t>(h / 4));
    for (int i = 0; i < std::min(4, H - h); ++i) factors[h + i] = jitterOf(bits.word[i], router.noiseScale);
  }
}

void drawLogitNoise(const RouterOptions& router, const RouteNoise& noise, int64_t token, int E, float* values) {
  for (int e = 0; e < E; e += 4) {
    const Philox4 bits = noiseBits(valueOf(noise.key), noise.tokenOffset + token, static_cast<uint32_t>(e / 4));
    const Normal4 drawn = logitNoise(router.noise, bits);
    for (int i = 0; i < std::min(4, E - e); ++i) values[e + i] = drawn.value[i];
  }
}

void drawValues(const RouteForward& f, int64_t t, float* values) {
  const int64_t key = f.tokenIds ? f.tokenIds[t] : f.noise.tokenOffset + t;
  const int32_t* allowed = allowedOf(f.allowed, t, f.E);
  for (int e = 0; e < f.E; e += 4) {
    const Philox4 bits = noiseBits(valueOf(f.expertKey), key, static_cast<uint32_t>(e / 4));
    for (int i = 0; i < std::min(4, f.E - e); ++i)
      values[e + i] = allowed && !allowed[e + i] ? -INFINITY : drawnValue(bits.word[i]);
  }
}

void addNoise(const RouteForward& f, int64_t t, const int32_t* allowed) {
  const RouterOptions& router = f.router;
  const float tau = router.temperatureNow();
  const float* logits = f.logits + t * f.E;
  const float* noiseLogits = f.noiseLogits ? f.noiseLogits + t * f.E : nullptr;
  float* noisy = f.noisy + t * f.E;
  if (!f.givenNoise) drawLogitNoise(router, f.noise, t, f.E, noisy);
  for (int e = 0; e < f.E; ++e) {
    const float noise = f.givenNoise ? f.givenNoise[t * f.E + e] : noisy[e];
    if (allowed && !allowed[e])
      noisy[e] = -INFINITY;
    else if (router.noise == NoiseType::Gumbel)
      noisy[e] = (logits[e] + noise) / tau;
    else
      noisy[e] = logits[e] / tau + noise * (f.givenNoise ? 1.0f : deviationAt(router, noiseLogits, e));
  }
}

}  // namespace moe::cpu
