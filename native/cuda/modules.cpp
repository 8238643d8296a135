// What a training loop needs around the layer: grids and workspaces.
#include "../shared/modules.h"

#include <algorithm>

#include "backend.h"
#include "carver.h"

namespace moe::cuda {

namespace {

int64_t ceilDivide(int64_t a, int64_t b) { return (a + b - 1) / b; }

unsigned blocksOf(int64_t items, int64_t perBlock) { return static_cast<unsigned>(ceilDivide(items, perBlock)); }

/// What a thread of cuda/rows.cuh moves at once when rows of `size` are aligned.
int64_t piecesOf(DType dtype, int64_t size) {
  const auto wide = static_cast<int64_t>(16 / dtypeSize(dtype));
  return size % wide == 0 ? size / wide : size;
}

/// Whole warps for `items`, `each` per thread.
unsigned threadsFor(int64_t items, int64_t each, int64_t least, int64_t most) {
  return static_cast<unsigned>(std::clamp<int64_t>(ceilDivide(ceilDivide(items, each), 32) * 32, least, most));
}

// ------------------------------------------------------------------------------------------------ sums of pieces

size_t carve(PieceSums& s, void* block, int64_t rows, int size, bool wanted) {
  // Few rows a piece where there are few rows, for the sake of parallelism.
  s.rowsPerPiece = rows < 8192 ? 16 : PieceSums::mostRows;
  s.pieces = ceilDivide(rows, s.rowsPerPiece);
  Carver carver(block);
  if (wanted) carver.take(s.partials, s.pieces * size);
  return carver.bytes();
}

}  // namespace

// ------------------------------------------------------------------------------------------------ sigmoid gate

void CudaBackend::sigmoidGateForward(const SigmoidGateForward& f) {
  launch(typed("sigmoidGateForward", f.dtype), {blocksOf(f.T, threads / 32)}, threads, 0, f);
}

size_t CudaBackend::workspaceBytes(const SigmoidGateBackward& b) const {
  PieceSums s;
  return carve(s, nullptr, b.T, b.H, b.gradWeight != nullptr);
}

void CudaBackend::sigmoidGateBackward(const SigmoidGateBackward& b) {
  PieceSums s;
  carve(s, b.workspace, b.T, b.H, b.gradWeight != nullptr);
  launch(typed("sigmoidGateBackward", b.dtype), {static_cast<unsigned>(s.pieces)},
         threadsFor(piecesOf(b.dtype, b.H), 1, 32, 256), 0, b, s);
  if (b.gradWeight)
    launch("sumPieces", {blocksOf(b.H, 32)}, 512, 0, SumPieces{s, b.H, b.gradWeight, b.accumulateWeight});
}

// ------------------------------------------------------------------------------------------------ embedding

namespace {

constexpr unsigned sortThreads = 1024;

unsigned sortBlocks(const EmbeddingBackward& b, const Properties& properties) {
  return static_cast<unsigned>(std::clamp<int64_t>(ceilDivide(b.N, 8 * sortThreads), 1, properties.multiprocessors));
}

size_t carve(EmbeddingWork& w, void* block, const EmbeddingBackward& b, int64_t blocks) {
  constexpr int bits = EmbeddingWork::digitBits;
  w.digits = EmbeddingWork::digitsOf(b.count);
  w.windows = ceilDivide(b.N, EmbeddingWork::window);
  Carver carver(block);
  carver.take(w.counts, blocks << bits);
  carver.take(w.sorted, b.N);
  carver.take(w.spare, w.digits > 1 ? b.N : 0);
  carver.take(w.heads, w.windows * b.size);
  carver.take(w.tails, w.windows * b.size);
  return carver.bytes();
}

}  // namespace

void CudaBackend::embeddingForward(const EmbeddingForward& f) {
  expectFaults({.indices = f.count}, true);
  launch(typed("embeddingForward", f.dtype), {blocksOf(f.N, threads / 32)}, threads, 0, f);
}

size_t CudaBackend::workspaceBytes(const EmbeddingBackward& b) const {
  EmbeddingWork w;
  return carve(w, nullptr, b, sortBlocks(b, properties_));
}

void CudaBackend::embeddingBackward(const EmbeddingBackward& b) {
  if (!b.accumulateWeight) zero(b.gradWeight, static_cast<size_t>(b.count) * b.size * sizeof(float));
  if (b.N == 0) return;
  const unsigned blocks = sortBlocks(b, properties_);
  EmbeddingWork w;
  carve(w, b.workspace, b, blocks);
  constexpr size_t bins = 1 << EmbeddingWork::digitBits;
  launchTogether("embeddingSort", blocks, sortThreads, ((sortThreads / 32 + 3) * bins + 1) * sizeof(int32_t), b, w);
  const int64_t pieces = piecesOf(b.dtype, b.size);
  const unsigned strip = threadsFor(pieces, 1, 32, 128), windows = static_cast<unsigned>(w.windows);
  launch(typed("embeddingSums", b.dtype), {windows, std::min(blocksOf(pieces, strip), 65535u)}, strip, 0, b, w);
  if (windows > 1) launch("embeddingSpans", {windows - 1, blocksFor(b.size, 32)}, threads, 0, b, w);
}

// ------------------------------------------------------------------------------------------------ RMS norm

void CudaBackend::rmsNormForward(const RmsNormForward& f) {
  launch(typed("rmsNormForward", f.dtype), {static_cast<unsigned>(f.N)},
         threadsFor(piecesOf(f.dtype, f.size), 2, 32, 512), 0, f);
}

size_t CudaBackend::workspaceBytes(const RmsNormBackward& b) const {
  PieceSums s;
  return carve(s, nullptr, b.N, b.size, b.gradWeight != nullptr);
}

void CudaBackend::rmsNormBackward(const RmsNormBackward& b) {
  PieceSums s;
  carve(s, b.workspace, b.N, b.size, b.gradWeight != nullptr);
  launch(typed("rmsNormBackward", b.dtype), {static_cast<unsigned>(s.pieces)},
         threadsFor(piecesOf(b.dtype, b.size), 1, 128, 256), 0, b, s);
  if (b.gradWeight)
    launch("sumPieces", {blocksOf(b.size, 32)}, 512, 0, SumPieces{s, b.size, b.gradWeight, b.accumulateWeight});
}

// ------------------------------------------------------------------------------------------------ cross-entropy

namespace {

size_t carve(LossWork& w, void* block, const CrossEntropyForward& f) {
  constexpr int64_t mostBlocks = 1024;
  w.blocks = static_cast<int>(std::min(f.N, mostBlocks));
  Carver carver(block);
  carver.take(w.partials, w.blocks);
  return carver.bytes();
}

}  // namespace

size_t CudaBackend::workspaceBytes(const CrossEntropyForward& f) const {
  LossWork w;
  return carve(w, nullptr, f);
}

void CudaBackend::crossEntropyForward(const CrossEntropyForward& f) {
  LossWork w;
  carve(w, f.workspace, f);
  expectFaults({.indices = f.classes}, true);
  launch(typed("crossEntropyForward", f.dtype), {static_cast<unsigned>(w.blocks)},
         threadsFor(piecesOf(f.dtype, f.classes), 2, 32, 512), 0, f, w);
  launch("crossEntropyMean", {1}, threads, 0, w, f.loss);
}

void CudaBackend::crossEntropyBackward(const CrossEntropyBackward& b) {
  launch(typed("crossEntropyBackward", b.dtype), {static_cast<unsigned>(b.N)},
         threadsFor(piecesOf(b.dtype, b.classes), 2, 32, 512), 0, b);
}

// ------------------------------------------------------------------------------------------------ add

void CudaBackend::add(const Add& a) {
  const int64_t blocks = ceilDivide(a.n, threads * static_cast<int64_t>(16 / dtypeSize(a.dtype)));
  launch(typed("add", a.dtype), {static_cast<unsigned>(std::min<int64_t>(blocks, 8 * properties_.multiprocessors))},
         threads, 0, a);
}

}  // namespace moe::cuda
