// Stable ranks by counting: how many items of the same bin come before an item, in the order of the items. No sort; the
// only atomics count integers. Items are dealt out in parts that follow each other by block and, within it, by warp:
// the parts count, the grid meets, and then every warp knows what comes before its own part.
#pragma once

#include <cooperative_groups.h>

#include "common.cuh"

namespace moe {

/// Returns when every block has come here; what they wrote before can be read after. The launch is cooperative.
__device__ inline void gridBarrier() {
  if (gridDim.x == 1)
    __syncthreads();
  else
    cooperative_groups::this_grid().sync();
}

__device__ inline int warpsInBlock() { return static_cast<int>(blockDim.x) / warpSize_; }
__device__ inline unsigned lanesBelow() { return (1u << lane()) - 1; }
__device__ inline int64_t threadOfGrid() { return int64_t{blockIdx.x} * blockDim.x + threadIdx.x; }
__device__ inline int64_t threadsOfGrid() { return int64_t{gridDim.x} * blockDim.x; }

struct Range {
  int64_t begin, end;
};

/// This warp's part of [0, n).
__device__ inline Range warpPart(int64_t n) {
  const int64_t parts = int64_t{gridDim.x} * warpsInBlock();
  const int64_t part = int64_t{blockIdx.x} * warpsInBlock() + warp();
  const int64_t size = ((n + parts - 1) / parts + warpSize_ - 1) / warpSize_ * warpSize_;
  return {min(n, part * size), min(n, (part + 1) * size)};
}

/// The counts of `count` bins, in shared memory. Whole blocks call everything but add() and take().
struct Bins {
  int count;
  int32_t* own;     // [warps,count] items of each warp; after resolve(), items before its next one
  int32_t* total;   // [count] items of the grid
  int32_t* before;  // [count] items of the blocks before this one

  __device__ Bins(int count, int32_t* shared)
      : count(count), own(shared), total(shared + warpsInBlock() * count), before(total + count) {}

  /// The first int32 after the bins.
  __device__ int32_t* end() const { return before + count; }

  __device__ void clear() {
    __syncthreads();
    for (int i = threadIdx.x; i < warpsInBlock() * count; i += blockDim.x) own[i] = 0;
    __syncthreads();
  }

  __device__ void add(int bin) { atomicAdd(own + warp() * count + bin, 1); }

  /// counts [blocks,count]: writes this block's.
  __device__ void publish(int32_t* counts) {
    __syncthreads();
    for (int bin = threadIdx.x; bin < count; bin += blockDim.x) {
      int32_t sum = 0;
      for (int w = 0; w < warpsInBlock(); ++w) sum += own[w * count + bin];
      counts[static_cast<int64_t>(blockIdx.x) * count + bin] = sum;
    }
  }

  /// Comes after a grid barrier.
  __device__ void resolve(const int32_t* counts) {
    for (int bin = threadIdx.x; bin < count; bin += blockDim.x) total[bin] = before[bin] = 0;
    __syncthreads();
    const int all = static_cast<int>(gridDim.x) * count, earlier = static_cast<int>(blockIdx.x) * count;
    for (int i = threadIdx.x; i < all; i += blockDim.x) {
      const int32_t items = counts[i];
      if (items == 0) continue;
      atomicAdd(total + i % count, items);
      if (i < earlier) atomicAdd(before + i % count, items);
    }
    __syncthreads();
    for (int bin = threadIdx.x; bin < count; bin += blockDim.x) {
      int32_t sum = before[bin];
      for (int w = 0; w < warpsInBlock(); ++w) {
        const int32_t items = own[w * count + bin];
        own[w * count + bin] = sum;
        sum += items;
      }
    }
    __syncthreads();
  }

  /// The rank of the lane's item in its bin; -1 for the bin of lanes without one. All lanes of the warp call it, in the
  /// order of the items.
  __device__ int32_t take(int bin) {
    int32_t* next = own + warp() * count;
    const unsigned peers = __match_any_sync(wholeWarp, bin);
    const int32_t rank = bin < 0 ? 0 : next[bin] + __popc(peers & lanesBelow());
    __syncwarp();
    if (bin >= 0 && (peers & lanesBelow()) == 0) next[bin] += __popc(peers);
    __syncwarp();
    return rank;
  }

  /// offsets[i] = Σ_{j<i} min(total[j], limit); offsets[count] is the sum of all.
  __device__ void prefix(int32_t limit, int32_t* offsets) const {
    if (warp() == 0) {
      int32_t sum = 0;
      for (int base = 0; base < count; base += warpSize_) {
        const int bin = base + lane();
        const int32_t items = bin < count ? min(total[bin], limit) : 0;
        int32_t upTo = items;
        for (int distance = 1; distance < warpSize_; distance *= 2) {
          const int32_t below = __shfl_up_sync(wholeWarp, upTo, distance);
          if (lane() >= distance) upTo += below;
        }
        if (bin < count) offsets[bin] = sum + upTo - items;
        sum += __shfl_sync(wholeWarp, upTo, warpSize_ - 1);
      }
      if (lane() == 0) offsets[count] = sum;
    }
    __syncthreads();
  }
};

}  // namespace moe
