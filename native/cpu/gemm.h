// The host side of the grouped products: how rows are divided among workers, and the products in blocks that suit the
// caches. What the experts do with them is in experts.cpp and experts-grouped.cpp; the kernels are in simd/.
//
// Every division follows from shapes and routing alone, and every element is one chain of additions (simd/gemm.h), so
// that results have the same bits with any number of threads.
//
// T is the type of the elements of activations and weights. Panels and products are float32: weights of 16 bits are
// widened a block at a time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <type_traits>
#include <vector>

#include "scratch.h"
#include "simd/gemm.h"

namespace moe::cpu {

constexpr int64_t widenRows = 24;    // weight rows widened at a time: whole tiles of every shape
constexpr int64_t rowBlock = 96;     // weight rows per pass over a chunk: whole tiles of every shape, whole cache lines
constexpr int64_t depthBlock = 256;  // of the products whose right operand is copied: a panel of it fits L1
constexpr int64_t columnBlock = 64;  // features of one item of the backward; a multiple of every panel
constexpr int64_t wideColumnBlock = 128;   // the same where the depth is blocked
constexpr int64_t cacheFloats = 96 << 10;  // what a chunk's panels may take of an L2 cache
constexpr int64_t waveFloats = 6 << 20;    // what the shared buffers of a backward may take

constexpr int64_t ceilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t roundUp(int64_t a, int64_t b) { return ceilDiv(a, b) * b; }

/// Rows grouped by expert; offsets null: one group of all rows.
struct RowGroups {
  int count;
  int64_t rows;
  const int32_t* offsets;  // [count+1] or null

  int64_t begin(int group) const { return offsets ? offsets[group] : group * rows; }
};

/// Neighbouring rows of one expert that sit in the vector lanes together.
struct TokenChunk {
  int expert;
  int64_t row;
  int count;
};

/// Chunks of at most `maximum` rows, a multiple of lanes, as even as whole panels allow.
std::vector<TokenChunk> tokenChunks(const RowGroups& groups, int64_t maximum, int lanes);

/// Rows per chunk so that panels of that depth stay in a cache.
inline int64_t chunkLanes(int64_t depth, int lanes) {
  return std::clamp(roundUp(cacheFloats / depth - lanes / 2, lanes), roundUp(32, lanes), roundUp(96, lanes));
}

/// Neighbouring rows of one expert within a wave.
struct Part {
  int expert;
  int64_t row, rows;
  bool first;  // holds the first row of its expert
};

/// What the backward takes in one go: neighbouring rows, at most as many as its buffers hold.
struct Wave {
  int64_t row, rows;
  std::vector<Part> parts;
};

std::vector<Wave> waves(const RowGroups& groups, int64_t maximum);

inline int64_t waveRows(int64_t floatsPerRow) {
  return std::clamp<int64_t>(waveFloats / floatsPerRow, depthBlock, 16 * depthBlock);
}

/// A matrix in panels.
struct PanelMatrix {
  const float* data;
  int64_t panel;  // distance of the panels
};

/// What a worker needs for the products with rows of weights.
struct WeightBuffers {
  float* stage;  // [panels][rowBlock][lanes] a product on its way to rows
  float* wide;   // [widenRows][depth] weights in float32; null when they are that already
};

template <class T>
WeightBuffers carveWeightBuffers(Carver& carver, int64_t maximumLanes, int64_t maximumDepth) {
  return {carver.take(rowBlock * maximumLanes),
          std::is_same_v<T, float> ? nullptr : carver.take(widenRows * maximumDepth)};
}

/// out panels [rows][lanes] at distance outPanel = weight [rows, depth] · x + bias, at most rowBlock rows; x panels of
/// [depth][lanes] tokens.
template <class T>
void multiplyWeight(const GemmKernels& gemm, const TokenChunk& chunk, const float* x, int64_t depth, const T* weight,
                    const T* bias, int64_t rows, const WeightBuffers& buffers, float* out, int64_t outPanel);

/// Columns [from, to) of output [chunk.count, stride] = (weight [·, depth] · x + bias)ᵀ.
template <class T>
void projectTransposed(const GemmKernels& gemm, const TokenChunk& chunk, const float* x, int64_t depth, const T* weight,
                       const T* bias, int64_t from, int64_t to, const WeightBuffers& buffers, T* output,
                       int64_t stride);

/// gradient [rows, stride], `columns` of it, (+)= leftᵀ·right over `depth` rows of both.
void weightGradient(const GemmKernels& gemm, const PanelMatrix& left, int64_t rows, const PanelMatrix& right,
                    int64_t columns, int64_t depth, float* gradient, int64_t stride, bool accumulate);

/// What a worker needs for the gradients of the inputs of at most `rows` rows.
struct InputBuffers {
  float* copy;  // [depthBlock·wideColumnBlock] weights in panels
  float* sums;  // [rows][wideColumnBlock] gradients before they are rounded; null when they are float32
};

template <class T>
InputBuffers carveInputBuffers(Carver& carver, int64_t rows) {
  return {carver.take(depthBlock * wideColumnBlock),
          std::is_same_v<T, float> ? nullptr : carver.take(rows * wideColumnBlock)};
}

/// A matrix product that is part of the gradient of the inputs: of `left` the fields of A are set.
template <class T>
struct InputTerm {
  GemmProduct left;
  const T* weight;  // [depth, stride]
};

/// gradient [rows, stride], `columns` of it (at most wideColumnBlock), = Σ left·weight over the terms.
template <class T>
void inputGradient(const GemmKernels& gemm, std::initializer_list<InputTerm<T>> terms, int64_t rows, int64_t depth,
                   int64_t columns, const InputBuffers& buffers, T* gradient, int64_t stride);

}  // namespace moe::cpu
