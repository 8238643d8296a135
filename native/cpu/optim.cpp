// The AdamW step over all tensors of an optimizer: the global norm in one pass over the gradients, then one pass over
// everything.
#include <algorithm>
#include <cmath>
#include <vector>

#include "backend.h"
#include "element.h"
#include "simd/gemm.h"
#include "simd/row.h"

namespace moe::cpu {

namespace {

struct Piece {
  int tensor;
  int64_t begin, n;
};

/// What the number of a tensor's updates decides.
struct Correction {
  float stepSize, varianceScale;
};

/// Pieces of all tensors, so that many small ones and a large one spread over the threads alike.
std::vector<Piece> piecesOf(const AdamWStep& step) {
  std::vector<Piece> pieces;
  for (int tensor = 0; tensor < step.count; ++tensor)
    for (int64_t begin = 0; begin < step.tensors[tensor].n; begin += elementsPerPiece)
      pieces.push_back({tensor, begin, std::min(elementsPerPiece, step.tensors[tensor].n - begin)});
  return pieces;
}

}  // namespace

void CpuBackend::adamwStep(const AdamWStep& step) {
  const StageTimer timer(*this, "adamwStep");
  const std::vector<Piece> pieces = piecesOf(step);
  std::vector<double> squares(pieces.size());
  pool_.parallelFor(std::ssize(pieces), [&](int64_t i, int) {
    squares[i] = row_.float32.sumSquares(step.tensors[pieces[i].tensor].grad + pieces[i].begin, pieces[i].n);
  });
  double sum = 0;
  for (const double square : squares) sum += square;
  const float norm = static_cast<float>(std::sqrt(sum));
  *step.gradNorm = norm;
  if (!std::isfinite(norm)) {
    ++*step.skipped;
    return;
  }

  const AdamWScalars scalars = step.replayed ? *step.replayed : step.scalars;
  const double beta1 = scalars.beta1, beta2 = scalars.beta2, rate = scalars.learningRate;
  AdamWPiece common{};
  common.gradScale =
      scalars.maxGradNorm > 0 ? static_cast<float>(std::min(1.0, scalars.maxGradNorm / (norm + 1e-6))) : 1.0f;
  common.decay = static_cast<float>(1.0 - rate * scalars.weightDecay);
  common.beta1 = scalars.beta1;
  common.beta2 = scalars.beta2;
  common.oneMinusBeta1 = static_cast<float>(1.0 - beta1);
  common.oneMinusBeta2 = static_cast<float>(1.0 - beta2);
  common.epsilon = scalars.epsilon;
  std::vector<Correction> corrections(step.count);
  for (int tensor = 0; tensor < step.count; ++tensor) {
    const double t = ++*step.tensors[tensor].steps;
    corrections[tensor] = {static_cast<float>(rate / (1.0 - std::pow(beta1, t))),
                           static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(beta2, t)))};
  }
  pool_.parallelFor(std::ssize(pieces), [&](int64_t i, int) {
    const AdamWTensor& tensor = step.tensors[pieces[i].tensor];
    const int64_t begin = pieces[i].begin;
    AdamWPiece piece = common;
    piece.n = pieces[i].n;
    piece.stepSize = corrections[pieces[i].tensor].stepSize;
    piece.varianceScale = corrections[pieces[i].tensor].varianceScale;
    piece.value = (tensor.master ? tensor.master : elements<float>(tensor.value)) + begin;
    piece.mean = tensor.mean + begin;
    piece.variance = tensor.variance + begin;
    piece.grad = tensor.grad + begin;
    row_.adamw(piece);
    if (tensor.master)
      withElement(tensor.dtype,
                  [&]<class T>() { gemm_.of<T>().round(piece.value, piece.n, elements<T>(tensor.value) + begin); });
  });
}

}  // namespace moe::cpu
