// Grouped products by themselves, output[r] = weight_e·input[r] + bias, and their gradients: linear layers (one group)
// and the bare operation. The experts stage, which fuses more, is in experts.cpp.
//
// in, out: the widths, inp, outp the same rounded up to whole panels; L lanes of a panel.
#include <cstring>

#include "backend.h"
#include "element.h"
#include "gemm.h"

namespace moe::cpu {

namespace {

RowGroups groupsOf(int64_t R, int E, const int32_t* offsets) { return {offsets ? E : 1, R, offsets}; }

/// Rows past the last group's end.
template <class T>
void clearTail(T* rows, const RowGroups& groups, int64_t width) {
  const int64_t end = groups.begin(groups.count);
  if (end < groups.rows) std::memset(rows + end * width, 0, sizeof(T) * (groups.rows - end) * width);
}

// ------------------------------------------------------------------------------------------------ forward

template <class T>
void forward(const GroupedGemmForward& p, const GemmKernels& gemm, ThreadPool& pool, Scratch& scratch) {
  const T *input = elements<T>(p.input), *weight = elements<T>(p.weight), *bias = elements<T>(p.bias);
  T* output = elements<T>(p.output);
  const RowGroups groups = groupsOf(p.R, p.E, p.expertOffsets);
  const int64_t in = p.in, out = p.out, lanes = chunkLanes(in, gemm.lanes);
  const std::vector<TokenChunk> chunks = tokenChunks(groups, lanes, gemm.lanes);
  const int64_t count = static_cast<int64_t>(chunks.size());

  // Chunks are taken in batches: a batch is packed once, then its outputs are cut finely enough for all workers.
  const int64_t batch = std::min<int64_t>(count, 4 * pool.threads());
  const int64_t piece = roundUp(ceilDiv(out, 2), rowBlock), pieces = ceilDiv(out, piece);
  float* packed;  // [batch][in·lanes]
  std::vector<WeightBuffers> own(pool.threads());
  scratch.layOut([&](Carver& carver) {
    packed = carver.take(batch * in * lanes);
    for (WeightBuffers& buffers : own) buffers = carveWeightBuffers<T>(carver, lanes, in);
  });

  for (int64_t first = 0; first < count; first += batch) {
    const int64_t size = std::min(batch, count - first);
    pool.parallelFor(size, [&](int64_t i, int) {
      const TokenChunk& chunk = chunks[first + i];
      gemm.of<T>().packTransposed(input + chunk.row * in, in, nullptr, chunk.count, in, packed + i * in * lanes);
    });
    pool.parallelFor(size * pieces, [&](int64_t item, int worker) {
      const TokenChunk& chunk = chunks[first + item / pieces];
      const int64_t from = item % pieces * piece;
      projectTransposed(gemm, chunk, packed + item / pieces * in * lanes, in, weight + chunk.expert * out * in,
                        bias ? bias + chunk.expert * out : nullptr, from, std::min(from + piece, out), own[worker],
                        output + chunk.row * out, out);
    });
  }
  clearTail(output, groups, out);
}

// ------------------------------------------------------------------------------------------------ backward

template <class T>
class Backward {
 public:
  Backward(const GroupedGemmBackward& p, const GemmKernels& gemm)
      : p_(p), gemm_(gemm), L_(gemm.lanes), inp_(roundUp(p.in, L_)), outp_(roundUp(p.out, L_)) {}

  int64_t floatsPerRow() const { return inp_ + outp_; }
  int64_t columnBlocks() const { return ceilDiv(p_.in, wideColumnBlock); }
  int64_t outputBlocks() const { return ceilDiv(p_.out, columnBlock); }
  bool needWeights() const { return p_.gradWeight || p_.gradBias; }
  /// Only rows of float32 are operands as they stand.
  bool needPanels() const { return needWeights() || (p_.gradInput && !std::is_same_v<T, float>); }

  /// x [inp/L][rows][L] and dO [outp/L][rows][L] of a part.
  void pack(const Part& part, float* x, float* dO) const {
    const int64_t panel = part.rows * L_;
    if (needWeights())
      gemm_.of<T>().packPanels(elements<T>(p_.input) + part.row * p_.in, p_.in, nullptr, part.rows, p_.in, x, panel);
    gemm_.of<T>().packPanels(elements<T>(p_.gradOutput) + part.row * p_.out, p_.out, nullptr, part.rows, p_.out, dO,
                             panel);
  }

  /// Columns [block·wideColumnBlock, ...) of gradInput for a part.
  void inputs(const Part& part, const float* dO, int64_t block, const InputBuffers& buffers) const {
    const int64_t column = block * wideColumnBlock;
    GemmProduct left{};
    if constexpr (std::is_same_v<T, float>) {
      left.left = Left::Rows;
      left.a = elements<float>(p_.gradOutput) + part.row * p_.out;
      left.aRow = p_.out;
    } else {
      left.left = Left::PanelRows;
      left.a = dO;
      left.aPanel = part.rows * L_;
    }
    const T* weight = elements<T>(p_.weight) + part.expert * int64_t{p_.out} * p_.in + column;
    inputGradient<T>(gemm_, {{left, weight}}, part.rows, p_.out, std::min<int64_t>(wideColumnBlock, p_.in - column),
                     buffers, elements<T>(p_.gradInput) + part.row * p_.in + column, p_.in);
  }

  /// Rows [outBlock·columnBlock, ...) by columns [inBlock·wideColumnBlock, ...) of a part's share of gradWeight, and
  /// with the first columns the same rows of gradBias.
  void weights(const Part& part, const float* x, const float* dO, int64_t outBlock, int64_t inBlock) const {
    const int64_t out = outBlock * columnBlock, rows = std::min<int64_t>(columnBlock, p_.out - out);
    const int64_t in = inBlock * wideColumnBlock, columns = std::min<int64_t>(wideColumnBlock, p_.in - in);
    const int64_t panel = part.rows * L_, output = part.expert * int64_t{p_.out} + out;
    if (p_.gradWeight)
      weightGradient(gemm_, {dO + out * part.rows, panel}, rows, {x + in * part.rows, panel}, columns, part.rows,
                     p_.gradWeight + output * p_.in + in, p_.in, p_.accumulateWeight || !part.first);
    if (p_.gradBias && inBlock == 0)
      for (int64_t i = 0; i < rows; i += L_)
        gemm_.columnSums(dO + (out + i) * part.rows, part.rows, static_cast<int>(std::min(L_, rows - i)), nullptr,
                         p_.gradBias + output + i, p_.accumulateBias || !part.first);
  }

  int64_t inp() const { return inp_; }
  int64_t outp() const { return outp_; }

 private:
  const GroupedGemmBackward& p_;
  const GemmKernels& gemm_;
  const int64_t L_, inp_, outp_;
};

template <class T>
void backward(const GroupedGemmBackward& p, const GemmKernels& gemm, ThreadPool& pool, Scratch& scratch) {
  const RowGroups groups = groupsOf(p.R, p.E, p.expertOffsets);
  const Backward<T> backward(p, gemm);
  const std::vector<Wave> all = waves(groups, waveRows(backward.floatsPerRow()));
  int64_t largest = 0;
  for (const Wave& wave : all) largest = std::max(largest, wave.rows);

  float *x, *dO;  // the wave's panels; a part's start at (part.row - wave.row)·inp or ·outp
  std::vector<InputBuffers> own(pool.threads());
  scratch.layOut([&](Carver& carver) {
    x = carver.take(backward.needWeights() ? largest * backward.inp() : 0);
    dO = carver.take(backward.needPanels() ? largest * backward.outp() : 0);
    for (InputBuffers& buffers : own) buffers = carveInputBuffers<T>(carver, p.gradInput ? largest : 0);
  });
  const auto xOf = [&](const Wave& wave, const Part& part) { return x + (part.row - wave.row) * backward.inp(); };
  const auto dOOf = [&](const Wave& wave, const Part& part) { return dO + (part.row - wave.row) * backward.outp(); };

  const int64_t columnBlocks = backward.columnBlocks(), outputBlocks = backward.outputBlocks();
  for (const Wave& wave : all) {
    const int64_t parts = static_cast<int64_t>(wave.parts.size());
    if (backward.needPanels())
      pool.parallelFor(parts, [&](int64_t i, int) {
        const Part& part = wave.parts[i];
        backward.pack(part, xOf(wave, part), dOOf(wave, part));
      });
    if (p.gradInput)
      pool.parallelFor(parts * columnBlocks, [&](int64_t i, int worker) {
        const Part& part = wave.parts[i / columnBlocks];
        backward.inputs(part, dOOf(wave, part), i % columnBlocks, own[worker]);
      });
    if (backward.needWeights())
      pool.parallelFor(parts * outputBlocks * columnBlocks, [&](int64_t i, int) {
        const Part& part = wave.parts[i / (outputBlocks * columnBlocks)];
        backward.weights(part, xOf(wave, part), dOOf(wave, part), i / columnBlocks % outputBlocks, i % columnBlocks);
      });
  }

  if (p.gradInput) clearTail(elements<T>(p.gradInput), groups, p.in);
  for (int64_t e = 0; e < groups.count; ++e) {
    if (groups.begin(static_cast<int>(e)) != groups.begin(static_cast<int>(e) + 1)) continue;
    const int64_t n = int64_t{p.out} * p.in;
    if (p.gradWeight && !p.accumulateWeight) std::memset(p.gradWeight + e * n, 0, sizeof(float) * n);
    if (p.gradBias && !p.accumulateBias) std::memset(p.gradBias + e * p.out, 0, sizeof(float) * p.out);
  }
}

}  // namespace

void CpuBackend::groupedGemmForward(const GroupedGemmForward& p) {
  const StageTimer timer(*this, "groupedGemmForward");
  withElement(p.dtype, [&]<class T>() { forward<T>(p, gemm_, pool_, scratch_); });
}

void CpuBackend::groupedGemmBackward(const GroupedGemmBackward& p) {
  const StageTimer timer(*this, "groupedGemmBackward");
  withElement(p.dtype, [&]<class T>() { backward<T>(p, gemm_, pool_, scratch_); });
}

}  // namespace moe::cpu
