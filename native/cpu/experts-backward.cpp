// The experts stage, backward: the gradients of experts-forward.cpp. Rows are taken in waves that fit the buffers, a
// wave in three passes: gather, all products of a block of features, and the gradients of the inputs.
//
// T tokens, H and F the widths of layer and expert, R rows; Hp, Fp = H, F rounded up to whole panels; L lanes of a
// panel. Math (gemm.h) says what a panel holds.
#include <cstring>

#include "backend.h"
#include "experts-epilogue.h"

namespace moe::cpu {

namespace {

constexpr int64_t gatherSlices = 4;  // items that one part's rows are gathered in

/// Shared by all workers, for the rows of one wave. The panels of a part start at words(part.at)·Hp, those of dGate and
/// dUp, whose rows have L/perWord words, at words(part.at·Fp).
template <class Word>
struct WaveBuffers {
  Word *x, *dO;       // [Hp/L][words of rows][L] gathered, not weighted
  Word *dGate, *dUp;  // [Fp/L][rows][L/perWord] gradients of the pre-activations
  float* weights;     // [rows]
  float* dots;        // [⌈F/columnBlock⌉][wave rows] ⟨dA, a⟩ over the features of each block
};

template <class Word>
struct WorkerBuffers {
  Word* down;             // [columnBlock/L][words of H][L] a block of the weight in panels
  float* dA;              // [columnBlock/L][depthBlock][L] dA, then w·a
  float *gate, *up;       // the same of the pre-activations, then their gradients; null where WaveBuffers holds them
  Word *a, *dGate, *dUp;  // [columnBlock/L][words of depthBlock][L] of these three, rounded; null likewise
  float* factors;         // as dA, of dropout; or null
  InputBuffers<Word> inputs;
};

template <class Math>
class Backward {
  using T = typename Math::Element;
  using Word = typename Math::Word;
  using Shared = WaveBuffers<Word>;
  using Own = WorkerBuffers<Word>;

 public:
  Backward(const ExpertsBackward& p, const Math& math)
      : p_(p),
        math_(math),
        gemm_(math.gemm),
        L_(gemm_.lanes),
        Hp_(roundUp(p.H, L_)),
        Fp_(roundUp(p.F, L_)),
        gated_(p.activation.gated()),
        needX_(p.gradGate || p.gradUp),
        needDz_(p.gradRows || p.gradGate || p.gradUp || p.gradGateBias || p.gradUpBias),
        needDots_(p.gradWeights) {}

  int64_t featureBlocks() const { return needDz_ || needDots_ || p_.gradDown ? ceilDiv(p_.F, columnBlock) : 0; }
  int64_t inputBlocks() const { return p_.gradRows ? ceilDiv(p_.H, wideColumnBlock) : 0; }
  int64_t waveRows() const { return cpu::waveRows(math_.words(2 * Hp_ + (gated_ ? 2 : 1) * Fp_)); }

  Shared carveShared(Carver& carver, int64_t rows) const {
    const int64_t words = math_.words(rows);
    Shared b;
    b.x = carver.take<Word>(words * Hp_);
    b.dO = carver.take<Word>(words * Hp_);
    b.dGate = carver.take<Word>(gated_ ? words * Fp_ : 0);
    b.dUp = carver.take<Word>(words * Fp_);
    b.weights = carver.take(rows);
    b.dots = carver.take(rows * ceilDiv(p_.F, columnBlock));
    return b;
  }

  Own carveWorker(Carver& carver, int64_t rows) const {
    constexpr int64_t block = depthBlock * columnBlock;
    Own own{};
    own.down = carver.take<Word>(math_.words(p_.H) * columnBlock);
    own.dA = carver.take(block);
    if constexpr (Math::pairs) {
      for (float** floats : {&own.gate, &own.up}) *floats = carver.take(block);
      for (Word** words : {&own.a, &own.dGate, &own.dUp}) *words = carver.take<Word>(math_.words(block));
    }
    own.factors = p_.dropout.threshold > 0 ? carver.take(block) : nullptr;
    own.inputs = carveInputBuffers<Math>(carver, p_.gradRows ? rows : 0);
    return own;
  }

  /// The slice-th of a part's rows, gathered into panels.
  void gather(const Part& part, const Shared& b, int64_t slice) const {
    const int64_t from = sliceBegin(part, slice), to = sliceBegin(part, slice + 1);
    const int64_t at = math_.words(part.at) * Hp_ + math_.words(from) * L_, panel = math_.words(part.rows) * L_;
    const int32_t* token = p_.plan.rowToken + part.row + from;
    const auto pack = [&](const void* rows, Word* panels) {
      math_.packRows(elements<T>(rows), p_.H, token, to - from, p_.H, panels + at, panel);
    };
    if (needX_) pack(p_.input, b.x);
    if (!Math::pairs || p_.gradDown) pack(p_.gradOutput, b.dO);
    const float* weights = p_.inputWeights ? p_.inputWeights : p_.weights;
    for (int64_t r = from; r < to; ++r)
      b.weights[part.at + r] = weights ? weights[p_.plan.rowSlot[part.row + r]] : 1.0f;
  }

  /// Features [block·columnBlock, ...) of a part: dA, dz, the row dots of these features, and all weight gradients that
  /// have these features as rows or columns.
  void features(const Wave& wave, const Part& part, const Shared& b, const Own& own, int64_t block) const {
    const int64_t H = p_.H, F = p_.F, f = block * columnBlock, columns = std::min(columnBlock, F - f);
    const int64_t e = part.expert, panels = ceilDiv(columns, L_);
    const bool needDA = needDz_ || needDots_;
    if (needDA)
      math_.packRows(elements<T>(p_.down) + e * H * F + f, F, nullptr, H, columns, own.down, math_.words(H) * L_);
    float* dots = b.dots + block * wave.rows + part.at;
    std::memset(dots, 0, sizeof(float) * part.rows);

    for (int64_t row = 0; row < part.rows; row += depthBlock) {
      const int64_t rows = std::min(depthBlock, part.rows - row), dAPanel = rows * L_;
      const bool more = !part.first || row > 0;
      if (needDA) {
        multiplyDown(part, b, row, rows, columns, own);
      } else {
        std::memset(own.dA, 0, sizeof(float) * dAPanel * panels);
      }
      const Gradients z = gradientsOf(part, b, own, f, row, rows);
      const auto load = [&](const void* saved, float* to) {
        gemm_.of<T>().packPanels(elements<T>(saved) + (part.row + row) * F + f, F, nullptr, rows, columns, to, z.panel);
      };
      load(p_.savedUp, z.up);
      if (gated_) load(p_.savedGate, z.gate);
      if (own.factors) {
        rowFactors(gemm_, p_.dropout, e, p_.F, f, columns, p_.plan.rowToken + part.row + row, rows, own.factors);
        gemm_.multiplyBy(own.factors, dAPanel * panels, own.dA);
      }
      const float* weights = b.weights + part.at + row;
      for (int64_t i = 0; i < panels; ++i) {
        const int lanes = static_cast<int>(std::min(L_, columns - i * L_));
        float *gate = gated_ ? z.gate + i * z.panel : nullptr, *up = z.up + i * z.panel, *dA = own.dA + i * dAPanel;
        const int64_t feature = e * F + f + i * L_;
        if (p_.inputWeights) {
          activateInputRows<T>(gemm_, p_, feature, rows, lanes, weights, gate, up, dA, dots + row, more);
          continue;
        }
        gemm_.activateBackward(p_.activation, rows, lanes, weights, gate, up, dA, dots + row);
        if (p_.gradUpBias)
          gemm_.columnSums(up, rows, lanes, nullptr, p_.gradUpBias + feature, p_.accumulateUpBias || more);
        if (p_.gradGateBias)
          gemm_.columnSums(gate, rows, lanes, nullptr, p_.gradGateBias + feature, p_.accumulateGateBias || more);
      }
      if (own.factors && p_.gradDown) gemm_.multiplyBy(own.factors, dAPanel * panels, own.dA);
      weightGradients(part, b, own, f, columns, row, rows, z, more);
    }
  }

  /// Columns [block·wideColumnBlock, ...) of a part's gradRows.
  void inputs(const Part& part, const Shared& b, const Own& own, int64_t block) const {
    const int64_t H = p_.H, F = p_.F, h = block * wideColumnBlock, columns = std::min(wideColumnBlock, H - h);
    const int64_t weight = part.expert * F * H + h;
    Product<Word> left{};
    left.left = Left::PanelRows;
    left.aPanel = math_.words(part.rows * L_);
    const auto term = [&](const Word* dz, const void* matrix) {
      left.a = dz + math_.words(part.at * Fp_);
      return InputTerm<Math>{left, elements<T>(matrix) + weight};
    };
    T* gradient = elements<T>(p_.gradRows) + part.row * H + h;
    if (gated_)
      inputGradient<Math>(math_, {term(b.dGate, p_.gate), term(b.dUp, p_.up)}, part.rows, F, columns, own.inputs,
                          gradient, H);
    else
      inputGradient<Math>(math_, {term(b.dUp, p_.up)}, part.rows, F, columns, own.inputs, gradient, H);
  }

  /// What needs all features of a part: the gradients of the routing weights, and of the down bias.
  void finish(const Wave& wave, const Part& part, const Shared& b, const Own& own) const {
    const int64_t H = p_.H;
    if (needDots_)
      for (int64_t r = 0; r < part.rows; ++r) {
        float sum = 0;
        for (int64_t block = 0; block < featureBlocks(); ++block) sum += b.dots[block * wave.rows + part.at + r];
        p_.gradWeights[p_.plan.rowSlot[part.row + r]] = sum;
      }
    const T* bias = needDots_ && p_.downBias && !p_.inputWeights ? elements<T>(p_.downBias) + part.expert * H : nullptr;
    if (!p_.gradDownBias && !bias) return;
    for (int64_t h = 0; h < H; h += L_)
      for (int64_t row = 0; row < part.rows; row += depthBlock) {
        const int64_t rows = std::min(depthBlock, part.rows - row), columns = std::min(L_, H - h);
        const float* dO = gradOutputPanel(part, b, own, h, columns, row, rows);
        if (p_.gradDownBias)
          gemm_.columnSums(dO, rows, static_cast<int>(columns), p_.inputWeights ? nullptr : b.weights + part.at + row,
                           p_.gradDownBias + part.expert * H + h, p_.accumulateDownBias || !part.first || row > 0);
        if (!bias) continue;
        for (int64_t r = 0; r < rows; ++r) {
          float& sum = p_.gradWeights[p_.plan.rowSlot[part.row + row + r]];
          for (int64_t i = 0; i < columns; ++i) sum += dO[r * L_ + i] * toFloat(bias[h + i]);
        }
      }
  }

  /// The weight gradients of an expert without rows.
  void clear(int64_t e) const {
    const int64_t H = p_.H, F = p_.F;
    clear(p_.gradGate, p_.accumulateGate, e, F * H);
    clear(p_.gradUp, p_.accumulateUp, e, F * H);
    clear(p_.gradDown, p_.accumulateDown, e, F * H);
    clear(p_.gradGateBias, p_.accumulateGateBias, e, F);
    clear(p_.gradUpBias, p_.accumulateUpBias, e, F);
    clear(p_.gradDownBias, p_.accumulateDownBias, e, H);
  }

 private:
  /// Panels of float32 in which the saved pre-activations become their gradients.
  struct Gradients {
    float *gate, *up;
    int64_t panel;
  };

  /// Whole words of rows.
  static int64_t sliceBegin(const Part& part, int64_t slice) {
    return slice == gatherSlices ? part.rows : part.rows * slice / gatherSlices / perWord<Word> * perWord<Word>;
  }

  Gradients gradientsOf(const Part& part, const Shared& b, const Own& own, int64_t f, int64_t row, int64_t rows) const {
    if constexpr (Math::pairs) {
      return {own.gate, own.up, rows * L_};
    } else {
      const int64_t at = part.at * Fp_ + f * part.rows + row * L_;
      return {gated_ ? b.dGate + at : nullptr, b.dUp + at, part.rows * L_};
    }
  }

  /// own.dA [panels][rows][L] = dO·down for a block of rows.
  void multiplyDown(const Part& part, const Shared& b, int64_t row, int64_t rows, int64_t columns,
                    const Own& own) const {
    Product<Word> product{};
    product.rows = rows;
    product.columns = columns;
    product.depth = math_.words(p_.H);
    if constexpr (Math::pairs) {
      product.left = Left::Rows;
      product.a = math_.rows(elements<T>(p_.gradOutput));
      product.aRow = product.depth;
      product.aIndex = p_.plan.rowToken + part.row + row;
    } else {
      product.left = Left::PanelRows;
      product.a = b.dO + part.at * Hp_ + row * L_;
      product.aPanel = part.rows * L_;
    }
    product.b = own.down;
    product.bPanel = product.depth * L_;
    product.c = own.dA;
    product.cRow = L_;
    product.cPanel = rows * L_;
    product.cPadded = true;
    product.rowsOutside = true;
    math_.multiply(product);
  }

  /// The gradients of the weights, by one block of rows and features; those of the pre-activations stay for inputs().
  void weightGradients(const Part& part, const Shared& b, const Own& own, int64_t f, int64_t columns, int64_t row,
                       int64_t rows, const Gradients& z, bool more) const {
    const int64_t H = p_.H, F = p_.F, e = part.expert, words = math_.words(rows);
    PanelMatrix<Word> a{}, dGate{}, dUp{};
    if constexpr (Math::pairs) {
      const int64_t wave = math_.words(part.at * Fp_ + f * part.rows + row * L_);
      const auto round = [&](const float* dz, Word* panels, Word* left, bool needed) {
        for (int64_t i = 0; i * L_ < columns; ++i) {
          if (needed) math_.dot.roundToPairs(dz + i * z.panel, rows, panels + i * words * L_);
          if (left) math_.dot.round(dz + i * z.panel, rows, left + i * math_.words(part.rows * L_));
        }
        return PanelMatrix<Word>{panels, words * L_};
      };
      a = round(own.dA, own.a, nullptr, p_.gradDown);
      dUp = round(z.up, own.dUp, p_.gradRows ? b.dUp + wave : nullptr, p_.gradUp);
      if (gated_) dGate = round(z.gate, own.dGate, p_.gradRows ? b.dGate + wave : nullptr, p_.gradGate);
    } else {
      a = {own.dA, rows * L_};
      dUp = {z.up, z.panel};
      dGate = {z.gate, z.panel};
    }
    const int64_t at = math_.words(part.at) * Hp_ + math_.words(row) * L_, panel = math_.words(part.rows) * L_;
    const PanelMatrix<Word> x{b.x + at, panel}, dO{b.dO + at, panel};
    if (p_.gradDown)
      weightGradient(math_, dO, H, a, columns, words, p_.gradDown + e * H * F + f, F, p_.accumulateDown || more);
    if (p_.gradUp)
      weightGradient(math_, dUp, columns, x, H, words, p_.gradUp + (e * F + f) * H, H, p_.accumulateUp || more);
    if (p_.gradGate)
      weightGradient(math_, dGate, columns, x, H, words, p_.gradGate + (e * F + f) * H, H, p_.accumulateGate || more);
  }

  /// Rows of dO in float32, one panel of columns from h on.
  const float* gradOutputPanel(const Part& part, const Shared& b, const Own& own, int64_t h, int64_t columns,
                               int64_t row, int64_t rows) const {
    if constexpr (Math::pairs) {
      gemm_.of<T>().packPanels(elements<T>(p_.gradOutput) + h, p_.H, p_.plan.rowToken + part.row + row, rows, columns,
                               own.dA, rows * L_);
      return own.dA;
    } else {
      return b.dO + part.at * Hp_ + h * part.rows + row * L_;
    }
  }

  static void clear(float* gradient, bool accumulate, int64_t expert, int64_t n) {
    if (gradient && !accumulate) std::memset(gradient + expert * n, 0, sizeof(float) * n);
  }

  const ExpertsBackward& p_;
  const Math& math_;
  const GemmKernels& gemm_;
  const int64_t L_, Hp_, Fp_;
  const bool gated_, needX_, needDz_, needDots_;
};

template <class Math>
void run(const ExpertsBackward& p, const Math& math, ThreadPool& pool, Scratch& scratch) {
  const Backward<Math> backward(p, math);
  const int32_t* offsets = p.plan.expertOffsets;
  if (p.gradWeights) std::memset(p.gradWeights, 0, sizeof(float) * p.plan.slots);
  pool.parallelFor(p.plan.E, [&](int64_t e, int) {
    if (offsets[e] == offsets[e + 1]) backward.clear(e);
  });

  const RowGroups groups{p.plan.E, p.plan.R, offsets};
  const Shares shares = shareGroups(groups, pool.threads());
  const int64_t maximum = backward.waveRows(), experts = static_cast<int64_t>(shares.whole.size());
  std::vector<std::vector<Wave>> whole;  // of every expert that is taken whole
  int64_t largestWhole = 0, largestShared = 0;
  for (const int& expert : shares.whole) {
    whole.push_back(waves(groups, {&expert, 1}, maximum));
    largestWhole = std::max(largestWhole, whole.back().front().rows);
  }
  const std::vector<Wave> cut = waves(groups, shares.cut, maximum);
  for (const Wave& wave : cut) largestShared = std::max(largestShared, wave.rows);

  WaveBuffers<typename Math::Word> shared;
  std::vector<WaveBuffers<typename Math::Word>> ownWave(pool.threads());
  std::vector<WorkerBuffers<typename Math::Word>> own(pool.threads());
  scratch.layOut([&](Carver& carver) {
    shared = backward.carveShared(carver, largestShared);
    for (auto& buffers : ownWave) buffers = backward.carveShared(carver, largestWhole);
    for (auto& buffers : own) buffers = backward.carveWorker(carver, std::max(largestWhole, largestShared));
  });

  const int64_t featureBlocks = backward.featureBlocks(), lastBlocks = backward.inputBlocks() + 1;
  // A wave's three passes, of one of their items.
  const auto item = [&](const Wave& wave, const auto& buffers, size_t pass, int64_t i, int worker) {
    if (pass == 0) return backward.gather(wave.parts[i / gatherSlices], buffers, i % gatherSlices);
    if (pass == 1)
      return backward.features(wave, wave.parts[i / featureBlocks], buffers, own[worker], i % featureBlocks);
    const Part& part = wave.parts[i / lastBlocks];
    const int64_t block = i % lastBlocks;
    if (block == lastBlocks - 1) return backward.finish(wave, part, buffers, own[worker]);
    backward.inputs(part, buffers, own[worker], block);
  };
  const int64_t itemsOf[] = {gatherSlices, featureBlocks, lastBlocks};  // of a part, in every pass
  std::vector<int64_t> counts = {experts};
  for (const Wave& wave : cut)
    for (const int64_t items : itemsOf) counts.push_back(static_cast<int64_t>(wave.parts.size()) * items);
  pool.parallelSteps(counts, [&](size_t step, int64_t i, int worker) {
    if (step > 0) return item(cut[(step - 1) / 3], shared, (step - 1) % 3, i, worker);
    for (const Wave& wave : whole[i])
      for (size_t pass = 0; pass < 3; ++pass)
        for (int64_t k = 0; k < itemsOf[pass]; ++k) item(wave, ownWave[worker], pass, k, worker);
  });
}

}  // namespace

void CpuBackend::expertsBackward(const ExpertsBackward& p) {
  const StageTimer timer(*this, "expertsBackward");
  withMath(p.dtype, gemm_, dot_, {p.H, p.F}, [&](const auto& math) { run(p, math, pool_, scratch_); });
}

}  // namespace moe::cpu
