// AVX512_BF16.
#include <immintrin.h>

#include "../simd/gemm-few.h"
#include "../simd/gemm-pack.h"
#include "../simd/gemm-product.h"
#include "dot.h"

namespace moe::cpu {

namespace {

constexpr int chains = 24;

float multiplyAdd(int64_t rounds) {
  const auto x = (__m512bh)_mm512_set1_epi32(0x3f803f80);  // 1, 1
  const auto y = (__m512bh)_mm512_set1_epi32(0x38003800);  // 2^-15 twice: no sum overflows
  __m512 sums[chains];
#pragma GCC unroll 24
  for (int chain = 0; chain < chains; ++chain) sums[chain] = _mm512_setzero_ps();
  for (int64_t i = 0; i < rounds; ++i)
#pragma GCC unroll 24
    for (int chain = 0; chain < chains; ++chain) {
      sums[chain] = _mm512_dpbf16_ps(sums[chain], x, y);
      asm("" : "+v"(sums[chain]));  // keeps it in its register
    }
  float total = 0;
#pragma GCC unroll 24
  for (int chain = 0; chain < chains; ++chain) total += MOE_ISA::sum((Vec)sums[chain]);
  return total;
}

// ------------------------------------------------------------------------------------------------ words

/// from, from + distance, from + 1, from + 1 + distance, ...: two runs of elements by turns.
inline __m512i byTurns(int from, int distance) {
  alignas(64) uint16_t index[2 * width];
  for (int i = 0; i < width; ++i) {
    index[2 * i] = static_cast<uint16_t>(from + i);
    index[2 * i + 1] = static_cast<uint16_t>(from + i + distance);
  }
  return _mm512_load_si512(index);
}

void pairRows(const BFloat16* input, int64_t stride, const int32_t* index, int64_t count, int64_t columns,
              BFloat16Pair* out, int64_t panel) {
  constexpr int64_t perVector = 2 * width;  // elements of a vector
  const __m512i low = byTurns(0, perVector), high = byTurns(width, perVector);
  const auto rowAt = [&](int64_t r) { return input + (index ? index[r] : r) * stride; };
  for (int64_t r = 0; r < count; r += 2, out += lanes) {
    const bool both = r + 1 < count;
    const BFloat16 *first = rowAt(r), *second = both ? rowAt(r + 1) : first;
    if (!index)
      for (int64_t i = 0; i < columns; i += 32) {
        __builtin_prefetch(first + 12 * stride + i);
        __builtin_prefetch(second + 12 * stride + i);
      }
    for (int64_t column = 0; column < columns; column += perVector) {
      const int64_t rest = columns - column;
      const __mmask32 used = rest >= perVector ? ~0u : (1u << rest) - 1;
      const __m512i a = _mm512_maskz_loadu_epi16(used, first + column);
      const __m512i b = _mm512_maskz_loadu_epi16(both ? used : 0, second + column);
      BFloat16Pair* to = out + column / lanes * panel + column % lanes;
      store(to, (Vec)_mm512_permutex2var_epi16(a, low, b));
      if (rest > width) store(to + width, (Vec)_mm512_permutex2var_epi16(a, high, b));
    }
  }
}

/// The elements of `low`, then those of `high`.
inline __m512i rounded(Vec low, Vec high) { return (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low); }

void roundToPairs(const float* panel, int64_t rows, BFloat16Pair* out) {
  const __m512i order = byTurns(0, width);
  for (int64_t r = 0; r < rows; r += 2, out += lanes)
#pragma GCC unroll 4
    for (int v = 0; v < shape.vectors; ++v) {
      const Vec first = load(panel + r * lanes + v * width);
      const Vec second = r + 1 < rows ? load(panel + (r + 1) * lanes + v * width) : Vec{};
      store(out + v * width, (Vec)_mm512_permutexvar_epi16(order, rounded(first, second)));
    }
}

void round(const float* panel, int64_t rows, BFloat16Pair* out) {
  for (int64_t i = 0; i < rows * lanes; i += 2 * width)
    store(out + i / 2, (Vec)rounded(load(panel + i), load(panel + i + width)));
}

}  // namespace

extern const DotKernels dotKernels_avx512;
constinit const DotKernels dotKernels_avx512 = {
    multiplyAdd,
    int64_t{chains} * width * 4,
    multiply<BFloat16Pair>,
    packWords<BFloat16Pair, BFloat16Pair>,
    pairRows,
    roundToPairs,
    multiplyFew<BFloat16Pair, BFloat16Pair>,
    round,
};

}  // namespace moe::cpu
