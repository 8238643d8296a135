// Grouped products by themselves, output[r] = weight_e·input[r] + bias, and their gradients: linear layers (one group)
// and the bare operation. The experts stage, which fuses more, is in experts.cpp.
//
// in, out: the widths, inp, outp the same rounded up to whole panels; L lanes of a panel.
#include <cstring>

#include "backend.h"
#include "floats.h"
#include "gemm.h"

namespace moe::cpu {

namespace {

RowGroups groupsOf(int64_t R, int E, const int32_t* offsets) { return {offsets ? E : 1, R, offsets}; }

/// Rows past the last group's end.
void clearTail(float* rows, const RowGroups& groups, int64_t width) {
  const int64_t end = groups.begin(groups.count);
  if (end < groups.rows) std::memset(rows + end * width, 0, sizeof(float) * (groups.rows - end) * width);
}

}  // namespace

// ------------------------------------------------------------------------------------------------ forward

void CpuBackend::groupedGemmForward(const GroupedGemmForward& p) {
  const RowGroups groups = groupsOf(p.R, p.E, p.expertOffsets);
  const int64_t in = p.in, out = p.out, lanes = chunkLanes(in, gemm_.lanes);
  const std::vector<TokenChunk> chunks = tokenChunks(groups, lanes, gemm_.lanes);
  const int64_t count = static_cast<int64_t>(chunks.size());

  // Chunks are taken in batches: a batch is packed once, then its outputs are cut finely enough for all workers.
  const int64_t batch = std::min<int64_t>(count, 4 * pool_.threads());
  const int64_t piece = roundUp(ceilDiv(out, 2), rowBlock), pieces = ceilDiv(out, piece);
  float* packed;  // [batch][in·lanes]
  std::vector<float*> stages(pool_.threads());
  scratch_.layOut([&](Carver& carver) {
    packed = carver.take(batch * in * lanes);
    for (float*& stage : stages) stage = carver.take(stageFloats(lanes));
  });

  for (int64_t first = 0; first < count; first += batch) {
    const int64_t size = std::min(batch, count - first);
    pool_.parallelFor(size, [&](int64_t i, int) {
      const TokenChunk& chunk = chunks[first + i];
      gemm_.packTransposed(floats(p.input) + chunk.row * in, in, nullptr, chunk.count, in, packed + i * in * lanes);
    });
    pool_.parallelFor(size * pieces, [&](int64_t item, int worker) {
      const TokenChunk& chunk = chunks[first + item / pieces];
      const int64_t from = item % pieces * piece;
      projectTransposed(gemm_, chunk, packed + item / pieces * in * lanes, in,
                        floats(p.weight) + chunk.expert * out * in,
                        floats(p.bias) ? floats(p.bias) + chunk.expert * out : nullptr, from,
                        std::min(from + piece, out), stages[worker], floats(p.output) + chunk.row * out, out);
    });
  }
  clearTail(floats(p.output), groups, out);
}

// ------------------------------------------------------------------------------------------------ backward

namespace {

class Backward {
 public:
  Backward(const GroupedGemmBackward& p, const GemmKernels& gemm)
      : p_(p), gemm_(gemm), L_(gemm.lanes), inp_(roundUp(p.in, L_)), outp_(roundUp(p.out, L_)) {}

  int64_t floatsPerRow() const { return inp_ + outp_; }
  int64_t columnBlocks() const { return ceilDiv(p_.in, wideColumnBlock); }
  int64_t outputBlocks() const { return ceilDiv(p_.out, columnBlock); }

  /// Columns [block·wideColumnBlock, ...) of gradInput for neighbouring rows of one expert.
  void inputs(int64_t expert, int64_t row, int64_t rows, int64_t block, float* copy) const {
    const int64_t column = block * wideColumnBlock;
    GemmProduct left{};
    left.rows = rows;
    left.depth = p_.out;
    left.left = Left::Rows;
    left.a = floats(p_.gradOutput) + row * p_.out;
    left.aRow = p_.out;
    inputGradient(gemm_, left, floats(p_.weight) + expert * p_.out * p_.in + column, p_.in,
                  std::min<int64_t>(wideColumnBlock, p_.in - column), copy, floats(p_.gradInput) + row * p_.in + column,
                  false);
  }

  /// x [inp/L][rows][L] and dO [outp/L][rows][L] of a part.
  void pack(const Part& part, float* x, float* dO) const {
    const int64_t panel = part.rows * L_;
    gemm_.packPanels(floats(p_.input) + part.row * p_.in, p_.in, nullptr, part.rows, p_.in, x, panel);
    gemm_.packPanels(floats(p_.gradOutput) + part.row * p_.out, p_.out, nullptr, part.rows, p_.out, dO, panel);
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

}  // namespace

void CpuBackend::groupedGemmBackward(const GroupedGemmBackward& p) {
  const RowGroups groups = groupsOf(p.R, p.E, p.expertOffsets);
  const Backward backward(p, gemm_);
  const std::vector<Wave> all = waves(groups, waveRows(backward.floatsPerRow()));
  int64_t largest = 0;
  for (const Wave& wave : all) largest = std::max(largest, wave.rows);

  const bool needWeights = p.gradWeight || p.gradBias;
  float *x, *dO;  // the wave's panels; a part's start at (part.row - wave.row)·inp or ·outp
  std::vector<float*> copies(pool_.threads());
  scratch_.layOut([&](Carver& carver) {
    x = carver.take(needWeights ? largest * backward.inp() : 0);
    dO = carver.take(needWeights ? largest * backward.outp() : 0);
    for (float*& copy : copies) copy = carver.take(depthBlock * wideColumnBlock);
  });

  const int64_t columnBlocks = backward.columnBlocks(), outputBlocks = backward.outputBlocks();
  for (const Wave& wave : all) {
    const int64_t parts = static_cast<int64_t>(wave.parts.size());
    if (floats(p.gradInput))
      pool_.parallelFor(parts * columnBlocks, [&](int64_t i, int worker) {
        const Part& part = wave.parts[i / columnBlocks];
        backward.inputs(part.expert, part.row, part.rows, i % columnBlocks, copies[worker]);
      });
    if (!needWeights) continue;
    pool_.parallelFor(parts, [&](int64_t i, int) {
      const Part& part = wave.parts[i];
      backward.pack(part, x + (part.row - wave.row) * backward.inp(), dO + (part.row - wave.row) * backward.outp());
    });
    pool_.parallelFor(parts * outputBlocks * columnBlocks, [&](int64_t i, int) {
      const Part& part = wave.parts[i / (outputBlocks * columnBlocks)];
      backward.weights(part, x + (part.row - wave.row) * backward.inp(), dO + (part.row - wave.row) * backward.outp(),
                       i / columnBlocks % outputBlocks, i % columnBlocks);
    });
  }

  if (floats(p.gradInput)) clearTail(floats(p.gradInput), groups, p.in);
  for (int64_t e = 0; e < groups.count; ++e) {
    if (groups.begin(static_cast<int>(e)) != groups.begin(static_cast<int>(e) + 1)) continue;
    const int64_t n = int64_t{p.out} * p.in;
    if (p.gradWeight && !p.accumulateWeight) std::memset(p.gradWeight + e * n, 0, sizeof(float) * n);
    if (p.gradBias && !p.accumulateBias) std::memset(p.gradBias + e * p.out, 0, sizeof(float) * p.out);
  }
}

}  // namespace moe::cpu
