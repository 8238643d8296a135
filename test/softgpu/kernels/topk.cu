// Softmax and top-4 of 64 logits, one warp per row. Test kernel of the software GPU.
#include <cuda_bf16.h>

constexpr int kExperts = 64, kTop = 4;

extern "C" __global__ void softmax_topk(const __nv_bfloat162* __restrict__ x, float* __restrict__ weights,
                                        int* __restrict__ indices, int rows) {
  const int row = (blockIdx.x * blockDim.x + threadIdx.x) / 32, lane = threadIdx.x % 32;
  if (row >= rows) return;
  const float2 pair = __bfloat1622float2(x[row * (kExperts / 2) + lane]);
  float values[2] = {pair.x, pair.y};
  float highest = fmaxf(values[0], values[1]);
  for (int step = 16; step > 0; step /= 2) highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, step));
  for (float& v : values) v = __expf(v - highest);
  float total = 0, mine = 0;
  int chosen = 0;
  for (int k = 0; k < kTop; ++k) {
    // The larger value, and of equal ones the lower index.
    float best = values[0] >= values[1] ? values[0] : values[1];
    int index = 2 * lane + (values[0] >= values[1] ? 0 : 1);
    for (int step = 16; step > 0; step /= 2) {
      const float other = __shfl_xor_sync(~0u, best, step);
      const int otherIndex = __shfl_xor_sync(~0u, index, step);
      if (other > best || (other == best && otherIndex < index)) best = other, index = otherIndex;
    }
    if (index / 2 == lane) values[index % 2] = -1;
    if (lane == k) mine = best, chosen = index;
    total += best;
  }
  if (lane < kTop) {
    weights[row * kTop + lane] = mine / total;
    indices[row * kTop + lane] = chosen;
  }
}
