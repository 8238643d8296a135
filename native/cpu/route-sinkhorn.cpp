#include "route-sinkhorn.h"

#include <algorithm>
#include <cmath>

#include "../shared/math.h"
#include "../shared/sinkhorn.h"
#include "route-noise.h"
#include "route-tokens.h"

namespace moe::cpu {

namespace {

/// costs [E] = exp(logits - their maximum), which no factor of the token can tell from exp(logits); 0 where an expert
/// is not allowed, and for a token whose logits are not finite, which the route reports.
void setCosts(const RouteForward& f, int64_t t, float* costs) {
  const int32_t* allowed = allowedOf(f.allowed, t, f.E);
  if (f.noisy) addNoise(f, t, allowed);
  const float* logits = f.noisy ? f.noisy + t * f.E : f.logits + t * f.E;
  const float divisor = f.noisy ? 1.0f : f.router.temperatureNow();
  float highest = -INFINITY;
  for (int e = 0; e < f.E; ++e)
    if (!allowed || allowed[e]) highest = std::max(highest, logits[e]);
  for (int e = 0; e < f.E; ++e) {
    const float cost = allowed && !allowed[e] ? 0.0f : moe::exp((logits[e] - highest) / divisor);
    costs[e] = std::isfinite(cost) ? cost : 0.0f;
  }
}

}  // namespace

std::vector<float> sinkhornShifts(const RouteForward& f, const std::vector<int32_t>& live, ThreadPool& pool) {
  const int E = f.E;
  const auto T = static_cast<int64_t>(live.size());
  auto* costs = static_cast<float*>(f.workspace);  // [live,E]
  pool.parallelRanges(T, tokensPerPiece, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) setCosts(f, live[i], costs + i * E);
  });

  const int64_t pieces = (T + tokensPerPiece - 1) / tokensPerPiece;
  std::vector<double> factors(E, 1.0), loads(static_cast<size_t>(pieces) * E);  // [E], [pieces,E]
  double change = T > 0 ? INFINITY : 0;
  for (int step = 0; change >= Sinkhorn::tolerance && step < Sinkhorn::maxSteps; ++step) {
    pool.parallelRanges(T, tokensPerPiece, [&](int64_t begin, int64_t end, int) {
      double* load = loads.data() + begin / tokensPerPiece * E;
      std::fill_n(load, E, 0.0);
      for (int64_t i = begin; i < end; ++i) {
        const float* cost = costs + i * E;
        double sum = 0;
        for (int e = 0; e < E; ++e) sum += factors[e] * cost[e];
        const double factor = sinkhornFactor(sum, static_cast<double>(T));
        for (int e = 0; e < E; ++e) load[e] += factor * cost[e];
      }
    });
    change = 0;
    for (int e = 0; e < E; ++e) {
      double load = 0;
      for (int64_t piece = 0; piece < pieces; ++piece) load += loads[piece * E + e];
      const double factor = sinkhornFactor(load, E);
      change += std::abs(factor - factors[e]) / E;
      factors[e] = factor;
    }
  }
  std::vector<float> shifts(E);
  for (int e = 0; e < E; ++e) shifts[e] = static_cast<float>(std::log(factors[e]));
  return shifts;
}

}  // namespace moe::cpu
