#include "route-expert-choice.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "backend.h"
#include "order.h"
#include "route-tokens.h"

namespace moe::cpu {

void chooseTokens(const RouteForward& f, ThreadPool& pool) {
  const int64_t C = f.expertSlots;
  std::vector<std::vector<uint64_t>> perWorker(pool.threads());
  pool.parallelFor(f.E, [&](int64_t e, int worker) {
    std::vector<uint64_t>& keys = perWorker[worker];
    keys.clear();
    for (int64_t t = 0; t < f.T; ++t)
      if (const float score = f.compared[t * f.E + e]; score != -INFINITY)
        keys.push_back(fallingKey(risingBits(score), t));
    const int64_t chosen = std::min(C, static_cast<int64_t>(keys.size()));
    std::partial_sort(keys.begin(), keys.begin() + chosen, keys.end());
    for (int64_t c = 0; c < C; ++c) {
      const int64_t t = c < chosen ? indexOf(keys[c]) : -1;
      f.indices[e * C + c] = static_cast<int32_t>(t);
      f.weights[e * C + c] = t < 0 ? 0.0f : f.router.weightScale * f.compared[t * f.E + e];
    }
  });
}

void CpuBackend::buildExpertPlan(const BuildExpertPlan& p) {
  const StageTimer timer(*this, "buildExpertPlan");
  std::fill_n(p.tokenOffsets, p.T + 1, 0);
  int32_t row = 0;
  for (int e = 0; e < p.E; ++e) {
    p.expertOffsets[e] = row;
    for (int64_t slot = e * p.C; slot < (e + 1) * p.C; ++slot) {
      const int32_t t = p.indices[slot];
      p.kept[slot] = t >= 0;
      if (t < 0) continue;
      p.rowToken[row] = t;
      p.rowSlot[row++] = static_cast<int32_t>(slot);
      ++p.tokenOffsets[t + 1];
    }
    p.assigned[e] = p.keptCounts[e] = row - p.expertOffsets[e];
  }
  p.expertOffsets[p.E] = row;

  std::fill_n(p.totals, PlanTotal::count, 0);
  p.totals[PlanTotal::slots] = static_cast<int32_t>(p.C);
  for (int64_t t = 0; t < p.T; ++t) {
    if (isLive(p.mask, t)) {
      ++p.totals[PlanTotal::tokens];
      p.totals[PlanTotal::droppedTokens] += p.tokenOffsets[t + 1] == 0;
    }
    p.tokenOffsets[t + 1] += p.tokenOffsets[t];
  }
  // Rows in order, so that each token's experts rise.
  std::vector<int32_t> next(p.tokenOffsets, p.tokenOffsets + p.T);
  for (int32_t r = 0; r < row; ++r) p.tokenRows[next[p.rowToken[r]]++] = r;
  for (int32_t* list : {p.rowToken, p.rowSlot, p.tokenRows}) std::fill(list + row, list + p.E * p.C, -1);
}

}  // namespace moe::cpu
