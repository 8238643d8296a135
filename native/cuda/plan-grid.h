// The grid of kernels that count in bins (cuda/rank.cuh), whose blocks run all at once.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "../shared/permute.h"
#include "tiles.h"

namespace moe::cuda {

struct PlanGrid {
  unsigned blocks, threads;
  size_t sharedBytes;
};

/// What a block of so many warps has in shared memory: counts of all bins for every warp and three times for itself.
inline int64_t planSharedBytes(int64_t warps, int64_t bins) {
  return ((warps + 3) * bins + 1) * static_cast<int64_t>(sizeof(int32_t));
}

/// How many bins a block of one warp can count in.
inline int64_t mostBins(const Properties& properties) {
  return (properties.sharedBytesPerBlock - planSharedBytes(1, 0)) / (planSharedBytes(1, 1) - planSharedBytes(1, 0));
}

/// For `items` that the grid counts in so many bins, at most mostBins(), by at most so many warps in a block: with many
/// bins there are fewer warps.
inline PlanGrid planGrid(int64_t items, int64_t bins, int64_t mostWarps, const Properties& properties) {
  constexpr int64_t mostCounts = 8192, itemsPerThread = 8;
  int64_t warps = std::clamp<int64_t>(mostCounts / bins, 8, mostWarps);
  while (warps > 1 && planSharedBytes(warps, bins) > properties.sharedBytesPerBlock) --warps;
  const int64_t perBlock = warps * 32 * itemsPerThread;
  const int64_t blocks = std::clamp<int64_t>((items + perBlock - 1) / perBlock, 1, properties.multiprocessors);
  return {static_cast<unsigned>(blocks), static_cast<unsigned>(warps * 32),
          static_cast<size_t>(planSharedBytes(warps, bins))};
}

/// The same for kernels that sort items, and count in `bins` of their own besides.
inline PlanGrid sortGrid(int64_t items, int64_t bins, const Properties& properties) {
  return planGrid(items, std::max<int64_t>(bins, sortDigits), 16, properties);
}

}  // namespace moe::cuda
