// Sort keys: larger numbers first, of equal ones the lower index first.
#pragma once

#include <cstdint>

#include "../shared/math.h"

namespace moe::cpu {

/// As integers in the order of the numbers.
inline uint32_t risingBits(float number) {
  const uint32_t bits = floatBits(number + 0.0f);  // -0 becomes 0
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/// Sorts before every key of a lower order; of equal ones by index.
inline uint64_t fallingKey(uint32_t order, int64_t index) {
  return uint64_t{~order} << 32 | static_cast<uint32_t>(index);
}

inline int64_t indexOf(uint64_t key) { return static_cast<int64_t>(key & 0xffffffffu); }

}  // namespace moe::cpu
