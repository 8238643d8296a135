// exp, log, erf and their kin in float32, to about one unit in the last place, free of branches and of libm, so that a
// plain loop over them vectorises on every instruction set. These are the functions of scores, losses and activations;
// the random transforms, whose bits are the same on every device, have their own in random.h.
#pragma once

#include <cstdint>

#include "hd.h"

namespace moe {

MOE_HD uint32_t floatBits(float x) { return __builtin_bit_cast(uint32_t, x); }
MOE_HD float bitsFloat(uint32_t bits) { return __builtin_bit_cast(float, bits); }
MOE_HD float absolute(float x) { return bitsFloat(floatBits(x) & 0x7fffffffu); }
MOE_HD float copySign(float magnitude, float sign) {
  return bitsFloat((floatBits(magnitude) & 0x7fffffffu) | (floatBits(sign) & 0x80000000u));
}

/// e^x. 0 below -87.3 (no denormals), infinity above 88.7, NaN for NaN.
MOE_HD float exp(float x) {
  constexpr float lowest = -87.33654f, highest = 88.72283f;
  const float clamped = x < lowest ? lowest : x > highest ? highest : x;
  // x = n·ln 2 + r. Adding 1.5·2^23 rounds to an integer and leaves it in the low bits of the mantissa.
  constexpr float rounder = 12582912.0f;
  const float shifted = clamped * 1.44269504f + rounder;
  const float n = shifted - rounder;
  const float r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float value = p * (r * r) + r + 1.0f;
  // 2^n in two factors: n reaches 128, which is past the largest exponent.
  const uint32_t whole = floatBits(shifted) - floatBits(rounder);
  const uint32_t half = static_cast<uint32_t>(static_cast<int32_t>(whole) >> 1);
  const float scaled = value * bitsFloat((half + 127u) << 23) * bitsFloat((whole - half + 127u) << 23);
  const float finite = x < lowest ? 0.0f : scaled;
  return x > highest ? __builtin_inff() : finite;
}

/// ln x for positive normal x.
MOE_HD float log(float x) {
  // x = 2^e·m with m in [√½, √2): 0x3f3504f3 is √½.
  const uint32_t bits = floatBits(x) - 0x3f3504f3u;
  const float e = static_cast<float>(static_cast<int32_t>(bits) >> 23);
  const float f = bitsFloat((bits & 0x007fffffu) + 0x3f3504f3u) - 1.0f;
  float p = 7.0376836292e-2f;
  p = p * f - 1.1514610310e-1f;
  p = p * f + 1.1676998740e-1f;
  p = p * f - 1.2420140846e-1f;
  p = p * f + 1.4249322787e-1f;
  p = p * f - 1.6668057665e-1f;
  p = p * f + 2.0000714765e-1f;
  p = p * f - 2.4999993993e-1f;
  p = p * f + 3.3333331174e-1f;
  const float square = f * f;
  const float small = p * f * square + e * -2.12194440e-4f - 0.5f * square;
  return f + small + e * 0.693359375f;
}

/// 1 / (1 + e^-x).
MOE_HD float sigmoid(float x) { return 1.0f / (1.0f + exp(-x)); }

MOE_HD float tanh(float x) {
  const float magnitude = absolute(x);
  const float square = x * x;
  float p = -5.70498872745e-3f;
  p = p * square + 2.06390887954e-2f;
  p = p * square - 5.37397155531e-2f;
  p = p * square + 1.33314422036e-1f;
  p = p * square - 3.33332819422e-1f;
  const float near = p * square * x + x;
  const float far = copySign(1.0f - 2.0f / (exp(2.0f * magnitude) + 1.0f), x);
  return magnitude < 0.625f ? near : far;
}

/// The error function (minimax polynomials of N. Juffa: below 0.93 in x, above it 1 - e^polynomial).
MOE_HD float erf(float x) {
  const float magnitude = absolute(x);
  const float square = x * x;
  float q = -1.72853470e-5f * magnitude + 3.83197126e-4f;
  q = q * square + (-3.88396438e-3f * magnitude + 2.42546219e-2f);
  q = q * magnitude - 1.06777877e-1f;
  q = q * magnitude - 6.34846687e-1f;
  q = q * magnitude - 1.28717512e-1f;
  q = q * magnitude - magnitude;
  // Past 4 the polynomial has left its range, and erf is 1.
  const float far = copySign(magnitude > 4.0f ? 1.0f : 1.0f - exp(q), x);
  float p = -5.96761703e-4f;
  p = p * square + 4.99119423e-3f;
  p = p * square - 2.67681349e-2f;
  p = p * square + 1.12819925e-1f;
  p = p * square - 3.76125336e-1f;
  p = p * square + 1.28379166e-1f;
  const float near = p * x + x;
  return magnitude > 0.927734375f ? far : near;
}

}  // namespace moe
