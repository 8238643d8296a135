// What dot products of bfloat16 pairs are for: one instruction adds two products to each float32 sum, twice the work of
// a multiply-add. Compiled once, for the instructions of its own (CMakeLists.txt), and used where the machine has them,
// beside the GemmKernels of the same width and lanes.
//
// Both operands of a product are then words of two elements along its depth. A row of bfloat16 in memory is words
// already where the depth runs along it; where it runs across rows, neighbouring rows are interleaved.
#pragma once

#include <cstdint>

#include "../simd/gemm.h"

namespace moe::cpu {

struct DotKernels {
  /// `rounds` times a fixed block of independent dot products on registers; the result keeps them alive.
  float (*multiplyAdd)(int64_t rounds);
  int64_t flopsPerRound;

  /// Subnormal elements count as 0, and so do subnormal sums.
  void (*multiply)(const Product<BFloat16Pair>&);

  /// out panels [⌈count/lanes⌉][depth][lanes] of the words of rows, as PackKernels::packTransposed; stride and depth
  /// count words.
  void (*packTransposed)(const BFloat16Pair* input, int64_t stride, const int32_t* index, int count, int64_t depth,
                         BFloat16Pair* out);

  /// out panels [⌈columns/lanes⌉][⌈count/2⌉][lanes]: rows 2i and 2i + 1 interleaved, as PackKernels::packPanels; after
  /// an odd last row comes one of zeros.
  void (*pairRows)(const BFloat16* input, int64_t stride, const int32_t* index, int64_t count, int64_t columns,
                   BFloat16Pair* out, int64_t panel);

  /// The same of the rows [rows][lanes] of one float32 panel, rounded to nearest even; subnormals become 0.
  void (*roundToPairs)(const float* panel, int64_t rows, BFloat16Pair* out);

  /// As PackKernels::multiplyFew; depth counts words.
  void (*multiplyFew)(const BFloat16Pair* weight, int64_t rows, int64_t depth, const BFloat16Pair* x, int tokens,
                      const float* bias, float* out, int64_t stride);

  /// The rows [rows][lanes] of one float32 panel, rounded likewise: [rows][lanes/2].
  void (*round)(const float* panel, int64_t rows, BFloat16Pair* out);
};

}  // namespace moe::cpu
