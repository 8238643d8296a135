// One vector register of floats for the instruction set that is being compiled, as a vector extension of g++ and clang.
// Only for native/cpu/simd/{row*,limits}.cpp, which are compiled once per instruction set.
#pragma once

#include <cstdint>

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

inline Vec load(const float* from) { return *reinterpret_cast<const LooseVec*>(from); }
inline void store(float* to, Vec value) { *reinterpret_cast<LooseVec*>(to) = value; }

/// The first n < vecLanes floats, the other lanes `fill`.
inline Vec loadPart(const float* from, int64_t n, float fill = 0) {
  Vec value = Vec{} + fill;
  for (int64_t i = 0; i < n; ++i) value[i] = from[i];
  return value;
}

/// Both sums below go through a tree over the lanes.
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
