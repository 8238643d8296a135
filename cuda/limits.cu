// What the device can do at best: multiply-adds from registers, products of tensor cores, and reads of its memory.
#include "common.cuh"
#include "ptx.cuh"

namespace moe {

constexpr int chains = 16;  // independent multiply-adds of a thread: more than the latency of one

/// 2·chains·rounds floating-point operations a thread.
extern "C" __global__ void __launch_bounds__(256) peakMultiplyAdd(float* sink, const int rounds, const Guard) {
  float sums[chains];
#pragma unroll
  for (int i = 0; i < chains; ++i) sums[i] = static_cast<float>(threadIdx.x + i);
  const float factor = sums[0] * 1e-3f;
  for (int round = 0; round < rounds; ++round)
#pragma unroll
    for (int i = 0; i < chains; ++i) sums[i] = fmaf(sums[i], factor, 1.0f);
  float sum = 0;
#pragma unroll
  for (int i = 0; i < chains; ++i) sum += sums[i];
  // Never true, which the compiler cannot know.
  if (sum == 0.123f) *sink = sum;
}

/// 8·4096·rounds floating-point operations a warp: products of 16×16 and 16×8.
extern "C" __global__ void __launch_bounds__(256) peakTensor(float* sink, const int rounds, const Guard) {
  constexpr int products = 8;
  float sums[products][4] = {};
  uint32_t a[4] = {threadIdx.x, 1, 2, 3}, b[2] = {4, 5};
  for (int round = 0; round < rounds; ++round)
#pragma unroll
    for (int i = 0; i < products; ++i) ptx::mmaM16N8K16BF16(sums[i], a, b, sums[i]);
  float sum = 0;
#pragma unroll
  for (int i = 0; i < products; ++i) sum += sums[i][0] + sums[i][1] + sums[i][2] + sums[i][3];
  if (sum == 0.123f) *sink = sum;
}

/// Reads `count` vectors once.
extern "C" __global__ void __launch_bounds__(256)
    peakRead(float* sink, const float4* data, const int64_t count, const Guard) {
  float sum = 0;
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += stride) {
    const float4 v = data[i];
    sum += v.x + v.y + v.z + v.w;
  }
  if (sum == 0.123f) *sink = sum;
}

}  // namespace moe
