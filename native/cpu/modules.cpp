// What a training loop needs around the layer: the sigmoid gate of shared experts, embedding, RMS norm, cross-entropy,
// add.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "../core/error.h"
#include "../shared/math.h"
#include "backend.h"
#include "element.h"
#include "lowest.h"
#include "narrow.h"
#include "simd/gemm.h"
#include "simd/row.h"

namespace moe::cpu {

// ------------------------------------------------------------------------------------------------ sigmoid gate

namespace {

/// The gate's weight [H] in float32.
template <class T>
std::vector<float> widened(const void* weight, int H, const PackKernels<T>& kernels) {
  std::vector<float> result(H);
  kernels.widen(elements<T>(weight), H, result.data());
  return result;
}

}  // namespace

void CpuBackend::sigmoidGateForward(const SigmoidGateForward& f) {
  const StageTimer timer(*this, "sigmoidGateForward");
  const std::vector<int32_t> live = liveTokens(f.mask, f.T);
  std::fill_n(f.gates, f.T, 0.0f);
  withElement(f.dtype, [&]<class T>() {
    const Narrow<T> product{pool_, scratch_, gemm_, row_, live, f.H, 1};
    product.forward(elements<T>(f.input), widened(f.weight, f.H, gemm_.of<T>()).data(), nullptr, f.gates);
  });
  for (const int32_t t : live) f.gates[t] = 1.0f / (1.0f + moe::exp(-f.gates[t]));
}

void CpuBackend::sigmoidGateBackward(const SigmoidGateBackward& b) {
  const StageTimer timer(*this, "sigmoidGateBackward");
  const std::vector<int32_t> live = liveTokens(b.mask, b.T);
  std::vector<float> gradSums(b.T);  // [T] by ⟨input, weight⟩
  for (const int32_t t : live) gradSums[t] = b.gradGates[t] * b.gates[t] * (1.0f - b.gates[t]);
  withElement(b.dtype, [&]<class T>() {
    const Narrow<T> product{pool_, scratch_, gemm_, row_, live, b.H, 1};
    product.backwardInput(gradSums.data(), widened(b.weight, b.H, gemm_.of<T>()).data(), elements<T>(b.gradInput));
    if (b.gradWeight) product.backwardWeight(gradSums.data(), elements<T>(b.input), b.gradWeight, b.accumulateWeight);
  });
}

// ------------------------------------------------------------------------------------------------ embedding

void CpuBackend::embeddingForward(const EmbeddingForward& f) {
  const StageTimer timer(*this, "embeddingForward");
  const int64_t size = f.size;
  Lowest bad;
  withElement(f.dtype, [&]<class T>() {
    pool_.parallelRanges(f.N, rowsPerPiece, [&](int64_t begin, int64_t end, int) {
      for (int64_t n = begin; n < end; ++n) {
        if (f.indices[n] < 0 || f.indices[n] >= f.count)
          bad.note(n);
        else
          std::copy_n(elements<T>(f.weight) + f.indices[n] * size, size, elements<T>(f.output) + n * size);
      }
    });
  });
  if (bad.found())
    throw Error(ErrorCode::InvalidArgument, "indices[" + std::to_string(bad.value()) + "] must be in [0, " +
                                                std::to_string(f.count) + "), got " +
                                                std::to_string(f.indices[bad.value()]));
}

namespace {

template <class T>
void addRowsByIndex(const EmbeddingBackward& b, const RowKernels& kernels, ThreadPool& pool) {
  // The positions of every index in order, by a counting sort; then each row of the weight sums its own.
  std::vector<int64_t> offsets(static_cast<size_t>(b.count) + 2), positions(b.N);
  for (int64_t n = 0; n < b.N; ++n) ++offsets[int64_t{b.indices[n]} + 2];
  for (size_t i = 2; i < offsets.size(); ++i) offsets[i] += offsets[i - 1];
  for (int64_t n = 0; n < b.N; ++n) positions[offsets[int64_t{b.indices[n]} + 1]++] = n;

  // Rows are cut in strips, so that a frequent index keeps more than one thread busy. Blocks of positions are summed
  // apart and then added: that bounds the rounding of long sums.
  constexpr int64_t strip = 64, block = 64;
  const int64_t size = b.size, strips = (size + strip - 1) / strip;
  const T* gradOutput = elements<T>(b.gradOutput);
  pool.parallelRanges(b.count * strips, 4, [&](int64_t first, int64_t last, int) {
    for (int64_t task = first; task < last; ++task) {
      const int64_t index = task / strips, column = task % strips * strip;
      const int64_t columns = std::min(strip, size - column);
      float* grad = b.gradWeight + index * size + column;
      if (!b.accumulateWeight) std::fill_n(grad, columns, 0.0f);
      for (int64_t begin = offsets[index]; begin < offsets[index + 1]; begin += block) {
        float sums[strip] = {};
        for (int64_t i = begin; i < std::min(begin + block, offsets[index + 1]); ++i)
          kernels.of<T>().addScaled(1.0f, gradOutput + positions[i] * size + column, columns, sums);
        kernels.float32.addScaled(1.0f, sums, columns, grad);
      }
    }
  });
}

}  // namespace

void CpuBackend::embeddingBackward(const EmbeddingBackward& b) {
  const StageTimer timer(*this, "embeddingBackward");
  withElement(b.dtype, [&]<class T>() { addRowsByIndex<T>(b, row_, pool_); });
}

// ------------------------------------------------------------------------------------------------ RMS norm

void CpuBackend::rmsNormForward(const RmsNormForward& f) {
  const StageTimer timer(*this, "rmsNormForward");
  const int64_t size = f.size;
  withElement(f.dtype, [&]<class T>() {
    const ElementKernels<T>& kernels = row_.of<T>();
    pool_.parallelRanges(f.N, rowsPerPiece, [&](int64_t begin, int64_t end, int) {
      for (int64_t n = begin; n < end; ++n) {
        const T* row = elements<T>(f.input) + n * size;
        f.inverseRms[n] = static_cast<float>(1.0 / std::sqrt(kernels.sumSquares(row, size) / f.size + f.epsilon));
        kernels.rmsNorm(row, f.inverseRms[n], elements<T>(f.weight), size, elements<T>(f.output) + n * size);
      }
    });
  });
}

void CpuBackend::rmsNormBackward(const RmsNormBackward& b) {
  const StageTimer timer(*this, "rmsNormBackward");
  const int64_t size = b.size, pieces = (b.N + rowsPerPiece - 1) / rowsPerPiece;
  std::vector<float> partials(b.gradWeight ? pieces * size : 0);  // [pieces,size]
  withElement(b.dtype, [&]<class T>() {
    pool_.parallelRanges(b.N, rowsPerPiece, [&](int64_t begin, int64_t end, int) {
      float* partial = b.gradWeight ? partials.data() + begin / rowsPerPiece * size : nullptr;
      for (int64_t n = begin; n < end; ++n)
        row_.of<T>().rmsNormBackward(elements<T>(b.input) + n * size, b.inverseRms[n], elements<T>(b.weight),
                                     elements<T>(b.gradOutput) + n * size, size, elements<T>(b.gradInput) + n * size,
                                     partial);
    });
  });
  if (!b.gradWeight) return;
  pool_.parallelRanges(size, 64, [&](int64_t begin, int64_t end, int) {
    if (!b.accumulateWeight) std::fill(b.gradWeight + begin, b.gradWeight + end, 0.0f);
    for (int64_t piece = 0; piece < pieces; ++piece)
      row_.float32.addScaled(1.0f, partials.data() + piece * size + begin, end - begin, b.gradWeight + begin);
  });
}

// ------------------------------------------------------------------------------------------------ cross-entropy

void CpuBackend::crossEntropyForward(const CrossEntropyForward& f) {
  const StageTimer timer(*this, "crossEntropyForward");
  Lowest bad;
  std::vector<float> targetLogits(f.N);
  withElement(f.dtype, [&]<class T>() {
    pool_.parallelRanges(f.N, rowsPerPiece, [&](int64_t begin, int64_t end, int) {
      for (int64_t n = begin; n < end; ++n) {
        f.logSumExp[n] = 0;
        if (f.targets[n] < -1 || f.targets[n] >= f.classes) {
          bad.note(n);
        } else if (f.targets[n] >= 0) {
          const T* logits = elements<T>(f.logits) + n * f.classes;
          const ExpSum sum = row_.of<T>().expSum(logits, f.classes);
          f.logSumExp[n] = sum.maximum + moe::log(sum.sum);
          targetLogits[n] = toFloat(logits[f.targets[n]]);
        }
      }
    });
  });
  if (bad.found())
    throw Error(ErrorCode::InvalidArgument, "targets[" + std::to_string(bad.value()) + "] must be -1 or in [0, " +
                                                std::to_string(f.classes) + "), got " +
                                                std::to_string(f.targets[bad.value()]));
  double loss = 0;
  int64_t counted = 0;
  for (int64_t n = 0; n < f.N; ++n) {
    if (f.targets[n] < 0) continue;
    loss += static_cast<double>(f.logSumExp[n]) - targetLogits[n];
    ++counted;
  }
  f.loss[0] = counted > 0 ? static_cast<float>(loss / static_cast<double>(counted)) : 0.0f;
  f.loss[1] = static_cast<float>(counted);
}

void CpuBackend::crossEntropyBackward(const CrossEntropyBackward& b) {
  const StageTimer timer(*this, "crossEntropyBackward");
  const float scale = b.loss[1] > 0 ? b.scale / b.loss[1] : 0.0f;
  withElement(b.dtype, [&]<class T>() {
    pool_.parallelRanges(b.N, rowsPerPiece, [&](int64_t begin, int64_t end, int) {
      for (int64_t n = begin; n < end; ++n) {
        T* grad = elements<T>(b.gradLogits) + n * b.classes;
        if (b.targets[n] < 0)
          std::fill_n(grad, b.classes, T{});
        else
          row_.of<T>().crossEntropyBackward(elements<T>(b.logits) + n * b.classes, b.logSumExp[n], scale, b.classes,
                                            b.targets[n], grad);
      }
    });
  });
}

// ------------------------------------------------------------------------------------------------ add

void CpuBackend::add(const Add& a) {
  const StageTimer timer(*this, "add");
  withElement(a.dtype, [&]<class T>() {
    pool_.parallelRanges(a.n, 1 << 15, [&](int64_t begin, int64_t end, int) {
      row_.of<T>().add(elements<T>(a.a) + begin, elements<T>(a.b) + begin, end - begin, elements<T>(a.output) + begin);
    });
  });
}

}  // namespace moe::cpu
