// The route stage: logits, scores, top-K, gate weights and the balancing losses; and their gradients. Two launches
// forward (pieces of tokens, then sums over pieces), two backward (tokens, then the products that sum over tokens).
//
// gradInput += the router's share; gradLogits =; gradWeight and gradBias = or +=, as b.accumulate… says. No sum depends
// on the order in which blocks run.
#include "../native/shared/math.h"
#include "../native/shared/route-sums.h"
#include "common.cuh"

namespace moe {

constexpr int routeThreads = 256, routeWarps = routeThreads / warpSize_;
constexpr int tileTokens = RoutePieces::tileTokens;

__device__ inline bool isLive(const int32_t* mask, int64_t t) { return !mask || mask[t] != 0; }

// ------------------------------------------------------------------------------------------------ forward: logits

constexpr int depthTile = 32, depthStride = depthTile + 4;  // 16-byte rows whose banks do not collide
constexpr int tileExperts = 64, expertsPerWarp = tileExperts / routeWarps;

struct LogitTiles {
  float x[tileTokens][depthStride];
  float w[tileExperts][depthStride];
};

/// logits [first, first + count) = x·weightᵀ + bias. Each lane has a token, each warp every eighth expert.
template <class T>
__device__ void multiplyLogits(const RouteForward& f, int64_t first, int count, LogitTiles& tiles) {
  const T* input = static_cast<const T*>(f.input);
  for (int e0 = 0; e0 < f.E; e0 += tileExperts) {
    const int experts = min(tileExperts, f.E - e0);
    float sums[expertsPerWarp] = {};
    for (int k0 = 0; k0 < f.H; k0 += depthTile) {
      const bool inside = k0 + lane() < f.H;
      for (int t = warp(); t < tileTokens; t += routeWarps) {
        const bool needed = inside && t < count && isLive(f.mask, first + t);
        tiles.x[t][lane()] = needed ? toFloat(input[(first + t) * f.H + k0 + lane()]) : 0.0f;
      }
      for (int e = warp(); e < experts; e += routeWarps)
        tiles.w[e][lane()] = inside ? f.weight[int64_t{e0 + e} * f.H + k0 + lane()] : 0.0f;
      __syncthreads();
#pragma unroll 1  // more takes registers that the whole kernel has to pay for
      for (int k = 0; k < depthTile; k += 4) {
        const float4 x = *reinterpret_cast<const float4*>(&tiles.x[lane()][k]);
#pragma unroll
        for (int i = 0; i < expertsPerWarp; ++i)
          if (const int e = warp() + i * routeWarps; e < experts) {
            const float4 w = *reinterpret_cast<const float4*>(&tiles.w[e][k]);
            sums[i] = fmaf(x.w, w.w, fmaf(x.z, w.z, fmaf(x.y, w.y, fmaf(x.x, w.x, sums[i]))));
          }
      }
      __syncthreads();
    }
    if (lane() < count)
#pragma unroll
      for (int i = 0; i < expertsPerWarp; ++i)
        if (const int e = warp() + i * routeWarps; e < experts) {
          const bool live = isLive(f.mask, first + lane());
          const float bias = f.bias ? f.bias[e0 + e] : 0.0f;
          f.logits[(first + lane()) * f.E + e0 + e] = live ? sums[i] + bias : 0.0f;
        }
  }
}

/// The caller's logits in place of the product.
__device__ inline void copyLogits(const RouteForward& f, int64_t first, int count) {
  for (int64_t i = threadIdx.x; i < int64_t{count} * f.E; i += routeThreads) {
    const int64_t t = first + i / f.E;
    const int e = static_cast<int>(i % f.E);
    const float logit = f.givenLogits[first * f.E + i] + (f.bias ? f.bias[e] : 0.0f);
    f.logits[first * f.E + i] = isLive(f.mask, t) ? logit : 0.0f;
  }
}

// ------------------------------------------------------------------------------------------------ forward: a token

/// e^(l/τ - maximum) / sum for any of a token's logits l.
struct Softmax {
  float temperature, maximum, sum;

  __device__ float operator()(float logit) const { return exp(logit / temperature - maximum) / sum; }
  __device__ float logSumExp() const { return maximum + log(sum); }
};

/// Of a row of logits, by a whole warp. False when one of them is not finite.
__device__ inline bool softmaxOf(const float* logits, int E, float temperature, Softmax& softmax) {
  float highest = -INFINITY;
  bool finite = true;
  for (int e = lane(); e < E; e += warpSize_) {
    const float x = logits[e] / temperature;
    finite = finite && fabsf(x) < INFINITY;
    highest = fmaxf(highest, x);
  }
  if (!__all_sync(wholeWarp, finite)) return false;
  highest = warpReduce<Maximum>(highest);
  float sum = 0;
  for (int e = lane(); e < E; e += warpSize_) sum += exp(logits[e] / temperature - highest);
  softmax = {temperature, highest, warpSum(sum)};
  return true;
}

/// indices [K]: the K largest logits in falling order; of equal ones the lower expert first. By a whole warp: each lane
/// offers the best of its experts that is not taken, and looks for the next when its offer wins.
__device__ inline void selectTopK(const float* logits, int E, int K, int32_t* indices) {
  uint32_t taken = 0;  // bit i: expert lane + 32·i
  const auto offer = [&] {
    int best = E;
    for (int e = lane(), i = 0; e < E; e += warpSize_, ++i)
      if (!(taken >> i & 1u) && (best == E || logits[e] > logits[best])) best = e;
    return best;
  };
  int mine = offer();
  for (int k = 0; k < K; ++k) {
    int best = mine;
    float value = best < E ? logits[best] : -INFINITY;
    for (int distance = warpSize_ / 2; distance > 0; distance /= 2) {
      const int other = __shfl_xor_sync(wholeWarp, best, distance);
      const float otherValue = __shfl_xor_sync(wholeWarp, value, distance);
      if (other < E && (best == E || otherValue > value || (otherValue == value && other < best))) {
        best = other;
        value = otherValue;
      }
    }
    if (lane() == 0) indices[k] = best;
    if (best == mine) {
      taken |= 1u << (mine / warpSize_);
      mine = offer();
    }
  }
  __syncwarp();
}

/// x^p for x in [0, 1], where the digits lost to p·ln x do not matter: what loses many is small.
__device__ inline float power(float x, float p) { return x < 0x1p-126f ? 0.0f : exp(p * log(x)); }

/// ‖scores‖_p over [K], by a whole warp, in double like the CPU: single scores may be tiny.
__device__ inline double normOf(const RouterOptions& router, const float* scores, int K) {
  if (router.normP == 1 || router.normP == 2) {
    double sum = 0;
    for (int k = lane(); k < K; k += warpSize_)
      sum += router.normP == 1 ? static_cast<double>(scores[k]) : static_cast<double>(scores[k]) * scores[k];
    sum = warpSum(sum);
    return router.normP == 1 ? sum : sqrt(sum);
  }
  // Of shares of the largest score, so that no power underflows.
  float largest = 0;
  for (int k = lane(); k < K; k += warpSize_) largest = fmaxf(largest, scores[k]);
  largest = warpReduce<Maximum>(largest);
  if (largest == 0) return 0;
  float sum = 0;
  for (int k = lane(); k < K; k += warpSize_) sum += power(scores[k] / largest, router.normP);
  // The sum is in [1, K].
  return static_cast<double>(largest) * exp(log(warpSum(sum)) / router.normP);
}

/// scores [K] = softmax over the selected logits alone.
__device__ inline void softmaxOfSelected(const float* logits, float temperature, const int32_t* indices, int K,
                                         float* scores) {
  float highest = -INFINITY;
  for (int k = lane(); k < K; k += warpSize_)
    if (indices[k] >= 0) highest = fmaxf(highest, logits[indices[k]] / temperature);
  highest = warpReduce<Maximum>(highest);
  float sum = 0;
  for (int k = lane(); k < K; k += warpSize_)
    if (indices[k] >= 0) sum += exp(logits[indices[k]] / temperature - highest);
  sum = warpSum(sum);
  for (int k = lane(); k < K; k += warpSize_)
    scores[k] = indices[k] >= 0 ? exp(logits[indices[k]] / temperature - highest) / sum : 0.0f;
}

/// The caller's indices of a token, written out. False when one is outside [-1,E).
__device__ inline bool copyIndices(const RouteForward& f, int64_t t) {
  bool good = true;
  for (int k = lane(); k < f.K; k += warpSize_) {
    const int32_t e = f.givenIndices[t * f.K + k];
    good = good && e >= -1 && e < f.E;
    f.indices[t * f.K + k] = e;
  }
  __syncwarp();
  return __all_sync(wholeWarp, good);
}

__device__ inline void clearToken(const RouteForward& f, int64_t t) {
  for (int k = lane(); k < f.K; k += warpSize_) {
    f.indices[t * f.K + k] = -1;
    f.scores[t * f.K + k] = 0;
    f.weights[t * f.K + k] = 0;
  }
}

/// Indices, scores and weights of a live token, by a whole warp. False when its logits or indices are at fault.
__device__ inline bool routeToken(const RouteForward& f, int64_t t, Softmax& softmax, const Guard& guard) {
  const float* logits = f.logits + t * f.E;
  int32_t* indices = f.indices + t * f.K;
  float* scores = f.scores + t * f.K;
  if (f.givenIndices && !copyIndices(f, t)) {
    if (lane() == 0) noteFault(guard, Fault::RoutingIndex, t);
    return false;
  }
  if (!softmaxOf(logits, f.E, f.router.temperature, softmax)) {
    if (lane() == 0) noteFault(guard, Fault::NonFiniteLogits, t);
    return false;
  }
  if (!f.givenIndices) selectTopK(logits, f.E, f.K, indices);
  if (f.router.selectBy == SelectBy::Logits)
    softmaxOfSelected(logits, f.router.temperature, indices, f.K, scores);
  else
    for (int k = lane(); k < f.K; k += warpSize_) scores[k] = indices[k] >= 0 ? softmax(logits[indices[k]]) : 0.0f;
  __syncwarp();
  double factor = f.router.weightScale;
  if (f.router.renormalize) {
    const double divisor = normOf(f.router, scores, f.K) + f.router.normEpsilon;
    factor = divisor > 0 ? factor / divisor : 0.0;
  }
  for (int k = lane(); k < f.K; k += warpSize_) f.weights[t * f.K + k] = static_cast<float>(factor * scores[k]);
  return true;
}

// ------------------------------------------------------------------------------------------------ forward: pieces

/// What the sums over a tile need of its tokens.
struct TileTokens {
  Softmax softmax[tileTokens], clean[tileTokens];
  bool live[tileTokens], loss[tileTokens];
};

/// Adds a tile to the sums of its piece: each thread has experts of its own and takes the tokens in order.
__device__ inline void addTile(const RouteForward& f, const RouteSums& sums, int64_t piece, int64_t first, int count,
                               const TileTokens& tile, bool fresh) {
  const LossOptions& losses = f.losses;
  const bool gates = losses.importanceOn && losses.importanceFrom == ImportanceFrom::Gates;
  const bool balance = losses.loadBalanceOn, masked = sums.lossP != sums.liveP;
  const int counted = losses.counts == LossCounts::All ? f.K : 1;
  for (int e = threadIdx.x; e < f.E; e += routeThreads) {
    const int64_t at = piece * f.E + e;
    float liveP = fresh ? 0.0f : sums.liveP[at], lossP = fresh || !masked ? 0.0f : sums.lossP[at];
    float importance = fresh || !losses.importanceOn ? 0.0f : sums.importance[at];
    int32_t assigned = fresh || !balance ? 0 : sums.counts[at];
    for (int i = 0; i < count; ++i) {
      if (!tile.live[i]) continue;
      const float logit = f.logits[(first + i) * f.E + e], p = tile.softmax[i](logit);
      liveP += p;
      if (!tile.loss[i]) continue;
      lossP += p;
      if (losses.importanceOn && !gates) importance += tile.clean[i](logit);
      if (!gates && !balance) continue;
      const int64_t slot = (first + i) * f.K;
      for (int k = 0; k < f.K; ++k)
        if (f.indices[slot + k] == e) {
          if (gates) importance += f.weights[slot + k];
          assigned += k < counted;
        }
    }
    sums.liveP[at] = liveP;
    if (masked) sums.lossP[at] = lossP;
    if (losses.importanceOn) sums.importance[at] = importance;
    if (balance) sums.counts[at] = assigned;
  }
  if (threadIdx.x == 0) {
    double z = fresh ? 0.0 : sums.z[piece];
    int32_t live = fresh ? 0 : sums.live[piece], loss = fresh ? 0 : sums.loss[piece];
    for (int i = 0; i < count; ++i) {
      live += tile.live[i];
      loss += tile.loss[i];
      if (tile.loss[i] && losses.zOn) z += static_cast<double>(tile.clean[i].logSumExp()) * tile.clean[i].logSumExp();
    }
    sums.z[piece] = z;
    sums.live[piece] = live;
    sums.loss[piece] = loss;
  }
}

template <class T>
__device__ void routePiece(const RouteForward& f, const RoutePieces& pieces, const RouteSums& sums,
                           const Guard& guard) {
  __shared__ LogitTiles tiles;
  __shared__ TileTokens tile;
  const bool cleanSoftmax = f.losses.importanceOn && f.losses.importanceFrom == ImportanceFrom::Softmax;
  const bool tempered = f.router.temperature != 1 && (cleanSoftmax || f.losses.zOn);
  const int64_t piece = blockIdx.x, begin = pieces.begin(piece), end = pieces.end(piece);
  if (piece == 0 && threadIdx.x == 0) *sums.finished = 0;
  for (int64_t first = begin; first < end; first += tileTokens) {
    const int count = static_cast<int>(min(int64_t{tileTokens}, end - first));
    if (f.givenLogits)
      copyLogits(f, first, count);
    else
      multiplyLogits<T>(f, first, count, tiles);
    __syncthreads();
    for (int i = warp(); i < count; i += routeWarps) {
      const int64_t t = first + i;
      Softmax softmax{1, 0, 1}, clean{1, 0, 1};
      const bool live = isLive(f.mask, t);
      bool good = false;
      if (live)
        good = routeToken(f, t, softmax, guard);
      else
        clearToken(f, t);
      clean = softmax;
      if (good && tempered) softmaxOf(f.logits + t * f.E, f.E, 1, clean);
      if (lane() == 0) {
        tile.softmax[i] = softmax;
        tile.clean[i] = clean;
        tile.live[i] = good;
        tile.loss[i] = good && isLive(f.lossMask, t);
      }
    }
    __syncthreads();
    addTile(f, sums, piece, first, count, tile, first == begin);
    __syncthreads();
  }
}

#define MOE_ROUTE(name, type)                                                                          \
  extern "C" __global__ void __launch_bounds__(routeThreads, 2)                                        \
      route_##name(const __grid_constant__ RouteForward f, const __grid_constant__ RoutePieces pieces, \
                   const __grid_constant__ RouteSums sums, const __grid_constant__ Guard guard) {      \
    if (enter(guard, true)) routePiece<type>(f, pieces, sums, guard);                                  \
  }
MOE_FLOAT_TYPES(MOE_ROUTE)

/// With the caller's weights nothing is scored: a warp copies a token.
extern "C" __global__ void __launch_bounds__(routeThreads, 2)
    routeGiven(const __grid_constant__ RouteForward f, const __grid_constant__ Guard guard) {
  if (!enter(guard, true)) return;
  if (blockIdx.x == 0 && threadIdx.x < RouteValue::count) f.values[threadIdx.x] = 0;
  const int64_t t = int64_t{blockIdx.x} * routeWarps + warp();
  if (t >= f.T) return;
  if (!isLive(f.mask, t)) return clearToken(f, t);
  if (!copyIndices(f, t) && lane() == 0) noteFault(guard, Fault::RoutingIndex, t);
  for (int k = lane(); k < f.K; k += warpSize_) {
    f.scores[t * f.K + k] = f.givenWeights[t * f.K + k];
    f.weights[t * f.K + k] = f.givenWeights[t * f.K + k];
  }
}

// ------------------------------------------------------------------------------------------------ forward: losses

/// Of S [E]: mean, population variance, and cv² = variance / (mean² + 1e-10). By a whole block.
struct Variation {
  double mean, squared;
};

constexpr double variationEpsilon = 1e-10;

__device__ inline Variation variationOf(const float* S, int E, double* scratch) {
  double sum = 0;
  for (int e = threadIdx.x; e < E; e += blockDim.x) sum += S[e];
  const double mean = blockSum(sum, scratch) / E;
  double squares = 0;
  for (int e = threadIdx.x; e < E; e += blockDim.x) squares += (S[e] - mean) * (S[e] - mean);
  __syncthreads();
  const double variance = blockSum(squares, scratch) / E;
  __syncthreads();
  return {mean, variance / (mean * mean + variationEpsilon)};
}

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

/// The load balance of one scope; its value is left in sums.balance.
__device__ inline void finishScope(const RouteForward& f, const RoutePieces& pieces, const RouteSums& sums,
                                   double* scratch) {
  const int64_t scope = blockIdx.x, from = scope * pieces.perScope;
  double tokens = 0;
  for (int64_t piece = 0; piece < pieces.perScope; ++piece) tokens += sums.loss[from + piece];
  double product = 0;
  for (int e = threadIdx.x; e < f.E; e += routeThreads) {
    double P = 0;
    int64_t count = 0;
    for (int64_t piece = 0; piece < pieces.perScope; ++piece) {
      P += sums.lossP[(from + piece) * f.E + e];
      count += sums.counts[(from + piece) * f.E + e];
    }
    f.lossCounts[scope * f.E + e] = static_cast<float>(count);
    product += static_cast<double>(count) * P;
  }
  product = blockSum(product, scratch);
  __syncthreads();
  if (threadIdx.x != 0) return;
  const double perToken = f.losses.counts == LossCounts::All ? f.K : 1;
  f.lossTokens[scope] = static_cast<float>(tokens);
  sums.balance[scope] = tokens > 0 ? f.E * product / (tokens * tokens * perToken) : 0.0;
}

/// What is summed over all scopes. By the block that ends last.
__device__ inline void finishBatch(const RouteForward& f, const RoutePieces& pieces, const RouteSums& sums,
                                   double* live, double* scratch) {
  const int64_t count = pieces.count();
  for (int e = threadIdx.x; e < f.E; e += routeThreads) {
    double P = 0, importance = 0;
    for (int64_t piece = 0; piece < count; ++piece) {
      P += sums.liveP[piece * f.E + e];
      if (f.losses.importanceOn) importance += sums.importance[piece * f.E + e];
    }
    live[e] = P;
    if (f.losses.importanceOn) f.importance[e] = static_cast<float>(importance);
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
  if (threadIdx.x != 0) return;
  f.values[RouteValue::loadBalance] = static_cast<float>(filled > 0 ? balance / filled : 0.0);
  f.values[RouteValue::importance] = static_cast<float>(importance);
  f.values[RouteValue::z] = static_cast<float>(lossTokens > 0 ? z / lossTokens : 0.0);
  f.values[RouteValue::entropy] = static_cast<float>(entropy);
  f.values[RouteValue::lossTokenCount] = static_cast<float>(lossTokens);
}

/// True in every thread of the block that comes last of `blocks`; what the others have written is then visible.
__device__ inline bool isLast(uint32_t* finished, uint32_t blocks) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(finished, 1u) == blocks - 1;
  __syncthreads();
  __threadfence();
  return last;
}

/// A block for each scope, at least one. Dynamic shared memory: double [E].
extern "C" __global__ void __launch_bounds__(routeThreads, 2)
    routeLosses(const __grid_constant__ RouteForward f, const __grid_constant__ RoutePieces pieces,
                const __grid_constant__ RouteSums sums, const __grid_constant__ Guard guard) {
  if (!enter(guard)) return;
  extern __shared__ double live[];
  __shared__ double scratch[routeWarps];
  if (f.losses.loadBalanceOn && pieces.scopes > 0) finishScope(f, pieces, sums, scratch);
  if (gridDim.x > 1 && !isLast(sums.finished, gridDim.x)) return;
  finishBatch(f, pieces, sums, live, scratch);
}

// ------------------------------------------------------------------------------------------------ backward: tokens

/// d(scaled losses) by what the tokens added to their sums; [E] each in shared memory.
struct Slopes {
  const float *balance, *importance;
  float z;
};

/// gradLogits of a live token, by a whole warp. gradP [E] is the warp's own.
__device__ inline void tokenBackward(const RouteBackward& b, int64_t t, const Slopes& slopes, float* gradP) {
  const int E = b.E, K = b.K;
  const RouterOptions& router = b.router;
  const LossOptions& losses = b.losses;
  const float* logits = b.logits + t * E;
  const int32_t* indices = b.indices + t * K;
  const float* scores = b.scores + t * K;
  float* gradLogits = b.gradLogits + t * E;
  const bool inLosses = isLive(b.lossMask, t);
  const bool cleanSoftmax = losses.importanceOn && losses.importanceFrom == ImportanceFrom::Softmax;
  const bool gates = losses.importanceOn && !cleanSoftmax && inLosses;

  // Back through scale and renormalisation: dL/d(score) = scale·(g - slope·projection) with g by the weights.
  const auto gradWeight = [&](int k) -> double {
    if (indices[k] < 0) return 0.0;
    return static_cast<double>(b.gradWeights[t * K + k]) + (gates ? slopes.importance[indices[k]] : 0.0f);
  };
  double scale = router.weightScale, projection = 0, norm = 1;
  if (router.renormalize) {
    norm = normOf(router, scores, K);
    const double divisor = norm + router.normEpsilon;
    for (int k = lane(); k < K; k += warpSize_) projection += gradWeight(k) * scores[k];
    projection = divisor > 0 ? warpSum(projection) / divisor : 0.0;
    scale = divisor > 0 ? scale / divisor : 0.0;
  }
  const auto gradScore = [&](int k) {
    double slope = 1;
    if (router.normP != 1 && router.renormalize) slope = power(static_cast<float>(scores[k] / norm), router.normP - 1);
    return scale * (gradWeight(k) - projection * slope);
  };

  Softmax softmax;
  softmaxOf(logits, E, router.temperature, softmax);
  for (int e = lane(); e < E; e += warpSize_) gradP[e] = losses.loadBalanceOn && inLosses ? slopes.balance[e] : 0.0f;
  __syncwarp();
  // A caller's routing may name an expert twice, so each lane adds to experts of its own.
  if (router.selectBy == SelectBy::Scores)
    for (int k = 0; k < K; ++k)
      if (indices[k] >= 0 && indices[k] % warpSize_ == lane()) gradP[indices[k]] += static_cast<float>(gradScore(k));
  __syncwarp();

  // Against the gradient of the largest probability nothing cancels when that is close to 1.
  int top = E;
  for (int e = lane(); e < E; e += warpSize_)
    if (top == E || logits[e] > logits[top]) top = e;
  float topLogit = top < E ? logits[top] : -INFINITY;
  for (int distance = warpSize_ / 2; distance > 0; distance /= 2) {
    const int other = __shfl_xor_sync(wholeWarp, top, distance);
    const float otherLogit = __shfl_xor_sync(wholeWarp, topLogit, distance);
    if (other < E && (top == E || otherLogit > topLogit || (otherLogit == topLogit && other < top))) {
      top = other;
      topLogit = otherLogit;
    }
  }
  const float shift = gradP[top], inverse = 1.0f / router.temperature;
  float mean = 0;
  for (int e = lane(); e < E; e += warpSize_) mean += softmax(logits[e]) * (gradP[e] - shift);
  mean = warpSum(mean);

  // By the softmax without temperature: importance and z.
  Softmax clean = softmax;
  if (inLosses && (cleanSoftmax || losses.zOn) && router.temperature != 1) softmaxOf(logits, E, 1, clean);
  float cleanMean = 0, cleanShift = 0;
  const bool byClean = inLosses && cleanSoftmax;
  if (byClean) {
    cleanShift = slopes.importance[top];
    for (int e = lane(); e < E; e += warpSize_) cleanMean += clean(logits[e]) * (slopes.importance[e] - cleanShift);
    cleanMean = warpSum(cleanMean);
  }
  const float zSlope = inLosses && losses.zOn ? slopes.z * clean.logSumExp() : 0.0f;

  for (int e = lane(); e < E; e += warpSize_) {
    float gradient = inverse * (softmax(logits[e]) * ((gradP[e] - shift) - mean));
    if (byClean) gradient += clean(logits[e]) * ((slopes.importance[e] - cleanShift) - cleanMean);
    if (zSlope != 0) gradient += zSlope * clean(logits[e]);
    gradLogits[e] = gradient;
  }
  if (router.selectBy == SelectBy::Scores) return;

  // Back through the softmax over the selected logits alone.
  __syncwarp();
  int best = 0;
  for (int k = 1; k < K; ++k)
    if (scores[k] > scores[best]) best = k;
  const double bestGrad = gradScore(best);
  double selectedMean = 0;
  for (int k = lane(); k < K; k += warpSize_) selectedMean += scores[k] * (gradScore(k) - bestGrad);
  selectedMean = warpSum(selectedMean);
  for (int k = 0; k < K; ++k)
    if (indices[k] >= 0 && indices[k] % warpSize_ == lane())
      gradLogits[indices[k]] +=
          static_cast<float>(scores[k] * (gradScore(k) - bestGrad - selectedMean) / router.temperature);
}

/// A block for each piece. Dynamic shared memory: the slopes, float [2,E], and float [warps,E].
extern "C" __global__ void __launch_bounds__(routeThreads, 2)
    routeTokensBackward(const __grid_constant__ RouteBackward b, const __grid_constant__ RoutePieces pieces,
                        const __grid_constant__ RouteGradientSums sums, const __grid_constant__ Guard guard) {
  if (!enter(guard)) return;
  extern __shared__ float shared[];
  __shared__ double scratch[routeWarps];
  const int E = b.E;
  float *balance = shared, *importance = shared + E;
  const int64_t piece = blockIdx.x, begin = pieces.begin(piece), end = pieces.end(piece);
  const LossOptions& losses = b.losses;
  if (b.gradWeight)
    for (int64_t i = piece * routeThreads + threadIdx.x; i < static_cast<int64_t>(RouteGradientSums::tiles(b));
         i += int64_t{gridDim.x} * routeThreads)
      sums.finished[i] = 0;

  if (losses.loadBalanceOn) {
    double filled = 0;
    for (int64_t scope = threadIdx.x; scope < pieces.scopes; scope += routeThreads) filled += b.lossTokens[scope] > 0;
    filled = blockSum(filled, scratch);
    __syncthreads();
    const int64_t scope = pieces.scopeOf(piece);
    const double n = b.lossTokens[scope], perToken = losses.counts == LossCounts::All ? b.K : 1;
    const double factor = n > 0 ? losses.loadBalance * E / (n * n * perToken * filled) : 0.0;
    for (int e = threadIdx.x; e < E; e += routeThreads)
      balance[e] = static_cast<float>(factor * b.lossCounts[scope * E + e]);
  }
  if (losses.importanceOn) {
    const Variation v = variationOf(b.importance, E, scratch);
    const double power = v.mean * v.mean + variationEpsilon;
    for (int e = threadIdx.x; e < E; e += routeThreads)
      importance[e] =
          static_cast<float>(losses.importance * 2 * (b.importance[e] - v.mean - v.squared * v.mean) / (E * power));
  }
  const float lossTokens = b.values[RouteValue::lossTokenCount];
  const Slopes slopes{balance, importance, losses.zOn && lossTokens > 0 ? 2 * losses.z / lossTokens : 0.0f};
  __syncthreads();

  float* gradP = shared + (2 + warp()) * E;
  for (int64_t t = begin + warp(); t < end; t += routeWarps) {
    if (isLive(b.mask, t))
      tokenBackward(b, t, slopes, gradP);
    else
      for (int e = lane(); e < E; e += warpSize_) b.gradLogits[t * E + e] = 0;
    __syncwarp();
  }
  if (!b.gradBias) return;
  __syncthreads();
  for (int e = threadIdx.x; e < E; e += routeThreads) {
    float sum = 0;
    for (int64_t t = begin; t < end; ++t) sum += b.gradLogits[t * E + e];
    sums.bias[piece * E + e] = sum;
  }
}

// ------------------------------------------------------------------------------------------------ backward: products

/// gradInput [T,H] += gradLogits·weight, for some tokens and a column of each thread. grads: [E] per token, shared.
template <class T>
__device__ void addToInput(const RouteBackward& b, int64_t tile, int columns) {
  constexpr int tokens = 16;
  __shared__ float grads[tokens][warpSize_];
  const int64_t first = tile / columns * tokens;
  const int64_t h = tile % columns * routeThreads + threadIdx.x;
  float sums[tokens] = {};
  for (int e0 = 0; e0 < b.E; e0 += warpSize_) {
    __syncthreads();
    for (int i = warp(); i < tokens; i += routeWarps)
      grads[i][lane()] = first + i < b.T && e0 + lane() < b.E ? b.gradLogits[(first + i) * b.E + e0 + lane()] : 0.0f;
    __syncthreads();
    if (h >= b.H) continue;
    for (int e = 0; e < min(warpSize_, b.E - e0); ++e) {
      const float w = b.weight[int64_t{e0 + e} * b.H + h];
#pragma unroll
      for (int i = 0; i < tokens; ++i) sums[i] = fmaf(grads[i][e], w, sums[i]);
    }
  }
  if (h >= b.H) return;
  T* gradInput = static_cast<T*>(b.gradInput);
#pragma unroll
  for (int i = 0; i < tokens; ++i)
    if (first + i < b.T && isLive(b.mask, first + i)) {
      T& gradient = gradInput[(first + i) * b.H + h];
      gradient = fromFloat<T>(toFloat(gradient) + sums[i]);
    }
}

/// Experts and columns of gradWeight over one split of the tokens; the block that ends last of a tile adds the splits
/// up.
template <class T>
__device__ void weightTile(const RouteBackward& b, const RouteGradientSums& sums, int64_t index) {
  constexpr int experts = RouteGradientSums::expertTile, tokens = 16;
  static_assert(RouteGradientSums::columnTile == routeThreads);
  __shared__ float grads[tokens][experts];
  const int64_t columns = (b.H + routeThreads - 1) / routeThreads;
  const int64_t tile = index / sums.splits, split = index % sums.splits;
  const int e0 = static_cast<int>(tile / columns) * experts, count = min(experts, b.E - e0);
  const int64_t h = tile % columns * routeThreads + threadIdx.x;
  const int64_t begin = split * sums.splitTokens, end = min(begin + sums.splitTokens, b.T);
  const T* input = static_cast<const T*>(b.input);
  float partial[experts] = {};
  for (int64_t first = begin; first < end; first += tokens) {
    __syncthreads();
    for (int i = threadIdx.x; i < tokens * experts; i += routeThreads) {
      const int64_t t = first + i / experts;
      const int e = i % experts;
      grads[i / experts][e] = t < end && e < count ? b.gradLogits[t * b.E + e0 + e] : 0.0f;
    }
    __syncthreads();
    if (h >= b.H) continue;
    for (int i = 0; i < tokens && first + i < end; ++i) {
      if (!isLive(b.mask, first + i)) continue;
      const float x = toFloat(input[(first + i) * b.H + h]);
#pragma unroll
      for (int e = 0; e < experts; ++e) partial[e] = fmaf(grads[i][e], x, partial[e]);
    }
  }
  const auto write = [&](int e, float gradient) {
    float& to = b.gradWeight[int64_t{e0 + e} * b.H + h];
    to = b.accumulateWeight ? to + gradient : gradient;
  };
  if (sums.splits == 1) {
#pragma unroll
    for (int e = 0; e < experts; ++e)
      if (h < b.H && e < count) write(e, partial[e]);
    return;
  }
  const auto at = [&](int64_t s, int e) { return (s * b.E + e0 + e) * b.H + h; };
#pragma unroll
  for (int e = 0; e < experts; ++e)
    if (h < b.H && e < count) sums.weight[at(split, e)] = partial[e];
  if (!isLast(sums.finished + tile, static_cast<uint32_t>(sums.splits)) || h >= b.H) return;
  for (int e = 0; e < count; ++e) {
    float gradient = 0;
    for (int64_t s = 0; s < sums.splits; ++s) gradient += sums.weight[at(s, e)];
    write(e, gradient);
  }
}

__device__ inline void biasGradient(const RouteBackward& b, int64_t pieces, const RouteGradientSums& sums) {
  for (int e = threadIdx.x; e < b.E; e += routeThreads) {
    double sum = 0;
    for (int64_t piece = 0; piece < pieces; ++piece) sum += sums.bias[piece * b.E + e];
    b.gradBias[e] = static_cast<float>(sum) + (b.accumulateBias ? b.gradBias[e] : 0.0f);
  }
}

/// The blocks are, in this order: tiles of gradInput, tiles of gradWeight times splits, one for gradBias.
template <class T>
__device__ void routeProduct(const RouteBackward& b, const RoutePieces& pieces, const RouteGradientSums& sums,
                             int64_t inputTiles, int64_t weightTiles) {
  const int64_t block = blockIdx.x;
  if (block < inputTiles)
    addToInput<T>(b, block, (b.H + routeThreads - 1) / routeThreads);
  else if (block < inputTiles + weightTiles)
    weightTile<T>(b, sums, block - inputTiles);
  else
    biasGradient(b, pieces.count(), sums);
}

#define MOE_ROUTE_PRODUCTS(name, type)                                                                          \
  extern "C" __global__ void __launch_bounds__(routeThreads, 2)                                                 \
      routeProducts_##name(const __grid_constant__ RouteBackward b, const __grid_constant__ RoutePieces pieces, \
                           const __grid_constant__ RouteGradientSums sums, const int64_t inputTiles,            \
                           const int64_t weightTiles, const __grid_constant__ Guard guard) {                    \
    if (enter(guard)) routeProduct<type>(b, pieces, sums, inputTiles, weightTiles);                             \
  }
MOE_FLOAT_TYPES(MOE_ROUTE_PRODUCTS)

}  // namespace moe
