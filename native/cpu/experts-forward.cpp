// The experts stage, forward: rows = down·act(gate·x, up·x) for the rows of every expert. Gathering rows and the
// activation are fused into the products. The gradients are in experts-backward.cpp, the products of one matrix per
// expert in experts-grouped.cpp.
//
// T tokens, H and F the widths of layer and expert, R rows; L lanes of a panel. Math (gemm.h) says what a panel holds.
#include "backend.h"
#include "experts-epilogue.h"

namespace moe::cpu {

namespace {

/// One chunk of tokens: x [panels][words of H][L] and a [panels][words of F][L], tokens in the lanes, so that the
/// product of up is the operand of down; of few tokens rows (packTokens). And the tokens' weights when these multiply
/// x.
template <class Word>
struct ChunkBuffers {
  Word *x, *a;
  float* weights;  // [panels][L] or null
};

struct ForwardBuffers {
  WeightBuffers weights;
  float* up;       // [panels][rowBlock][L] of up where it is no operand as it stands; of few tokens as the stage
  float* factors;  // of dropout: as up, of one panel; or null
};

template <class Math>
class Forward {
  using T = typename Math::Element;
  using Chunk = ChunkBuffers<typename Math::Word>;

 public:
  Forward(const ExpertsForward& p, const Math& math) : p_(p), math_(math), gemm_(math.gemm) {}

  void pack(const TokenChunk& chunk, const Chunk& buffers) const {
    packTokens(math_, chunk, elements<T>(p_.input), p_.H, p_.plan.rowToken + chunk.row, p_.H, buffers.x);
    if (!p_.inputWeights) return;
    const int64_t lanes = roundUp(chunk.count, gemm_.lanes);
    for (int64_t i = 0; i < lanes; ++i)
      buffers.weights[i] = i < chunk.count ? p_.inputWeights[p_.plan.rowSlot[chunk.row + i]] : 0.0f;
  }

  /// Features [from, to) of a; the stage holds the gate.
  void up(const TokenChunk& chunk, const Chunk& buffers, int64_t from, int64_t to, const ForwardBuffers& own) const {
    if (chunk.few()) return upFew(chunk, buffers, from, to, own);
    const int64_t L = gemm_.lanes, stagePanel = rowBlock * L;
    const bool gated = p_.activation.gated();
    float* gate = own.weights.stage;
    for (int64_t f = from; f < to; f += rowBlock) {
      const int64_t rows = std::min(rowBlock, to - f);
      const auto [a, aPanel] = upBlock(chunk, buffers, f, own);
      project(chunk, buffers, f, rows, {p_.up, p_.upBias, p_.savedUp}, own.weights, a, aPanel);
      if (gated) project(chunk, buffers, f, rows, {p_.gate, p_.gateBias, p_.savedGate}, own.weights, gate, stagePanel);
      for (int64_t panel = 0; panel * L < chunk.count; ++panel) {
        const int64_t tokens = std::min(L, chunk.count - panel * L);
        float* block = a + panel * aPanel;
        gemm_.activate(p_.activation, rows, static_cast<int>(tokens), gated ? gate + panel * stagePanel : nullptr,
                       block);
        if (own.factors)
          dropTokens(gemm_, p_.dropout, dropoutBlock(chunk.expert, p_.F, static_cast<int>(f)), rows,
                     p_.plan.rowToken + chunk.row + panel * L, tokens, own.factors, block);
        if constexpr (Math::pairs)
          math_.dot.roundToPairs(block, rows, buffers.a + (panel * math_.words(p_.F) + math_.words(f)) * L);
      }
    }
  }

  /// Columns [from, to) of the chunk's rows.
  void down(const TokenChunk& chunk, const Chunk& buffers, int64_t from, int64_t to, const WeightBuffers& own) const {
    const int64_t H = p_.H, F = p_.F;
    const T* bias = elements<T>(p_.downBias);
    projectTransposed(math_, chunk, buffers.a, F, elements<T>(p_.down) + chunk.expert * H * F,
                      bias ? bias + chunk.expert * H : nullptr, from, to, own, elements<T>(p_.rows) + chunk.row * H, H);
  }

  ForwardBuffers carveOwn(Carver& carver, int64_t lanes) const {
    return {carveWeightBuffers<Math>(carver, lanes, std::max(p_.H, p_.F)),
            carver.take(rowBlock * (Math::pairs ? lanes : gemm_.lanes)),
            p_.dropout.threshold > 0 ? carver.take(rowBlock * gemm_.lanes) : nullptr};
  }

  Chunk carveChunk(Carver& carver, int64_t lanes) const {
    using Word = typename Math::Word;
    return {carver.take<Word>(math_.words(p_.H) * lanes), carver.take<Word>(math_.words(p_.F) * lanes),
            p_.inputWeights ? carver.take(lanes) : nullptr};
  }

 private:
  /// Of gate or up: the matrices, and where the pre-activations are kept, or null.
  struct Projection {
    const void *weight, *bias;
    void* saved;
  };

  /// Where float32 panels of up's features from f on are made, and their distance.
  std::pair<float*, int64_t> upBlock(const TokenChunk& chunk, const Chunk& buffers, int64_t f,
                                     const ForwardBuffers& own) const {
    if constexpr (!Math::pairs)
      return {buffers.a + f * gemm_.lanes, p_.F * gemm_.lanes};
    else
      return {own.up, rowBlock * gemm_.lanes};
  }

  /// out panels = features [f, f + rows) of a projection, kept for backward.
  void project(const TokenChunk& chunk, const Chunk& buffers, int64_t f, int64_t rows, const Projection& to,
               const WeightBuffers& own, float* out, int64_t outPanel) const {
    const int64_t H = p_.H, F = p_.F, weightRow = chunk.expert * F + f;
    const T* bias = elements<T>(to.bias);
    const T* before = bias && !p_.inputWeights ? bias + weightRow : nullptr;
    multiplyWeight(math_, chunk, buffers.x, H, elements<T>(to.weight) + weightRow * H, before, rows, own, out,
                   outPanel);
    if (to.saved)
      gemm_.of<T>().unpackTransposed(out, outPanel, chunk.count, rows, elements<T>(to.saved) + chunk.row * F + f, F);
    if (!p_.inputWeights) return;
    float wide[rowBlock];
    const float* after = widenedBias<T>(gemm_, bias, weightRow, rows, wide);
    for (int64_t panel = 0; panel * gemm_.lanes < chunk.count; ++panel)
      gemm_.scaleLanes(rows, buffers.weights + panel * gemm_.lanes, after, out + panel * outPanel);
  }

  /// up() of few tokens, each a row of features.
  void upFew(const TokenChunk& chunk, const Chunk& buffers, int64_t from, int64_t to, const ForwardBuffers& own) const {
    const bool gated = p_.activation.gated();
    float *a = own.up, *gate = own.weights.stage;
    for (int64_t f = from; f < to; f += rowBlock) {
      const int64_t rows = std::min(rowBlock, to - f), row = roundUp(rows, gemm_.lanes), n = chunk.count * row;
      projectFew(chunk, buffers, f, rows, {p_.up, p_.upBias, p_.savedUp}, a, row);
      if (gated) projectFew(chunk, buffers, f, rows, {p_.gate, p_.gateBias, p_.savedGate}, gate, row);
      gemm_.activate(p_.activation, n / gemm_.lanes, gemm_.lanes, gated ? gate : nullptr, a);
      if (own.factors) {
        std::fill_n(own.factors, n, 0.0f);
        gemm_.dropoutFactors(p_.dropout, dropoutBlock(chunk.expert, p_.F, static_cast<int>(f)), rows,
                             p_.plan.rowToken + chunk.row, chunk.count, 1, row, own.factors);
        gemm_.multiplyBy(own.factors, n, a);
      }
      for (int i = 0; i < chunk.count; ++i) math_.putFew(a + i * row, rows, buffers.a + i * math_.words(p_.F), f);
    }
  }

  /// project() of few tokens: out [tokens][outRow], the features past the last 0.
  void projectFew(const TokenChunk& chunk, const Chunk& buffers, int64_t f, int64_t rows, const Projection& to,
                  float* out, int64_t outRow) const {
    const int64_t H = p_.H, F = p_.F, weightRow = chunk.expert * F + f;
    const T* bias = elements<T>(to.bias);
    const T* before = bias && !p_.inputWeights ? bias + weightRow : nullptr;
    multiplyFew(math_, chunk, buffers.x, H, elements<T>(to.weight) + weightRow * H, before, rows, out, outRow);
    float wide[rowBlock];
    const float* after = p_.inputWeights ? widenedBias<T>(gemm_, bias, weightRow, rows, wide) : nullptr;
    for (int i = 0; i < chunk.count; ++i) {
      float* features = out + i * outRow;
      std::fill(features + rows, features + outRow, 0.0f);
      if (to.saved) gemm_.of<T>().round(features, rows, elements<T>(to.saved) + (chunk.row + i) * F + f);
      if (!p_.inputWeights) continue;
      for (int64_t k = 0; k < rows; ++k) features[k] = buffers.weights[i] * features[k] + (after ? after[k] : 0.0f);
    }
  }

  const ExpertsForward& p_;
  const Math& math_;
  const GemmKernels& gemm_;
};

template <class Math>
void run(const ExpertsForward& p, const Math& math, ThreadPool& pool, Scratch& scratch) {
  const int64_t L = math.gemm.lanes, lanes = chunkLanes(math.words(std::max(p.H, p.F)), L);
  const RowGroups groups{p.plan.E, p.plan.R, p.plan.expertOffsets};
  const Shares shares = shareGroups(groups, pool.threads());
  // Of the experts that are cut, chunk by chunk, the last chunks are cut by features.
  const std::vector<TokenChunk> chunks = tokenChunks(groups, shares.cut, lanes, L);
  const int64_t count = static_cast<int64_t>(chunks.size()), split = std::min<int64_t>(count, 2 * pool.threads());
  const int64_t experts = static_cast<int64_t>(shares.whole.size()), uncut = count - split;

  const int64_t pieces = 2 * pool.threads();
  const int64_t upPiece = roundUp(ceilDiv(p.F, pieces), rowBlock), upPieces = ceilDiv(p.F, upPiece);
  const int64_t downPiece = roundUp(ceilDiv(p.H, pieces), rowBlock), downPieces = ceilDiv(p.H, downPiece);

  const Forward<Math> forward(p, math);
  std::vector<ChunkBuffers<typename Math::Word>> own(pool.threads()), shared(split);
  std::vector<ForwardBuffers> buffersOf(pool.threads());
  scratch.layOut([&](Carver& carver) {
    for (auto& buffers : shared) buffers = forward.carveChunk(carver, lanes);
    for (auto& buffers : own) buffers = forward.carveChunk(carver, lanes);
    for (ForwardBuffers& buffers : buffersOf) buffers = forward.carveOwn(carver, lanes);
  });

  const auto whole = [&](const TokenChunk& chunk, int worker) {
    forward.pack(chunk, own[worker]);
    forward.up(chunk, own[worker], 0, p.F, buffersOf[worker]);
    forward.down(chunk, own[worker], 0, p.H, buffersOf[worker].weights);
  };
  pool.parallelSteps(
      {experts + uncut, split, split * upPieces, split * downPieces}, [&](size_t step, int64_t i, int worker) {
        if (step == 0) {
          if (i >= experts) return whole(chunks[i - experts], worker);
          const std::span<const int> expert(&shares.whole[i], 1);
          for (const TokenChunk& chunk : tokenChunks(groups, expert, lanes, L)) whole(chunk, worker);
          return;
        }
        const int64_t items = step == 1 ? 1 : step == 2 ? upPieces : downPieces;
        const TokenChunk& chunk = chunks[uncut + i / items];
        const auto& buffers = shared[i / items];
        if (step == 1) return forward.pack(chunk, buffers);
        const int64_t from = i % items * (step == 2 ? upPiece : downPiece);
        if (step == 2)
          forward.up(chunk, buffers, from, std::min<int64_t>(from + upPiece, p.F), buffersOf[worker]);
        else
          forward.down(chunk, buffers, from, std::min<int64_t>(from + downPiece, p.H), buffersOf[worker].weights);
      });
}

}  // namespace

void CpuBackend::expertsForward(const ExpertsForward& p) {
  const StageTimer timer(*this, "expertsForward");
  withMath(p.dtype, gemm_, dot_, {p.H, p.F}, [&](const auto& math) { run(p, math, pool_, scratch_); });
}

}  // namespace moe::cpu
