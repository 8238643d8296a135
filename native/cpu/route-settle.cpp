// The gate weights that wait for the plan: of the experts used instead of those first chosen, and over the sum of what
// is kept.
#include <algorithm>
#include <vector>

#include "backend.h"
#include "route-scores.h"
#include "route-tokens.h"
#include "route-weights.h"

namespace moe::cpu {

namespace {

void score(const SettleWeights& s, int64_t t, TokenScores& token, const int32_t* used, float* scores) {
  if (s.router.draws()) {
    for (int k = 0; k < s.K; ++k) scores[k] = used[k] < 0 ? 0.0f : 1.0f / static_cast<float>(s.K);
    return;
  }
  token.set(s.logits + t * s.E, allowedOf(s.allowed, t, s.E), rowOf(s.noisy, t, s.E));
  token.ofSelected(used, s.K, scores);
}

}  // namespace

void CpuBackend::settleWeights(const SettleWeights& s) {
  const StageTimer timer(*this, "settleWeights");
  const int E = s.E, K = s.K;
  std::vector<TokenScores> perWorker(pool_.threads(), TokenScores(row_, s.router, E));
  pool_.parallelRanges(s.T, tokensPerPiece, [&](int64_t begin, int64_t end, int worker) {
    TokenScores& token = perWorker[worker];
    for (int64_t t = begin; t < end; ++t) {
      const int32_t *indices = s.indices + t * K, *kept = s.kept + t * K;
      const float* scores = s.scores + t * K;
      float* weights = s.weights + t * K;
      if (s.actual) {
        int32_t* used = s.used + t * K;
        float* usedScores = s.usedScores + t * K;
        for (int k = 0; k < K; ++k) used[k] = kept[k] ? s.actual[t * K + k] : indices[k];
        if (std::equal(used, used + K, indices)) {
          std::copy_n(scores, K, usedScores);
        } else {
          score(s, t, token, used, usedScores);
          weigh(s.router, usedScores, K, weights);
          for (int k = 0; k < K; ++k)
            if (!kept[k]) weights[k] = 0;
        }
        scores = usedScores;
      }
      if (s.router.renormalizeAfterDrop) weighKept(s.router, scores, kept, K, weights);
    }
  });
}

}  // namespace moe::cpu
