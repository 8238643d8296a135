// Arithmetic, comparison and conversion of half and bfloat16, one function per number. Test kernel of the software GPU.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

template <class T>
__device__ float wide(T x) {
  return static_cast<float>(x);
}
template <class T>
__device__ T rounded(float x) {
  return static_cast<T>(x);
}

template <class T>
__device__ T functionOf(int which, T x, T y) {
  switch (which) {
    case 0:
      return x + y;
    case 1:
      return x - y;
    case 2:
      return x * y;
    case 3:
      return x / y;
    case 4:
      return __hfma(x, y, x);
    case 5:
      return __hfma_relu(x, y, x);
    case 6:
      return __hfma_sat(x, y, x);
    case 7:
      return __hmin(x, y);
    case 8:
      return __hmax_nan(x, y);
    case 9:
      return -x;
    case 10:
      return __habs(x);
    case 11:
      return hexp(x);
    case 12:
      return hlog(__habs(x));
    case 13:
      return hsqrt(__habs(x));
    case 14:
      return hrint(x);
    case 15:
      return hfloor(x);
    case 16:
      return hrcp(x);
    case 17:
      return rounded<T>(wide(x) * 1.001f);
    case 18:
      return x < y ? x : y;
    case 19:
      return x != y ? x : rounded<T>(1);
    case 20:
      return rounded<T>(static_cast<float>(__hgeu(x, y)));
    default:
      return rounded<T>(static_cast<float>(static_cast<int>(x)));
  }
}

template <class T, class Pair>
__device__ Pair functionOfPair(int which, Pair x, Pair y) {
  switch (which) {
    case 0:
      return __hadd2(x, y);
    case 1:
      return __hsub2(x, y);
    case 2:
      return __hmul2(x, y);
    case 3:
      return __h2div(x, y);
    case 4:
      return __hfma2(x, y, x);
    case 5:
      return __hfma2_relu(x, y, x);
    case 6:
      return __hfma2_sat(x, y, x);
    case 7:
      return __hmin2(x, y);
    case 8:
      return __hmax2_nan(x, y);
    case 9:
      return __hneg2(x);
    case 10:
      return __habs2(x);
    case 11:
      return h2exp(x);
    case 12:
      return h2log(__habs2(x));
    case 13:
      return h2sqrt(__habs2(x));
    case 14:
      return h2rint(x);
    case 15:
      return h2floor(x);
    case 16:
      return h2rcp(x);
    case 17:
      return Pair{rounded<T>(wide(x.x) * 1.001f), rounded<T>(wide(x.y) * 1.001f)};
    case 18: {
      const unsigned less = __hlt2_mask(x, y);
      return Pair{less & 1 ? x.x : y.x, less >> 16 ? x.y : y.y};
    }
    case 19: {
      const Pair different = __hne2(x, y);
      return Pair{wide(different.x) != 0 ? x.x : rounded<T>(1), wide(different.y) != 0 ? x.y : rounded<T>(1)};
    }
    case 20:
      return __hgeu2(x, y);
    default:
      return Pair{rounded<T>(static_cast<float>(static_cast<int>(x.x))),
                  rounded<T>(static_cast<float>(static_cast<int>(x.y)))};
  }
}

template <class T, class Pair>
__device__ void evaluate(const T* x, const T* y, T* single, T* paired, int n, int which) {
  const int k = 2 * (blockIdx.x * blockDim.x + threadIdx.x);
  if (k >= n) return;
  single[k] = functionOf(which, x[k], y[k]);
  single[k + 1] = functionOf(which, x[k + 1], y[k + 1]);
  const Pair pair = functionOfPair<T, Pair>(which, Pair{x[k], x[k + 1]}, Pair{y[k], y[k + 1]});
  paired[k] = pair.x;
  paired[k + 1] = pair.y;
}

extern "C" __global__ void half_functions(const __half* x, const __half* y, __half* single, __half* paired, int n,
                                          int which) {
  evaluate<__half, __half2>(x, y, single, paired, n, which);
}
extern "C" __global__ void bf16_functions(const __nv_bfloat16* x, const __nv_bfloat16* y, __nv_bfloat16* single,
                                          __nv_bfloat16* paired, int n, int which) {
  evaluate<__nv_bfloat16, __nv_bfloat162>(x, y, single, paired, n, which);
}

// Sums by atomics: all of them are exact.
extern "C" __global__ void half_atomics(__half* h, __half2* h2, __nv_bfloat16* b, __nv_bfloat162* b2) {
  atomicAdd(h, __float2half(1.0f));
  atomicAdd(h2, __floats2half2_rn(1, 2));
  atomicAdd(b, __float2bfloat16(1.0f));
  atomicAdd(b2, __floats2bfloat162_rn(1, 2));
}
