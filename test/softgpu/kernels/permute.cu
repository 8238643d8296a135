// Counts per expert, their prefix sums, and a stable permutation by expert. Test kernels of the software GPU.

// counts[blocks][experts], totals[experts] (zeroed by the caller)
extern "C" __global__ void histogram(const int* __restrict__ ids, int n, int experts, int* __restrict__ counts,
                                     int* __restrict__ totals) {
  extern __shared__ int local[];
  for (int e = threadIdx.x; e < experts; e += blockDim.x) local[e] = 0;
  __syncthreads();
  const int share = (n + gridDim.x - 1) / gridDim.x, begin = blockIdx.x * share, end = min(n, begin + share);
  for (int k = begin + threadIdx.x; k < end; k += blockDim.x) atomicAdd(&local[ids[k]], 1);
  __syncthreads();
  for (int e = threadIdx.x; e < experts; e += blockDim.x) {
    counts[blockIdx.x * experts + e] = local[e];
    if (local[e]) atomicAdd(&totals[e], local[e]);
  }
}

// One block of 256. counts becomes where each block's rows of an expert begin; offsets[experts + 1].
extern "C" __global__ void scan(const int* __restrict__ totals, int experts, int blocks, int* __restrict__ counts,
                                int* __restrict__ offsets) {
  __shared__ int warpSums[8];
  __shared__ int carry;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (threadIdx.x == 0) carry = 0;
  __syncthreads();
  for (int base = 0; base < experts; base += blockDim.x) {
    const int e = base + threadIdx.x, own = e < experts ? totals[e] : 0;
    int sum = own;
    for (int step = 1; step < 32; step *= 2) {
      const int below = __shfl_up_sync(~0u, sum, step);
      if (lane >= step) sum += below;
    }
    if (lane == 31) warpSums[warp] = sum;
    __syncthreads();
    int before = carry + sum - own, all = 0;
    for (int w = 0; w < 8; ++w) {
      if (w < warp) before += warpSums[w];
      all += warpSums[w];
    }
    if (e < experts) {
      offsets[e] = before;
      for (int b = 0; b < blocks; ++b) {
        const int count = counts[b * experts + e];
        counts[b * experts + e] = before;
        before += count;
      }
    }
    __syncthreads();
    if (threadIdx.x == 0) carry += all;
    __syncthreads();
  }
  if (threadIdx.x == 0) offsets[experts] = carry;
}

// Warps take turns, so that equal experts keep their order.
extern "C" __global__ void permute(const int* __restrict__ ids, int n, int experts, const int* __restrict__ counts,
                                   int* __restrict__ order) {
  extern __shared__ int next[];
  for (int e = threadIdx.x; e < experts; e += blockDim.x) next[e] = counts[blockIdx.x * experts + e];
  __syncthreads();
  const int share = (n + gridDim.x - 1) / gridDim.x, begin = blockIdx.x * share, end = min(n, begin + share);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  for (int base = begin; base < end; base += blockDim.x) {
    for (int turn = 0; turn < warps; ++turn) {
      if (turn == warp) {
        const int k = base + threadIdx.x;
        const unsigned active = __ballot_sync(~0u, k < end);
        if (k < end) {
          const int id = ids[k];
          const unsigned same = __match_any_sync(active, id);
          const int rank = __popc(same & ((1u << lane) - 1)), leader = __ffs(same) - 1;
          int first = 0;
          if (lane == leader) first = atomicAdd(&next[id], __popc(same));
          order[__shfl_sync(same, first, leader) + rank] = k;
        }
      }
      __syncthreads();
    }
  }
}
