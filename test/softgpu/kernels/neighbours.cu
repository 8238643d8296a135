// Each element plus the next one of its block of 64, through shared memory. Test kernel of the software GPU: small, so
// that what a mutation does to it is plain.

extern "C" __global__ void neighbour_sums(const float* __restrict__ x, float* __restrict__ y, int n) {
  __shared__ float tile[64];
  const int k = blockIdx.x * 64 + threadIdx.x;
  tile[threadIdx.x] = k < n ? x[k] : 0.0f;
  __syncthreads();
  const float sum = tile[threadIdx.x] + tile[(threadIdx.x + 1) % 64];
  if (k < n) y[k] = sum;
}
