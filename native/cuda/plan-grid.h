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

/// For `items` that the grid counts in so many bins, by at most so many warps in a block. Every warp has counts of all
/// bins in shared memory: with many of them there are fewer warps.
inline PlanGrid planGrid(int64_t items, int64_t bins, int64_t mostWarps, const Properties& properties) {
  constexpr int64_t mostCounts = 8192, itemsPerThread = 8;
  const auto warps = static_cast<unsigned>(std::clamp<int64_t>(mostCounts / bins, 8, mostWarps));
  const int64_t perBlock = warps * 32 * itemsPerThread;
  const int64_t blocks = std::clamp<int64_t>((items + perBlock - 1) / perBlock, 1, properties.multiprocessors);
  return {static_cast<unsigned>(blocks), warps * 32, ((warps + 3) * static_cast<size_t>(bins) + 1) * sizeof(int32_t)};
}

/// The same for kernels that sort items, and count in `bins` of their own besides.
inline PlanGrid sortGrid(int64_t items, int64_t bins, const Properties& properties) {
  return planGrid(items, std::max<int64_t>(bins, sortDigits), 16, properties);
}

}  // namespace moe::cuda
