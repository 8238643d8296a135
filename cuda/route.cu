// The route stage forward: logits, scores, top-K, gate weights and the balancing losses, in two launches (pieces of
// tokens, then sums over pieces). No sum depends on the order in which blocks run.
#include "route.cuh"

namespace moe {

constexpr int tileTokens = RoutePieces::tileTokens;

// ------------------------------------------------------------------------------------------------ logits

constexpr int depthTile = 32, depthStride = depthTile + 4;  // 16-byte rows whose banks do not collide
constexpr int tileExperts = 64, expertsPerWarp = tileExperts / routeWarps;

struct LogitTiles {
  float x[tileTokens][depthStride];
  float w[tileExperts][depthStride];
};

/// The logits of a tile: in shared memory, or when there are too many experts in their place in f.logits.
struct TileLogits {
  float* begin;
  int stride;

  __device__ float* of(int token) const { return begin + int64_t{token} * stride; }
};

/// logits = x·weightᵀ + bias for tokens [first, first + count). Each lane has a token, each warp every eighth expert.
template <class T>
__device__ void multiplyLogits(const RouteForward& f, int64_t first, int count, LogitTiles& tiles,
                               const TileLogits& logits) {
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
          logits.of(lane())[e0 + e] = live ? sums[i] + bias : 0.0f;
        }
  }
}

/// The caller's logits in place of the product.
__device__ inline void copyLogits(const RouteForward& f, int64_t first, int count, const TileLogits& logits) {
  for (int i = warp(); i < count; i += routeWarps) {
    const bool live = isLive(f.mask, first + i);
    for (int e = lane(); e < f.E; e += warpSize_)
      logits.of(i)[e] = live ? f.givenLogits[(first + i) * f.E + e] + (f.bias ? f.bias[e] : 0.0f) : 0.0f;
  }
}

__device__ inline void storeLogits(const RouteForward& f, int64_t first, int count, const TileLogits& logits) {
  for (int i = warp(); i < count; i += routeWarps)
    for (int e = lane(); e < f.E; e += warpSize_) f.logits[(first + i) * f.E + e] = logits.of(i)[e];
}

// ------------------------------------------------------------------------------------------------ a token

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

/// The first of a token's indices that is no expert; there is one.
__device__ inline FaultValue badIndex(const RouteForward& f, int64_t t) {
  int64_t slot = t * f.K;
  while (f.givenIndices[slot] >= -1 && f.givenIndices[slot] < f.E) ++slot;
  return faultValue(slot, f.givenIndices[slot]);
}

__device__ inline void clearToken(const RouteForward& f, int64_t t) {
  for (int k = lane(); k < f.K; k += warpSize_) {
    f.indices[t * f.K + k] = -1;
    f.scores[t * f.K + k] = 0;
    f.weights[t * f.K + k] = 0;
  }
}

/// Indices, scores and weights of a live token, by a whole warp. False when its logits or indices are at fault: `fault`
/// is then the lower of what it was and this one.
__device__ inline bool routeToken(const RouteForward& f, int64_t t, const float* logits, Softmax& softmax,
                                  uint32_t operation, FaultWord& fault) {
  int32_t* indices = f.indices + t * f.K;
  float* scores = f.scores + t * f.K;
  if (f.givenIndices && !copyIndices(f, t)) {
    fault = earlier(fault, faultWord(operation, Fault::RoutingIndex, t));
    return false;
  }
  if (!softmaxOf(logits, f.E, f.router.temperature, softmax)) {
    fault = earlier(fault, faultWord(operation, Fault::NonFiniteLogits, t));
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

// ------------------------------------------------------------------------------------------------ pieces

/// What the sums over a tile need of its tokens.
struct TileTokens {
  Softmax softmax[tileTokens], clean[tileTokens];
  bool live[tileTokens], loss[tileTokens];
};

/// Adds a tile to the sums of its piece: each thread has experts of its own and takes the tokens in order.
__device__ inline void addTile(const RouteForward& f, const RouteSums& sums, int64_t piece, int64_t first, int count,
                               const TileTokens& tile, const TileLogits& logits, bool fresh) {
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
      const float logit = logits.of(i)[e], p = tile.softmax[i](logit);
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
                           uint32_t operation) {
  __shared__ LogitTiles tiles;
  __shared__ TileTokens tile;
  extern __shared__ float keptLogits[];
  const bool keeps = f.E <= RoutePieces::keptExperts;
  const bool cleanSoftmax = f.losses.importanceOn && f.losses.importanceFrom == ImportanceFrom::Softmax;
  const bool tempered = f.router.temperature != 1 && (cleanSoftmax || f.losses.zOn);
  const int64_t piece = blockIdx.x, begin = pieces.begin(piece), end = pieces.end(piece);
  if (piece == 0 && threadIdx.x == 0) *sums.finished = 0;
  FaultWord fault = noFault;
  for (int64_t first = begin; first < end; first += tileTokens) {
    const int count = static_cast<int>(min(int64_t{tileTokens}, end - first));
    const TileLogits logits =
        keeps ? TileLogits{keptLogits, RoutePieces::keptStride(f.E)} : TileLogits{f.logits + first * f.E, f.E};
    if (f.givenLogits)
      copyLogits(f, first, count, logits);
    else
      multiplyLogits<T>(f, first, count, tiles, logits);
    __syncthreads();
    if (keeps) storeLogits(f, first, count, logits);
    for (int i = warp(); i < count; i += routeWarps) {
      const int64_t t = first + i;
      Softmax softmax{1, 0, 1}, clean{1, 0, 1};
      const bool live = isLive(f.mask, t);
      bool good = false;
      if (live) good = routeToken(f, t, logits.of(i), softmax, operation, fault);
      if (!good) clearToken(f, t);
      clean = softmax;
      if (good && tempered) softmaxOf(logits.of(i), f.E, 1, clean);
      if (lane() == 0) {
        tile.softmax[i] = softmax;
        tile.clean[i] = clean;
        tile.live[i] = good;
        tile.loss[i] = good && isLive(f.lossMask, t);
      }
    }
    __syncthreads();
    addTile(f, sums, piece, first, count, tile, logits, first == begin);
    __syncthreads();
  }
  if (lane() == 0) sums.faults[piece * routeWarps + warp()] = fault;
}

#define MOE_ROUTE(name, type)                                                                          \
  extern "C" __global__ void __launch_bounds__(routeThreads, 2)                                        \
      route_##name(const __grid_constant__ RouteForward f, const __grid_constant__ RoutePieces pieces, \
                   const __grid_constant__ RouteSums sums, const __grid_constant__ Guard guard) {      \
    if (enter(guard)) routePiece<type>(f, pieces, sums, guard.operation);                              \
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
  if (!copyIndices(f, t) && lane() == 0) noteFault(guard, Fault::RoutingIndex, t, badIndex(f, t));
  for (int k = lane(); k < f.K; k += warpSize_) {
    f.scores[t * f.K + k] = f.givenWeights[t * f.K + k];
    f.weights[t * f.K + k] = f.givenWeights[t * f.K + k];
  }
}

// ------------------------------------------------------------------------------------------------ losses

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
  f.values[RouteValue::load] = 0;  // which is not supported here
  f.values[RouteValue::z] = static_cast<float>(lossTokens > 0 ? z / lossTokens : 0.0);
  f.values[RouteValue::entropy] = static_cast<float>(entropy);
  f.values[RouteValue::lossTokenCount] = static_cast<float>(lossTokens);
}

/// A block for each scope, at least one; the first tells what faults the pieces had. Dynamic shared memory: double [E].
extern "C" __global__ void __launch_bounds__(routeThreads, 2)
    routeLosses(const __grid_constant__ RouteForward f, const __grid_constant__ RoutePieces pieces,
                const __grid_constant__ RouteSums sums, const __grid_constant__ Guard guard) {
  if (!enter(guard, true)) return;
  extern __shared__ double live[];
  __shared__ double scratch[routeWarps];
  if (blockIdx.x == 0)
    for (int64_t i = threadIdx.x; i < pieces.count() * routeWarps; i += routeThreads) {
      const FaultWord fault = sums.faults[i];
      if (fault == noFault) continue;
      atomicMin(&guard.status->own, fault);
      if (faultKind(fault) == Fault::RoutingIndex) atomicMin(&guard.status->value, badIndex(f, faultIndex(fault)));
    }
  if (f.losses.loadBalanceOn && pieces.scopes > 0) finishScope(f, pieces, sums, scratch);
  if (gridDim.x > 1 && !isLast(sums.finished, gridDim.x)) return;
  finishBatch(f, pieces, sums, live, scratch);
}

}  // namespace moe
