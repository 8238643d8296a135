// Draws keyed by (seed, purpose, element): any range can be drawn by itself, and every device draws the same bits. So
// the transforms use only +, × and √, each rounded once: no libm, no division, no fused multiply-add. Compile host code
// with -ffp-contract=off.
#pragma once

#include <cmath>
#include <cstdint>

#include "hd.h"
#include "philox.h"

namespace moe {

/// a·b + c with two roundings, also where the compiler of a device contracts by default.
MOE_HD float multiplyAdd(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fadd_rn(__fmul_rn(a, b), c);
#else
  return a * b + c;
#endif
}

MOE_HD float exactSqrt(float x) {
#if defined(__CUDA_ARCH__)
  return __fsqrt_rn(x);
#else
  return std::sqrt(x);
#endif
}

/// The random bits of elements [4·block, 4·block + 4).
MOE_HD Philox4 randomBits(uint64_t seed, uint32_t purpose, uint64_t block) {
  return philox4x32({{static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), purpose, 0}},
                    {{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)}});
}

/// ln u for positive normal u.
MOE_HD float exactLog(float u) {
  // u = 2^e·(1 + f) with 1 + f in [√½, √2): 0x3f3504f3 is √½.
  const uint32_t shifted = __builtin_bit_cast(uint32_t, u) - 0x3f3504f3u;
  const float e = static_cast<float>(static_cast<int32_t>(shifted) >> 23);
  const float f = __builtin_bit_cast(float, (shifted & 0x007fffffu) + 0x3f3504f3u) - 1.0f;
  float p = 7.0376836292e-2f;
  p = multiplyAdd(p, f, -1.1514610310e-1f);
  p = multiplyAdd(p, f, 1.1676998740e-1f);
  p = multiplyAdd(p, f, -1.2420140846e-1f);
  p = multiplyAdd(p, f, 1.4249322787e-1f);
  p = multiplyAdd(p, f, -1.6668057665e-1f);
  p = multiplyAdd(p, f, 2.0000714765e-1f);
  p = multiplyAdd(p, f, -2.4999993993e-1f);
  p = multiplyAdd(p, f, 3.3333331174e-1f);
  p = multiplyAdd(p, f, -0.5f);
  p = multiplyAdd(multiplyAdd(p, f, 1.0f), f, e * -2.12194440e-4f);
  return multiplyAdd(e, 0.693359375f, p);
}

/// (bits + ½)·2^-32, never 0; the highest are rounded to 1.
MOE_HD float unitInterval(uint32_t bits) { return (static_cast<float>(bits) + 0.5f) * 0x1p-32f; }

/// √(-2 ln u)
MOE_HD float rayleigh(uint32_t bits) { return exactSqrt(-2.0f * exactLog(unitInterval(bits))); }

struct Direction {
  float cosine, sine;
};

/// The point of the unit circle at the angle 2π·bits·2^-32.
MOE_HD Direction direction(uint32_t bits) {
  // The nearest quarter turn, and the rest as an angle in [-π/4, π/4).
  const uint32_t quarter = (bits + 0x20000000u) >> 30;
  const float x = static_cast<float>(static_cast<int32_t>(bits << 2)) * 3.6572952e-10f;  // π/4·2^-31
  const float square = x * x;
  float s = multiplyAdd(-1.9515295891e-4f, square, 8.3321608736e-3f);
  s = multiplyAdd(s, square, -1.6666654611e-1f);
  s = multiplyAdd(s * square, x, x);
  float c = multiplyAdd(2.443315711809948e-5f, square, -1.388731625493765e-3f);
  c = multiplyAdd(c, square, 4.166664568298827e-2f);
  c = multiplyAdd(c, square, -0.5f);
  c = multiplyAdd(c, square, 1.0f);
  const float cosine = quarter & 1u ? s : c, sine = quarter & 1u ? c : s;
  const bool flipCosine = quarter == 1u || quarter == 2u, flipSine = quarter >= 2u;
  return {flipCosine ? -cosine : cosine, flipSine ? -sine : sine};
}

struct Normal4 {
  float value[4];
};

/// Normal(0, 1) (Box and Muller 1958); |value| stays below 6.8.
MOE_HD Normal4 normalsOf(Philox4 bits) {
  const float r0 = rayleigh(bits.word[0]), r1 = rayleigh(bits.word[2]);
  const Direction d0 = direction(bits.word[1]), d1 = direction(bits.word[3]);
  return {{r0 * d0.cosine, r0 * d0.sine, r1 * d1.cosine, r1 * d1.sine}};
}

/// Normal(0, 1) for elements [4·block, 4·block + 4).
MOE_HD Normal4 randomNormals(uint64_t seed, uint32_t purpose, uint64_t block) {
  return normalsOf(randomBits(seed, purpose, block));
}

}  // namespace moe
