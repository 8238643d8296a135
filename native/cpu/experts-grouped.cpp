// Grouped products by themselves, output[r] = weight_e·input[r] + bias, and their gradients: linear layers (one group)
// and the bare operation. The experts stage, which fuses more, is in experts-forward.cpp and
// experts-backward.cpp.
//
// in, out: the widths, inp, outp the same rounded up to whole panels; L lanes of a panel.
#include <cstring>
#include <numeric>

#include "backend.h"
#include "element.h"
#include "gemm.h"

namespace moe::cpu {

namespace {

RowGroups groupsOf(int64_t R, int E, const int32_t* offsets) { return {offsets ? E : 1, R, offsets}; }

std::vector<int> allOf(const RowGroups& groups) {
  std::vector<int> all(groups.count);
  std::iota(all.begin(), all.end(), 0);
  return all;
}

/// Rows past the last group's end.
template <class T>
void clearTail(T* rows, const RowGroups& groups, int64_t width) {
  const int64_t end = groups.begin(groups.count);
  if (end < groups.rows) std::memset(rows + end * width, 0, sizeof(T) * (groups.rows - end) * width);
}

// ------------------------------------------------------------------------------------------------ forward

template <class Math>
void forward(const GroupedGemmForward& p, const Math& math, ThreadPool& pool, Scratch& scratch) {
  using T = typename Math::Element;
  using Word = typename Math::Word;
  const T *input = elements<T>(p.input), *weight = elements<T>(p.weight), *bias = elements<T>(p.bias);
  T* output = elements<T>(p.output);
  const RowGroups groups = groupsOf(p.R, p.E, p.expertOffsets);
  const int64_t in = p.in, out = p.out, words = math.words(in), lanes = chunkLanes(words, math.gemm.lanes);
  const std::vector<TokenChunk> chunks = tokenChunks(groups, allOf(groups), lanes, math.gemm.lanes);
  const int64_t count = static_cast<int64_t>(chunks.size());

  // Chunks are taken in batches: a batch is packed once, then its outputs are cut finely enough for all workers.
  const int64_t batch = std::min<int64_t>(count, 4 * pool.threads());
  const int64_t piece = roundUp(ceilDiv(out, 2), rowBlock), pieces = ceilDiv(out, piece);
  Word* packed;  // [batch][words·lanes]
  std::vector<WeightBuffers> own(pool.threads());
  scratch.layOut([&](Carver& carver) {
    packed = carver.take<Word>(batch * words * lanes);
    for (WeightBuffers& buffers : own) buffers = carveWeightBuffers<Math>(carver, lanes, in);
  });

  for (int64_t first = 0; first < count; first += batch) {
    const int64_t size = std::min(batch, count - first);
    pool.parallelFor(size, [&](int64_t i, int) {
      const TokenChunk& chunk = chunks[first + i];
      packTokens(math, chunk, input + chunk.row * in, in, nullptr, in, packed + i * words * lanes);
    });
    pool.parallelFor(size * pieces, [&](int64_t item, int worker) {
      const TokenChunk& chunk = chunks[first + item / pieces];
      const int64_t from = item % pieces * piece;
      projectTransposed(math, chunk, packed + item / pieces * words * lanes, in, weight + chunk.expert * out * in,
                        bias ? bias + chunk.expert * out : nullptr, from, std::min(from + piece, out), own[worker],
                        output + chunk.row * out, out);
    });
  }
  clearTail(output, groups, out);
}

// ------------------------------------------------------------------------------------------------ backward

template <class Math>
class Backward {
  using T = typename Math::Element;
  using Word = typename Math::Word;
  /// Rows of 16 bits that are to be widened are no operand as they stand.
  static constexpr bool rowsAreOperands = !Math::widens;

 public:
  Backward(const GroupedGemmBackward& p, const Math& math)
      : p_(p), math_(math), L_(math.gemm.lanes), inp_(roundUp(p.in, L_)), outp_(roundUp(p.out, L_)) {}

  int64_t waveRows() const { return cpu::waveRows(math_.words(inp_ + outp_)); }
  int64_t columnBlocks() const { return ceilDiv(p_.in, wideColumnBlock); }
  int64_t outputBlocks() const { return ceilDiv(p_.out, columnBlock); }
  bool needWeights() const { return p_.gradWeight || p_.gradBias; }
  bool needPanels() const { return needWeights() || (p_.gradInput && !rowsAreOperands); }

  /// Of the panels of a part in those of its wave.
  int64_t inputAt(const Part& part) const { return math_.words(part.at) * inp_; }
  int64_t outputAt(const Part& part) const { return math_.words(part.at) * outp_; }
  int64_t words(int64_t rows) const { return math_.words(rows); }

  /// x [inp/L][words of rows][L] and dO [outp/L][words of rows][L] of a part.
  void pack(const Part& part, Word* x, Word* dO) const {
    const int64_t panel = words(part.rows) * L_;
    if (needWeights())
      math_.packRows(elements<T>(p_.input) + part.row * p_.in, p_.in, nullptr, part.rows, p_.in, x, panel);
    math_.packRows(elements<T>(p_.gradOutput) + part.row * p_.out, p_.out, nullptr, part.rows, p_.out, dO, panel);
  }

  /// Columns [block·wideColumnBlock, ...) of gradInput for a part.
  void inputs(const Part& part, const Word* dO, int64_t block, const InputBuffers<Word>& buffers) const {
    const int64_t column = block * wideColumnBlock;
    Product<Word> left{};
    if constexpr (rowsAreOperands) {
      left.left = Left::Rows;
      left.a = math_.rows(elements<T>(p_.gradOutput) + part.row * p_.out, 0, nullptr);
      left.aRow = math_.words(p_.out);
    } else {
      left.left = Left::PanelRows;
      left.a = dO;
      left.aPanel = part.rows * L_;
    }
    const T* weight = elements<T>(p_.weight) + part.expert * int64_t{p_.out} * p_.in + column;
    inputGradient<Math>(math_, {{left, weight}}, part.rows, p_.out, std::min<int64_t>(wideColumnBlock, p_.in - column),
                        buffers, elements<T>(p_.gradInput) + part.row * p_.in + column, p_.in);
  }

  /// Rows [outBlock·columnBlock, ...) by columns [inBlock·wideColumnBlock, ...) of a part's share of gradWeight, and
  /// with the first columns the same rows of gradBias.
  void weights(const Part& part, const Word* x, const Word* dO, int64_t outBlock, int64_t inBlock) const {
    const int64_t out = outBlock * columnBlock, rows = std::min<int64_t>(columnBlock, p_.out - out);
    const int64_t in = inBlock * wideColumnBlock, columns = std::min<int64_t>(wideColumnBlock, p_.in - in);
    const int64_t depth = words(part.rows), panel = depth * L_, output = part.expert * int64_t{p_.out} + out;
    if (p_.gradWeight)
      weightGradient(math_, PanelMatrix<Word>{dO + out * depth, panel}, rows, PanelMatrix<Word>{x + in * depth, panel},
                     columns, depth, p_.gradWeight + output * p_.in + in, p_.in, p_.accumulateWeight || !part.first);
    if (p_.gradBias && inBlock == 0)
      for (int64_t i = 0; i < rows; i += L_)
        sumRows(part, dO, out + i, std::min(L_, rows - i), p_.gradBias + output + i);
  }

 private:
  /// out [columns] (+)= Σ of a part's rows of gradOutput, columns from `column` on.
  void sumRows(const Part& part, const Word* dO, int64_t column, int64_t columns, float* out) const {
    const bool accumulate = p_.accumulateBias || !part.first;
    const int lanes = static_cast<int>(columns);
    if constexpr (Math::pairs) {
      constexpr int64_t block = 64;
      float panel[block * columnBlock];
      for (int64_t row = 0; row < part.rows; row += block) {
        const int64_t rows = std::min(block, part.rows - row);
        math_.gemm.template of<T>().packPanels(elements<T>(p_.gradOutput) + (part.row + row) * p_.out + column, p_.out,
                                               nullptr, rows, columns, panel, rows * L_);
        math_.gemm.columnSums(panel, rows, lanes, nullptr, out, accumulate || row > 0);
      }
    } else {
      math_.gemm.columnSums(dO + column * part.rows, part.rows, lanes, nullptr, out, accumulate);
    }
  }

  const GroupedGemmBackward& p_;
  const Math& math_;
  const int64_t L_, inp_, outp_;
};

template <class Math>
void backward(const GroupedGemmBackward& p, const Math& math, ThreadPool& pool, Scratch& scratch) {
  using Word = typename Math::Word;
  const RowGroups groups = groupsOf(p.R, p.E, p.expertOffsets);
  const Backward<Math> backward(p, math);
  const std::vector<Wave> all = waves(groups, allOf(groups), backward.waveRows());
  int64_t largest = 0;
  for (const Wave& wave : all) largest = std::max(largest, wave.rows);

  Word *x, *dO;  // the wave's panels
  std::vector<InputBuffers<Word>> own(pool.threads());
  const Part end{0, 0, 0, largest, false};
  scratch.layOut([&](Carver& carver) {
    x = carver.take<Word>(backward.needWeights() ? backward.inputAt(end) : 0);
    dO = carver.take<Word>(backward.needPanels() ? backward.outputAt(end) : 0);
    for (auto& buffers : own) buffers = carveInputBuffers<Math>(carver, p.gradInput ? largest : 0);
  });

  const int64_t columnBlocks = backward.columnBlocks(), outputBlocks = backward.outputBlocks();
  for (const Wave& wave : all) {
    const int64_t parts = static_cast<int64_t>(wave.parts.size());
    if (backward.needPanels())
      pool.parallelFor(parts, [&](int64_t i, int) {
        const Part& part = wave.parts[i];
        backward.pack(part, x + backward.inputAt(part), dO + backward.outputAt(part));
      });
    if (p.gradInput)
      pool.parallelFor(parts * columnBlocks, [&](int64_t i, int worker) {
        const Part& part = wave.parts[i / columnBlocks];
        backward.inputs(part, dO + backward.outputAt(part), i % columnBlocks, own[worker]);
      });
    if (backward.needWeights())
      pool.parallelFor(parts * outputBlocks * columnBlocks, [&](int64_t i, int) {
        const Part& part = wave.parts[i / (outputBlocks * columnBlocks)];
        backward.weights(part, x + backward.inputAt(part), dO + backward.outputAt(part),
                         i / columnBlocks % outputBlocks, i % columnBlocks);
      });
  }

  using T = typename Math::Element;
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
  withMath(p.dtype, gemm_, dot_, {p.in, p.out}, [&](const auto& math) { forward(p, math, pool_, scratch_); });
}

void CpuBackend::groupedGemmBackward(const GroupedGemmBackward& p) {
  const StageTimer timer(*this, "groupedGemmBackward");
  withMath(p.dtype, gemm_, dot_, {p.in, p.out}, [&](const auto& math) { backward(p, math, pool_, scratch_); });
}

}  // namespace moe::cpu
