// AVX512_BF16.
#include <immintrin.h>

#include "dot.h"

namespace moe::cpu {

namespace {

constexpr int width = 16, chains = 24;

float multiplyAdd(int64_t rounds) {
  const auto x = (__m512bh)_mm512_set1_epi32(0x3f803f80);  // 1, 1
  const auto y = (__m512bh)_mm512_set1_epi32(0x38003800);  // 2^-15 twice: no sum overflows
  __m512 sums[chains];
  for (__m512& sum : sums) sum = _mm512_setzero_ps();
  for (int64_t i = 0; i < rounds; ++i)
#pragma GCC unroll 24
    for (__m512& sum : sums) {
      sum = _mm512_dpbf16_ps(sum, x, y);
      asm("" : "+v"(sum));  // keeps it in its register
    }
  float lanes[width], total = 0;
  for (const __m512& sum : sums) {
    _mm512_storeu_ps(lanes, sum);
    for (const float lane : lanes) total += lane;
  }
  return total;
}

}  // namespace

extern const DotKernels dotKernels_avx512;
constinit const DotKernels dotKernels_avx512 = {multiplyAdd, int64_t{chains} * width * 4};

}  // namespace moe::cpu
