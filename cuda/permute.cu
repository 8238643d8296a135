// The moves of the permute stage that a plan drives: dispatch and combine, which are each other's backward, and carry
// for what found no slot. Shapes and meanings are in native/shared/operations.h.
#include "../native/shared/permute.h"
#include "rank.cuh"
#include "rows.cuh"

namespace moe {

/// The warp of the grid; every warp moves one row or one token.
__device__ inline int64_t warpOfGrid() { return threadOfGrid() / warpSize_; }

template <class T>
__device__ void dispatchRow(const Dispatch& d) {
  const int64_t r = warpOfGrid();
  if (r >= d.plan.R) return;
  const int64_t token = d.plan.rowToken[r];
  const T* from = token < 0 ? nullptr : static_cast<const T*>(d.input) + token * d.H;
  copyRow(startsAligned<T>(d.H, d.input, d.rows), from, static_cast<T*>(d.rows) + r * d.H, d.H);
}

/// What one lane knows of the list of a token's rows: the entry `lane` of 32.
struct ListEntry {
  int32_t row;
  float weight;
};

template <class T, int width>
__device__ void combineToken(const Combine& c, int64_t t) {
  const int32_t first = c.plan.tokenOffsets[t], count = c.plan.tokenOffsets[t + 1] - first;
  const auto entryAt = [&](int32_t begin) {
    ListEntry entry{0, 1.0f};
    if (begin + lane() < count) {
      entry.row = c.plan.tokenRows[first + begin + lane()];
      if (c.weights) entry.weight = c.weights[c.plan.rowSlot[entry.row]];
    }
    return entry;
  };
  const T* rows = static_cast<const T*>(c.rows);
  T* output = static_cast<T*>(c.output) + t * c.H;
  ListEntry entry = entryAt(0);
  for (int h0 = 0; h0 < c.H; h0 += warpSize_ * width) {
    const int h = h0 + lane() * width;
    float sums[width] = {};
    if (c.accumulate && h < c.H) load(output + h, sums);
    for (int32_t begin = 0; begin < count; begin += warpSize_) {
      if (count > warpSize_) entry = entryAt(begin);
      const int32_t entries = min(count - begin, warpSize_);
#pragma unroll 4
      for (int32_t i = 0; i < entries; ++i) {
        const int64_t row = __shfl_sync(wholeWarp, entry.row, i);
        const float weight = __shfl_sync(wholeWarp, entry.weight, i);
        if (h < c.H) {
          float x[width];
          load(rows + row * c.H + h, x);
#pragma unroll
          for (int j = 0; j < width; ++j) sums[j] = fmaf(weight, x[j], sums[j]);
        }
      }
    }
    if (h < c.H) store(output + h, sums);
  }
}

template <class T>
__device__ void combineToken(const Combine& c) {
  const int64_t t = warpOfGrid();
  if (t >= c.plan.T) return;
  if (startsAligned<T>(c.H, c.rows, c.output))
    combineToken<T, wide<T>>(c, t);
  else
    combineToken<T, 1>(c, t);
}

/// sums[i] = gradLogits of token first + i · columns [h, h + width) of the router's weight; 0 where it is not live. By
/// a whole warp.
template <int width>
__device__ void multiplyRouter(const RouterShare& router, int64_t first, int64_t T, int h, int H,
                               float (&sums)[routedTokens][width]) {
  __shared__ alignas(16) float staged[routedWarps][warpSize_][routedTokens];
  auto& grads = staged[warp()];
  for (int e0 = 0; e0 < router.E; e0 += warpSize_) {
    const int count = min(warpSize_, router.E - e0);
    float own[routedTokens];
#pragma unroll
    for (int i = 0; i < routedTokens; ++i)
      own[i] = first + i < T && lane() < count ? router.gradLogits[(first + i) * router.E + e0 + lane()] : 0.0f;
    __syncwarp();
    store(grads[lane()], own);
    __syncwarp();
#pragma unroll 2
    for (int e = 0; e < count; ++e) {
      float w[width], grad[routedTokens];
      load(router.weight + int64_t{e0 + e} * H + h, w);
      load(grads[e], grad);
#pragma unroll
      for (int i = 0; i < routedTokens; ++i)
#pragma unroll
        for (int j = 0; j < width; ++j) sums[i][j] = fmaf(grad[i], w[j], sums[i][j]);
    }
  }
#pragma unroll
  for (int i = 0; i < routedTokens; ++i)
    if (first + i < T && !isLive(router.mask, first + i))
#pragma unroll
      for (int j = 0; j < width; ++j) sums[i][j] = 0;
}

/// A warp does routedTokens at once, so that what it loads of the router's weight serves them all. Lanes past the end
/// of a row do its last columns again.
template <class T, int width>
__device__ void combineRouted(const Combine& c, int64_t first) {
  const T* rows = static_cast<const T*>(c.rows);
  T* output = static_cast<T*>(c.output);
  for (int h0 = static_cast<int>(blockIdx.y) * warpSize_ * width; h0 < c.H; h0 += gridDim.y * warpSize_ * width) {
    const int h = min(h0 + lane() * width, c.H - width);
    float sums[routedTokens][width] = {};
    multiplyRouter(c.router, first, c.plan.T, h, c.H, sums);
#pragma unroll
    for (int i = 0; i < routedTokens; ++i) {
      const int64_t t = first + i;
      if (t >= c.plan.T) break;
#pragma unroll 2
      for (int32_t entry = c.plan.tokenOffsets[t]; entry < c.plan.tokenOffsets[t + 1]; ++entry) {
        const int64_t r = c.plan.tokenRows[entry];
        const float weight = c.weights ? c.weights[c.plan.rowSlot[r]] : 1.0f;
        float x[width];
        load(rows + r * c.H + h, x);
#pragma unroll
        for (int j = 0; j < width; ++j) sums[i][j] = fmaf(weight, x[j], sums[i][j]);
      }
      if (h == h0 + lane() * width) store(output + t * c.H + h, sums[i]);
    }
  }
}

template <class T>
__device__ void combineRouted(const Combine& c) {
  const int64_t first = warpOfGrid() * routedTokens;
  if (first >= c.plan.T) return;
  if (startsAligned<T>(c.H, c.rows, c.output, c.router.weight))
    combineRouted<T, routedColumns>(c, first);
  else
    combineRouted<T, 1>(c, first);
}

/// gradRow = weight·gradOutput; returns ⟨gradOutput, row⟩.
template <class T, int width>
__device__ float scaleAndDot(float weight, const T* gradOutput, const T* row, T* gradRow, int H) {
  float dot = 0;
  for (int h = lane() * width; h < H; h += warpSize_ * width) {
    float g[width], y[width];
    load(gradOutput + h, g);
    load(row + h, y);
#pragma unroll
    for (int j = 0; j < width; ++j) {
      dot = fmaf(g[j], y[j], dot);
      g[j] *= weight;
    }
    store(gradRow + h, g);
  }
  return warpSum(dot);
}

/// Warp i does the rows of token i, and row i when that is past the end of the plan.
template <class T>
__device__ void combineBackwardRows(const CombineBackward& b) {
  const bool aligned = startsAligned<T>(b.H, b.gradOutput, b.rows, b.gradRows);
  const int64_t i = warpOfGrid();
  T* gradRows = static_cast<T*>(b.gradRows);
  if (i < b.plan.R && b.plan.rowToken[i] < 0) copyRow<T>(aligned, nullptr, gradRows + i * b.H, b.H);
  if (i >= b.plan.T) return;
  for (int k = lane(); k < b.plan.K; k += warpSize_) b.gradWeights[i * b.plan.K + k] = 0;
  __syncwarp();
  const T* gradOutput = static_cast<const T*>(b.gradOutput) + i * b.H;
  for (int32_t entry = b.plan.tokenOffsets[i]; entry < b.plan.tokenOffsets[i + 1]; ++entry) {
    const int64_t r = b.plan.tokenRows[entry];
    const int32_t slot = b.plan.rowSlot[r];
    const T* row = static_cast<const T*>(b.rows) + r * b.H;
    const float dot = aligned ? scaleAndDot<T, wide<T>>(b.weights[slot], gradOutput, row, gradRows + r * b.H, b.H)
                              : scaleAndDot<T, 1>(b.weights[slot], gradOutput, row, gradRows + r * b.H, b.H);
    if (lane() == 0) b.gradWeights[slot] = dot;
  }
}

template <class T, int width>
__device__ void carryToken(const Carry& c, int64_t t) {
  const T* input = static_cast<const T*>(c.input) + t * c.H;
  T* output = static_cast<T*>(c.output) + t * c.H;
  for (int h = lane() * width; h < c.H; h += warpSize_ * width) {
    float x[width], sums[width];
    load(input + h, x);
    load(output + h, sums);
#pragma unroll
    for (int j = 0; j < width; ++j) sums[j] = fmaf(c.carried[t], x[j], sums[j]);
    store(output + h, sums);
  }
}

template <class T>
__device__ void carryToken(const Carry& c) {
  const int64_t t = warpOfGrid();
  if (t >= c.T || c.carried[t] == 0) return;
  if (startsAligned<T>(c.H, c.input, c.output))
    carryToken<T, wide<T>>(c, t);
  else
    carryToken<T, 1>(c, t);
}

__device__ inline bool isCarried(const CarryBackward& b, int64_t t, int k) {
  return b.indices[t * b.K + k] >= 0 && !b.kept[t * b.K + k] && !(k == 1 && b.withheld && b.withheld[t]);
}

/// gradInput_t += carried_t · gradOutput_t; returns ⟨gradOutput_t, input_t⟩.
template <class T, int width>
__device__ float carryBackwardToken(const CarryBackward& b, int64_t t) {
  const T* gradOutput = static_cast<const T*>(b.gradOutput) + t * b.H;
  const T* input = static_cast<const T*>(b.input) + t * b.H;
  T* gradInput = static_cast<T*>(b.gradInput) + t * b.H;
  float dot = 0;
  for (int h = lane() * width; h < b.H; h += warpSize_ * width) {
    float g[width], x[width], sums[width];
    load(gradOutput + h, g);
    load(input + h, x);
    load(gradInput + h, sums);
#pragma unroll
    for (int j = 0; j < width; ++j) {
      dot = fmaf(g[j], x[j], dot);
      sums[j] = fmaf(b.carried[t], g[j], sums[j]);
    }
    store(gradInput + h, sums);
  }
  return warpSum(dot);
}

template <class T>
__device__ void carryBackwardToken(const CarryBackward& b) {
  const int64_t t = warpOfGrid();
  if (t >= b.T || (b.mask && b.mask[t] == 0)) return;
  bool any = false;
  for (int k = lane(); k < b.K; k += warpSize_) any |= isCarried(b, t, k);
  if (!__any_sync(wholeWarp, any)) return;
  const float dot = startsAligned<T>(b.H, b.input, b.gradOutput, b.gradInput) ? carryBackwardToken<T, wide<T>>(b, t)
                                                                              : carryBackwardToken<T, 1>(b, t);
  for (int k = lane(); k < b.K; k += warpSize_)
    if (isCarried(b, t, k)) b.gradWeights[t * b.K + k] = dot;
}

#define MOE_MOVES(name, type)                                                                                  \
  extern "C" __global__ void __launch_bounds__(256)                                                            \
      dispatch_##name(const __grid_constant__ Dispatch d, const __grid_constant__ Guard guard) {               \
    if (enter(guard)) dispatchRow<type>(d);                                                                    \
  }                                                                                                            \
  extern "C" __global__ void __launch_bounds__(256)                                                            \
      combine_##name(const __grid_constant__ Combine c, const __grid_constant__ Guard guard) {                 \
    if (enter(guard)) combineToken<type>(c);                                                                   \
  }                                                                                                            \
  extern "C" __global__ void __launch_bounds__(routedWarps* warpSize_)                                         \
      combineRouted_##name(const __grid_constant__ Combine c, const __grid_constant__ Guard guard) {           \
    if (enter(guard)) combineRouted<type>(c);                                                                  \
  }                                                                                                            \
  extern "C" __global__ void __launch_bounds__(256)                                                            \
      combineBackward_##name(const __grid_constant__ CombineBackward b, const __grid_constant__ Guard guard) { \
    if (enter(guard)) combineBackwardRows<type>(b);                                                            \
  }                                                                                                            \
  extern "C" __global__ void __launch_bounds__(256)                                                            \
      carry_##name(const __grid_constant__ Carry c, const __grid_constant__ Guard guard) {                     \
    if (enter(guard)) carryToken<type>(c);                                                                     \
  }                                                                                                            \
  extern "C" __global__ void __launch_bounds__(256)                                                            \
      carryBackward_##name(const __grid_constant__ CarryBackward b, const __grid_constant__ Guard guard) {     \
    if (enter(guard)) carryBackwardToken<type>(b);                                                             \
  }
MOE_FLOAT_TYPES(MOE_MOVES)

}  // namespace moe
