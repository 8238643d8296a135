// The products of the route's backward, which sum over experts or tokens.
#pragma once

#include "route.cuh"

namespace moe {

/// Of splits that are done, before any product.
__device__ inline void clearCounters(const RouteGradientSums& sums) {
  for (int64_t i = int64_t{blockIdx.x} * routeThreads + threadIdx.x; i < sums.counters;
       i += int64_t{gridDim.x} * routeThreads)
    sums.finished[i] = 0;
}

/// gradLogits of a piece, summed over its tokens. By a whole block, after all of its warps wrote theirs.
__device__ inline void sumBias(const RouteBackward& b, const RouteGradientSums& sums, int64_t piece, int64_t begin,
                               int64_t end) {
  __syncthreads();
  for (int e = threadIdx.x; e < b.E; e += routeThreads) {
    float sum = 0;
    for (int64_t t = begin; t < end; ++t) sum += b.gradLogits[t * b.E + e];
    sums.bias[piece * b.E + e] = sum;
  }
}

/// gradInput [T,H] += change(gradLogits·weight, token, column), for some tokens and a column of each thread.
template <class T, class Change>
__device__ void addToInput(const RouteBackward& b, int64_t tile, int columns, const Change& change) {
  constexpr int tokens = 16;
  __shared__ float grads[tokens][warpSize_];
  const int64_t first = tile / columns * tokens;
  const int64_t h = tile % columns * routeThreads + threadIdx.x;
  float sums[tokens] = {};
  for (int e0 = 0; e0 < b.E; e0 += warpSize_) {
    __syncthreads();
    for (int i = warp(); i < tokens; i += routeWarps)
      grads[i][lane()] = first + i < b.T && e0 + lane() < b.E ? b.gradLogits[(first + i) * b.E + e0 + lane()] : 0.0f;
    __syncthreads();
    if (h >= b.H) continue;
    for (int e = 0; e < min(warpSize_, b.E - e0); ++e) {
      const float w = b.weight[int64_t{e0 + e} * b.H + h];
#pragma unroll
      for (int i = 0; i < tokens; ++i) sums[i] = fmaf(grads[i][e], w, sums[i]);
    }
  }
  if (h >= b.H) return;
  T* gradInput = static_cast<T*>(b.gradInput);
#pragma unroll
  for (int i = 0; i < tokens; ++i)
    if (first + i < b.T && isLive(b.mask, first + i)) {
      T& gradient = gradInput[(first + i) * b.H + h];
      gradient = fromFloat<T>(toFloat(gradient) + change(sums[i], first + i, static_cast<int>(h)));
    }
}

/// Experts and columns of gradWeight over one split of the tokens; the block that ends last of a tile adds the splits
/// up. The block's threads are groups that share the tokens of a split among them.
template <class T, class Change>
__device__ void weightTile(const RouteBackward& b, const RouteGradientSums& sums, int64_t index, const Change& change) {
  constexpr int experts = RouteGradientSums::expertTile, width = RouteGradientSums::columnTile, tokens = 64;
  constexpr int groups = routeThreads / width;
  __shared__ float grads[tokens][experts];
  __shared__ float parts[groups][experts][width];
  const int64_t columns = (b.H + width - 1) / width;
  const int64_t tile = index / sums.splits, split = index % sums.splits;
  const int e0 = static_cast<int>(tile / columns) * experts, count = min(experts, b.E - e0);
  const int column = threadIdx.x % width, group = threadIdx.x / width;
  const int64_t h = tile % columns * width + column;
  const int64_t begin = split * sums.splitTokens, end = min(begin + sums.splitTokens, b.T);
  const T* input = static_cast<const T*>(b.input);
  float partial[experts] = {};
  for (int64_t first = begin; first < end; first += tokens) {
    __syncthreads();
    for (int i = threadIdx.x; i < tokens * experts; i += routeThreads) {
      const int64_t t = first + i / experts;
      const int e = i % experts;
      grads[i / experts][e] = t < end && e < count ? b.gradLogits[t * b.E + e0 + e] : 0.0f;
    }
    __syncthreads();
    if (h >= b.H) continue;
#pragma unroll 4
    for (int i = group; i < tokens; i += groups) {
      if (first + i >= end || !isLive(b.mask, first + i)) continue;
      const float x = change(toFloat(input[(first + i) * b.H + h]), first + i, static_cast<int>(h));
#pragma unroll
      for (int e = 0; e < experts; ++e) partial[e] = fmaf(grads[i][e], x, partial[e]);
    }
  }
#pragma unroll
  for (int e = 0; e < experts; ++e) parts[group][e][column] = partial[e];
  __syncthreads();
  const auto total = [&](int e) {
    float sum = parts[0][e][column];
#pragma unroll
    for (int i = 1; i < groups; ++i) sum += parts[i][e][column];
    return sum;
  };
  const auto write = [&](int e, float gradient) {
    float& to = b.gradWeight[int64_t{e0 + e} * b.H + h];
    to = b.accumulateWeight ? to + gradient : gradient;
  };
  if (sums.splits == 1) {
    for (int e = group; e < count; e += groups)
      if (h < b.H) write(e, total(e));
    return;
  }
  const auto at = [&](int64_t s, int e) { return (s * b.E + e0 + e) * b.H + h; };
  for (int e = group; e < count; e += groups)
    if (h < b.H) sums.weight[at(split, e)] = total(e);
  if (!isLast(sums.finished + tile, static_cast<uint32_t>(sums.splits)) || h >= b.H) return;
  for (int e = group; e < count; e += groups) {
    float gradient = 0;
    for (int64_t s = 0; s < sums.splits; ++s) gradient += sums.weight[at(s, e)];
    write(e, gradient);
  }
}

__device__ inline void biasGradient(const RouteBackward& b, int64_t pieces, const RouteGradientSums& sums) {
  for (int e = threadIdx.x; e < b.E; e += routeThreads) {
    double sum = 0;
    for (int64_t piece = 0; piece < pieces; ++piece) sum += sums.bias[piece * b.E + e];
    b.gradBias[e] = static_cast<float>(sum) + (b.accumulateBias ? b.gradBias[e] : 0.0f);
  }
}

/// The blocks are, in this order: tiles of gradInput, tiles of gradWeight times splits, one for gradBias.
template <class T, class Change = Unchanged>
__device__ void routeProduct(const RouteBackward& b, const RoutePieces& pieces, const RouteGradientSums& sums,
                             int64_t inputTiles, int64_t weightTiles, const Change& change = {}) {
  const int64_t block = blockIdx.x;
  if (block < inputTiles)
    addToInput<T>(b, block, (b.H + routeThreads - 1) / routeThreads, change);
  else if (block < inputTiles + weightTiles)
    weightTile<T>(b, sums, block - inputTiles, change);
  else
    biasGradient(b, pieces.count(), sums);
}

}  // namespace moe
