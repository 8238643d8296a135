// Two warps produce tiles and two consume them, through three stages of shared memory and named barriers: the running
// maximum of each column of x[tiles][64], from the bottom up within a tile. Test kernel of the software GPU.

constexpr int kStages = 3, kThreads = 64;

// Barriers 1… say that a stage is full, those after them that it is empty again.
__device__ __forceinline__ void arrive(int barrier) { asm volatile("bar.arrive %0, 128;" ::"r"(barrier) : "memory"); }
__device__ __forceinline__ void wait(int barrier) { asm volatile("bar.sync %0, 128;" ::"r"(barrier) : "memory"); }
__device__ __forceinline__ int full(int tile) { return 1 + tile % kStages; }
__device__ __forceinline__ int empty(int tile) { return 1 + kStages + tile % kStages; }

extern "C" __global__ void __launch_bounds__(128)
    running_maximum(const int* __restrict__ x, int tiles, int* __restrict__ y) {
  __shared__ int stage[kStages][kThreads];
  const int column = threadIdx.x % kThreads;
  if (threadIdx.x < kThreads) {
    for (int tile = 0; tile < tiles; ++tile) {
      if (tile >= kStages) wait(empty(tile));
      stage[tile % kStages][column] = x[tile * kThreads + column];
      arrive(full(tile));
    }
  } else {
    int highest = -0x7fffffff;
    for (int tile = 0; tile < tiles; ++tile) {
      wait(full(tile));
      highest = max(highest, stage[tile % kStages][kThreads - 1 - column]);
      if (tile + kStages < tiles) arrive(empty(tile));
      y[tile * kThreads + column] = highest;
    }
  }
}
