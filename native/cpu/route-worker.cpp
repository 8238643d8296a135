#include "route-worker.h"

#include <algorithm>
#include <utility>

#include "route-weights.h"

namespace moe::cpu {

RouteWorker::RouteWorker(const RowKernels& row, const RouterOptions& router, const LossOptions& losses, int E, int K)
    : scores(row, router, E),
      load(row, router, losses, E, K),
      counted(std::max(K, E), -1),
      gradWeights(K),
      gradScores(std::max(K, E)),
      gradUsed(K),
      gradP(E),
      balance(E),
      gradNoisy(E),
      gradDeviations(E),
      noise(E) {}

void RouteWorker::weightsBackward(const RouteBackward& b, int64_t t, const float* importance) {
  const int K = b.K;
  const int32_t* indices = b.indices + t * K;
  const int32_t* used = b.used ? b.used + t * K : indices;
  const int32_t* kept = b.kept ? b.kept + t * K : nullptr;
  const float* scores = b.scores + t * K;
  const float* usedScores = b.usedScores ? b.usedScores + t * K : scores;
  // The importance loss is about the weights before drops; what is used may have others.
  for (int k = 0; k < K; ++k) {
    gradUsed[k] = used[k] < 0 ? 0.0 : b.gradWeights[t * K + k];
    gradWeights[k] = importance && indices[k] >= 0 ? importance[indices[k]] : 0.0;
    if (!b.used && !(kept && kept[k])) gradWeights[k] += std::exchange(gradUsed[k], 0.0);
  }
  weighBackward(b.router, scores, gradWeights.data(), K, gradScores.data());
  if (kept)
    weighKeptBackward(b.router, usedScores, kept, gradUsed.data(), K, gradUsed.data());
  else if (b.used)
    weighBackward(b.router, usedScores, gradUsed.data(), K, gradUsed.data());
}

int RouteWorker::takersOf(const RouteBackward& b, int64_t t) {
  int count = 0;
  for (int32_t i = b.tokenOffsets[t]; i < b.tokenOffsets[t + 1]; ++i) {
    const int64_t slot = b.rowSlot[b.tokenRows[i]];
    counted[count] = static_cast<int32_t>(slot / b.expertSlots);
    gradScores[count++] = static_cast<double>(b.router.weightScale) * b.gradWeights[slot];
  }
  return count;
}

}  // namespace moe::cpu
