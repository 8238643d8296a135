// The experts stage: rows = down·act(gate·x, up·x) for the rows of every expert, and its gradients. Gathering rows and
// the activation are fused into the products. The products of one matrix per expert are in experts-grouped.cpp.
//
// T tokens, H and F the widths of layer and expert, R rows; Hp, Fp = H, F rounded up to whole panels; L lanes of a
// panel. T is the type of activations and weights; what goes from product to product without leaving the stage is
// float32.
#include <cstring>

#include "backend.h"
#include "experts-epilogue.h"

namespace moe::cpu {

namespace {

// ------------------------------------------------------------------------------------------------ forward

/// One chunk of tokens: x [panels][H][L] and a [panels][F][L], tokens in the lanes, so that the product of up is the
/// operand of down as it stands; and the tokens' weights when these multiply x.
struct ChunkBuffers {
  float *x, *a;
  float* weights;  // [panels][L] or null
};

struct ForwardBuffers {
  WeightBuffers weights;
  float* factors;  // [rowBlock][L] of dropout, or null
};

template <class T>
class Forward {
 public:
  Forward(const ExpertsForward& p, const GemmKernels& gemm) : p_(p), gemm_(gemm) {}

  void pack(const TokenChunk& chunk, const ChunkBuffers& buffers) const {
    gemm_.of<T>().packTransposed(elements<T>(p_.input), p_.H, p_.plan.rowToken + chunk.row, chunk.count, p_.H,
                                 buffers.x);
    if (!p_.inputWeights) return;
    const int64_t lanes = roundUp(chunk.count, gemm_.lanes);
    for (int64_t i = 0; i < lanes; ++i)
      buffers.weights[i] = i < chunk.count ? p_.inputWeights[p_.plan.rowSlot[chunk.row + i]] : 0.0f;
  }

  /// Features [from, to) of a; the stage holds the gate.
  void up(const TokenChunk& chunk, const ChunkBuffers& buffers, int64_t from, int64_t to,
          const ForwardBuffers& forward) const {
    const WeightBuffers& own = forward.weights;
    const int64_t L = gemm_.lanes, F = p_.F, aPanel = F * L, stagePanel = rowBlock * L;
    const bool gated = p_.activation.gated();
    for (int64_t f = from; f < to; f += rowBlock) {
      const int64_t rows = std::min(rowBlock, to - f);
      float* a = buffers.a + f * L;
      project(chunk, buffers, f, rows, {p_.up, p_.upBias, p_.savedUp}, own, a, aPanel);
      if (gated) project(chunk, buffers, f, rows, {p_.gate, p_.gateBias, p_.savedGate}, own, own.stage, stagePanel);
      for (int64_t panel = 0; panel * L < chunk.count; ++panel) {
        const int64_t tokens = std::min(L, chunk.count - panel * L);
        gemm_.activate(p_.activation, rows, static_cast<int>(tokens), gated ? own.stage + panel * stagePanel : nullptr,
                       a + panel * aPanel);
        if (forward.factors)
          dropTokens(gemm_, p_.dropout, dropoutBlock(chunk.expert, p_.F, static_cast<int>(f)), rows,
                     p_.plan.rowToken + chunk.row + panel * L, tokens, forward.factors, a + panel * aPanel);
      }
    }
  }

  /// Columns [from, to) of the chunk's rows.
  void down(const TokenChunk& chunk, const ChunkBuffers& buffers, int64_t from, int64_t to,
            const WeightBuffers& own) const {
    const int64_t H = p_.H, F = p_.F;
    const T* bias = elements<T>(p_.downBias);
    projectTransposed(gemm_, chunk, buffers.a, F, elements<T>(p_.down) + chunk.expert * H * F,
                      bias ? bias + chunk.expert * H : nullptr, from, to, own, elements<T>(p_.rows) + chunk.row * H, H);
  }

  ForwardBuffers carveOwn(Carver& carver, int64_t lanes) const {
    return {carveWeightBuffers<T>(carver, lanes, std::max(p_.H, p_.F)),
            p_.dropout.threshold > 0 ? carver.take(rowBlock * gemm_.lanes) : nullptr};
  }

  ChunkBuffers carveChunk(Carver& carver, int64_t lanes) const {
    return {carver.take(p_.H * lanes), carver.take(p_.F * lanes), p_.inputWeights ? carver.take(lanes) : nullptr};
  }

 private:
  /// Of gate or up: the matrices, and where the pre-activations are kept, or null.
  struct Projection {
    const void *weight, *bias;
    void* saved;
  };

  /// out panels = features [f, f + rows) of a projection, kept for backward.
  void project(const TokenChunk& chunk, const ChunkBuffers& buffers, int64_t f, int64_t rows, const Projection& to,
               const WeightBuffers& own, float* out, int64_t outPanel) const {
    const int64_t H = p_.H, F = p_.F, weightRow = chunk.expert * F + f;
    const T* bias = elements<T>(to.bias);
    const T* before = bias && !p_.inputWeights ? bias + weightRow : nullptr;
    multiplyWeight(gemm_, chunk, buffers.x, H, elements<T>(to.weight) + weightRow * H, before, rows, own, out,
                   outPanel);
    if (to.saved)
      gemm_.of<T>().unpackTransposed(out, outPanel, chunk.count, rows, elements<T>(to.saved) + chunk.row * F + f, F);
    if (!p_.inputWeights) return;
    float wide[rowBlock];
    const float* after = widenedBias<T>(gemm_, bias, weightRow, rows, wide);
    for (int64_t panel = 0; panel * gemm_.lanes < chunk.count; ++panel)
      gemm_.scaleLanes(rows, buffers.weights + panel * gemm_.lanes, after, out + panel * outPanel);
  }

  const ExpertsForward& p_;
  const GemmKernels& gemm_;
};

template <class T>
void runForward(const ExpertsForward& p, const GemmKernels& gemm, ThreadPool& pool, Scratch& scratch) {
  const int64_t lanes = chunkLanes(std::max(p.H, p.F), gemm.lanes);
  const std::vector<TokenChunk> chunks = tokenChunks({p.plan.E, p.plan.R, p.plan.expertOffsets}, lanes, gemm.lanes);
  // Whole chunks by one worker each; the last ones are cut by features, so that all workers finish together.
  const int64_t count = static_cast<int64_t>(chunks.size());
  const int64_t split = pool.threads() > 1 ? std::min<int64_t>(count, 2 * pool.threads()) : 0;
  const int64_t whole = count - split;

  const int64_t pieces = 2 * pool.threads();
  const int64_t upPiece = roundUp(ceilDiv(p.F, pieces), rowBlock), upPieces = ceilDiv(p.F, upPiece);
  const int64_t downPiece = roundUp(ceilDiv(p.H, pieces), rowBlock), downPieces = ceilDiv(p.H, downPiece);

  const Forward<T> forward(p, gemm);
  std::vector<ChunkBuffers> own(pool.threads()), shared(split);
  std::vector<ForwardBuffers> buffersOf(pool.threads());
  scratch.layOut([&](Carver& carver) {
    for (ChunkBuffers& buffers : shared) buffers = forward.carveChunk(carver, lanes);
    for (ChunkBuffers& buffers : own) buffers = forward.carveChunk(carver, lanes);
    for (ForwardBuffers& buffers : buffersOf) buffers = forward.carveOwn(carver, lanes);
  });

  pool.parallelFor(split, [&](int64_t i, int) { forward.pack(chunks[whole + i], shared[i]); });
  pool.parallelFor(whole + split * upPieces, [&](int64_t i, int worker) {
    if (i < whole) {
      forward.pack(chunks[i], own[worker]);
      forward.up(chunks[i], own[worker], 0, p.F, buffersOf[worker]);
      forward.down(chunks[i], own[worker], 0, p.H, buffersOf[worker].weights);
    } else {
      const int64_t chunk = (i - whole) / upPieces, from = (i - whole) % upPieces * upPiece;
      forward.up(chunks[whole + chunk], shared[chunk], from, std::min<int64_t>(from + upPiece, p.F), buffersOf[worker]);
    }
  });
  pool.parallelFor(split * downPieces, [&](int64_t i, int worker) {
    const int64_t chunk = i / downPieces, from = i % downPieces * downPiece;
    forward.down(chunks[whole + chunk], shared[chunk], from, std::min<int64_t>(from + downPiece, p.H),
                 buffersOf[worker].weights);
  });
}

}  // namespace

void CpuBackend::expertsForward(const ExpertsForward& p) {
  const StageTimer timer(*this, "expertsForward");
  withElement(p.dtype, [&]<class T>() { runForward<T>(p, gemm_, pool_, scratch_); });
}

// ------------------------------------------------------------------------------------------------ backward

namespace {

constexpr int64_t gatherSlices = 4;  // items that one part's rows are gathered in

/// Shared by all workers, for the rows of one wave. The panels of a part start at (part.row - wave.row)·Hp or ·Fp and
/// are part.rows·L apart.
struct WaveBuffers {
  float *x, *dO;       // [Hp/L][rows][L] gathered, not weighted
  float *dGate, *dUp;  // [Fp/L][rows][L] gradients of the pre-activations
  float* weights;      // [rows]
  float* dots;         // [⌈F/columnBlock⌉][wave rows] ⟨dA, a⟩ over the features of each block
};

struct WorkerBuffers {
  float* down;     // [columnBlock/L][H][L] a block of the weight in panels
  float* dA;       // [columnBlock/L][depthBlock][L] dA, then w·a
  float* factors;  // the same of dropout, or null
  InputBuffers inputs;
};

template <class T>
class Backward {
 public:
  Backward(const ExpertsBackward& p, const GemmKernels& gemm)
      : p_(p),
        gemm_(gemm),
        L_(gemm.lanes),
        Hp_(roundUp(p.H, L_)),
        Fp_(roundUp(p.F, L_)),
        gated_(p.activation.gated()),
        needX_(p.gradGate || p.gradUp),
        needDz_(p.gradRows || p.gradGate || p.gradUp || p.gradGateBias || p.gradUpBias),
        needDots_(p.gradWeights) {}

  int64_t featureBlocks() const { return needDz_ || needDots_ || p_.gradDown ? ceilDiv(p_.F, columnBlock) : 0; }
  int64_t inputBlocks() const { return p_.gradRows ? ceilDiv(p_.H, wideColumnBlock) : 0; }
  int64_t waveRows() const { return cpu::waveRows(2 * Hp_ + (gated_ ? 2 : 1) * Fp_); }

  WaveBuffers carveShared(Carver& carver, int64_t rows) const {
    WaveBuffers b;
    b.x = carver.take(rows * Hp_);
    b.dO = carver.take(rows * Hp_);
    b.dGate = carver.take(gated_ ? rows * Fp_ : 0);
    b.dUp = carver.take(rows * Fp_);
    b.weights = carver.take(rows);
    b.dots = carver.take(rows * ceilDiv(p_.F, columnBlock));
    return b;
  }

  WorkerBuffers carveWorker(Carver& carver, int64_t rows) const {
    return {carver.take(p_.H * columnBlock), carver.take(depthBlock * columnBlock),
            p_.dropout.threshold > 0 ? carver.take(depthBlock * columnBlock) : nullptr,
            carveInputBuffers<T>(carver, p_.gradRows ? rows : 0)};
  }

  /// Rows [from, to) of a part, gathered into panels.
  void gather(const Wave& wave, const Part& part, const WaveBuffers& b, int64_t from, int64_t to) const {
    const int64_t start = part.row - wave.row, panel = part.rows * L_;
    const int32_t* token = p_.plan.rowToken + part.row + from;
    const auto pack = [&](const void* rows, float* panels) {
      gemm_.of<T>().packPanels(elements<T>(rows), p_.H, token, to - from, p_.H, panels + start * Hp_ + from * L_,
                               panel);
    };
    if (needX_) pack(p_.input, b.x);
    pack(p_.gradOutput, b.dO);
    const float* weights = p_.inputWeights ? p_.inputWeights : p_.weights;
    for (int64_t r = from; r < to; ++r) b.weights[start + r] = weights ? weights[p_.plan.rowSlot[part.row + r]] : 1.0f;
  }

  /// Features [block·columnBlock, ...) of a part: dA, dz, the row dots of these features, and all weight gradients that
  /// have these features as rows or columns.
  void features(const Wave& wave, const Part& part, const WaveBuffers& b, const WorkerBuffers& own,
                int64_t block) const {
    const int64_t H = p_.H, F = p_.F, f = block * columnBlock, columns = std::min(columnBlock, F - f);
    const int64_t start = part.row - wave.row, panel = part.rows * L_, e = part.expert;
    const float *x = b.x + start * Hp_, *dO = b.dO + start * Hp_;
    float* dUp = b.dUp + start * Fp_ + f * part.rows;
    float* dGate = gated_ ? b.dGate + start * Fp_ + f * part.rows : nullptr;

    const bool needDA = needDz_ || needDots_;
    if (needDA)
      gemm_.of<T>().packPanels(elements<T>(p_.down) + e * H * F + f, F, nullptr, H, columns, own.down, H * L_);
    float* dots = b.dots + block * wave.rows + start;
    std::memset(dots, 0, sizeof(float) * part.rows);

    for (int64_t row = 0; row < part.rows; row += depthBlock) {
      const int64_t rows = std::min(depthBlock, part.rows - row), at = row * L_, dAPanel = rows * L_;
      if (needDA) {
        multiplyDown(dO + at, panel, rows, columns, own);
      } else {
        std::memset(own.dA, 0, sizeof(float) * rows * roundUp(columns, L_));
      }
      const int64_t saved = (part.row + row) * F + f;
      const auto load = [&](const void* z, float* panels) {
        gemm_.of<T>().packPanels(elements<T>(z) + saved, F, nullptr, rows, columns, panels + at, panel);
      };
      load(p_.savedUp, dUp);
      if (gated_) load(p_.savedGate, dGate);
      const bool more = !part.first || row > 0;
      if (own.factors) {
        rowFactors(gemm_, p_.dropout, e, p_.F, f, columns, p_.plan.rowToken + part.row + row, rows, own.factors);
        gemm_.multiplyBy(own.factors, dAPanel * ceilDiv(columns, L_), own.dA);
      }
      for (int64_t i = 0; i * L_ < columns; ++i) {
        const int lanes = static_cast<int>(std::min(L_, columns - i * L_));
        float *gate = gated_ ? dGate + at + i * panel : nullptr, *up = dUp + at + i * panel;
        if (p_.inputWeights)
          activateInputRows<T>(gemm_, p_, e * F + f + i * L_, rows, lanes, b.weights + start + row, gate, up,
                               own.dA + i * dAPanel, dots + row, more);
        else
          gemm_.activateBackward(p_.activation, rows, lanes, b.weights + start + row, gate, up, own.dA + i * dAPanel,
                                 dots + row);
      }
      if (own.factors && p_.gradDown) gemm_.multiplyBy(own.factors, dAPanel * ceilDiv(columns, L_), own.dA);

      if (p_.gradDown)
        weightGradient(gemm_, {dO + at, panel}, H, {own.dA, dAPanel}, columns, rows, p_.gradDown + e * H * F + f, F,
                       p_.accumulateDown || more);
      if (p_.gradUp)
        weightGradient(gemm_, {dUp + at, panel}, columns, {x + at, panel}, H, rows, p_.gradUp + (e * F + f) * H, H,
                       p_.accumulateUp || more);
      if (p_.gradGate)
        weightGradient(gemm_, {dGate + at, panel}, columns, {x + at, panel}, H, rows, p_.gradGate + (e * F + f) * H, H,
                       p_.accumulateGate || more);
    }
    if (p_.inputWeights) return;
    if (p_.gradUpBias)
      sumColumns(dUp, panel, part.rows, columns, nullptr, p_.gradUpBias + e * F + f,
                 p_.accumulateUpBias || !part.first);
    if (p_.gradGateBias)
      sumColumns(dGate, panel, part.rows, columns, nullptr, p_.gradGateBias + e * F + f,
                 p_.accumulateGateBias || !part.first);
  }

  /// Columns [block·wideColumnBlock, ...) of a part's gradRows.
  void inputs(const Wave& wave, const Part& part, const WaveBuffers& b, const WorkerBuffers& own, int64_t block) const {
    const int64_t H = p_.H, F = p_.F, h = block * wideColumnBlock, columns = std::min(wideColumnBlock, H - h);
    const int64_t start = (part.row - wave.row) * Fp_, weight = part.expert * F * H + h;
    GemmProduct left{};
    left.left = Left::PanelRows;
    left.aPanel = part.rows * L_;
    const auto term = [&](const float* dz, const void* matrix) {
      left.a = dz + start;
      return InputTerm<T>{left, elements<T>(matrix) + weight};
    };
    T* gradient = elements<T>(p_.gradRows) + part.row * H + h;
    if (gated_)
      inputGradient<T>(gemm_, {term(b.dGate, p_.gate), term(b.dUp, p_.up)}, part.rows, F, columns, own.inputs, gradient,
                       H);
    else
      inputGradient<T>(gemm_, {term(b.dUp, p_.up)}, part.rows, F, columns, own.inputs, gradient, H);
  }

  /// What needs all features of a part: the gradients of the routing weights, and of the down bias.
  void finish(const Wave& wave, const Part& part, const WaveBuffers& b) const {
    const int64_t H = p_.H, start = part.row - wave.row, panel = part.rows * L_;
    const float* dO = b.dO + start * Hp_;
    if (p_.gradDownBias)
      sumColumns(dO, panel, part.rows, H, p_.inputWeights ? nullptr : b.weights + start,
                 p_.gradDownBias + part.expert * H, p_.accumulateDownBias || !part.first);
    if (!needDots_) return;
    const T* bias = p_.downBias && !p_.inputWeights ? elements<T>(p_.downBias) + part.expert * H : nullptr;
    for (int64_t r = 0; r < part.rows; ++r) {
      float sum = 0;
      for (int64_t block = 0; block < featureBlocks(); ++block) sum += b.dots[block * wave.rows + start + r];
      if (bias)
        for (int64_t h = 0; h < H; h += L_)
          for (int64_t i = 0; i < std::min(L_, H - h); ++i)
            sum += dO[h * part.rows + r * L_ + i] * toFloat(bias[h + i]);
      p_.gradWeights[p_.plan.rowSlot[part.row + r]] = sum;
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
  /// own.dA [panels][rows][L] = dO·down for a block of rows.
  void multiplyDown(const float* dO, int64_t panel, int64_t rows, int64_t columns, const WorkerBuffers& own) const {
    GemmProduct product{};
    product.rows = rows;
    product.columns = columns;
    product.depth = p_.H;
    product.left = Left::PanelRows;
    product.a = dO;
    product.aPanel = panel;
    product.b = own.down;
    product.bPanel = p_.H * L_;
    product.c = own.dA;
    product.cRow = L_;
    product.cPanel = rows * L_;
    product.cPadded = true;
    product.rowsOutside = true;
    gemm_.multiply(product);
  }

  void sumColumns(const float* panels, int64_t panel, int64_t rows, int64_t columns, const float* weights, float* out,
                  bool accumulate) const {
    for (int64_t i = 0; i * L_ < columns; ++i)
      gemm_.columnSums(panels + i * panel, rows, static_cast<int>(std::min(L_, columns - i * L_)), weights,
                       out + i * L_, accumulate);
  }

  static void clear(float* gradient, bool accumulate, int64_t expert, int64_t n) {
    if (gradient && !accumulate) std::memset(gradient + expert * n, 0, sizeof(float) * n);
  }

  const ExpertsBackward& p_;
  const GemmKernels& gemm_;
  const int64_t L_, Hp_, Fp_;
  const bool gated_, needX_, needDz_, needDots_;
};

template <class T>
void runBackward(const ExpertsBackward& p, const GemmKernels& gemm, ThreadPool& pool, Scratch& scratch) {
  const Backward<T> backward(p, gemm);
  const int32_t* offsets = p.plan.expertOffsets;
  if (p.gradWeights) std::memset(p.gradWeights, 0, sizeof(float) * p.plan.slots);
  pool.parallelFor(p.plan.E, [&](int64_t e, int) {
    if (offsets[e] == offsets[e + 1]) backward.clear(e);
  });

  const std::vector<Wave> all = waves({p.plan.E, p.plan.R, offsets}, backward.waveRows());
  int64_t largest = 0;
  for (const Wave& wave : all) largest = std::max(largest, wave.rows);
  WaveBuffers shared;
  std::vector<WorkerBuffers> own(pool.threads());
  scratch.layOut([&](Carver& carver) {
    shared = backward.carveShared(carver, largest);
    for (WorkerBuffers& buffers : own) buffers = backward.carveWorker(carver, largest);
  });

  for (const Wave& wave : all) {
    const int64_t parts = static_cast<int64_t>(wave.parts.size());
    const int64_t featureBlocks = backward.featureBlocks(), lastBlocks = backward.inputBlocks() + 1;
    pool.parallelFor(parts * gatherSlices, [&](int64_t i, int) {
      const Part& part = wave.parts[i / gatherSlices];
      const int64_t slice = i % gatherSlices;
      backward.gather(wave, part, shared, part.rows * slice / gatherSlices, part.rows * (slice + 1) / gatherSlices);
    });
    pool.parallelFor(parts * featureBlocks, [&](int64_t i, int worker) {
      backward.features(wave, wave.parts[i / featureBlocks], shared, own[worker], i % featureBlocks);
    });
    pool.parallelFor(parts * lastBlocks, [&](int64_t i, int worker) {
      const Part& part = wave.parts[i / lastBlocks];
      const int64_t block = i % lastBlocks;
      if (block == lastBlocks - 1) return backward.finish(wave, part, shared);
      backward.inputs(wave, part, shared, own[worker], block);
    });
  }
}

}  // namespace

void CpuBackend::expertsBackward(const ExpertsBackward& p) {
  const StageTimer timer(*this, "expertsBackward");
  withElement(p.dtype, [&]<class T>() { runBackward<T>(p, gemm_, pool_, scratch_); });
}

}  // namespace moe::cpu
