// The AdamW step: its tables and grids.
#include "../shared/optim.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "../shared/upload.h"
#include "backend.h"
#include "carver.h"

namespace moe::cuda {

namespace {

/// What the host fills: the beginning of the workspace, and a copy of it in host memory.
struct Tables {
  AdamWScalars* scalars = nullptr;  // [1]
  AdamWTensor* tensors = nullptr;   // [count]
  int64_t* firstPiece = nullptr;    // [count+1]

  void carve(Carver& carver, int count) {
    carver.take(scalars, 1);
    carver.take(tensors, count);
    carver.take(firstPiece, count + 1);
  }
};

static_assert(std::is_trivially_copyable_v<AdamWTensor>);

int64_t piecesOf(const AdamWTensor& tensor) {
  return (tensor.n + AdamWWork::pieceElements - 1) / AdamWWork::pieceElements;
}

/// Carves `block` behind the tables, or only counts when it is null.
size_t carve(AdamWWork& w, void* block, const AdamWStep& step, const Properties& properties) {
  w.count = step.count;
  w.pieces = 0;
  for (int i = 0; i < step.count; ++i) w.pieces += piecesOf(step.tensors[i]);
  w.normBlocks = static_cast<int>(std::clamp<int64_t>(w.pieces, 1, 8 * properties.multiprocessors));
  w.skipped = step.skipped;
  w.gradNorm = step.gradNorm;
  Carver carver(block);
  Tables tables;
  tables.carve(carver, step.count);
  w.scalars = step.replayed ? step.replayed : tables.scalars;
  w.tensors = tables.tensors;
  w.firstPiece = tables.firstPiece;
  carver.take(w.corrections, w.count);
  carver.take(w.squares, w.normBlocks);
  return carver.bytes();
}

}  // namespace

size_t CudaBackend::workspaceBytes(const AdamWStep& step) const {
  AdamWWork w;
  return carve(w, nullptr, step, properties_);
}

void CudaBackend::adamwStep(const AdamWStep& step) {
  AdamWWork w;
  carve(w, step.workspace, step, properties_);

  Carver size(nullptr);
  Tables tables;
  tables.carve(size, step.count);
  std::vector<uint64_t> host(size.bytes() / sizeof(uint64_t));
  Carver carver(host.data());
  tables.carve(carver, step.count);
  *tables.scalars = step.scalars;
  std::copy_n(step.tensors, step.count, tables.tensors);
  tables.firstPiece[0] = 0;
  for (int i = 0; i < step.count; ++i) tables.firstPiece[i + 1] = tables.firstPiece[i] + piecesOf(step.tensors[i]);
  // Few tensors travel in the parameters of the first kernel.
  UploadPiece piece;
  if (host.size() <= UploadPiece::maxWords) {
    piece.target = static_cast<uint64_t*>(step.workspace);
    piece.count = static_cast<int32_t>(host.size());
    std::copy(host.begin(), host.end(), piece.words);
  } else {
    upload(step.workspace, host);
  }

  const auto blocks = static_cast<unsigned>(w.normBlocks);
  launch("adamwNorm", {blocks}, threads, 0, w, piece);
  launch("adamwUpdate", {blocks}, threads, 0, w);
}

}  // namespace moe::cuda
