#include "route-select.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "backend.h"

namespace moe::cpu {

void restrictToGroups(const RowKernels& row, const RouterOptions& router, int E, float* values) {
  const int groups = router.groupCount, size = E / groups;
  std::vector<float> scores(groups);
  for (int g = 0; g < groups; ++g) {
    float best = -INFINITY, second = -INFINITY;
    for (int e = g * size; e < (g + 1) * size; ++e) {
      second = std::max(second, std::min(best, values[e]));
      best = std::max(best, values[e]);
    }
    scores[g] = router.groupScore == GroupScore::Top2Sum && second != -INFINITY ? best + second : best;
  }
  std::vector<int32_t> kept(router.groupKeep);
  row.selectTopK(scores.data(), groups, router.groupKeep, kept.data());
  for (int g = 0; g < groups; ++g)
    if (std::find(kept.begin(), kept.end(), g) == kept.end()) std::fill_n(values + g * size, size, -INFINITY);
}

void CpuBackend::countAssignments(const CountAssignments& c) {
  const StageTimer timer(*this, "countAssignments");
  for (int e = 0; e < c.E; ++e) c.totals[e] += c.counts[e];
}

void CpuBackend::selectionBiasStep(const SelectionBiasStep& s) {
  const StageTimer timer(*this, "selectionBiasStep");
  int64_t total = 0;
  for (int e = 0; e < s.E; ++e) total += s.totals[e];
  for (int e = 0; e < s.E; ++e) {
    const int64_t share = s.totals[e] * s.E;
    s.bias[e] += share < total ? s.rate : share > total ? -s.rate : 0.0f;
  }
  std::fill_n(s.totals, s.E, 0);
}

}  // namespace moe::cpu
