// One vector register of floats for the instruction set that is being compiled, as a vector extension of g++ and clang,
// and how it comes from memory and goes there: float32 as it is, 16-bit floats widened and rounded. Included only by
// native/cpu/simd/*.cpp, which are compiled once per instruction set.
#pragma once

#include <cstdint>
#include <utility>

#include "../../shared/float16.h"

#if defined(MOE_ISA_avx512) || defined(MOE_ISA_avx2)
#include <immintrin.h>
#elif defined(MOE_ISA_neon)
#include <arm_neon.h>
#endif

namespace moe::cpu::MOE_ISA {

#if defined(MOE_ISA_avx512)
constexpr int vecLanes = 16;
#elif defined(MOE_ISA_avx2)
constexpr int vecLanes = 8;
#else
constexpr int vecLanes = 4;
#endif

using Vec [[gnu::vector_size(vecLanes * sizeof(float))]] = float;
/// The same in memory: aligned like a float.
using LooseVec [[gnu::vector_size(vecLanes * sizeof(float)), gnu::aligned(sizeof(float)), gnu::may_alias]] = float;

/// The bits of a Vec.
using Words [[gnu::vector_size(vecLanes * sizeof(uint32_t))]] = uint32_t;

// ------------------------------------------------------------------------------------------------ whole vectors

inline Vec load(const float* from) { return *reinterpret_cast<const LooseVec*>(from); }
inline void store(float* to, Vec value) { *reinterpret_cast<LooseVec*>(to) = value; }
/// Words as they are, in the bits of a Vec.
inline Vec load(const BFloat16Pair* from) { return *reinterpret_cast<const LooseVec*>(from); }
inline void store(BFloat16Pair* to, Vec words) { *reinterpret_cast<LooseVec*>(to) = words; }

// Of vector extensions g++ makes twice the instructions here. It warns of the unmasked conversions of AVX-512.
#if defined(MOE_ISA_avx512)

inline Words loadHalves(const uint16_t* from) {
  return (Words)_mm512_maskz_cvtepu16_epi32(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
/// The lower half of every word.
inline void storeHalves(uint16_t* to, Words words) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_maskz_cvtepi32_epi16(0xffff, (__m512i)words));
}
inline Vec load(const Float16* from) {
  return _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
inline void store(Float16* to, Vec value) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_maskz_cvtps_ph(0xffff, value, _MM_FROUND_TO_NEAREST_INT));
}

#elif defined(MOE_ISA_avx2)

inline Words loadHalves(const uint16_t* from) {
  return (Words)_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}
inline void storeHalves(uint16_t* to, Words words) {
  const __m256i lower = (__m256i)(words & 0xffffu);
  const __m128i packed = _mm_packus_epi32(_mm256_castsi256_si128(lower), _mm256_extracti128_si256(lower, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), packed);
}
inline Vec load(const Float16* from) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}
inline void store(Float16* to, Vec value) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
}

#elif defined(MOE_ISA_neon)

inline Words loadHalves(const uint16_t* from) { return vmovl_u16(vld1_u16(from)); }
inline void storeHalves(uint16_t* to, Words words) { vst1_u16(to, vmovn_u32(words)); }
inline Vec load(const Float16* from) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(&from->bits))); }
inline void store(Float16* to, Vec value) { vst1_u16(&to->bits, vreinterpret_u16_f16(vcvt_f16_f32(value))); }

#else

inline Words loadHalves(const uint16_t* from) { return Words{from[0], from[1], from[2], from[3]}; }
inline void storeHalves(uint16_t* to, Words words) {
  for (int i = 0; i < vecLanes; ++i) to[i] = static_cast<uint16_t>(words[i]);
}
inline Vec load(const Float16* from) {
  return Vec{toFloat(from[0]), toFloat(from[1]), toFloat(from[2]), toFloat(from[3])};
}
inline void store(Float16* to, Vec value) {
  for (int i = 0; i < vecLanes; ++i) to[i] = roundTo<Float16>(value[i]);
}

#endif

inline Vec load(const BFloat16* from) { return (Vec)(loadHalves(&from->bits) << 16); }

/// See bfloat16Bits.
inline void store(BFloat16* to, Vec value) {
  const Words bits = (Words)value;
  const Words rounded = bits + 0x7fffu + (bits >> 16 & 1u);
  storeHalves(&to->bits, (value == value ? rounded : bits | 0x00400000u) >> 16);
}

// ------------------------------------------------------------------------------------------------ rows

/// The first n < vecLanes elements, the other lanes `fill`.
template <class T>
inline Vec loadPart(const T* from, int64_t n, float fill = 0) {
  Vec value = Vec{} + fill;
  for (int64_t i = 0; i < n; ++i) value[i] = toFloat(from[i]);
  return value;
}

template <class T>
inline void storePart(T* to, int64_t n, Vec value) {
  for (int64_t i = 0; i < n; ++i) to[i] = roundTo<T>(value[i]);
}

/// body(at, put) for every vector of rows of n elements: at(row) loads it, put(row, value) stores it.
template <class Body>
inline __attribute__((always_inline)) void overRow(int64_t n, Body&& body) {
  int64_t i = 0;
  for (; i + vecLanes <= n; i += vecLanes)
    body([i](const auto* row) { return load(row + i); }, [i](auto* row, Vec value) { store(row + i, value); });
  if (i < n)
    body([i, n](const auto* row) { return loadPart(row + i, n - i); },
         [i, n](auto* row, Vec value) { storePart(row + i, n - i, value); });
}

template <class T>
inline void widen(const T* from, int64_t n, float* to) {
  overRow(n, [=](auto&& at, auto&& put) { put(to, at(from)); });
}

template <class T>
inline void round(const float* from, int64_t n, T* to) {
  overRow(n, [=](auto&& at, auto&& put) { put(to, at(from)); });
}

// ------------------------------------------------------------------------------------------------ over the lanes

/// The elements `index` of a and b laid end to end.
template <int... index>
inline __attribute__((always_inline)) Vec shuffle(Vec a, Vec b) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, index...);
#else
  return __builtin_shuffle(a, b, Words{static_cast<uint32_t>(index)...});
#endif
}

inline Vec larger(Vec a, Vec b) { return a < b ? b : a; }

template <int distance, int... lane>
inline __attribute__((always_inline)) Vec largerAcross(Vec value, std::integer_sequence<int, lane...>) {
  return larger(value, shuffle<(lane ^ distance)...>(value, value));
}

/// The maximum in every lane.
template <int distance = vecLanes / 2>
inline Vec spreadMaximum(Vec value) {
  const Vec result = largerAcross<distance>(value, std::make_integer_sequence<int, vecLanes>());
  if constexpr (distance > 1)
    return spreadMaximum<distance / 2>(result);
  else
    return result;
}

/// Bit i: whether lane i is equal in both.
inline uint32_t equalLanes(Vec a, Vec b) {
#if defined(MOE_ISA_avx512)
  return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ);
#elif defined(MOE_ISA_avx2)
  return static_cast<uint32_t>(_mm256_movemask_ps((__m256)(a == b)));
#else
  uint32_t bits = 0;
  for (int i = 0; i < vecLanes; ++i) bits |= static_cast<uint32_t>(a[i] == b[i]) << i;
  return bits;
#endif
}

/// Both go through a tree over the lanes.
inline float sum(Vec value) {
  float lanes[vecLanes];
  store(lanes, value);
  for (int half = vecLanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  return lanes[0];
}

inline float maximum(Vec value) {
  float lanes[vecLanes];
  store(lanes, value);
  for (int half = vecLanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) lanes[i] = lanes[i] < lanes[i + half] ? lanes[i + half] : lanes[i];
  return lanes[0];
}

}  // namespace moe::cpu::MOE_ISA
