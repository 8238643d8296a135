// Rows of tensors in pieces of 16 bytes, or of one element where rows do not start at multiples of 16 bytes.
#pragma once

#include "common.cuh"

namespace moe {

/// Elements of T in 16 bytes.
template <class T>
constexpr int wide = 16 / static_cast<int>(sizeof(T));

/// Whether rows of n elements, one after the other from each of these addresses, all start at multiples of 16 bytes.
template <class T, class... Pointers>
__device__ inline bool startsAligned(int64_t n, Pointers... pointers) {
  return n % wide<T> == 0 && ((reinterpret_cast<uintptr_t>(pointers) | ...) & 15u) == 0;
}

__device__ inline void unpack(uint32_t pair, const bfloat16*, float& low, float& high) {
  low = __uint_as_float(pair << 16);
  high = __uint_as_float(pair & 0xffff0000u);
}
__device__ inline void unpack(uint32_t pair, const float16*, float& low, float& high) {
  low = __half2float(__ushort_as_half(static_cast<unsigned short>(pair & 0xffffu)));
  high = __half2float(__ushort_as_half(static_cast<unsigned short>(pair >> 16)));
}
__device__ inline uint32_t pack(float low, float high, const bfloat16*) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return __bfloat16_as_ushort(pair.x) | static_cast<uint32_t>(__bfloat16_as_ushort(pair.y)) << 16;
}
__device__ inline uint32_t pack(float low, float high, const float16*) {
  const __half2 pair = __floats2half2_rn(low, high);
  return __half_as_ushort(pair.x) | static_cast<uint32_t>(__half_as_ushort(pair.y)) << 16;
}

/// `width` elements; one, or four or eight from an address that is a multiple of their size.
template <int width>
__device__ inline void load(const float* from, float (&x)[width]) {
  if constexpr (width == 1) {
    x[0] = *from;
  } else {
#pragma unroll
    for (int i = 0; i < width; i += 4) {
      const float4 part = *reinterpret_cast<const float4*>(from + i);
      x[i] = part.x, x[i + 1] = part.y, x[i + 2] = part.z, x[i + 3] = part.w;
    }
  }
}

template <int width, class T>
__device__ inline void load(const T* from, float (&x)[width]) {
  if constexpr (width == 1) {
    x[0] = toFloat(*from);
  } else if constexpr (width == 4) {
    const uint2 part = *reinterpret_cast<const uint2*>(from);
    unpack(part.x, from, x[0], x[1]);
    unpack(part.y, from, x[2], x[3]);
  } else {
    static_assert(width == 8);
    const uint4 part = *reinterpret_cast<const uint4*>(from);
    unpack(part.x, from, x[0], x[1]);
    unpack(part.y, from, x[2], x[3]);
    unpack(part.z, from, x[4], x[5]);
    unpack(part.w, from, x[6], x[7]);
  }
}

template <int width>
__device__ inline void store(float* to, const float (&x)[width]) {
  if constexpr (width == 1) {
    *to = x[0];
  } else {
#pragma unroll
    for (int i = 0; i < width; i += 4)
      *reinterpret_cast<float4*>(to + i) = make_float4(x[i], x[i + 1], x[i + 2], x[i + 3]);
  }
}

template <int width, class T>
__device__ inline void store(T* to, const float (&x)[width]) {
  if constexpr (width == 1) {
    *to = fromFloat<T>(x[0]);
  } else if constexpr (width == 4) {
    *reinterpret_cast<uint2*>(to) = make_uint2(pack(x[0], x[1], to), pack(x[2], x[3], to));
  } else {
    static_assert(width == 8);
    *reinterpret_cast<uint4*>(to) =
        make_uint4(pack(x[0], x[1], to), pack(x[2], x[3], to), pack(x[4], x[5], to), pack(x[6], x[7], to));
  }
}

template <class Piece>
__device__ void copyPieces(const Piece* from, Piece* to, int n) {
  for (int i = lane(); i < n; i += warpSize_) to[i] = from ? from[i] : Piece{};
}

/// The warp copies n elements; zeros when `from` is null.
template <class T>
__device__ void copyRow(bool aligned, const T* from, T* to, int n) {
  if (aligned)
    copyPieces(reinterpret_cast<const uint4*>(from), reinterpret_cast<uint4*>(to), n / wide<T>);
  else
    copyPieces(from, to, n);
}

}  // namespace moe
