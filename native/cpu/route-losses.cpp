#include "route-losses.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "route-noise.h"

namespace moe::cpu {

namespace {

/// Of S: mean, population variance, and cv² = variance / (mean² + 1e-10).
struct Variation {
  double mean = 0, variance = 0, squared = 0;
};

constexpr double variationEpsilon = 1e-10;

Variation variationOf(const float* S, int E) {
  Variation v;
  for (int e = 0; e < E; ++e) v.mean += S[e];
  v.mean /= E;
  for (int e = 0; e < E; ++e) v.variance += (S[e] - v.mean) * (S[e] - v.mean);
  v.variance /= E;
  v.squared = v.variance / (v.mean * v.mean + variationEpsilon);
  return v;
}

/// In nats, of the distribution that is proportional to sums.
double entropyOf(const std::vector<double>& sums) {
  const auto top = std::max_element(sums.begin(), sums.end());
  double total = 0, others = 0, entropy = 0;
  for (const double sum : sums) total += sum;
  for (auto sum = sums.begin(); sum != sums.end(); ++sum) {
    if (sum == top || *sum <= 0) continue;
    others += *sum / total;
    entropy -= *sum / total * std::log(*sum / total);
  }
  // The largest is what the others leave: close to 1 its own digits would be lost.
  return entropy - (1 - others) * std::log1p(-others);
}

/// What c counted assignments are divided by to give f.
double countsPerToken(const LossOptions& losses, int K) { return losses.counts == LossCounts::FirstChoice ? 1 : K; }

/// What f and P are summed over: the experts, or groups of them.
int balancedParts(const LossOptions& losses, int E) { return losses.expertGroups > 0 ? losses.expertGroups : E; }

/// Gives every expert the count of its whole group.
void spreadOverGroups(const LossOptions& losses, std::vector<int64_t>& counts) {
  if (losses.expertGroups == 0) return;
  const size_t size = counts.size() / losses.expertGroups;
  for (auto group = counts.begin(); group != counts.end(); group += size)
    std::fill_n(group, size, std::accumulate(group, group + size, int64_t{0}));
}

/// d cv² / dS_e, times the coefficient.
std::vector<float> variationSlopes(const float* S, int E, double coefficient) {
  const Variation v = variationOf(S, E);
  const double power = v.mean * v.mean + variationEpsilon;
  std::vector<float> slopes(E);
  for (int e = 0; e < E; ++e)
    slopes[e] = static_cast<float>(coefficient * 2 * (S[e] - v.mean - v.squared * v.mean) / (E * power));
  return slopes;
}

}  // namespace

RoutePieces::RoutePieces(const LossOptions& losses, int64_t T) {
  const bool split = losses.loadBalanceOn && losses.sequenceLength > 0;
  scopes = split ? losses.scopes(T) : 1;
  scopeTokens_ = split ? losses.sequenceLength : T;
  perScope_ = (scopeTokens_ + tokensPerPiece - 1) / tokensPerPiece;
}

int64_t RoutePieces::begin(int64_t piece) const {
  return scopeOf(piece) * scopeTokens_ + piece % perScope_ * tokensPerPiece;
}

int64_t RoutePieces::end(int64_t piece) const {
  return std::min(begin(piece) + tokensPerPiece, (scopeOf(piece) + 1) * scopeTokens_);
}

// ------------------------------------------------------------------------------------------------ load

LoadChances::LoadChances(const RowKernels& row, const RouterOptions& router, const LossOptions& losses, int E, int K)
    : row_(row), router_(router), excludingSelf_(losses.loadThreshold == LoadThreshold::ExcludingSelf), E_(E), K_(K) {
  if (!losses.loadOn) return;
  ranked_.resize(K + 1);
  threshold_.resize(E);
  chances_.resize(E);
  distance_.resize(E);
  deviation_.resize(E);
}

void LoadChances::set(const float* open, const float* noisy, float noisyDivisor, const float* noiseLogits) {
  row_.selectTopK(noisy, E_, K_ + 1, ranked_.data());
  const auto chosenEnd = ranked_.begin() + K_;
  for (int e = 0; e < E_; ++e) {
    const bool isChosen = excludingSelf_ && std::find(ranked_.begin(), chosenEnd, e) != chosenEnd;
    threshold_[e] = -1;
    chances_[e] = 0;
    if (open[e] == -INFINITY) continue;
    threshold_[e] = isChosen ? ranked_[K_] : ranked_[K_ - 1];
    if (threshold_[e] < 0) {
      chances_[e] = 1;
      continue;
    }
    const double threshold = static_cast<double>(noisy[threshold_[e]]) / noisyDivisor;
    deviation_[e] = deviationAt(router_, noiseLogits, e);
    distance_[e] = (static_cast<double>(open[e]) / router_.temperatureNow() - threshold) / deviation_[e];
    chances_[e] = static_cast<float>(0.5 * std::erfc(-distance_[e] * M_SQRT1_2));
  }
}

void LoadChances::backward(const float* slopes, float* gradLogits, float* gradNoisy, float* gradDeviations) const {
  for (int e = 0; e < E_; ++e) {
    if (threshold_[e] < 0) continue;
    const double density = std::exp(-0.5 * distance_[e] * distance_[e]) * 0.5 * M_2_SQRTPI * M_SQRT1_2;
    const double slope = slopes[e] * density / deviation_[e];
    gradLogits[e] += static_cast<float>(slope / router_.temperatureNow());
    gradNoisy[threshold_[e]] -= static_cast<float>(slope);
    gradDeviations[e] -= static_cast<float>(slope * distance_[e]);
  }
}

// ------------------------------------------------------------------------------------------------ forward

RouteSums::RouteSums(const RouteForward& route, const RoutePieces& pieces) : route_(route), pieces_(pieces) {
  const size_t count = static_cast<size_t>(pieces.count()), elements = count * static_cast<size_t>(route.E);
  liveP_.resize(elements);
  if (route.losses.loadBalanceOn) {
    counts_.resize(elements);
    if (route.lossMask) lossP_.resize(elements);
  }
  if (route.losses.importanceOn) importance_.resize(elements);
  if (route.losses.loadOn) load_.resize(elements);
  live_.resize(count);
  loss_.resize(count);
  z_.resize(count);
}

void RouteSums::add(int64_t piece, const RoutedToken& token, bool countsInLosses) {
  const int E = route_.E, K = route_.K;
  const LossOptions& losses = route_.losses;
  const auto addRow = [E, piece](std::vector<float>& sums, const float* row) {
    float* to = sums.data() + piece * E;
    for (int e = 0; e < E; ++e) to[e] += row[e];
  };
  addRow(liveP_, token.probabilities);
  ++live_[piece];
  if (!countsInLosses) return;
  ++loss_[piece];
  if (!lossP_.empty()) addRow(lossP_, token.probabilities);
  if (!counts_.empty()) {
    const int counted = losses.counts == LossCounts::FirstChoice ? 1 : K;
    for (int k = 0; k < counted; ++k)
      if (token.counted[k] >= 0) ++counts_[piece * E + token.counted[k]];
  }
  if (losses.importanceOn && losses.importanceFrom == ImportanceFrom::Softmax) addRow(importance_, token.clean);
  if (losses.importanceOn && losses.importanceFrom == ImportanceFrom::Gates)
    for (int k = 0; k < K; ++k)
      if (token.indices[k] >= 0) importance_[piece * E + token.indices[k]] += token.weights[k];
  if (losses.loadOn) addRow(load_, token.chances);
  if (losses.zOn) z_[piece] += static_cast<double>(token.logSumExp) * token.logSumExp;
}

void RouteSums::finish() const {
  const int E = route_.E;
  const int64_t pieces = pieces_.count();
  const std::vector<float>& lossP = lossP_.empty() ? liveP_ : lossP_;

  std::vector<int64_t> scopeTokens(pieces_.scopes);
  std::vector<double> live(E), importance(E), load(E);
  int64_t liveCount = 0, lossCount = 0;
  double z = 0;
  for (int64_t piece = 0; piece < pieces; ++piece) {
    scopeTokens[pieces_.scopeOf(piece)] += loss_[piece];
    liveCount += live_[piece];
    lossCount += loss_[piece];
    z += z_[piece];
    for (int e = 0; e < E; ++e) live[e] += liveP_[piece * E + e];
    if (!importance_.empty())
      for (int e = 0; e < E; ++e) importance[e] += importance_[piece * E + e];
    if (!load_.empty())
      for (int e = 0; e < E; ++e) load[e] += load_[piece * E + e];
  }

  double balance = 0, filledScopes = 0;
  if (route_.losses.loadBalanceOn) {
    std::vector<double> P(E);
    std::vector<int64_t> counts(E);
    for (int64_t scope = 0, piece = 0; scope < pieces_.scopes; ++scope) {
      std::fill(P.begin(), P.end(), 0.0);
      std::fill(counts.begin(), counts.end(), 0);
      for (; piece < pieces && pieces_.scopeOf(piece) == scope; ++piece)
        for (int e = 0; e < E; ++e) {
          P[e] += lossP[piece * E + e];
          counts[e] += counts_[piece * E + e];
        }
      const double n = static_cast<double>(scopeTokens[scope]);
      route_.lossTokens[scope] = static_cast<float>(n);
      spreadOverGroups(route_.losses, counts);
      double product = 0;
      for (int e = 0; e < E; ++e) {
        route_.lossCounts[scope * E + e] = static_cast<float>(counts[e]);
        product += static_cast<double>(counts[e]) * P[e];
      }
      if (n == 0) continue;
      balance += balancedParts(route_.losses, E) * product / (n * n * countsPerToken(route_.losses, route_.K));
      ++filledScopes;
    }
  }

  float* values = route_.values;
  std::fill(values, values + RouteValue::count, 0.0f);
  if (filledScopes > 0) values[RouteValue::loadBalance] = static_cast<float>(balance / filledScopes);
  if (route_.losses.importanceOn) {
    for (int e = 0; e < E; ++e) route_.importance[e] = static_cast<float>(importance[e]);
    values[RouteValue::importance] = static_cast<float>(variationOf(route_.importance, E).squared);
  }
  if (route_.losses.loadOn) {
    for (int e = 0; e < E; ++e) route_.load[e] = static_cast<float>(load[e]);
    values[RouteValue::load] = static_cast<float>(variationOf(route_.load, E).squared);
  }
  if (lossCount > 0) values[RouteValue::z] = static_cast<float>(z / static_cast<double>(lossCount));
  values[RouteValue::entropy] = static_cast<float>(liveCount > 0 ? entropyOf(live) : 0.0);
  values[RouteValue::lossTokenCount] = static_cast<float>(lossCount);
}

// ------------------------------------------------------------------------------------------------ backward

RouteSlopes::RouteSlopes(const RouteBackward& route) : route_(route) {
  const LossOptions& losses = route.losses;
  const double lossTokens = route.values[RouteValue::lossTokenCount];
  if (losses.loadBalanceOn)
    for (int64_t scope = 0; scope < losses.scopes(route.T); ++scope) filledScopes_ += route.lossTokens[scope] > 0;
  if (losses.zOn && lossTokens > 0) z_ = static_cast<float>(2.0 * losses.z / lossTokens);
  if (losses.importanceOn) importance_ = variationSlopes(route.importance, route.E, losses.importance);
  if (losses.loadOn) load_ = variationSlopes(route.load, route.E, losses.load);
}

void RouteSlopes::balance(int64_t scope, float* slopes) const {
  const int E = route_.E;
  const double n = route_.lossTokens[scope];
  const double divisor = n * n * countsPerToken(route_.losses, route_.K) * filledScopes_;
  const double factor = n > 0 ? route_.losses.loadBalance * balancedParts(route_.losses, E) / divisor : 0.0;
  for (int e = 0; e < E; ++e) slopes[e] = static_cast<float>(factor * route_.lossCounts[scope * E + e]);
}

}  // namespace moe::cpu
