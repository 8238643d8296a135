// Number formats: f16 and bf16, rounding to any of them, and flushing of subnormals.
#pragma once

#include <algorithm>
#include <bit>
#include <cfenv>
#include <cmath>
#include <limits>

#include "base/types.h"
#include "ptx/lowering.h"

namespace softgpu::isa {

enum class Rounding : u8 { kNearestEven, kZero, kDown, kUp, kNearestAway };

// .rn .rz .rm .rp, the default where a floating-point instruction names none.
inline Rounding takeRounding(ptx::Decoding& d) {
  switch (d.takeOneOf({"rn", "rz", "rm", "rp"})) {
    case 1:
      return Rounding::kZero;
    case 2:
      return Rounding::kDown;
    case 3:
      return Rounding::kUp;
    default:
      return Rounding::kNearestEven;
  }
}

inline float flushSubnormal(float x) {
  u32 bits = std::bit_cast<u32>(x);
  return std::bit_cast<float>((bits & 0x7f800000) == 0 ? bits & 0x80000000 : bits);
}

// .sat: to [0, 1], NaN to +0.
template <class T>
T saturate(T x) {
  return x > 0 ? (x < 1 ? x : T{1}) : T{0};
}

inline float halfToFloat(u16 h) {
  const u32 sign = static_cast<u32>(h & 0x8000) << 16;
  const u32 magnitude = h & 0x7fff;
  if (magnitude >= 0x7c00) return std::bit_cast<float>(magnitude == 0x7c00 ? sign | 0x7f800000 : 0x7fffffff);
  // Scaling by 2^112 rebiases the exponent, and makes subnormals normal, exactly.
  const float scaled = std::bit_cast<float>(magnitude << 13) * 0x1p112f;
  return std::bit_cast<float>(sign | std::bit_cast<u32>(scaled));
}
inline float bf16ToFloat(u16 b) { return std::bit_cast<float>(static_cast<u32>(b) << 16); }

constexpr u16 kHalfNan = 0x7fff, kBf16Nan = 0x7fff;

// Rounds to a binary format with kFraction stored fraction bits and kExponent exponent bits, from the exact double.
template <u32 kFraction, u32 kExponent>
u32 roundTo(double value, Rounding mode) {
  constexpr u32 kTop = kFraction + kExponent;
  constexpr int kBias = (1 << (kExponent - 1)) - 1;
  constexpr u32 kInfinity = ((1u << kExponent) - 1) << kFraction;
  const u64 bits = std::bit_cast<u64>(value);
  const bool negative = bits >> 63;
  const u32 sign = static_cast<u32>(negative) << kTop;
  if (value != value) return (1u << kTop) - 1;  // the canonical NaN
  if (std::isinf(value)) return sign | kInfinity;
  if (value == 0) return sign;
  // value = significand · 2^(exponent - 52)
  int exponent = static_cast<int>(bits >> 52 & 0x7ff) - 1023;
  u64 significand = bits & ((u64{1} << 52) - 1);
  if (exponent == -1023) {
    exponent = -1022;
  } else {
    significand |= u64{1} << 52;
  }
  const int target = std::max(exponent, 1 - kBias);
  const int drop = 52 - static_cast<int>(kFraction) + (target - exponent);
  if (drop > 62) return sign | (mode == (negative ? Rounding::kDown : Rounding::kUp) ? 1 : 0);
  u64 kept = significand >> drop;
  const u64 rest = significand & ((u64{1} << drop) - 1), half = u64{1} << (drop - 1);
  bool up = false;
  if (mode == Rounding::kNearestEven) up = rest > half || (rest == half && (kept & 1));
  if (mode == Rounding::kNearestAway) up = rest >= half;
  if (mode == Rounding::kUp) up = rest != 0 && !negative;
  if (mode == Rounding::kDown) up = rest != 0 && negative;
  kept += up;
  // With the hidden bit in place the addition carries into the exponent as it should.
  const u64 encoded = (static_cast<u64>(target + kBias - 1) << kFraction) + kept;
  if (encoded >= kInfinity) {
    const bool toInfinity = mode == Rounding::kNearestEven || mode == Rounding::kNearestAway ||
                            mode == (negative ? Rounding::kDown : Rounding::kUp);
    return sign | (toInfinity ? kInfinity : kInfinity - 1);
  }
  return sign | static_cast<u32>(encoded);
}

inline u16 doubleToHalf(double x, Rounding mode = Rounding::kNearestEven) {
  return static_cast<u16>(roundTo<10, 5>(x, mode));
}
inline u16 doubleToBf16(double x, Rounding mode = Rounding::kNearestEven) {
  return static_cast<u16>(roundTo<7, 8>(x, mode));
}

// The common case, without a branch for the compiler to stumble over.
inline u16 floatToBf16(float x) {
  u32 bits = std::bit_cast<u32>(x);
  u32 rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  return static_cast<u16>((bits & 0x7fffffff) > 0x7f800000 ? u32{kBf16Nan} : rounded);
}
inline u16 floatToHalf(float x) { return doubleToHalf(x); }

// a + b rounded to odd: a later rounding to at most 51 bits then gives what one rounding would have given.
inline double addToOdd(double a, double b) {
  double sum = a + b;
  double bb = sum - a;
  double error = (a - (sum - bb)) + (b - bb);
  u64 bits = std::bit_cast<u64>(sum);
  if (error == 0 || !std::isfinite(sum) || (bits & 1)) return sum;
  bool away = (error > 0) == (sum > 0);
  return std::bit_cast<double>(away ? bits + 1 : bits - 1);
}

// A tensor core's sum: hardware may drop what does not fit, so it is exact (nearly: in double), then cut towards zero.
inline __attribute__((always_inline)) float truncateToFloat(double x) {
  const float nearest = static_cast<float>(x);
  const bool beyond = std::fabs(static_cast<double>(nearest)) > std::fabs(x) && std::fabs(nearest) < HUGE_VALF;
  return std::bit_cast<float>(std::bit_cast<u32>(nearest) - beyond);
}

// Sets the rounding mode of + - * / sqrt and fma for a scope.
class RoundingScope {
 public:
  explicit RoundingScope(Rounding mode) : saved_(std::fegetround()) {
    constexpr int kModes[] = {FE_TONEAREST, FE_TOWARDZERO, FE_DOWNWARD, FE_UPWARD, FE_TONEAREST};
    std::fesetround(kModes[static_cast<u32>(mode)]);
  }
  ~RoundingScope() { std::fesetround(saved_); }
  RoundingScope(const RoundingScope&) = delete;
  RoundingScope& operator=(const RoundingScope&) = delete;

 private:
  int saved_;
};

// PTX minimum and maximum: -0 < +0; a NaN loses against a number, unless .NaN asks for it to win.
template <class T>
T minimum(T a, T b, bool propagateNan) {
  if (a != a || b != b)
    return propagateNan || (a != a && b != b) ? std::numeric_limits<T>::quiet_NaN() : (a != a ? b : a);
  if (a == b) return std::signbit(a) ? a : b;
  return a < b ? a : b;
}
template <class T>
T maximum(T a, T b, bool propagateNan) {
  if (a != a || b != b)
    return propagateNan || (a != a && b != b) ? std::numeric_limits<T>::quiet_NaN() : (a != a ? b : a);
  if (a == b) return std::signbit(a) ? b : a;
  return a > b ? a : b;
}

}  // namespace softgpu::isa
