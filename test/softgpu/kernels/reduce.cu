// The sum of n floats in one launch: vectors of four and a tail, shuffles, shared memory, and the last block to finish
// adds up what all have left. Test kernel of the software GPU.

__device__ float warpSum(float v) {
  for (int step = 16; step > 0; step /= 2) v += __shfl_down_sync(~0u, v, step);
  return v;
}

// Of all threads, in thread 0.
__device__ float blockSum(float v, float* shared) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  v = warpSum(v);
  if (lane == 0) shared[warp] = v;
  __syncthreads();
  v = threadIdx.x < blockDim.x / 32 ? shared[lane] : 0;
  if (warp == 0) v = warpSum(v);
  return v;
}

// partial[blocks]; *ticket is 0 before and after.
extern "C" __global__ void __launch_bounds__(256)
    sum(const float* __restrict__ x, int n, float* partial, unsigned* ticket, float* __restrict__ result) {
  __shared__ float shared[8];
  __shared__ bool isLast;
  const float4* vectors = reinterpret_cast<const float4*>(x);
  const int thread = blockIdx.x * blockDim.x + threadIdx.x, threads = gridDim.x * blockDim.x;
  float v = 0;
  for (int k = thread; k < n / 4; k += threads) {
    const float4 four = vectors[k];
    v += (four.x + four.y) + (four.z + four.w);
  }
  for (int k = n / 4 * 4 + thread; k < n; k += threads) v += x[k];
  v = blockSum(v, shared);
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = v;
    __threadfence();
    isLast = atomicInc(ticket, gridDim.x - 1) == gridDim.x - 1;
  }
  __syncthreads();
  if (!isLast) return;
  v = 0;
  for (int b = threadIdx.x; b < gridDim.x; b += blockDim.x) v += __ldcg(&partial[b]);
  v = blockSum(v, shared);
  if (threadIdx.x == 0) *result = v;
}
