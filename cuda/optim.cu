// The AdamW step over all tensors of an optimizer: the global norm in one pass over the gradients, then one pass over
// everything. See native/shared/optim.h.
#include "../native/shared/optim.h"
#include "../native/shared/upload.h"
#include "rows.cuh"

namespace moe {

constexpr int adamwThreads = 256;

/// The pieces of one block, next to each other so that it meets few tensors.
struct PieceWalk {
  const AdamWWork& w;
  int64_t piece, end;
  int tensor;  // of `piece`

  __device__ explicit PieceWalk(const AdamWWork& w) : w(w) {
    const int64_t share = (w.pieces + gridDim.x - 1) / gridDim.x;
    piece = min(w.pieces, share * blockIdx.x);
    end = min(w.pieces, piece + share);
    // The last tensor that begins with this piece or before.
    int low = 0, high = w.count;
    while (low + 1 < high) {
      const int middle = (low + high) / 2;
      if (w.firstPiece[middle] <= piece)
        low = middle;
      else
        high = middle;
    }
    tensor = low;
  }

  /// visit(tensor number, first element, end) for each piece.
  template <class Visit>
  __device__ void forEach(Visit&& visit) {
    for (; piece < end; ++piece) {
      while (w.firstPiece[tensor + 1] <= piece) ++tensor;
      const int64_t begin = (piece - w.firstPiece[tensor]) * AdamWWork::pieceElements;
      visit(tensor, begin, min(w.tensors[tensor].n, begin + AdamWWork::pieceElements));
    }
  }
};

// ------------------------------------------------------------------------------------------------ norm

template <int width>
__device__ double squaresOf(const float* grad, int64_t begin, int64_t end) {
  double sum = 0;
  for (int64_t i = begin + threadIdx.x * width; i < end; i += blockDim.x * width) {
    float x[width];
    load(grad + i, x);
#pragma unroll
    for (int j = 0; j < width; ++j) sum = fma(static_cast<double>(x[j]), static_cast<double>(x[j]), sum);
  }
  return sum;
}

__device__ double power(double base, int32_t exponent) {
  double result = 1;
  for (; exponent > 0; exponent >>= 1, base *= base)
    if (exponent & 1) result *= base;
  return result;
}

/// The step that each tensor is about to take, should it be taken.
__device__ void correct(const AdamWWork& w) {
  const AdamWScalars s = *w.scalars;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < w.count; i += gridDim.x * blockDim.x) {
    const int32_t t = *w.tensors[i].steps + 1;
    const double first = 1.0 - power(s.beta1, t), second = 1.0 - power(s.beta2, t);
    w.corrections[i] = {static_cast<float>(s.learningRate / first), static_cast<float>(1.0 / sqrt(second)), t};
  }
}

/// The tables as they came in the kernel's parameters: every block has a copy, the first one also writes them for the
/// next kernel.
__device__ AdamWWork receive(AdamWWork w, const UploadPiece& tables, uint64_t* words) {
  for (int i = threadIdx.x; i < tables.count; i += blockDim.x) {
    words[i] = tables.words[i];
    if (blockIdx.x == 0) tables.target[i] = words[i];
  }
  __syncthreads();
  const auto place = [&]<class Table>(const Table*& table) {
    const auto offset = reinterpret_cast<uintptr_t>(table) - reinterpret_cast<uintptr_t>(tables.target);
    // Scalars of a step that is replayed lie elsewhere.
    if (offset < tables.count * sizeof(uint64_t))
      table = reinterpret_cast<const Table*>(reinterpret_cast<const char*>(words) + offset);
  };
  place(w.scalars);
  place(w.tensors);
  place(w.firstPiece);
  return w;
}

extern "C" __global__ void __launch_bounds__(adamwThreads)
    adamwNorm(const __grid_constant__ AdamWWork step, const __grid_constant__ UploadPiece tables,
              const __grid_constant__ Guard guard) {
  if (!enter(guard)) return;
  __shared__ double scratch[adamwThreads / warpSize_];
  __shared__ uint64_t words[UploadPiece::maxWords];
  const AdamWWork w = tables.count > 0 ? receive(step, tables, words) : step;
  correct(w);
  double sum = 0;
  PieceWalk(w).forEach([&](int tensor, int64_t begin, int64_t end) {
    const float* grad = w.tensors[tensor].grad;
    const int64_t pieces = startsAligned<float>(0, grad) ? end - (end - begin) % wide<float> : begin;
    sum += squaresOf<wide<float>>(grad, begin, pieces);
    sum += squaresOf<1>(grad, pieces, end);
  });
  sum = blockSum(sum, scratch);
  if (threadIdx.x == 0) w.squares[blockIdx.x] = sum;
}

// ------------------------------------------------------------------------------------------------ update

struct AdamWFactors {
  float gradScale;  // clipping
  float decay;      // the value is multiplied by it first
  float beta1, beta2, oneMinusBeta1, oneMinusBeta2, epsilon;
};

template <class T, int width>
__device__ void updateRange(const AdamWTensor& tensor, const AdamWCorrection& c, const AdamWFactors& f, int64_t begin,
                            int64_t end) {
  T* values = static_cast<T*>(tensor.value);
  float* masters = tensor.master ? tensor.master : static_cast<float*>(tensor.value);
  for (int64_t i = begin + threadIdx.x * width; i < end; i += blockDim.x * width) {
    float value[width], grad[width], mean[width], variance[width];
    load(masters + i, value);
    load(tensor.grad + i, grad);
    load(tensor.mean + i, mean);
    load(tensor.variance + i, variance);
#pragma unroll
    for (int j = 0; j < width; ++j) {
      const float g = grad[j] * f.gradScale;
      mean[j] = f.beta1 * mean[j] + f.oneMinusBeta1 * g;
      variance[j] = f.beta2 * variance[j] + f.oneMinusBeta2 * (g * g);
      const float denominator = sqrtf(variance[j]) * c.varianceScale + f.epsilon;
      value[j] = value[j] * f.decay - c.stepSize * (mean[j] / denominator);
    }
    store(tensor.mean + i, mean);
    store(tensor.variance + i, variance);
    if (tensor.master) store(tensor.master + i, value);
    store(values + i, value);
  }
}

template <class T>
__device__ void updatePiece(const AdamWTensor& tensor, const AdamWCorrection& c, const AdamWFactors& f, int64_t begin,
                            int64_t end) {
  const bool aligned = startsAligned<T>(0, tensor.value, tensor.master, tensor.grad, tensor.mean, tensor.variance);
  const int64_t pieces = aligned ? end - (end - begin) % wide<T> : begin;
  updateRange<T, wide<T>>(tensor, c, f, begin, pieces);
  updateRange<T, 1>(tensor, c, f, pieces, end);
}

extern "C" __global__ void __launch_bounds__(adamwThreads)
    adamwUpdate(const __grid_constant__ AdamWWork w, const __grid_constant__ Guard guard) {
  if (!enter(guard)) return;
  __shared__ double scratch[adamwThreads / warpSize_];
  // Every block adds the same squares in the same order.
  double sum = 0;
  for (int i = threadIdx.x; i < w.normBlocks; i += blockDim.x) sum += w.squares[i];
  const float norm = static_cast<float>(sqrt(blockSum(sum, scratch)));
  const bool skip = !isfinite(norm);
  if (blockIdx.x == 0) {
    if (threadIdx.x == 0) *w.gradNorm = norm;
    if (threadIdx.x == 0 && skip) ++*w.skipped;
    for (int i = threadIdx.x; !skip && i < w.count; i += blockDim.x) *w.tensors[i].steps = w.corrections[i].steps;
  }
  if (skip) return;
  const AdamWScalars s = *w.scalars;
  const AdamWFactors factors{s.maxGradNorm > 0 ? static_cast<float>(fmin(1.0, s.maxGradNorm / (norm + 1e-6))) : 1.0f,
                             static_cast<float>(1.0 - static_cast<double>(s.learningRate) * s.weightDecay),
                             s.beta1,
                             s.beta2,
                             static_cast<float>(1.0 - static_cast<double>(s.beta1)),
                             static_cast<float>(1.0 - static_cast<double>(s.beta2)),
                             s.epsilon};
  PieceWalk(w).forEach([&](int number, int64_t begin, int64_t end) {
    const AdamWTensor tensor = w.tensors[number];
    const AdamWCorrection correction = w.corrections[number];
    if (tensor.dtype == DType::Float32) updatePiece<float>(tensor, correction, factors, begin, end);
    if (tensor.dtype == DType::BFloat16) updatePiece<bfloat16>(tensor, correction, factors, begin, end);
    if (tensor.dtype == DType::Float16) updatePiece<float16>(tensor, correction, factors, begin, end);
  });
}

}  // namespace moe
