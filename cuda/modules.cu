// What a training loop needs around the layer: the sigmoid gate of shared experts, embedding, RMS norm, cross-entropy,
// add. Shapes and meanings are in native/shared/operations.h.
#include "../native/shared/activation.h"
#include "../native/shared/math.h"
#include "../native/shared/modules.h"
#include "rank.cuh"
#include "rows.cuh"

namespace moe {

/// ⟨a, b⟩ of n elements, in every lane.
template <int width, class T>
__device__ float warpDot(const T* a, const T* b, int n) {
  float dot = 0;
  for (int i = lane() * width; i < n; i += warpSize_ * width) {
    float x[width], y[width];
    load(a + i, x);
    load(b + i, y);
#pragma unroll
    for (int j = 0; j < width; ++j) dot = fmaf(x[j], y[j], dot);
  }
  return warpSum(dot);
}

// ------------------------------------------------------------------------------------------------ sums of pieces

constexpr int pieceGroups = 16;

/// A block adds 32 columns, each warp every 16th piece of them.
extern "C" __global__ void __launch_bounds__(pieceGroups* warpSize_)
    sumPieces(const __grid_constant__ SumPieces s, const __grid_constant__ Guard guard) {
  if (!enter(guard)) return;
  __shared__ float groups[pieceGroups][warpSize_];
  const int64_t column = int64_t{blockIdx.x} * warpSize_ + lane();
  float sum = 0;
  if (column < s.size)
    for (int64_t piece = warp(); piece < s.sums.pieces; piece += pieceGroups)
      sum += s.sums.partials[piece * s.size + column];
  groups[warp()][lane()] = sum;
  __syncthreads();
  if (warp() > 0 || column >= s.size) return;
  for (int group = 1; group < pieceGroups; ++group) sum += groups[group][lane()];
  s.output[column] = s.accumulate ? s.output[column] + sum : sum;
}

// ------------------------------------------------------------------------------------------------ sigmoid gate

/// One warp per token.
template <class T>
__device__ void sigmoidGateToken(const SigmoidGateForward& f) {
  const int64_t t = threadOfGrid() / warpSize_;
  if (t >= f.T) return;
  const T *row = static_cast<const T*>(f.input) + t * f.H, *weight = static_cast<const T*>(f.weight);
  float gate = 0;
  if (!f.mask || f.mask[t] != 0)
    gate = sigmoid(startsAligned<T>(f.H, f.input, weight) ? warpDot<wide<T>>(row, weight, f.H)
                                                          : warpDot<1>(row, weight, f.H));
  if (lane() == 0) f.gates[t] = gate;
}

template <class T, int width>
__device__ void sigmoidGateBackwardPiece(const SigmoidGateBackward& b, const PieceSums& s) {
  __shared__ float slopes[PieceSums::mostRows];
  __shared__ bool live[PieceSums::mostRows];
  const int64_t first = int64_t{blockIdx.x} * s.rowsPerPiece;
  const int rows = static_cast<int>(min(int64_t{s.rowsPerPiece}, b.T - first));
  for (int row = threadIdx.x; row < rows; row += blockDim.x) {
    const int64_t t = first + row;
    live[row] = !b.mask || b.mask[t] != 0;
    slopes[row] = b.gradGates[t] * b.gates[t] * (1.0f - b.gates[t]);
  }
  __syncthreads();
  for (int h = threadIdx.x * width; h < b.H; h += blockDim.x * width) {
    float weight[width], sums[width] = {};
    load(static_cast<const T*>(b.weight) + h, weight);
    for (int row = 0; row < rows; ++row) {
      // Masked rows may hold anything.
      if (!live[row]) continue;
      T* gradInput = static_cast<T*>(b.gradInput) + (first + row) * b.H + h;
      float grad[width], x[width];
      load(gradInput, grad);
      if (s.partials) load(static_cast<const T*>(b.input) + (first + row) * b.H + h, x);
#pragma unroll
      for (int j = 0; j < width; ++j) {
        grad[j] = fmaf(slopes[row], weight[j], grad[j]);
        if (s.partials) sums[j] = fmaf(slopes[row], x[j], sums[j]);
      }
      store(gradInput, grad);
    }
    if (s.partials) store(s.partials + int64_t{blockIdx.x} * b.H + h, sums);
  }
}

template <class T>
__device__ void sigmoidGateBackwardPiece(const SigmoidGateBackward& b, const PieceSums& s) {
  if (startsAligned<T>(b.H, b.input, b.weight, b.gradInput))
    sigmoidGateBackwardPiece<T, wide<T>>(b, s);
  else
    sigmoidGateBackwardPiece<T, 1>(b, s);
}

// ------------------------------------------------------------------------------------------------ embedding

/// One warp per position.
template <class T>
__device__ void embeddingRow(const EmbeddingForward& f, const Guard& guard) {
  const int64_t n = threadOfGrid() / warpSize_;
  if (n >= f.N) return;
  const int32_t index = f.indices[n];
  const bool good = index >= 0 && index < f.count;
  if (!good && lane() == 0) noteFault(guard, Fault::EmbeddingIndex, n, faultValue(n, index));
  const T* from = good ? static_cast<const T*>(f.weight) + int64_t{index} * f.size : nullptr;
  copyRow(startsAligned<T>(f.size, f.weight, f.output), from, static_cast<T*>(f.output) + n * f.size, f.size);
}

/// By index, then position: a counting sort for each digit, from the lowest.
__device__ void sortItems(const EmbeddingBackward& b, const EmbeddingWork& w, int32_t* shared) {
  constexpr int values = 1 << EmbeddingWork::digitBits;
  Bins bins(values, shared);
  int32_t* offsets = bins.end();
  const Range part = warpPart(b.N);
  for (int pass = 0; pass < w.digits; ++pass) {
    const bool toSorted = (w.digits - pass) % 2 == 1;
    const EmbeddingItem* from = toSorted ? w.spare : w.sorted;
    EmbeddingItem* to = toSorted ? w.sorted : w.spare;
    const auto itemAt = [&](int64_t i) {
      return pass == 0 ? EmbeddingItem{b.indices[i], static_cast<int32_t>(i)} : from[i];
    };
    const auto digitOf = [&](const EmbeddingItem& item) {
      return item.index >> (pass * EmbeddingWork::digitBits) & (values - 1);
    };
    bins.clear();
    for (int64_t i = part.begin + lane(); i < part.end; i += warpSize_) bins.add(digitOf(itemAt(i)));
    bins.publish(w.counts);
    gridBarrier();
    bins.resolve(w.counts);
    bins.prefix(INT32_MAX, offsets);
    for (int64_t first = part.begin; first < part.end; first += warpSize_) {
      const bool inside = first + lane() < part.end;
      const EmbeddingItem item = inside ? itemAt(first + lane()) : EmbeddingItem{};
      const int digit = inside ? digitOf(item) : -1;
      const int32_t rank = bins.take(digit);
      if (inside) to[offsets[digit] + rank] = item;
    }
    gridBarrier();
  }
}

extern "C" __global__ void __launch_bounds__(1024)
    embeddingSort(const __grid_constant__ EmbeddingBackward b, const __grid_constant__ EmbeddingWork w,
                  const __grid_constant__ Guard guard) {
  extern __shared__ int32_t shared[];
  if (enter(guard)) sortItems(b, w, shared);
}

/// A block sums the columns of its strip over one window. Adds to gradWeight, or leaves the sums in heads and tails.
template <class T, int width>
__device__ void sumWindow(const EmbeddingBackward& b, const EmbeddingWork& w) {
  constexpr int window = EmbeddingWork::window;
  __shared__ EmbeddingItem items[window + 2];  // with the neighbours of both ends
  const int64_t begin = int64_t{blockIdx.x} * window;
  const int n = static_cast<int>(min(int64_t{window}, b.N - begin));
  for (int i = threadIdx.x; i < n + 2; i += blockDim.x) {
    const int64_t at = begin - 1 + i;
    items[i] = at >= 0 && at < b.N ? w.sorted[at] : EmbeddingItem{-1, -1};
  }
  __syncthreads();
  const int strips = gridDim.y * blockDim.x * width;
  for (int column = (blockIdx.y * blockDim.x + threadIdx.x) * width; column < b.size; column += strips)
    for (int i = 1; i <= n;) {
      const int first = i;
      const int32_t index = items[first].index;
      float sums[width] = {};
#pragma unroll 4
      for (; i <= n && items[i].index == index; ++i) {
        float x[width];
        load(static_cast<const T*>(b.gradOutput) + int64_t{items[i].position} * b.size + column, x);
#pragma unroll
        for (int j = 0; j < width; ++j) sums[j] += x[j];
      }
      const bool begun = first == 1 && items[0].index == index, goesOn = i > n && items[n + 1].index == index;
      if (begun || goesOn) {
        store((begun ? w.heads : w.tails) + int64_t{blockIdx.x} * b.size + column, sums);
        continue;
      }
      float* gradWeight = b.gradWeight + int64_t{index} * b.size + column;
      float old[width];
      load(gradWeight, old);
#pragma unroll
      for (int j = 0; j < width; ++j) sums[j] += old[j];
      store(gradWeight, sums);
    }
}

template <class T>
__device__ void sumWindow(const EmbeddingBackward& b, const EmbeddingWork& w) {
  if (startsAligned<T>(b.size, b.gradOutput, b.gradWeight))
    sumWindow<T, wide<T>>(b, w);
  else
    sumWindow<T, 1>(b, w);
}

constexpr int spanGroups = 8;

/// Adds up the index that begins in a window and goes on in later ones: 32 columns at a time, each warp every 8th
/// window.
extern "C" __global__ void __launch_bounds__(spanGroups* warpSize_)
    embeddingSpans(const __grid_constant__ EmbeddingBackward b, const __grid_constant__ EmbeddingWork w,
                   const __grid_constant__ Guard guard) {
  if (!enter(guard)) return;
  constexpr int window = EmbeddingWork::window;
  const int64_t begin = int64_t{blockIdx.x} * window, end = begin + window;
  if (end >= b.N) return;
  const int32_t index = w.sorted[end - 1].index;
  const bool begun = begin > 0 && w.sorted[begin - 1].index == index;
  if (begun || w.sorted[end].index != index) return;
  // The first position of a larger index.
  int64_t low = end + 1, high = b.N;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (w.sorted[middle].index > index)
      high = middle;
    else
      low = middle + 1;
  }
  const int64_t lastWindow = (low - 1) / window;
  __shared__ float groups[spanGroups][warpSize_];
  for (int64_t strip = int64_t{blockIdx.y} * warpSize_; strip < b.size; strip += int64_t{gridDim.y} * warpSize_) {
    const int64_t column = strip + lane();
    float sum = 0;
    if (column < b.size) {
      if (warp() == 0) sum = w.tails[int64_t{blockIdx.x} * b.size + column];
      for (int64_t other = int64_t{blockIdx.x} + 1 + warp(); other <= lastWindow; other += spanGroups)
        sum += w.heads[other * b.size + column];
    }
    groups[warp()][lane()] = sum;
    __syncthreads();
    if (warp() == 0 && column < b.size) {
      for (int group = 1; group < spanGroups; ++group) sum += groups[group][lane()];
      b.gradWeight[int64_t{index} * b.size + column] += sum;
    }
    __syncthreads();
  }
}

// ------------------------------------------------------------------------------------------------ RMS norm

/// One block per row.
template <class T, int width>
__device__ void rmsNormRow(const RmsNormForward& f) {
  __shared__ float scratch[warpSize_];
  const int64_t n = blockIdx.x;
  const T* input = static_cast<const T*>(f.input) + n * f.size;
  T* output = static_cast<T*>(f.output) + n * f.size;
  float squares = 0;
  for (int i = threadIdx.x * width; i < f.size; i += blockDim.x * width) {
    float x[width];
    load(input + i, x);
#pragma unroll
    for (int j = 0; j < width; ++j) squares = fmaf(x[j], x[j], squares);
  }
  const float inverseRms = 1.0f / sqrtf(blockSum(squares, scratch) / static_cast<float>(f.size) + f.epsilon);
  if (threadIdx.x == 0) f.inverseRms[n] = inverseRms;
  for (int i = threadIdx.x * width; i < f.size; i += blockDim.x * width) {
    float x[width], weight[width];
    load(input + i, x);
    load(static_cast<const T*>(f.weight) + i, weight);
#pragma unroll
    for (int j = 0; j < width; ++j) x[j] = x[j] * inverseRms * weight[j];
    store(output + i, x);
  }
}

template <class T>
__device__ void rmsNormRow(const RmsNormForward& f) {
  if (startsAligned<T>(f.size, f.input, f.weight, f.output))
    rmsNormRow<T, wide<T>>(f);
  else
    rmsNormRow<T, 1>(f);
}

template <class T, int width>
__device__ void rmsNormBackwardPiece(const RmsNormBackward& b, const PieceSums& s) {
  __shared__ float backs[PieceSums::mostRows], inverses[PieceSums::mostRows];
  const int64_t first = int64_t{blockIdx.x} * s.rowsPerPiece;
  const int rows = static_cast<int>(min(int64_t{s.rowsPerPiece}, b.N - first));
  const T *input = static_cast<const T*>(b.input) + first * b.size, *weights = static_cast<const T*>(b.weight);
  const T* gradOutput = static_cast<const T*>(b.gradOutput) + first * b.size;
  T* gradInput = static_cast<T*>(b.gradInput) + first * b.size;
  for (int row = warp(); row < rows; row += warpsInBlock()) {
    float projection = 0;
    for (int i = lane() * width; i < b.size; i += warpSize_ * width) {
      float x[width], g[width], weight[width];
      load(input + int64_t{row} * b.size + i, x);
      load(gradOutput + int64_t{row} * b.size + i, g);
      load(weights + i, weight);
#pragma unroll
      for (int j = 0; j < width; ++j) projection = fmaf(g[j] * weight[j], x[j], projection);
    }
    projection = warpSum(projection);
    if (lane() == 0) {
      const float inverse = b.inverseRms[first + row];
      inverses[row] = inverse;
      backs[row] = projection * inverse * inverse / static_cast<float>(b.size);
    }
  }
  __syncthreads();
  for (int i = threadIdx.x * width; i < b.size; i += blockDim.x * width) {
    float weight[width], sums[width] = {};
    load(weights + i, weight);
    for (int row = 0; row < rows; ++row) {
      const float inverse = inverses[row], back = backs[row];
      float x[width], g[width];
      load(input + int64_t{row} * b.size + i, x);
      load(gradOutput + int64_t{row} * b.size + i, g);
#pragma unroll
      for (int j = 0; j < width; ++j) {
        sums[j] = fmaf(g[j], x[j] * inverse, sums[j]);
        x[j] = inverse * (g[j] * weight[j] - back * x[j]);
      }
      store(gradInput + int64_t{row} * b.size + i, x);
    }
    if (s.partials) store(s.partials + int64_t{blockIdx.x} * b.size + i, sums);
  }
}

template <class T>
__device__ void rmsNormBackwardPiece(const RmsNormBackward& b, const PieceSums& s) {
  if (startsAligned<T>(b.size, b.input, b.weight, b.gradOutput, b.gradInput))
    rmsNormBackwardPiece<T, wide<T>>(b, s);
  else
    rmsNormBackwardPiece<T, 1>(b, s);
}

// ------------------------------------------------------------------------------------------------ cross-entropy

/// The maximum of some values and Σ e^(value - maximum).
struct ExpSum {
  float maximum, sum;

  __device__ static ExpSum combine(const ExpSum& a, const ExpSum& b) {
    const float maximum = fmaxf(a.maximum, b.maximum);
    const auto scaled = [&](const ExpSum& x) {
      return x.maximum == maximum ? x.sum : x.sum * moe::exp(x.maximum - maximum);
    };
    return {maximum, scaled(a) + scaled(b)};
  }
};

/// In thread 0.
__device__ inline ExpSum blockExpSum(ExpSum x, ExpSum* scratch) {
  for (int distance = warpSize_ / 2; distance > 0; distance /= 2)
    x = ExpSum::combine(x,
                        {__shfl_xor_sync(wholeWarp, x.maximum, distance), __shfl_xor_sync(wholeWarp, x.sum, distance)});
  if (lane() == 0) scratch[warp()] = x;
  __syncthreads();
  if (threadIdx.x == 0)
    for (int i = 1; i < warpsInBlock(); ++i) x = ExpSum::combine(x, scratch[i]);
  __syncthreads();
  return x;
}

/// A block does every gridDim-th row.
template <class T, int width>
__device__ void crossEntropyRows(const CrossEntropyForward& f, const LossWork& w, const Guard& guard) {
  __shared__ ExpSum scratch[warpSize_];
  const float lowest = -__builtin_inff();
  LossPartial partial{0, 0};
  for (int64_t n = blockIdx.x; n < f.N; n += gridDim.x) {
    const T* row = static_cast<const T*>(f.logits) + n * f.classes;
    const int32_t target = f.targets[n];
    if (target < 0 || target >= f.classes) {
      if (threadIdx.x == 0) f.logSumExp[n] = 0;
      if (threadIdx.x == 0 && target != -1) noteFault(guard, Fault::TargetIndex, n, faultValue(n, target));
      continue;
    }
    ExpSum mine{lowest, 0};
    for (int i = threadIdx.x * width; i < f.classes; i += blockDim.x * width) {
      float x[width];
      load(row + i, x);
      float maximum = x[0];
#pragma unroll
      for (int j = 1; j < width; ++j) maximum = fmaxf(maximum, x[j]);
      if (maximum > mine.maximum) {
        mine.sum *= moe::exp(mine.maximum - maximum);
        mine.maximum = maximum;
      }
#pragma unroll
      for (int j = 0; j < width; ++j) mine.sum += x[j] == lowest ? 0.0f : moe::exp(x[j] - mine.maximum);
    }
    const ExpSum all = blockExpSum(mine, scratch);
    if (threadIdx.x == 0) {
      const float logSumExp = all.maximum + moe::log(all.sum);
      f.logSumExp[n] = logSumExp;
      partial.sum += static_cast<double>(logSumExp) - toFloat(row[target]);
      ++partial.counted;
    }
  }
  if (threadIdx.x == 0) w.partials[blockIdx.x] = partial;
}

template <class T>
__device__ void crossEntropyRows(const CrossEntropyForward& f, const LossWork& w, const Guard& guard) {
  if (startsAligned<T>(f.classes, f.logits))
    crossEntropyRows<T, wide<T>>(f, w, guard);
  else
    crossEntropyRows<T, 1>(f, w, guard);
}

/// One block.
extern "C" __global__ void __launch_bounds__(256)
    crossEntropyMean(const __grid_constant__ LossWork w, float* const loss, const __grid_constant__ Guard guard) {
  if (!enter(guard)) return;
  __shared__ double sums[warpSize_];
  __shared__ int64_t counts[warpSize_];
  LossPartial all{0, 0};
  for (int i = threadIdx.x; i < w.blocks; i += blockDim.x) {
    all.sum += w.partials[i].sum;
    all.counted += w.partials[i].counted;
  }
  all.sum = blockSum(all.sum, sums);
  all.counted = blockSum(all.counted, counts);
  if (threadIdx.x > 0) return;
  loss[0] = all.counted > 0 ? static_cast<float>(all.sum / static_cast<double>(all.counted)) : 0.0f;
  loss[1] = static_cast<float>(all.counted);
}

/// One block per row.
template <class T, int width>
__device__ void crossEntropyBackwardRow(const CrossEntropyBackward& b) {
  __shared__ float scratch[warpSize_];
  const int64_t n = blockIdx.x;
  const int32_t target = b.targets[n];
  const float scale = b.loss[1] > 0 ? b.scale / b.loss[1] : 0.0f;
  const T* row = static_cast<const T*>(b.logits) + n * b.classes;
  T* grad = static_cast<T*>(b.gradLogits) + n * b.classes;
  float others = 0;
  for (int i = threadIdx.x * width; i < b.classes; i += blockDim.x * width) {
    float x[width] = {};
    if (target >= 0) {
      load(row + i, x);
#pragma unroll
      for (int j = 0; j < width; ++j) {
        x[j] = scale * moe::exp(x[j] - b.logSumExp[n]);
        if (i + j != target) others += x[j];
      }
    }
    store(grad + i, x);
  }
  if (target < 0) return;
  // p - 1 at the target is minus the others' sum, which keeps its digits when p is close to 1.
  others = blockSum(others, scratch);
  if (threadIdx.x == 0) grad[target] = fromFloat<T>(-others);
}

template <class T>
__device__ void crossEntropyBackwardRow(const CrossEntropyBackward& b) {
  if (startsAligned<T>(b.classes, b.logits, b.gradLogits))
    crossEntropyBackwardRow<T, wide<T>>(b);
  else
    crossEntropyBackwardRow<T, 1>(b);
}

// ------------------------------------------------------------------------------------------------ add

template <class T, int width>
__device__ void addRange(const Add& a, int64_t begin, int64_t end) {
  for (int64_t i = begin + threadOfGrid() * width; i < end; i += threadsOfGrid() * width) {
    float x[width], y[width];
    load(static_cast<const T*>(a.a) + i, x);
    load(static_cast<const T*>(a.b) + i, y);
#pragma unroll
    for (int j = 0; j < width; ++j) x[j] += y[j];
    store(static_cast<T*>(a.output) + i, x);
  }
}

template <class T>
__device__ void addAll(const Add& a) {
  const int64_t pieces = startsAligned<T>(0, a.a, a.b, a.output) ? a.n / wide<T> * wide<T> : 0;
  addRange<T, wide<T>>(a, 0, pieces);
  addRange<T, 1>(a, pieces, a.n);
}

// ------------------------------------------------------------------------------------------------ kernels

#define MOE_MODULES(name, type)                                                                                      \
  extern "C" __global__ void __launch_bounds__(256)                                                                  \
      sigmoidGateForward_##name(const __grid_constant__ SigmoidGateForward f, const __grid_constant__ Guard guard) { \
    if (enter(guard)) sigmoidGateToken<type>(f);                                                                     \
  }                                                                                                                  \
  extern "C" __global__ void __launch_bounds__(256)                                                                  \
      sigmoidGateBackward_##name(const __grid_constant__ SigmoidGateBackward b, const __grid_constant__ PieceSums s, \
                                 const __grid_constant__ Guard guard) {                                              \
    if (enter(guard)) sigmoidGateBackwardPiece<type>(b, s);                                                          \
  }                                                                                                                  \
  extern "C" __global__ void __launch_bounds__(256)                                                                  \
      embeddingForward_##name(const __grid_constant__ EmbeddingForward f, const __grid_constant__ Guard guard) {     \
    if (enter(guard, true)) embeddingRow<type>(f, guard);                                                            \
  }                                                                                                                  \
  extern "C" __global__ void __launch_bounds__(256)                                                                  \
      embeddingSums_##name(const __grid_constant__ EmbeddingBackward b, const __grid_constant__ EmbeddingWork w,     \
                           const __grid_constant__ Guard guard) {                                                    \
    if (enter(guard)) sumWindow<type>(b, w);                                                                         \
  }                                                                                                                  \
  extern "C" __global__ void __launch_bounds__(512)                                                                  \
      rmsNormForward_##name(const __grid_constant__ RmsNormForward f, const __grid_constant__ Guard guard) {         \
    if (enter(guard)) rmsNormRow<type>(f);                                                                           \
  }                                                                                                                  \
  extern "C" __global__ void __launch_bounds__(256)                                                                  \
      rmsNormBackward_##name(const __grid_constant__ RmsNormBackward b, const __grid_constant__ PieceSums s,         \
                             const __grid_constant__ Guard guard) {                                                  \
    if (enter(guard)) rmsNormBackwardPiece<type>(b, s);                                                              \
  }                                                                                                                  \
  extern "C" __global__ void __launch_bounds__(512)                                                                  \
      crossEntropyForward_##name(const __grid_constant__ CrossEntropyForward f, const __grid_constant__ LossWork w,  \
                                 const __grid_constant__ Guard guard) {                                              \
    if (enter(guard, true)) crossEntropyRows<type>(f, w, guard);                                                     \
  }                                                                                                                  \
  extern "C" __global__ void __launch_bounds__(512) crossEntropyBackward_##name(                                     \
      const __grid_constant__ CrossEntropyBackward b, const __grid_constant__ Guard guard) {                         \
    if (enter(guard)) crossEntropyBackwardRow<type>(b);                                                              \
  }                                                                                                                  \
  extern "C" __global__ void __launch_bounds__(256)                                                                  \
      add_##name(const __grid_constant__ Add a, const __grid_constant__ Guard guard) {                               \
    if (enter(guard)) addAll<type>(a);                                                                               \
  }
MOE_FLOAT_TYPES(MOE_MODULES)

}  // namespace moe
