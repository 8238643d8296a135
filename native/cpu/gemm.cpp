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

Shares shareGroups(const RowGroups& groups, int threads) {
  std::vector<int> bySize;
  int64_t rest = 0;
  for (int group = 0; group < groups.count; ++group) {
    if (groups.size(group) == 0) continue;
    bySize.push_back(group);
    rest += groups.size(group);
  }
  std::stable_sort(bySize.begin(), bySize.end(), [&](int a, int b) { return groups.size(a) > groups.size(b); });
  Shares shares;
  for (const int group : bySize) {
    // More than a worker's part of what is left would keep the others waiting.
    const bool whole = groups.size(group) * threads <= rest;
    if (whole) rest -= groups.size(group);
    (whole ? shares.whole : shares.cut).push_back(group);
  }
  return shares;
}

std::vector<TokenChunk> tokenChunks(const RowGroups& groups, std::span<const int> chosen, int64_t maximum, int lanes) {
  std::vector<TokenChunk> chunks;
  for (const int group : chosen) {
    const int64_t begin = groups.begin(group), rows = groups.size(group);
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

std::vector<Wave> waves(const RowGroups& groups, std::span<const int> chosen, int64_t maximum) {
  std::vector<Wave> waves;
  for (const int group : chosen) {
    const int64_t begin = groups.begin(group), end = groups.begin(group + 1);
    if (begin == end) continue;
    const int64_t size = roundUp(ceilDiv(end - begin, ceilDiv(end - begin, maximum)), 2);
    for (int64_t row = begin; row < end; row += size) {
      const int64_t rows = std::min(size, end - row), room = roundUp(rows, 2);
      // The parts of a group add to the same gradients, one after the other.
      if (row > begin || waves.empty() || waves.back().rows + room > maximum) waves.push_back({0, {}});
      Wave& wave = waves.back();
      wave.parts.push_back({group, row, rows, wave.rows, row == begin});
      wave.rows += room;
    }
  }
  return waves;
}

// ------------------------------------------------------------------------------------------------ products

template <class Math>
void multiplyWeight(const Math& math, const TokenChunk& chunk, const typename Math::Word* x, int64_t depth,
                    const typename Math::Element* weight, const typename Math::Element* bias, int64_t rows,
                    const WeightBuffers& buffers, float* out, int64_t outPanel) {
  using T = typename Math::Element;
  const int64_t lanes = math.gemm.lanes, block = Math::widens ? widenRows : rows;
  float wideBias[rowBlock];
  if (bias) math.gemm.template of<T>().widen(bias, rows, wideBias);
  Product<typename Math::Word> product{};
  product.columns = chunk.count;
  product.depth = math.words(depth);
  product.left = Left::Rows;
  product.aRow = product.depth;
  product.b = x;
  product.bPanel = product.depth * lanes;
  product.cRow = lanes;
  product.cPanel = outPanel;
  product.cPadded = true;
  product.rowsOutside = true;
  for (int64_t row = 0; row < rows; row += block) {
    product.rows = std::min(block, rows - row);
    product.a = math.rows(weight + row * depth, product.rows * depth, buffers.wide);
    product.c = out + row * lanes;
    product.rowBias = bias ? wideBias + row : nullptr;
    math.multiply(product);
  }
}

template <class Math>
void multiplyFew(const Math& math, const TokenChunk& chunk, const typename Math::Word* x, int64_t depth,
                 const typename Math::Element* weight, const typename Math::Element* bias, int64_t rows, float* out,
                 int64_t outRow) {
  float wideBias[rowBlock];
  if (bias) math.gemm.template of<typename Math::Element>().widen(bias, rows, wideBias);
  math.multiplyFew(weight, rows, depth, x, chunk.count, bias ? wideBias : nullptr, out, outRow);
}

template <class Math>
void projectTransposed(const Math& math, const TokenChunk& chunk, const typename Math::Word* x, int64_t depth,
                       const typename Math::Element* weight, const typename Math::Element* bias, int64_t from,
                       int64_t to, const WeightBuffers& buffers, typename Math::Element* output, int64_t stride) {
  using T = typename Math::Element;
  if (chunk.few()) {
    for (int64_t row = from; row < to; row += rowBlock) {
      const int64_t rows = std::min(rowBlock, to - row);
      multiplyFew(math, chunk, x, depth, weight + row * depth, bias ? bias + row : nullptr, rows, buffers.stage,
                  rowBlock);
      for (int i = 0; i < chunk.count; ++i)
        math.gemm.template of<T>().round(buffers.stage + i * rowBlock, rows, output + i * stride + row);
    }
    return;
  }
  const int64_t stagePanel = rowBlock * math.gemm.lanes;
  for (int64_t row = from; row < to; row += rowBlock) {
    const int64_t rows = std::min(rowBlock, to - row);
    multiplyWeight(math, chunk, x, depth, weight + row * depth, bias ? bias + row : nullptr, rows, buffers,
                   buffers.stage, stagePanel);
    math.gemm.template of<T>().unpackTransposed(buffers.stage, stagePanel, chunk.count, rows, output + row, stride);
  }
}

template <class Math>
void weightGradient(const Math& math, const PanelMatrix<typename Math::Word>& left, int64_t rows,
                    const PanelMatrix<typename Math::Word>& right, int64_t columns, int64_t depth, float* gradient,
                    int64_t stride, bool accumulate) {
  const int64_t lanes = math.gemm.lanes;
  Product<typename Math::Word> product{};
  product.rows = rows;
  product.columns = columns;
  product.left = Left::PanelColumns;
  product.aPanel = left.panel;
  product.bPanel = right.panel;
  product.c = gradient;
  product.cRow = stride;
  product.cPanel = lanes;
  product.rowsOutside = rows > columns;
  for (int64_t k = 0; k < depth; k += depthBlock) {
    product.depth = std::min(depthBlock, depth - k);
    product.a = left.data + k * lanes;
    product.b = right.data + k * lanes;
    product.accumulate = accumulate || k > 0;
    math.multiply(product);
  }
}

template <class Math>
void inputGradient(const Math& math, std::initializer_list<InputTerm<Math>> terms, int64_t rows, int64_t depth,
                   int64_t columns, const InputBuffers<typename Math::Word>& buffers, typename Math::Element* gradient,
                   int64_t stride) {
  using T = typename Math::Element;
  using Word = typename Math::Word;
  const int64_t lanes = math.gemm.lanes, words = math.words(depth);
  float* sums = buffers.sums;
  int64_t sumsRow = wideColumnBlock;
  if constexpr (std::is_same_v<T, float>) {
    sums = gradient;
    sumsRow = stride;
  }
  bool accumulate = false;
  for (const InputTerm<Math>& term : terms) {
    Product<Word> product = term.left;
    product.rows = rows;
    product.columns = columns;
    product.b = buffers.copy;
    product.bPanel = depthBlock * lanes;
    product.c = sums;
    product.cRow = sumsRow;
    product.cPanel = lanes;
    product.rowsOutside = true;
    for (int64_t k = 0; k < words; k += depthBlock) {
      product.depth = std::min(depthBlock, words - k);
      product.a = term.left.a + (product.left == Left::Rows ? k : k / (lanes / perWord<Word>)*product.aPanel);
      product.accumulate = std::exchange(accumulate, true);
      math.packRows(term.weight + k * perWord<Word> * stride, stride, nullptr, product.depth * perWord<Word>, columns,
                    buffers.copy, product.bPanel);
      math.multiply(product);
    }
  }
  if constexpr (!std::is_same_v<T, float>)
    for (int64_t r = 0; r < rows; ++r)
      math.gemm.template of<T>().round(sums + r * sumsRow, columns, gradient + r * stride);
}

#define MOE_PRODUCTS(Math)                                                                                             \
  template void multiplyWeight<Math>(const Math&, const TokenChunk&, const Math::Word*, int64_t, const Math::Element*, \
                                     const Math::Element*, int64_t, const WeightBuffers&, float*, int64_t);            \
  template void multiplyFew<Math>(const Math&, const TokenChunk&, const Math::Word*, int64_t, const Math::Element*,    \
                                  const Math::Element*, int64_t, float*, int64_t);                                     \
  template void projectTransposed<Math>(const Math&, const TokenChunk&, const Math::Word*, int64_t,                    \
                                        const Math::Element*, const Math::Element*, int64_t, int64_t,                  \
                                        const WeightBuffers&, Math::Element*, int64_t);                                \
  template void weightGradient<Math>(const Math&, const PanelMatrix<Math::Word>&, int64_t,                             \
                                     const PanelMatrix<Math::Word>&, int64_t, int64_t, float*, int64_t, bool);         \
  template void inputGradient<Math>(const Math&, std::initializer_list<InputTerm<Math>>, int64_t, int64_t, int64_t,    \
                                    const InputBuffers<Math::Word>&, Math::Element*, int64_t);
MOE_PRODUCTS(Widened<float>)
MOE_PRODUCTS(Widened<BFloat16>)
MOE_PRODUCTS(Widened<Float16>)
MOE_PRODUCTS(Paired)

}  // namespace moe::cpu
