// The host side of the grouped products: how rows are divided among workers, and the products in blocks that suit the
// caches. What the experts do with them is in experts-*.cpp; the kernels are in simd/ and dot/.
//
// Every division follows from shapes and routing alone, and every element is one chain of additions (simd/gemm.h), so
// that results have the same bits with any number of threads.
//
// Products are taken by one of two kinds of Math. Widened<T>, T being the type of the elements of activations and
// weights, multiplies float32: panels hold it, and weights of 16 bits are widened a block at a time. Paired multiplies
// bfloat16 by dot products, two elements at a time: panels hold pairs of neighbours along the depth, and rows of
// weights are operands as they stand. Sums are float32 in both.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <span>
#include <type_traits>
#include <vector>

#include "dot/dot.h"
#include "element.h"
#include "scratch.h"
#include "simd/gemm.h"

namespace moe::cpu {

constexpr int64_t widenRows = 24;    // weight rows widened at a time: whole tiles of every shape
constexpr int64_t rowBlock = 96;     // weight rows per pass over a chunk: whole tiles of every shape, whole cache lines
constexpr int64_t depthBlock = 256;  // words of the products whose right operand is copied: a panel of it fits L1
constexpr int64_t columnBlock = 64;  // features of one item of the backward; a multiple of every panel
constexpr int64_t wideColumnBlock = 128;   // the same where the depth is blocked
constexpr int64_t cacheFloats = 96 << 10;  // what a chunk's panels may take of an L2 cache
constexpr int64_t waveFloats = 3 << 20;    // what the buffers of a wave of a backward may take: a share of an L3 cache

constexpr int64_t ceilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t roundUp(int64_t a, int64_t b) { return ceilDiv(a, b) * b; }

// ------------------------------------------------------------------------------------------------ kinds of products

template <class T>
struct Widened {
  using Element = T;
  using Word = float;
  static constexpr bool pairs = false;
  static constexpr bool widens = !std::is_same_v<T, float>;

  const GemmKernels& gemm;

  static int64_t words(int64_t elements) { return elements; }
  void multiply(const Product<float>& product) const { gemm.multiply(product); }

  /// Panels with rows along the lanes, and across them: see PackKernels.
  void packTransposed(const T* input, int64_t stride, const int32_t* index, int count, int64_t depth,
                      float* out) const {
    gemm.of<T>().packTransposed(input, stride, index, count, depth, out);
  }
  void packRows(const T* input, int64_t stride, const int32_t* index, int64_t count, int64_t columns, float* out,
                int64_t panel) const {
    gemm.of<T>().packPanels(input, stride, index, count, columns, out, panel);
  }

  /// x [count][depth]: rows side by side.
  void packFew(const T* input, int64_t stride, const int32_t* index, int count, int64_t depth, float* x) const {
    for (int i = 0; i < count; ++i) gemm.of<T>().widen(input + (index ? index[i] : i) * stride, depth, x + i * depth);
  }
  void multiplyFew(const T* weight, int64_t rows, int64_t depth, const float* x, int tokens, const float* bias,
                   float* out, int64_t stride) const {
    gemm.of<T>().multiplyFew(weight, rows, depth, x, tokens, bias, out, stride);
  }
  /// n features of a token from `feature` on become part of its row of an operand.
  static void putFew(const float* features, int64_t n, float* row, int64_t feature) {
    std::copy_n(features, n, row + feature);
  }

  /// n elements of rows as a left operand; `wide` has room for them where they are widened.
  const float* rows(const T* from, int64_t n, float* wide) const {
    if constexpr (widens) {
      gemm.of<T>().widen(from, n, wide);
      return wide;
    } else {
      return from;
    }
  }
};

/// For rows of an even number of elements.
struct Paired {
  using Element = BFloat16;
  using Word = BFloat16Pair;
  static constexpr bool pairs = true;
  static constexpr bool widens = false;

  const GemmKernels& gemm;
  const DotKernels& dot;

  /// The last of an odd number of rows is paired with zeros.
  static int64_t words(int64_t elements) { return (elements + 1) / 2; }
  void multiply(const Product<BFloat16Pair>& product) const { dot.multiply(product); }

  void packTransposed(const BFloat16* input, int64_t stride, const int32_t* index, int count, int64_t depth,
                      BFloat16Pair* out) const {
    dot.packTransposed(rows(input), stride / 2, index, count, depth / 2, out);
  }
  void packRows(const BFloat16* input, int64_t stride, const int32_t* index, int64_t count, int64_t columns,
                BFloat16Pair* out, int64_t panel) const {
    dot.pairRows(input, stride, index, count, columns, out, panel);
  }

  void packFew(const BFloat16* input, int64_t stride, const int32_t* index, int count, int64_t depth,
               BFloat16Pair* x) const {
    for (int i = 0; i < count; ++i)
      std::memcpy(x + i * depth / 2, input + (index ? index[i] : i) * stride, depth * sizeof(BFloat16));
  }
  void multiplyFew(const BFloat16* weight, int64_t rows, int64_t depth, const BFloat16Pair* x, int tokens,
                   const float* bias, float* out, int64_t stride) const {
    dot.multiplyFew(Paired::rows(weight), rows, depth / 2, x, tokens, bias, out, stride);
  }
  void putFew(const float* features, int64_t n, BFloat16Pair* row, int64_t feature) const {
    gemm.bfloat16.round(features, n, reinterpret_cast<BFloat16*>(row) + feature);
  }

  static const BFloat16Pair* rows(const BFloat16* from, int64_t = 0, float* = nullptr) {
    return reinterpret_cast<const BFloat16Pair*>(from);
  }
};

/// body(math) with the fastest there is for rows of these widths.
template <class Body>
void withMath(DType dtype, const GemmKernels& gemm, const DotKernels* dot, std::initializer_list<int> widths,
              Body&& body) {
  const bool even = std::all_of(widths.begin(), widths.end(), [](int width) { return width % 2 == 0; });
  if (dtype == DType::BFloat16 && dot && even) return body(Paired{gemm, *dot});
  withElement(dtype, [&]<class T>() { body(Widened<T>{gemm}); });
}

// ------------------------------------------------------------------------------------------------ division of the rows

/// Rows grouped by expert; offsets null: one group of all rows.
struct RowGroups {
  int count;
  int64_t rows;
  const int32_t* offsets;  // [count+1] or null

  int64_t begin(int group) const { return offsets ? offsets[group] : group * rows; }
  int64_t size(int group) const { return begin(group + 1) - begin(group); }
};

/// Who takes which groups. A group that is taken whole by one worker stays in the caches of its core: fetching what
/// another core has written is several times slower than reading one's own. The others are cut into items that all
/// workers take, after the whole ones, so that they finish together.
struct Shares {
  std::vector<int> whole, cut;  // groups with rows; whole: the largest first
};

Shares shareGroups(const RowGroups& groups, int threads);

/// Neighbouring rows of one expert that sit in the vector lanes together; few of them stay rows.
struct TokenChunk {
  int expert;
  int64_t row;
  int count;

  bool few() const { return count <= fewTokens; }
};

/// The chunks of some of the groups, one after the other: at most `maximum` rows each, a multiple of lanes, as even as
/// whole panels allow.
std::vector<TokenChunk> tokenChunks(const RowGroups& groups, std::span<const int> chosen, int64_t maximum, int lanes);

/// Rows per chunk so that panels of that depth stay in a cache.
inline int64_t chunkLanes(int64_t depth, int lanes) {
  return std::clamp(roundUp(cacheFloats / depth - lanes / 2, lanes), roundUp(32, lanes), roundUp(96, lanes));
}

/// Neighbouring rows of one expert within a wave.
struct Part {
  int expert;
  int64_t row, rows;
  int64_t at;  // of its rows in the wave's buffers: even, so that pairs of rows stay within a part
  bool first;  // holds the first row of its expert
};

/// What the backward takes in one go: parts of different experts, at most as many rows as its buffers hold.
struct Wave {
  int64_t rows;  // in its buffers: those of every part, made even
  std::vector<Part> parts;
};

/// The waves of some of the groups. How a group is cut into parts follows from its rows and `maximum` alone.
std::vector<Wave> waves(const RowGroups& groups, std::span<const int> chosen, int64_t maximum);

inline int64_t waveRows(int64_t floatsPerRow) {
  return std::clamp<int64_t>(waveFloats / floatsPerRow, depthBlock, 16 * depthBlock);
}

// ------------------------------------------------------------------------------------------------ products

/// A matrix in panels.
template <class Word>
struct PanelMatrix {
  const Word* data;
  int64_t panel;  // distance of the panels
};

/// What a worker needs for the products with rows of weights.
struct WeightBuffers {
  float* stage;  // [panels][rowBlock][lanes] a product on its way to rows; of few tokens [tokens][rowBlock]
  float* wide;   // [widenRows][depth] weights in float32; null when they are operands as they stand
};

template <class Math>
WeightBuffers carveWeightBuffers(Carver& carver, int64_t maximumLanes, int64_t maximumDepth) {
  return {carver.take(rowBlock * maximumLanes), Math::widens ? carver.take(widenRows * maximumDepth) : nullptr};
}

/// The tokens of a chunk, row(i) = input + (index ? index[i] : i)·stride, as the operand x of a product with weights:
/// panels of [words of depth][lanes], or of few tokens rows [words of depth].
template <class Math>
void packTokens(const Math& math, const TokenChunk& chunk, const typename Math::Element* input, int64_t stride,
                const int32_t* index, int64_t depth, typename Math::Word* x) {
  if (chunk.few())
    math.packFew(input, stride, index, chunk.count, depth, x);
  else
    math.packTransposed(input, stride, index, chunk.count, depth, x);
}

/// out panels [rows][lanes] at distance outPanel = weight [rows, depth] · x + bias, at most rowBlock rows; x as of
/// packTokens(), not of few tokens.
template <class Math>
void multiplyWeight(const Math& math, const TokenChunk& chunk, const typename Math::Word* x, int64_t depth,
                    const typename Math::Element* weight, const typename Math::Element* bias, int64_t rows,
                    const WeightBuffers& buffers, float* out, int64_t outPanel);

/// The same of few tokens, at most rowBlock rows: out [tokens][outRow].
template <class Math>
void multiplyFew(const Math& math, const TokenChunk& chunk, const typename Math::Word* x, int64_t depth,
                 const typename Math::Element* weight, const typename Math::Element* bias, int64_t rows, float* out,
                 int64_t outRow);

/// Columns [from, to) of output [chunk.count, stride] = (weight [·, depth] · x + bias)ᵀ.
template <class Math>
void projectTransposed(const Math& math, const TokenChunk& chunk, const typename Math::Word* x, int64_t depth,
                       const typename Math::Element* weight, const typename Math::Element* bias, int64_t from,
                       int64_t to, const WeightBuffers& buffers, typename Math::Element* output, int64_t stride);

/// gradient [rows, stride], `columns` of it, (+)= leftᵀ·right over `depth` words.
template <class Math>
void weightGradient(const Math& math, const PanelMatrix<typename Math::Word>& left, int64_t rows,
                    const PanelMatrix<typename Math::Word>& right, int64_t columns, int64_t depth, float* gradient,
                    int64_t stride, bool accumulate);

/// What a worker needs for the gradients of the inputs of at most `rows` rows.
template <class Word>
struct InputBuffers {
  Word* copy;   // [depthBlock·wideColumnBlock] weights in panels
  float* sums;  // [rows][wideColumnBlock] gradients before they are rounded; null when they are float32
};

template <class Math>
InputBuffers<typename Math::Word> carveInputBuffers(Carver& carver, int64_t rows) {
  return {carver.take<typename Math::Word>(depthBlock * wideColumnBlock),
          std::is_same_v<typename Math::Element, float> ? nullptr : carver.take(rows * wideColumnBlock)};
}

/// A matrix product that is part of the gradient of the inputs: of `left` the fields of A are set.
template <class Math>
struct InputTerm {
  Product<typename Math::Word> left;
  const typename Math::Element* weight;  // [depth, stride]
};

/// gradient [rows, stride], `columns` of it (at most wideColumnBlock), = Σ left·weight over the terms; `depth` rows of
/// weights, whole words of them.
template <class Math>
void inputGradient(const Math& math, std::initializer_list<InputTerm<Math>> terms, int64_t rows, int64_t depth,
                   int64_t columns, const InputBuffers<typename Math::Word>& buffers, typename Math::Element* gradient,
                   int64_t stride);

}  // namespace moe::cpu
