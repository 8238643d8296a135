// Products with few tokens for the instruction set MOE_ISA: rows of weights in the vectors, read once and in order, as
// memory gives them fastest. Everything has internal linkage.
#pragma once

#include "gemm-pack.h"

namespace moe::cpu {

namespace {

/// The first n words of a vector, the others 0.
template <class T>
inline Vec loadWords(const T* from, int64_t n) {
  return n >= width ? load(from) : loadPart(from, n);
}

#if defined(__AVX512BF16__)
inline Vec loadWords(const BFloat16Pair* from, int64_t n) {
  return (Vec)_mm512_maskz_loadu_epi32(n >= width ? 0xffff : (1 << n) - 1, from);
}
#endif

/// The sum of each of a width of vectors.
inline Vec sumEach(Vec (&vectors)[width]) {
  transpose<width / 2>(vectors);
#pragma GCC unroll 4
  for (int half = width / 2; half > 0; half /= 2)
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) vectors[i] += vectors[i + half];
  return vectors[0];
}

/// Word: what x consists of; Row: the same, or elements that are widened to it.
template <int N, class Row, class Word>
void multiplyTokens(const Row* weight, int64_t rows, int64_t depth, const Word* x, const float* bias, float* out,
                    int64_t stride) {
  constexpr int chains = N == 1 ? 8 : N == 2 ? 4 : N <= 4 ? 2 : 1;  // hide the latency of an addition
  constexpr int64_t step = chains * width, ahead = 4096 / sizeof(Row);
  for (int64_t first = 0; first < rows; first += width) {
    // Sums over the lanes wait for each other, so they are taken for many rows at once.
    Vec totals[N][width] = {};
    const int64_t n = smaller(width, rows - first);
    for (int64_t r = 0; r < n; ++r, weight += depth) {
      Vec sums[N][chains] = {};
      int64_t k = 0;
      for (; k + step <= depth; k += step)
#pragma GCC unroll 8
        for (int c = 0; c < chains; ++c) {
          const Vec w = load(weight + k + c * width);
          __builtin_prefetch(weight + k + c * width + ahead);
#pragma GCC unroll 8
          for (int t = 0; t < N; ++t) multiplyAdd(sums[t][c], w, load(x + t * depth + k + c * width));
        }
      for (; k < depth; k += width) {
        const Vec w = loadWords(weight + k, depth - k);
        for (int t = 0; t < N; ++t) multiplyAdd(sums[t][0], w, loadWords(x + t * depth + k, depth - k));
      }
      for (int t = 0; t < N; ++t) {
        totals[t][r] = sums[t][0];
        for (int c = 1; c < chains; ++c) totals[t][r] += sums[t][c];
      }
    }
    for (int t = 0; t < N; ++t) {
      const Vec product = sumEach(totals[t]);
      float* to = out + t * stride + first;
      if (n == width)
        store(to, bias ? product + load(bias + first) : product);
      else
        storePart(to, n, bias ? product + loadPart(bias + first, n) : product);
    }
  }
}

template <class Row, class Word>
void multiplyFew(const Row* weight, int64_t rows, int64_t depth, const Word* x, int tokens, const float* bias,
                 float* out, int64_t stride) {
  static_assert(fewTokens == 8);
  constexpr decltype(&multiplyTokens<1, Row, Word>) byTokens[] = {
      multiplyTokens<1, Row, Word>, multiplyTokens<2, Row, Word>, multiplyTokens<3, Row, Word>,
      multiplyTokens<4, Row, Word>, multiplyTokens<5, Row, Word>, multiplyTokens<6, Row, Word>,
      multiplyTokens<7, Row, Word>, multiplyTokens<8, Row, Word>};
  byTokens[tokens - 1](weight, rows, depth, x, bias, out, stride);
}

}  // namespace

}  // namespace moe::cpu
