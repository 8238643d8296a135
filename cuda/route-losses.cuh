// The second launch of the route's forward: the balancing losses from the sums over pieces, and the faults that were
// found there. No sum depends on the order in which blocks run.
#pragma once

#include "route-choice.cuh"

namespace moe {

/// In nats, of the distribution proportional to sums [E] in shared memory. By a whole block.
__device__ inline double entropyOf(const double* sums, int E, double* scratch) {
  double total = 0, largest = 0;
  int top = 0;
  for (int e = 0; e < E; ++e)
    if (sums[e] > largest) {
      largest = sums[e];
      top = e;
    }
  for (int e = threadIdx.x; e < E; e += blockDim.x) total += sums[e];
  total = blockSum(total, scratch);
  __syncthreads();
  double others = 0, entropy = 0;
  for (int e = threadIdx.x; e < E; e += blockDim.x) {
    if (e == top || sums[e] <= 0) continue;
    const double p = sums[e] / total;
    others += p;
    entropy -= p * ::log(p);
  }
  others = blockSum(others, scratch);
  __syncthreads();
  entropy = blockSum(entropy, scratch);
  // The largest is what the others leave: close to 1 its own digits would be lost.
  return total > 0 ? entropy - (1 - others) * log1p(-others) : 0.0;
}

/// The load balance of one scope; its value is left in sums.balance. Of groups of experts f.lossCounts has what the
/// whole group was assigned, for each of its experts; counts [E] are in shared memory.
template <RouteKind kind>
__device__ void finishScope(const RouteForward& f, const RoutePieces& pieces, const RouteSums& sums, double* counts,
                            double* scratch) {
  const int64_t scope = blockIdx.x, from = scope * pieces.perScope;
  const int groups = kind == RouteKind::General ? f.losses.expertGroups : 0;
  double tokens = 0;
  for (int64_t piece = 0; piece < pieces.perScope; ++piece) tokens += sums.loss[from + piece];
  if (groups > 0) {
    for (int e = threadIdx.x; e < f.E; e += routeThreads) {
      double count = 0;
      for (int64_t piece = 0; piece < pieces.perScope; ++piece) count += sums.counts[(from + piece) * f.E + e];
      counts[e] = count;
    }
    __syncthreads();
  }
  double product = 0;
  for (int e = threadIdx.x; e < f.E; e += routeThreads) {
    double P = 0;
    int64_t count = 0;
    for (int64_t piece = 0; piece < pieces.perScope; ++piece) {
      P += sums.lossP[(from + piece) * f.E + e];
      if (groups == 0) count += sums.counts[(from + piece) * f.E + e];
    }
    if (groups > 0) {
      const int size = f.E / max(groups, 1), begin = e / size * size;
      for (int other = begin; other < begin + size; ++other) count += static_cast<int64_t>(counts[other]);
    }
    f.lossCounts[scope * f.E + e] = static_cast<float>(count);
    product += static_cast<double>(count) * P;
  }
  product = blockSum(product, scratch);
  __syncthreads();
  if (threadIdx.x != 0) return;
  const double perToken = f.losses.counts == LossCounts::FirstChoice ? 1 : f.K;
  f.lossTokens[scope] = static_cast<float>(tokens);
  sums.balance[scope] = tokens > 0 ? (groups > 0 ? groups : f.E) * product / (tokens * tokens * perToken) : 0.0;
}

/// What is summed over all scopes. By the block that ends last; live [E] is in shared memory.
template <RouteKind kind>
__device__ void finishBatch(const RouteForward& f, const RoutePieces& pieces, const RouteSums& sums, double* live,
                            double* scratch) {
  const int64_t count = pieces.count();
  const bool loadOn = kind == RouteKind::General && f.losses.loadOn;
  for (int e = threadIdx.x; e < f.E; e += routeThreads) {
    double P = 0, importance = 0, load = 0;
    for (int64_t piece = 0; piece < count; ++piece) {
      P += sums.liveP[piece * f.E + e];
      if (f.losses.importanceOn) importance += sums.importance[piece * f.E + e];
      if (loadOn) load += sums.load[piece * f.E + e];
    }
    live[e] = P;
    if (f.losses.importanceOn) f.importance[e] = static_cast<float>(importance);
    if (loadOn) f.load[e] = static_cast<float>(load);
  }
  double z = 0, lossTokens = 0, balance = 0, filled = 0;
  for (int64_t piece = threadIdx.x; piece < count; piece += routeThreads) {
    z += sums.z[piece];
    lossTokens += sums.loss[piece];
  }
  if (f.losses.loadBalanceOn)
    for (int64_t scope = threadIdx.x; scope < pieces.scopes; scope += routeThreads) {
      balance += sums.balance[scope];
      filled += f.lossTokens[scope] > 0;
    }
  __syncthreads();
  const auto sum = [&](double x) {
    const double total = blockSum(x, scratch);
    __syncthreads();
    return total;
  };
  z = sum(z);
  lossTokens = sum(lossTokens);
  balance = sum(balance);
  filled = sum(filled);
  const double entropy = entropyOf(live, f.E, scratch);
  __syncthreads();
  const double importance = f.losses.importanceOn ? variationOf(f.importance, f.E, scratch).squared : 0.0;
  const double load = loadOn ? variationOf(f.load, f.E, scratch).squared : 0.0;
  if (threadIdx.x != 0) return;
  f.values[RouteValue::loadBalance] = static_cast<float>(filled > 0 ? balance / filled : 0.0);
  f.values[RouteValue::importance] = static_cast<float>(importance);
  f.values[RouteValue::load] = static_cast<float>(load);
  f.values[RouteValue::z] = static_cast<float>(lossTokens > 0 ? z / lossTokens : 0.0);
  f.values[RouteValue::entropy] = static_cast<float>(entropy);
  f.values[RouteValue::lossTokenCount] = static_cast<float>(lossTokens);
}

/// By a block for each scope, at least one; the first tells what faults the pieces had. Dynamic shared memory: double
/// [E].
template <RouteKind kind>
__device__ void finishLosses(const RouteForward& f, const RoutePieces& pieces, const RouteSums& sums,
                             const Guard& guard) {
  extern __shared__ double live[];
  __shared__ double scratch[routeWarps];
  if (blockIdx.x == 0)
    for (int64_t i = threadIdx.x; i < pieces.count() * routeWarps; i += routeThreads) {
      const FaultWord fault = sums.faults[i];
      if (fault == noFault) continue;
      atomicMin(&guard.status->own, fault);
      const int64_t t = faultIndex(fault);
      if (faultKind(fault) == Fault::RoutingIndex) atomicMin(&guard.status->value, badIndex(f, t));
      if (kind == RouteKind::General && faultKind(fault) == Fault::TokenType)
        atomicMin(&guard.status->value, faultValue(t, f.allowed.tokenTypes[t]));
    }
  if (f.losses.loadBalanceOn && pieces.scopes > 0) finishScope<kind>(f, pieces, sums, live, scratch);
  if (gridDim.x > 1 && !isLast(sums.finished, gridDim.x)) return;
  finishBatch<kind>(f, pieces, sums, live, scratch);
}

}  // namespace moe
