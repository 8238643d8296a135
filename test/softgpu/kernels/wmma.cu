// Matrix products through nvcuda::wmma: C += 2A · B for each type and shape, on matrices with rows of 32. Test kernel
// of the software GPU.
#include <cuda_bf16.h>
#include <mma.h>

using namespace nvcuda;

constexpr int kStride = 32;

template <int M, int N, int K, class T, class Element, class Sum, class LayoutA, class LayoutB>
__device__ void multiply(const Element* a, const Element* b, Sum* c, wmma::layout_t layout) {
  wmma::fragment<wmma::matrix_a, M, N, K, T, LayoutA> left;
  wmma::fragment<wmma::matrix_b, M, N, K, T, LayoutB> right;
  wmma::fragment<wmma::accumulator, M, N, K, Sum> sum;
  wmma::load_matrix_sync(left, a, kStride);
  wmma::load_matrix_sync(right, b, kStride);
  wmma::load_matrix_sync(sum, c, kStride, layout);
  for (int k = 0; k < left.num_elements; ++k) left.x[k] = left.x[k] + left.x[k];
  wmma::mma_sync(sum, left, right, sum);
  // The sums replace what other lanes have read.
  __syncwarp();
  wmma::store_matrix_sync(c, sum, kStride, layout);
}

extern "C" __global__ void wmma_half(const half* a, const half* b, float* c) {
  multiply<16, 16, 16, half, half, float, wmma::row_major, wmma::col_major>(a, b, c, wmma::mem_row_major);
}
extern "C" __global__ void wmma_half_tall(const half* a, const half* b, float* c) {
  multiply<32, 8, 16, half, half, float, wmma::col_major, wmma::row_major>(a, b, c, wmma::mem_col_major);
}
extern "C" __global__ void wmma_half_wide(const half* a, const half* b, half* c) {
  multiply<8, 32, 16, half, half, half, wmma::row_major, wmma::row_major>(a, b, c, wmma::mem_row_major);
}
extern "C" __global__ void wmma_bf16(const __nv_bfloat16* a, const __nv_bfloat16* b, float* c) {
  multiply<16, 16, 16, __nv_bfloat16, __nv_bfloat16, float, wmma::col_major, wmma::col_major>(a, b, c,
                                                                                              wmma::mem_row_major);
}
extern "C" __global__ void wmma_tf32(const float* a, const float* b, float* c) {
  multiply<16, 16, 8, wmma::precision::tf32, float, float, wmma::row_major, wmma::col_major>(a, b, c,
                                                                                             wmma::mem_col_major);
}
extern "C" __global__ void wmma_s8(const signed char* a, const signed char* b, int* c) {
  multiply<16, 16, 16, signed char, signed char, int, wmma::row_major, wmma::row_major>(a, b, c, wmma::mem_row_major);
}
extern "C" __global__ void wmma_f64(const double* a, const double* b, double* c) {
  multiply<8, 8, 4, double, double, double, wmma::row_major, wmma::col_major>(a, b, c, wmma::mem_row_major);
}
// Through shared memory.
extern "C" __global__ void wmma_shared(const half* a, const half* b, float* c) {
  __shared__ alignas(32) half left[16 * kStride], right[16 * kStride];
  __shared__ alignas(32) float sums[16 * kStride];
  for (int k = threadIdx.x; k < 16 * kStride; k += 32) {
    left[k] = a[k];
    right[k] = b[k];
    sums[k] = c[k];
  }
  __syncwarp();
  multiply<16, 16, 16, half, half, float, wmma::row_major, wmma::col_major>(left, right, sums, wmma::mem_row_major);
  __syncwarp();
  for (int k = threadIdx.x; k < 16 * kStride; k += 32) c[k] = sums[k];
}
