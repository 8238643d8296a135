// exp and log in float32, to about one unit in the last place, free of branches and of libm, so that a plain loop over
// them vectorises on every instruction set. These serve scores, losses and activations; the random transforms, whose
// bits are the same on every device, have their own in random.h.
#pragma once

#include <cstdint>

#include "hd.h"

namespace moe {

MOE_HD uint32_t floatBits(float x) { return __builtin_bit_cast(uint32_t, x); }
MOE_HD float bitsFloat(uint32_t bits) { return __builtin_bit_cast(float, bits); }

/// Written so that NaN passes, which fmin and fmax would swallow.
MOE_HD float clampTo(float x, float low, float high) {
  const float raised = x < low ? low : x;
  return raised > high ? high : raised;
}

/// e^x: 0 below -104, infinity above 88.8, NaN for NaN.
MOE_HD float exp(float x) {
  const float c = clampTo(x, -104.0f, 89.0f);
  // Adding 1.5·2^23 rounds to an integer, which is then in the low bits.
  const float shifter = 12582912.0f;
  const float shifted = c * 1.44269504f + shifter;
  const int32_t n = static_cast<int32_t>(floatBits(shifted) - floatBits(shifter));
  const float rounded = shifted - shifter;
  const float r = (c - rounded * 0.693359375f) + rounded * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = (p * r) * r + r + 1.0f;
  // 2^n in two factors, so that denormal and infinite results come out right.
  const int32_t half = n >> 1;
  const float first = bitsFloat(static_cast<uint32_t>(half + 127) << 23);
  const float second = bitsFloat(static_cast<uint32_t>(n - half + 127) << 23);
  return p * first * second;
}

/// ln x for positive normal x; NaN and infinity give themselves.
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
  return x < __builtin_inff() ? f + small + e * 0.693359375f : x;
}

}  // namespace moe
