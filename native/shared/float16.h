// The 16-bit floats as storage: nothing is computed in them, they are widened to float32 and rounded back once at the
// end. Rounding is to nearest, ties to even; what is too large becomes infinity, NaN stays NaN (quiet, the top bits of
// its payload kept, as the conversion instructions of x86 and Arm do it). Branch-free, so that plain loops vectorise.
#pragma once

#include <cstdint>
#include <type_traits>

#include "hd.h"
#include "math.h"

namespace moe {

/// The upper half of a float32.
struct BFloat16 {
  uint16_t bits;
};

/// Two neighbours of a row or of a column, as one word in memory.
struct BFloat16Pair {
  BFloat16 first, second;
};

/// binary16 of IEEE 754.
struct Float16 {
  uint16_t bits;
};

// ------------------------------------------------------------------------------------------------ widening

MOE_HD float toFloat(float x) { return x; }

MOE_HD float toFloat(BFloat16 x) { return bitsFloat(uint32_t{x.bits} << 16); }

MOE_HD float toFloat(Float16 x) {
  const uint32_t sign = uint32_t{x.bits} << 16 & 0x80000000u;
  const uint32_t magnitude = uint32_t{x.bits} << 13 & 0x0fffe000u;
  // The exponent's bias is 112 less. Subnormals get the exponent of 2^-14, which is then taken away again.
  const float normal = bitsFloat(magnitude + 0x38000000u);
  const float subnormal = bitsFloat(magnitude + 0x38800000u) - 0x1p-14f;
  const uint32_t special = (magnitude + 0x70000000u) | (magnitude > 0x0f800000u ? 0x00400000u : 0u);
  const uint32_t finite = floatBits(magnitude < 0x00800000u ? subnormal : normal);
  return bitsFloat((magnitude >= 0x0f800000u ? special : finite) | sign);
}

// ------------------------------------------------------------------------------------------------ rounding

MOE_HD uint16_t bfloat16Bits(float x) {
  const uint32_t bits = floatBits(x);
  const uint32_t rounded = bits + 0x7fffu + (bits >> 16 & 1u);
  return static_cast<uint16_t>((x == x ? rounded : bits | 0x00400000u) >> 16);
}

MOE_HD uint16_t float16Bits(float x) {
  const uint32_t bits = floatBits(x), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  // The last place of 0.5f is that of the subnormals, 2^-24: adding it rounds.
  const uint32_t subnormal = floatBits(bitsFloat(magnitude) + 0.5f) - 0x3f000000u;
  const uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
  const uint32_t special = magnitude > 0x7f800000u ? 0x7e00u | (magnitude >> 13 & 0x3ffu) : 0x7c00u;
  return static_cast<uint16_t>((magnitude >= 0x477ff000u ? special : finite) | sign);
}

/// x as a float, BFloat16 or Float16.
template <class T>
MOE_HD T roundTo(float x) {
  if constexpr (std::is_same_v<T, BFloat16>)
    return {bfloat16Bits(x)};
  else if constexpr (std::is_same_v<T, Float16>)
    return {float16Bits(x)};
  else
    return x;
}

// ------------------------------------------------------------------------------------------------ conversion

/// A float32 that rounds to 16 bits as `x` itself does: where 24 bits do not hold x, the last of them says whether
/// anything was cut off (rounding to odd).
MOE_HD float int32ForRounding(int32_t x) {
  const uint32_t magnitude = x < 0 ? 0u - static_cast<uint32_t>(x) : static_cast<uint32_t>(x);
  const uint32_t odd = magnitude | ((magnitude & 0xffu) != 0u ? 0x100u : 0u);
  const float rounded = static_cast<float>(static_cast<int64_t>(magnitude < 0x01000000u ? magnitude : odd & ~0xffu));
  return x < 0 ? -rounded : rounded;
}

/// Towards zero, saturating; NaN gives 0.
MOE_HD int32_t truncated(float x) {
  if (x >= 0x1p31f) return INT32_MAX;
  if (x < -0x1p31f) return INT32_MIN;
  return x == x ? static_cast<int32_t>(x) : 0;
}

/// One element of the Convert operation; From and To are float, BFloat16, Float16 or int32_t.
template <class To, class From>
MOE_HD To convertTo(From x) {
  if constexpr (std::is_same_v<To, From>)
    return x;
  else if constexpr (std::is_same_v<To, int32_t>)
    return truncated(toFloat(x));
  else if constexpr (!std::is_same_v<From, int32_t>)
    return roundTo<To>(toFloat(x));
  else if constexpr (std::is_same_v<To, float>)
    return static_cast<float>(x);
  else
    return roundTo<To>(int32ForRounding(x));
}

}  // namespace moe
