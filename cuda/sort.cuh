// A stable sort by the whole grid: from the lowest digit of the keys to the highest, every pass puts the items of one
// digit after those of the lower ones. Ranks are counted (rank.cuh), so that the order is the same in every run.
#pragma once

#include "../native/shared/math.h"
#include "../native/shared/permute.h"
#include "rank.cuh"

namespace moe {

struct Sorter {
  uint32_t *items, *spare;  // [n] each; they change places with every pass
  int32_t* counts;          // [blocks,sortDigits]
  Bins bins;                // of the digits
  int32_t* offsets;         // [sortDigits+1] shared

  __device__ Sorter(const SortSpace& space, int32_t* shared)
      : items(space.items), spare(space.spare), counts(space.counts), bins(sortDigits, shared), offsets(bins.end()) {}

  /// Sorts the items by the lowest bits of keyOf(item). The grid has met since they were written, and meets again
  /// before this returns.
  template <class Key>
  __device__ void sort(int64_t n, int bits, Key&& keyOf) {
    const Range part = warpPart(n);
    for (int shift = 0; shift < bits; shift += sortDigitBits) {
      /// visit(item, digit); the digit is -1 for lanes past the end.
      const auto forEach = [&](auto&& visit) {
        for (int64_t first = part.begin; first < part.end; first += warpSize_) {
          const bool inside = first + lane() < part.end;
          const uint32_t item = inside ? items[first + lane()] : 0;
          visit(item, inside ? static_cast<int>(keyOf(item) >> shift & (sortDigits - 1)) : -1);
        }
      };
      bins.clear();
      forEach([&](uint32_t, int digit) {
        if (digit >= 0) bins.add(digit);
      });
      bins.publish(counts);
      gridBarrier();
      bins.resolve(counts);
      bins.prefix(INT32_MAX, offsets);
      forEach([&](uint32_t item, int digit) {
        const int32_t rank = bins.take(digit);
        if (digit >= 0) spare[offsets[digit] + rank] = item;
      });
      gridBarrier();
      uint32_t* sorted = spare;
      spare = items;
      items = sorted;
    }
  }
};

/// Smaller for a larger score.
__device__ inline uint32_t falling(float score) {
  const uint32_t bits = floatBits(score + 0.0f);  // -0 becomes 0
  return ~(bits & 0x80000000u ? ~bits : bits | 0x80000000u);
}

/// How many bits a number up to `largest` has.
__device__ inline int bitsOf(int64_t largest) { return largest > 0 ? 64 - __clzll(largest) : 0; }

}  // namespace moe
