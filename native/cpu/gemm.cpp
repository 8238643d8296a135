// The scratch memory of the stage, and how rows are divided. The kernels are in simd/gemm.cpp.
#include "gemm.h"

#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace moe::cpu {

// ------------------------------------------------------------------------------------------------ scratch

namespace {

constexpr std::align_val_t pageAlignment{size_t{2} << 20};

}  // namespace

float* Scratch::reserve(int64_t floats) {
  if (floats > floats_) {
    release();
    const size_t bytes = static_cast<size_t>(floats) * sizeof(float);
    block_ = static_cast<float*>(::operator new(bytes, pageAlignment));
    floats_ = floats;
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    madvise(block_, bytes, MADV_HUGEPAGE);
#endif
  }
  return block_;
}

void Scratch::release() {
  if (block_) ::operator delete(block_, pageAlignment);
  block_ = nullptr;
  floats_ = 0;
}

// ------------------------------------------------------------------------------------------------ division of the rows

std::vector<TokenChunk> tokenChunks(const RowGroups& groups, int64_t maximum, int lanes) {
  std::vector<TokenChunk> chunks;
  for (int group = 0; group < groups.count; ++group) {
    const int64_t begin = groups.begin(group), rows = groups.begin(group + 1) - begin;
    const int64_t panels = ceilDiv(rows, lanes);
    const int64_t pieces = ceilDiv(rows, maximum);
    for (int64_t piece = 0; piece < pieces; ++piece) {
      const int64_t from = panels * piece / pieces * lanes;
      const int64_t to = std::min(panels * (piece + 1) / pieces * lanes, rows);
      chunks.push_back({group, begin + from, static_cast<int>(to - from)});
    }
  }
  return chunks;
}

std::vector<Wave> waves(const RowGroups& groups, int64_t maximum) {
  std::vector<Wave> waves;
  int64_t room = 0;
  for (int group = 0; group < groups.count; ++group) {
    const int64_t begin = groups.begin(group), end = groups.begin(group + 1);
    for (int64_t row = begin; row < end;) {
      const int64_t rest = end - row;
      // A group that fits one wave is not cut.
      if (room == 0 || (rest > room && rest <= maximum)) {
        waves.push_back({row, 0, {}});
        room = maximum;
      }
      const int64_t rows = std::min(rest, room);
      waves.back().parts.push_back({group, row, rows, row == begin});
      waves.back().rows += rows;
      room -= rows;
      row += rows;
    }
  }
  return waves;
}

// ------------------------------------------------------------------------------------------------ products

void projectTransposed(const GemmKernels& gemm, const TokenChunk& chunk, const float* x, int64_t depth,
                       const float* weight, const float* bias, int64_t from, int64_t to, float* stage, float* output,
                       int64_t stride) {
  for (int64_t row = from; row < to; row += rowBlock) {
    const int64_t rows = std::min(rowBlock, to - row);
    multiplyWeight(gemm, chunk, x, depth, weight + row * depth, bias ? bias + row : nullptr, rows, stage,
                   rowBlock * gemm.lanes);
    gemm.unpackTransposed(stage, rowBlock * gemm.lanes, chunk.count, rows, output + row, stride);
  }
}

void multiplyWeight(const GemmKernels& gemm, const TokenChunk& chunk, const float* x, int64_t depth,
                    const float* weight, const float* bias, int64_t rows, float* out, int64_t outPanel) {
  GemmProduct product{};
  product.rows = rows;
  product.columns = chunk.count;
  product.depth = depth;
  product.left = Left::Rows;
  product.a = weight;
  product.aRow = depth;
  product.b = x;
  product.bPanel = depth * gemm.lanes;
  product.c = out;
  product.cRow = gemm.lanes;
  product.cPanel = outPanel;
  product.cPadded = true;
  product.rowBias = bias;
  product.rowsOutside = true;
  gemm.multiply(product);
}

void weightGradient(const GemmKernels& gemm, const PanelMatrix& left, int64_t rows, const PanelMatrix& right,
                    int64_t columns, int64_t depth, float* gradient, int64_t stride, bool accumulate) {
  GemmProduct product{};
  product.rows = rows;
  product.columns = columns;
  product.left = Left::PanelColumns;
  product.aPanel = left.panel;
  product.bPanel = right.panel;
  product.c = gradient;
  product.cRow = stride;
  product.cPanel = gemm.lanes;
  product.rowsOutside = rows > columns;
  for (int64_t k = 0; k < depth; k += depthBlock) {
    product.depth = std::min(depthBlock, depth - k);
    product.a = left.data + k * gemm.lanes;
    product.b = right.data + k * gemm.lanes;
    product.accumulate = accumulate || k > 0;
    gemm.multiply(product);
  }
}

void inputGradient(const GemmKernels& gemm, GemmProduct left, const float* weight, int64_t stride, int64_t columns,
                   float* copy, float* gradient, bool accumulate) {
  const int64_t depth = left.depth;
  const float* a = left.a;
  left.columns = columns;
  left.b = copy;
  left.bPanel = depthBlock * gemm.lanes;
  left.c = gradient;
  left.cRow = stride;
  left.cPanel = gemm.lanes;
  left.rowsOutside = true;
  for (int64_t k = 0; k < depth; k += depthBlock) {
    left.depth = std::min(depthBlock, depth - k);
    left.a = left.left == Left::Rows ? a + k : a + k / gemm.lanes * left.aPanel;
    left.accumulate = accumulate || k > 0;
    gemm.packPanels(weight + k * stride, stride, nullptr, left.depth, columns, copy, left.bPanel);
    gemm.multiply(left);
  }
}

}  // namespace moe::cpu
