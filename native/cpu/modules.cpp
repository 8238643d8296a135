// What a training loop needs around the layer: the sigmoid gate of shared experts, embedding, RMS norm, cross-entropy,
// add.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "../core/error.h"
#include "../shared/math.h"
#include "backend.h"
#include "floats.h"
#include "lowest.h"
#include "narrow.h"
#include "simd/row.h"

namespace moe::cpu {

namespace {

constexpr int64_t rowsPerPiece = 32;

}  // namespace

// ------------------------------------------------------------------------------------------------ sigmoid gate

void CpuBackend::sigmoidGateForward(const SigmoidGateForward& f) {
  const std::vector<int32_t> live = liveTokens(f.mask, f.T);
  std::fill_n(f.gates, f.T, 0.0f);
  Narrow{pool_, row_, live, f.H, 1}.forward(floats(f.input), floats(f.weight), nullptr, f.gates);
  for (const int32_t t : live) f.gates[t] = 1.0f / (1.0f + moe::exp(-f.gates[t]));
}

void CpuBackend::sigmoidGateBackward(const SigmoidGateBackward& b) {
  const std::vector<int32_t> live = liveTokens(b.mask, b.T);
  std::vector<float> gradSums(b.T);  // [T] by ⟨input, weight⟩
  for (const int32_t t : live) gradSums[t] = b.gradGates[t] * b.gates[t] * (1.0f - b.gates[t]);
  const Narrow product{pool_, row_, live, b.H, 1};
  product.backwardInput(gradSums.data(), floats(b.weight), floats(b.gradInput));
  if (b.gradWeight) product.backwardWeight(gradSums.data(), floats(b.input), b.gradWeight, b.accumulateWeight);
}

// ------------------------------------------------------------------------------------------------ embedding

void CpuBackend::embeddingForward(const EmbeddingForward& f) {
  const int64_t size = f.size;
  Lowest bad;
  pool_.parallelRanges(f.N, rowsPerPiece, [&](int64_t begin, int64_t end, int) {
    for (int64_t n = begin; n < end; ++n) {
      if (f.indices[n] < 0 || f.indices[n] >= f.count)
        bad.note(n);
      else
        std::copy_n(floats(f.weight) + f.indices[n] * size, size, floats(f.output) + n * size);
    }
  });
  if (bad.found())
    throw Error(ErrorCode::InvalidArgument, "indices[" + std::to_string(bad.value()) + "] must be in [0, " +
                                                std::to_string(f.count) + "), got " +
                                                std::to_string(f.indices[bad.value()]));
}

void CpuBackend::embeddingBackward(const EmbeddingBackward& b) {
  // The positions of every index in order, by a counting sort; then each row of the weight sums its own.
  std::vector<int64_t> offsets(static_cast<size_t>(b.count) + 2), positions(b.N);
  for (int64_t n = 0; n < b.N; ++n) ++offsets[b.indices[n] + 2];
  for (int i = 2; i < b.count + 2; ++i) offsets[i] += offsets[i - 1];
  for (int64_t n = 0; n < b.N; ++n) positions[offsets[b.indices[n] + 1]++] = n;

  // Rows are cut in strips, so that a frequent index keeps more than one thread busy. Blocks of positions are summed
  // apart and then added: that bounds the rounding of long sums.
  constexpr int64_t strip = 64, block = 64;
  const int64_t size = b.size, strips = (size + strip - 1) / strip;
  pool_.parallelRanges(b.count * strips, 4, [&](int64_t first, int64_t last, int) {
    for (int64_t task = first; task < last; ++task) {
      const int64_t index = task / strips, column = task % strips * strip;
      const int64_t columns = std::min(strip, size - column);
      float* grad = b.gradWeight + index * size + column;
      if (!b.accumulateWeight) std::fill_n(grad, columns, 0.0f);
      for (int64_t begin = offsets[index]; begin < offsets[index + 1]; begin += block) {
        float sums[strip] = {};
        for (int64_t i = begin; i < std::min(begin + block, offsets[index + 1]); ++i)
          row_.addScaled(1.0f, floats(b.gradOutput) + positions[i] * size + column, columns, sums);
        row_.addScaled(1.0f, sums, columns, grad);
      }
    }
  });
}

// ------------------------------------------------------------------------------------------------ RMS norm

void CpuBackend::rmsNormForward(const RmsNormForward& f) {
  const int64_t size = f.size;
  pool_.parallelRanges(f.N, rowsPerPiece, [&](int64_t begin, int64_t end, int) {
    for (int64_t n = begin; n < end; ++n) {
      const float* row = floats(f.input) + n * size;
      f.inverseRms[n] = static_cast<float>(1.0 / std::sqrt(row_.sumSquares(row, size) / f.size + f.epsilon));
      row_.rmsNorm(row, f.inverseRms[n], floats(f.weight), size, floats(f.output) + n * size);
    }
  });
}

void CpuBackend::rmsNormBackward(const RmsNormBackward& b) {
  const int64_t size = b.size, pieces = (b.N + rowsPerPiece - 1) / rowsPerPiece;
  std::vector<float> partials(b.gradWeight ? pieces * size : 0);  // [pieces,size]
  pool_.parallelRanges(b.N, rowsPerPiece, [&](int64_t begin, int64_t end, int) {
    float* partial = b.gradWeight ? partials.data() + begin / rowsPerPiece * size : nullptr;
    for (int64_t n = begin; n < end; ++n)
      row_.rmsNormBackward(floats(b.input) + n * size, b.inverseRms[n], floats(b.weight),
                           floats(b.gradOutput) + n * size, size, floats(b.gradInput) + n * size, partial);
  });
  if (!b.gradWeight) return;
  pool_.parallelRanges(size, 64, [&](int64_t begin, int64_t end, int) {
    if (!b.accumulateWeight) std::fill(b.gradWeight + begin, b.gradWeight + end, 0.0f);
    for (int64_t piece = 0; piece < pieces; ++piece)
      row_.addScaled(1.0f, partials.data() + piece * size + begin, end - begin, b.gradWeight + begin);
  });
}

// ------------------------------------------------------------------------------------------------ cross-entropy

void CpuBackend::crossEntropyForward(const CrossEntropyForward& f) {
  Lowest bad;
  pool_.parallelRanges(f.N, rowsPerPiece, [&](int64_t begin, int64_t end, int) {
    for (int64_t n = begin; n < end; ++n) {
      f.logSumExp[n] = 0;
      if (f.targets[n] < -1 || f.targets[n] >= f.classes) bad.note(n);
      if (f.targets[n] < 0) continue;
      const ExpSum sum = row_.expSum(floats(f.logits) + n * f.classes, f.classes);
      f.logSumExp[n] = sum.maximum + moe::log(sum.sum);
    }
  });
  if (bad.found())
    throw Error(ErrorCode::InvalidArgument, "targets[" + std::to_string(bad.value()) + "] must be -1 or in [0, " +
                                                std::to_string(f.classes) + "), got " +
                                                std::to_string(f.targets[bad.value()]));
  double loss = 0;
  int64_t counted = 0;
  for (int64_t n = 0; n < f.N; ++n) {
    if (f.targets[n] < 0) continue;
    loss += static_cast<double>(f.logSumExp[n]) - floats(f.logits)[n * f.classes + f.targets[n]];
    ++counted;
  }
  f.loss[0] = counted > 0 ? static_cast<float>(loss / static_cast<double>(counted)) : 0.0f;
  f.loss[1] = static_cast<float>(counted);
}

void CpuBackend::crossEntropyBackward(const CrossEntropyBackward& b) {
  const float scale = b.loss[1] > 0 ? b.scale / b.loss[1] : 0.0f;
  pool_.parallelRanges(b.N, rowsPerPiece, [&](int64_t begin, int64_t end, int) {
    for (int64_t n = begin; n < end; ++n) {
      float* grad = floats(b.gradLogits) + n * b.classes;
      if (b.targets[n] < 0)
        std::fill_n(grad, b.classes, 0.0f);
      else
        row_.crossEntropyBackward(floats(b.logits) + n * b.classes, b.logSumExp[n], scale, b.classes, b.targets[n],
                                  grad);
    }
  });
}

// ------------------------------------------------------------------------------------------------ add

void CpuBackend::add(const Add& a) {
  pool_.parallelRanges(a.n, 1 << 15, [&](int64_t begin, int64_t end, int) {
    row_.add(floats(a.a) + begin, floats(a.b) + begin, end - begin, floats(a.output) + begin);
  });
}

}  // namespace moe::cpu
