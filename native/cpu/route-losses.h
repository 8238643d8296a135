// The balancing losses of a route: sums over tokens in fixed pieces, the values made of them, and the slopes that
// backward starts from. Scores, selection and weights are route.cpp's.
#pragma once

#include <cstdint>
#include <vector>

#include "../core/backend.h"
#include "simd/row.h"

namespace moe::cpu {

/// The tokens cut into pieces of at most 64, none of which crosses a load-balance scope.
class RoutePieces {
 public:
  RoutePieces(const LossOptions& losses, int64_t T);

  int64_t count() const { return scopes * perScope_; }
  int64_t scopeOf(int64_t piece) const { return piece / perScope_; }
  int64_t begin(int64_t piece) const;
  int64_t end(int64_t piece) const;

  int64_t scopes;

 private:
  int64_t scopeTokens_, perScope_;
};

/// What one token adds to the sums.
struct RoutedToken {
  const float* probabilities;  // [E] with temperature
  const float* clean;          // [E] softmax without; null unless the importance loss is taken from it
  float logSumExp;             // of the logits without temperature
  const int32_t* indices;      // [K]
  const int32_t* counted;      // [K] what the load balance counts
  const float* weights;        // [K]
  const float* chances;        // [E] of being chosen; null unless the load loss is on
};

/// Which logit each expert has to beat to be chosen, and with what chance its noise drawn anew would do that. Shazeer:
/// the (K+1)-th noisy logit for the chosen experts and the K-th for the others; V-MoE: the K-th for all.
class LoadChances {
 public:
  LoadChances(const RowKernels& row, const RouterOptions& router, const LossOptions& losses, int E, int K);

  /// Of a token's logits without noise (minus infinity where not allowed), with it, and its noiseLogits or null.
  void set(const float* open, const float* noisy, float noisyDivisor, const float* noiseLogits);
  /// [E]
  const float* chances() const { return chances_.data(); }
  /// From slopes [E] by the chances: += to the gradients [E] of the logits, the noisy logits and the deviations.
  void backward(const float* slopes, float* gradLogits, float* gradNoisy, float* gradDeviations) const;

 private:
  const RowKernels& row_;
  const RouterOptions& router_;
  bool excludingSelf_;
  int E_, K_;
  std::vector<int32_t> ranked_;  // [K+1] or [E]
  std::vector<int32_t>
      threshold_;  // [E] the expert whose noisy logit is to be beaten; -1: chosen for certain, or never
  std::vector<float> chances_;
  std::vector<double> distance_, deviation_;  // [E] over the deviation
};

class RouteSums {
 public:
  RouteSums(const RouteForward& route, const RoutePieces& pieces);

  /// Pieces may be filled at the same time, each by one thread in order of its tokens.
  void add(int64_t piece, const RoutedToken& token, bool countsInLosses);
  /// Writes lossCounts, lossTokens, importance, load and values.
  void finish() const;

 private:
  const RouteForward& route_;
  const RoutePieces& pieces_;
  std::vector<float> liveP_, lossP_, importance_, load_;  // [pieces,E]; all but liveP_ empty when not needed
  std::vector<int32_t> counts_;                           // [pieces,E] or empty
  std::vector<int32_t> live_, loss_;                      // [pieces] tokens
  std::vector<double> z_;                                 // [pieces]
};

/// d(scaled losses) with respect to what the tokens added.
class RouteSlopes {
 public:
  explicit RouteSlopes(const RouteBackward& route);

  /// slopes [E]: by the probabilities of every loss token in this scope.
  void balance(int64_t scope, float* slopes) const;
  /// [E] by Σ of the weights or clean probabilities; null without the loss.
  const float* importance() const { return importance_.empty() ? nullptr : importance_.data(); }
  /// [E] by Σ of the chances of being chosen; null without the loss.
  const float* load() const { return load_.empty() ? nullptr : load_.data(); }
  /// By logSumExp²/2 of every loss token.
  float z() const { return z_; }

 private:
  const RouteBackward& route_;
  double filledScopes_ = 0;
  std::vector<float> importance_, load_;
  float z_ = 0;
};

}  // namespace moe::cpu
