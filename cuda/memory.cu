// What fills and converts tensors: random draws, host data, changes of dtype; and the kernel of operations that have no
// other.
#include "../native/shared/random.h"
#include "../native/shared/upload.h"
#include "common.cuh"

namespace moe {

/// Merges the statuses of an operation's inputs and does nothing else.
extern "C" __global__ void inherit(const Guard guard) { enter(guard); }

/// What a poisoned operation has not written is zeroed before the host copies it, so that nobody ever reads what is
/// left of other tensors.
extern "C" __global__ void __launch_bounds__(256)
    clearPoisoned(uint8_t* data, const int64_t bytes, const Status* status) {
  if (earlier(status->inherited, status->own) == noFault) return;
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < bytes; i += stride) data[i] = 0;
}

extern "C" __global__ void __launch_bounds__(256) upload(const __grid_constant__ UploadPiece piece) {
  for (int i = threadIdx.x; i < piece.count; i += blockDim.x) piece.target[i] = piece.words[i];
}

template <class T>
__device__ void fillNormal(const RandomNormal& r) {
  T* output = static_cast<T*>(r.output);
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t block = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; block * 4 < r.n; block += stride) {
    const Normal4 draws = randomNormals(r.seed, r.purpose, static_cast<uint64_t>(block));
    for (int j = 0; j < 4 && block * 4 + j < r.n; ++j)
      output[block * 4 + j] = fromFloat<T>(__fmul_rn(r.std, draws.value[j]));
  }
}

#define MOE_RANDOM_NORMAL(name, type)                                                                    \
  extern "C" __global__ void __launch_bounds__(256)                                                      \
      randomNormal_##name(const __grid_constant__ RandomNormal r, const __grid_constant__ Guard guard) { \
    if (enter(guard)) fillNormal<type>(r);                                                               \
  }
MOE_FLOAT_TYPES(MOE_RANDOM_NORMAL)

/// Towards zero, saturating; NaN gives 0.
template <>
__device__ inline int32_t fromFloat<int32_t>(float x) {
  return __float2int_rz(x);
}

template <class To, class From>
__device__ inline To convertOne(From x) {
  if constexpr (std::is_same_v<To, From>)
    return x;
  else if constexpr (!std::is_same_v<From, int32_t>)
    return fromFloat<To>(toFloat(x));
  else
    return fromFloat<To>(std::is_same_v<To, float> ? static_cast<float>(x) : int32ForRounding(x));
}

template <class To, class From>
__device__ void convertAll(const Convert& c) {
  const From* input = static_cast<const From*>(c.input);
  To* output = static_cast<To*>(c.output);
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < c.n; i += stride)
    output[i] = convertOne<To>(input[i]);
}

template <class From>
__device__ void convertFrom(const Convert& c) {
  if (c.to == DType::Float32) convertAll<float, From>(c);
  if (c.to == DType::BFloat16) convertAll<bfloat16, From>(c);
  if (c.to == DType::Float16) convertAll<float16, From>(c);
  if (c.to == DType::Int32) convertAll<int32_t, From>(c);
}

#define MOE_CONVERT(name, type)                                                                \
  extern "C" __global__ void __launch_bounds__(256)                                            \
      convert_##name(const __grid_constant__ Convert c, const __grid_constant__ Guard guard) { \
    if (enter(guard)) convertFrom<type>(c);                                                    \
  }
MOE_FLOAT_TYPES(MOE_CONVERT)
MOE_CONVERT(int32, int32_t)

}  // namespace moe
