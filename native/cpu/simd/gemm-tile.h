// The register tile of a Product for the instruction set MOE_ISA: its shape, the vectors, and the function that
// computes one tile. Included by gemm-product.h alone; everything has internal linkage.
#pragma once

#include <cstdint>
#include <utility>

#include "gemm.h"
#include "vec.h"

namespace moe::cpu {

namespace {

using namespace MOE_ISA;

/// The register tile: `rows[v-1]` rows by v vectors for panels of v vectors, at most `vectors`.
struct Shape {
  int vectors;  // of a whole panel
  int rows[4];
};

#if defined(MOE_ISA_avx512)
constexpr Shape shape = {4, {12, 12, 8, 6}};
#elif defined(MOE_ISA_avx2)
constexpr Shape shape = {2, {8, 6}};
#elif defined(MOE_ISA_neon)
constexpr Shape shape = {4, {12, 12, 8, 6}};
#else
constexpr Shape shape = {2, {8, 4}};
#endif

constexpr int width = vecLanes;
constexpr int lanes = width * shape.vectors;
constexpr int maxRows = 12;

inline __attribute__((always_inline)) int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/// Emits nothing, but keeps `v` in its register: g++ would otherwise reload operands and spill accumulators.
inline __attribute__((always_inline)) void pin(Vec& v) {
#if defined(__aarch64__)
  asm("" : "+w"(v));
#elif defined(__AVX512F__)
  asm("" : "+v"(v));
#elif defined(__x86_64__) && !defined(MOE_ISA_avx512)
  asm("" : "+x"(v));
#else
  (void)v;
#endif
}

/// A word in every lane, and sum += left·right.
inline __attribute__((always_inline)) float spread(const float* word) { return *word; }
inline __attribute__((always_inline)) void multiplyAdd(Vec& sum, float left, Vec right) { sum += left * right; }
#if !defined(__AVX512BF16__)
inline __attribute__((always_inline)) void multiplyAdd(Vec& sum, Vec left, Vec right) { sum += left * right; }
#endif

#if defined(__AVX512BF16__)
inline __attribute__((always_inline)) Vec spread(const BFloat16Pair* word) {
  return (Vec)_mm512_set1_epi32(__builtin_bit_cast(int32_t, *word));
}
inline __attribute__((always_inline)) void multiplyAdd(Vec& sum, Vec left, Vec right) {
  sum = (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)left, (__m512bh)right);
}
#endif

/// One register tile of a Product; pointers are those of its first element.
template <class Word>
struct Tile {
  const Word* a;
  int64_t aRow, aPanel;
  const int32_t* aIndex;
  const Word* b;
  int64_t depth;
  float* c;
  int64_t cRow;
  bool accumulate;
  const float* rowBias;
};

template <int R, int V, int aStep, class Word>
inline __attribute__((always_inline)) void step(Vec (&acc)[R][V], const Word* const (&a)[R], int64_t k, const Word* b) {
  Vec right[V];
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) {
    right[v] = load(b + v * width);
    pin(right[v]);
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
    const auto left = spread(a[r] + k * aStep);
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      multiplyAdd(acc[r][v], left, right[v]);
      pin(acc[r][v]);
    }
  }
}

/// Steps [0, n) of the depth, n a multiple of 4 with `fours`; b moves on. Meanwhile what lies `ahead` words after A is
/// fetched, unless that is 0.
template <int R, int V, int aStep, bool fours, class Word>
inline __attribute__((always_inline)) void steps(Vec (&acc)[R][V], const Word* const (&a)[R], int64_t n, const Word*& b,
                                                 int64_t ahead) {
  int64_t k = 0;
  if (ahead)
    for (; k + 16 <= n; k += 16) {
#pragma GCC unroll 12
      for (int r = 0; r < R; ++r) __builtin_prefetch(a[r] + k + ahead);
#pragma GCC unroll 1
      for (int64_t end = k + 16, j = k; j < end; j += 4, b += 4 * lanes)
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) step<R, V, aStep>(acc, a, j + i, b + i * lanes);
    }
  for (; k + 4 <= n; k += 4, b += 4 * lanes)
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) step<R, V, aStep>(acc, a, k + i, b + i * lanes);
  if constexpr (!fours)
    for (; k < n; ++k, b += lanes) step<R, V, aStep>(acc, a, k, b);
}

template <class Word, int R, int V, Left left>
void multiplyTile(const Tile<Word>& t) {
  constexpr int aStep = left == Left::PanelColumns ? lanes : 1;
  constexpr int aLanes = lanes / perWord<Word>;
  Vec acc[R][V];
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      const Vec zero = {};
      acc[r][v] = t.accumulate ? load(t.c + r * t.cRow + v * width) : t.rowBias ? zero + t.rowBias[r] : zero;
    }

  // Where the result goes is fetched while the sums run.
  if (!t.accumulate)
    for (int r = 0; r < R; ++r)
      for (int i = 0; i < V * width; i += 16) __builtin_prefetch(t.c + r * t.cRow + i, 1);

  const Word* a[R];
  if (left == Left::Rows && t.aIndex)
    for (int r = 0; r < R; ++r) a[r] = t.a + t.aIndex[r] * t.aRow;
  else
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) a[r] = t.a + r * (left == Left::Rows ? t.aRow : left == Left::PanelRows ? aLanes : 1);
  const Word* b = t.b;
  int64_t rest = t.depth;
  if (left == Left::PanelRows)
    for (; rest >= aLanes; rest -= aLanes) {
      // The next panel's part of these rows; that of the next rows after the last.
      steps<R, V, aStep, true>(acc, a, aLanes, b, rest >= 2 * aLanes ? t.aPanel : 0);
#pragma GCC unroll 12
      for (int r = 0; r < R; ++r) a[r] += t.aPanel;
    }
  steps<R, V, aStep, false>(acc, a, rest, b, left == Left::Rows && !t.aIndex ? R * t.aRow : 0);

#pragma GCC unroll 12
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(t.c + r * t.cRow + v * width, acc[r][v]);
}

template <class Word>
using TileFunction = void (*)(const Tile<Word>&);

/// The tiles of one layout of A, by vectors - 1 and rows - 1.
template <class Word, Left left>
struct Tiles {
  struct ByRows {
    TileFunction<Word> of[maxRows];
  };

  template <int V, int... R>
  static constexpr ByRows row(std::integer_sequence<int, R...>) {
    return {{multiplyTile<Word, R + 1, V, left>...}};
  }

  template <int... V>
  struct Table {
    static constexpr ByRows byVecs[] = {row<V + 1>(std::make_integer_sequence<int, shape.rows[V]>())...};
  };

  template <int... V>
  static constexpr const ByRows* table(std::integer_sequence<int, V...>) {
    return Table<V...>::byVecs;
  }

  static constexpr const ByRows* byVecs = table(std::make_integer_sequence<int, shape.vectors>());
};

}  // namespace

}  // namespace moe::cpu
