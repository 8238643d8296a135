// Two passes over an array with a barrier of the whole grid between: launched cooperatively. Test kernel of the
// software GPU.
#include <cooperative_groups.h>

extern "C" __global__ void neighbour_blocks(const int* __restrict__ x, int* __restrict__ sums, int* __restrict__ y) {
  const auto grid = cooperative_groups::this_grid();
  const int k = blockIdx.x * blockDim.x + threadIdx.x;
  const int sum = __reduce_add_sync(~0u, x[k]);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
  grid.sync();
  y[k] = x[k] + sums[(blockIdx.x + 1) % gridDim.x];
}
