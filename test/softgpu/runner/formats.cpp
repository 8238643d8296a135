#include "formats.h"

#include <cmath>
#include <limits>

namespace runner {

double Format::decode(uint64_t bits) const {
  const uint64_t fraction = bits & ((uint64_t{1} << fractionBits) - 1), ones = (uint64_t{1} << exponentBits) - 1;
  const uint64_t exponent = bits >> fractionBits & ones;
  const int bias = static_cast<int>(ones >> 1), lowest = 1 - bias - static_cast<int>(fractionBits);
  double magnitude = std::ldexp(static_cast<double>(fraction), lowest);
  if (exponent == ones) {
    magnitude = fraction ? std::numeric_limits<double>::quiet_NaN() : std::numeric_limits<double>::infinity();
  } else if (exponent != 0) {
    magnitude = std::ldexp(static_cast<double>(fraction + (uint64_t{1} << fractionBits)),
                           lowest + static_cast<int>(exponent) - 1);
  }
  return bits >> (exponentBits + fractionBits) & 1 ? -magnitude : magnitude;
}

uint64_t Format::encode(double value, To rounding) const {
  const unsigned top = exponentBits + fractionBits;
  const uint64_t infinity = ((uint64_t{1} << exponentBits) - 1) << fractionBits;
  if (value != value) return (uint64_t{1} << top) - 1;
  const uint64_t sign = static_cast<uint64_t>(std::signbit(value)) << top;
  const double magnitude = std::fabs(value);
  if (std::isinf(value)) return sign | infinity;
  // The largest finite value that is not above the magnitude, by bisection: encodings are in the order of their values.
  uint64_t low = 0, high = infinity;
  while (high - low > 1) {
    const uint64_t middle = (low + high) / 2;
    (decode(middle) <= magnitude ? low : high) = middle;
  }
  const double below = decode(low), last = decode(infinity - 1);
  if (below == magnitude) return sign | low;
  // The value after the last finite one, for rounding, is as if the exponents went on.
  const double above = high == infinity ? last + (last - decode(infinity - 2)) : decode(high);
  bool up = false;
  if (rounding == To::kUp) up = sign == 0;
  if (rounding == To::kDown) up = sign != 0;
  if (rounding == To::kNearestAway) up = magnitude - below >= above - magnitude;
  if (rounding == To::kNearestEven) {
    up = magnitude - below > above - magnitude || (magnitude - below == above - magnitude && (low & 1));
  }
  return sign | (up ? high : low);
}

}  // namespace runner
