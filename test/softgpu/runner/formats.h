// f16, bf16 and tf32 by search in the table of all their values: slow, and not how the simulator does it.
#pragma once

#include <cstdint>

namespace runner {

enum class To { kNearestEven, kZero, kDown, kUp, kNearestAway };

struct Format {
  unsigned exponentBits, fractionBits;

  double decode(uint64_t bits) const;
  // The canonical NaN for a NaN.
  uint64_t encode(double value, To rounding = To::kNearestEven) const;
};

inline constexpr Format kF16{5, 10}, kBf16{8, 7}, kTf32{8, 10};

}  // namespace runner
