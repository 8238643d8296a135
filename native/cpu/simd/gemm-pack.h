// Rows into panels with the rows along the lanes, for the instruction set MOE_ISA. Everything has internal linkage.
#pragma once

#include <cstdint>
#include <utility>

#include "gemm-tile.h"

namespace moe::cpu {

namespace {

template <class T>
inline float toWord(T x) {
  return toFloat(x);
}
inline BFloat16Pair toWord(BFloat16Pair x) { return x; }

/// Swaps the off-diagonal blocks of distance `distance` of rows i and i + distance, the step of a recursive transpose.
template <int distance, int... I>
inline __attribute__((always_inline)) void swapBlocks(Vec& low, Vec& high, std::integer_sequence<int, I...>) {
  const Vec a = low, b = high;
  low = shuffle<((I & distance) ? width + I - distance : I)...>(a, b);
  high = shuffle<((I & distance) ? width + I : I + distance)...>(a, b);
}

template <int distance>
inline __attribute__((always_inline)) void transpose(Vec (&rows)[width]) {
#pragma GCC unroll 16
  for (int i = 0; i < width; ++i)
    if (!(i & distance)) swapBlocks<distance>(rows[i], rows[i + distance], std::make_integer_sequence<int, width>());
  if constexpr (distance > 1) transpose<distance / 2>(rows);
}

/// See PackKernels; elements of T are widened to Word = float, or words that only move.
template <class Word, class T>
void packWords(const T* input, int64_t stride, const int32_t* index, int count, int64_t depth, Word* out) {
  for (int first = 0; first < count; first += width) {
    const int rows = count - first < width ? count - first : width;
    const T* row[width];
    for (int i = 0; i < width; ++i) {
      const int64_t at = first + (i < rows ? i : 0);
      row[i] = input + (index ? index[at] : at) * stride;
    }
    Word* to = out + first / lanes * (depth * lanes) + first % lanes;
    const Vec zero = {};
    int64_t k = 0;
    for (; k + width <= depth; k += width) {
      Vec block[width];
#pragma GCC unroll 16
      for (int i = 0; i < width; ++i) block[i] = i < rows ? load(row[i] + k) : zero;
      transpose<width / 2>(block);
#pragma GCC unroll 16
      for (int i = 0; i < width; ++i) store(to + (k + i) * lanes, block[i]);
    }
    for (; k < depth; ++k)
      for (int i = 0; i < width; ++i) to[k * lanes + i] = i < rows ? toWord(row[i][k]) : Word{};
  }
}

}  // namespace

}  // namespace moe::cpu
