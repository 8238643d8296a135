// The scratch memory of the stage, and how rows are divided. The kernels are in simd/gemm.cpp.
#include "gemm.h"

#include <new>
#include <utility>

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

namespace {

/// As it is, or its float32 form at `wide`.
template <class T>
const float* widened(const PackKernels<T>& kernels, const T* from, int64_t n, float* wide) {
  if constexpr (std::is_same_v<T, float>) {
    return from;
  } else {
    kernels.widen(from, n, wide);
    return wide;
  }
}

}  // namespace

template <class T>
void multiplyWeight(const GemmKernels& gemm, const TokenChunk& chunk, const float* x, int64_t depth, const T* weight,
                    const T* bias, int64_t rows, const WeightBuffers& buffers, float* out, int64_t outPanel) {
  const PackKernels<T>& kernels = gemm.of<T>();
  const int64_t block = std::is_same_v<T, float> ? rows : widenRows;
  float wideBias[rowBlock];
  const float* rowBias = bias ? widened(kernels, bias, rows, wideBias) : nullptr;
  GemmProduct product{};
  product.columns = chunk.count;
  product.depth = depth;
  product.left = Left::Rows;
  product.aRow = depth;
  product.b = x;
  product.bPanel = depth * gemm.lanes;
  product.cRow = gemm.lanes;
  product.cPanel = outPanel;
  product.cPadded = true;
  product.rowsOutside = true;
  for (int64_t row = 0; row < rows; row += block) {
    product.rows = std::min(block, rows - row);
    product.a = widened(kernels, weight + row * depth, product.rows * depth, buffers.wide);
    product.c = out + row * gemm.lanes;
    product.rowBias = rowBias ? rowBias + row : nullptr;
    gemm.multiply(product);
  }
}

template <class T>
void projectTransposed(const GemmKernels& gemm, const TokenChunk& chunk, const float* x, int64_t depth, const T* weight,
                       const T* bias, int64_t from, int64_t to, const WeightBuffers& buffers, T* output,
                       int64_t stride) {
  for (int64_t row = from; row < to; row += rowBlock) {
    const int64_t rows = std::min(rowBlock, to - row);
    multiplyWeight(gemm, chunk, x, depth, weight + row * depth, bias ? bias + row : nullptr, rows, buffers,
                   buffers.stage, rowBlock * gemm.lanes);
    gemm.of<T>().unpackTransposed(buffers.stage, rowBlock * gemm.lanes, chunk.count, rows, output + row, stride);
  }
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

template <class T>
void inputGradient(const GemmKernels& gemm, std::initializer_list<InputTerm<T>> terms, int64_t rows, int64_t depth,
                   int64_t columns, const InputBuffers& buffers, T* gradient, int64_t stride) {
  float* sums = buffers.sums;
  int64_t sumsRow = wideColumnBlock;
  if constexpr (std::is_same_v<T, float>) {
    sums = gradient;
    sumsRow = stride;
  }
  bool accumulate = false;
  for (const InputTerm<T>& term : terms) {
    GemmProduct product = term.left;
    product.rows = rows;
    product.columns = columns;
    product.b = buffers.copy;
    product.bPanel = depthBlock * gemm.lanes;
    product.c = sums;
    product.cRow = sumsRow;
    product.cPanel = gemm.lanes;
    product.rowsOutside = true;
    for (int64_t k = 0; k < depth; k += depthBlock) {
      product.depth = std::min(depthBlock, depth - k);
      product.a = term.left.a + (product.left == Left::Rows ? k : k / gemm.lanes * product.aPanel);
      product.accumulate = std::exchange(accumulate, true);
      gemm.of<T>().packPanels(term.weight + k * stride, stride, nullptr, product.depth, columns, buffers.copy,
                              product.bPanel);
      gemm.multiply(product);
    }
  }
  if constexpr (!std::is_same_v<T, float>)
    for (int64_t r = 0; r < rows; ++r) gemm.of<T>().round(sums + r * sumsRow, columns, gradient + r * stride);
}

#define MOE_PRODUCTS(T)                                                                                                \
  template void multiplyWeight<T>(const GemmKernels&, const TokenChunk&, const float*, int64_t, const T*, const T*,    \
                                  int64_t, const WeightBuffers&, float*, int64_t);                                     \
  template void projectTransposed<T>(const GemmKernels&, const TokenChunk&, const float*, int64_t, const T*, const T*, \
                                     int64_t, int64_t, const WeightBuffers&, T*, int64_t);                             \
  template void inputGradient<T>(const GemmKernels&, std::initializer_list<InputTerm<T>>, int64_t, int64_t, int64_t,   \
                                 const InputBuffers&, T*, int64_t);
MOE_PRODUCTS(float)
MOE_PRODUCTS(BFloat16)
MOE_PRODUCTS(Float16)

}  // namespace moe::cpu
