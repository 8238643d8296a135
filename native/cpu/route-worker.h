// What one worker of the route stage needs for the token it is at.
#pragma once

#include <vector>

#include "../core/backend.h"
#include "route-losses.h"
#include "route-scores.h"

namespace moe::cpu {

struct RouteWorker {
  RouteWorker(const RowKernels& row, const RouterOptions& router, const LossOptions& losses, int E, int K);

  /// gradScores and gradUsed [K] of a token's choices. importance [E]: the slopes of the loss of that name by the
  /// weights; null without.
  void weightsBackward(const RouteBackward& b, int64_t t, const float* importance);
  /// Where experts choose: those that took the token, in counted, and gradScores of them. Returns how many.
  int takersOf(const RouteBackward& b, int64_t t);

  TokenScores scores;
  LoadChances load;
  std::vector<int32_t> counted;
  std::vector<double> gradWeights, gradScores, gradUsed;
  std::vector<float> gradP, balance, gradNoisy, gradDeviations, noise;
};

}  // namespace moe::cpu
