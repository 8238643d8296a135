// The route stage forward: logits, scores, top-K, gate weights and the balancing losses, in two launches (pieces of
// tokens, then sums over pieces). No sum depends on the order in which blocks run.
#include "route-choice.cuh"
#include "route-logits.cuh"
#include "route-losses.cuh"

namespace moe {

__device__ inline void storeLogits(const RouteForward& f, int64_t first, int count, const TileLogits& logits) {
  for (int i = warp(); i < count; i += routeWarps)
    for (int e = lane(); e < f.E; e += warpSize_) f.logits[(first + i) * f.E + e] = logits.of(i)[e];
}

// ------------------------------------------------------------------------------------------------ a token

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
  if (!softmaxOf(logits, f.E, f.router.temperatureNow(), softmax)) {
    fault = earlier(fault, faultWord(operation, Fault::NonFiniteLogits, t));
    return false;
  }
  if (!f.givenIndices)
    forFirst(
        f.E, f.K, [&](int e) { return logits[e]; },
        [&](int k, Ranked first) {
          if (lane() == 0) indices[k] = first.expert;
        });
  __syncwarp();
  if (f.router.selectBy == SelectBy::Logits)
    softmaxOfSelected([&](int e) { return logits[e]; }, f.router.temperatureNow(), indices, f.K, scores);
  else
    for (int k = lane(); k < f.K; k += warpSize_) scores[k] = indices[k] >= 0 ? softmax(logits[indices[k]]) : 0.0f;
  __syncwarp();
  weigh(f.router, scores, f.K, f.weights + t * f.K);
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
  const bool tempered = f.router.temperatureNow() != 1 && (cleanSoftmax || f.losses.zOn);
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
      multiplyLogits<T>(LogitOperands::of(f), first, count, tiles, logits);
    __syncthreads();
    if (keeps) storeLogits(f, first, count, logits);
    for (int i = warp(); i < count; i += routeWarps) {
      const int64_t t = first + i;
      Softmax softmax{1, 0, 1}, clean{1, 0, 1};
      const bool live = isLive(f.mask, t);
      bool good = false;
      if (live) good = routeToken(f, t, logits.of(i), softmax, operation, fault);
      if (!good) clearChoices(f, t);
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
  if (!isLive(f.mask, t)) return clearChoices(f, t);
  if (!copyIndices(f, t) && lane() == 0) noteFault(guard, Fault::RoutingIndex, t, badIndex(f, t));
  for (int k = lane(); k < f.K; k += warpSize_) {
    f.scores[t * f.K + k] = f.givenWeights[t * f.K + k];
    f.weights[t * f.K + k] = f.givenWeights[t * f.K + k];
  }
}

// ------------------------------------------------------------------------------------------------ losses

extern "C" __global__ void __launch_bounds__(routeThreads, 2)
    routeLosses(const __grid_constant__ RouteForward f, const __grid_constant__ RoutePieces pieces,
                const __grid_constant__ RouteSums sums, const __grid_constant__ Guard guard) {
  if (enter(guard, true)) finishLosses<RouteKind::Plain>(f, pieces, sums, guard);
}

}  // namespace moe
