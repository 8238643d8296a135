// The route stage forward for every router that is more than a top-K of a softmax: after the logits (route-logits.cu)
// the tokens and then the losses, a launch each; experts that are drawn need the one launch. No sum depends on the
// order in which blocks run.
#include "route-losses.cuh"
#include "route-scores.cuh"
#include "route-tokens.cuh"

namespace moe {

constexpr int tileTokens = RoutePieces::tileTokens;

// ------------------------------------------------------------------------------------------------ the choice

/// Sets values to minus infinity outside of the best groups of experts. scores [groups] is the warp's own.
__device__ inline void restrictToGroups(const RouterOptions& router, int E, float* scores, float* values) {
  const int groups = router.groupCount, size = E / groups;
  for (int g = lane(); g < groups; g += warpSize_) {
    float best = -INFINITY, second = -INFINITY;
    for (int e = g * size; e < (g + 1) * size; ++e) {
      second = fmaxf(second, fminf(best, values[e]));
      best = fmaxf(best, values[e]);
    }
    scores[g] = router.groupScore == GroupScore::Top2Sum && second != -INFINITY ? best + second : best;
  }
  __syncwarp();
  Ranked last{};
  forFirst(
      groups, router.groupKeep, [&](int g) { return scores[g]; }, [&](int, Ranked kept) { last = kept; });
  for (int e = lane(); e < E; e += warpSize_)
    if (last.isBefore({scores[e / size], e / size})) values[e] = -INFINITY;
}

/// compared [E]: minus infinity where nothing may be chosen. shifts [E] are those of the balance, or null.
__device__ inline void compareExperts(const RouteForward& f, const Distribution& noisy, const float* shifts,
                                      float* groupScores, float* compared) {
  const bool byScores = f.router.selectBy == SelectBy::Scores;
  for (int e = lane(); e < f.E; e += warpSize_) {
    float x = noisy.logit(e);
    if (shifts)
      x = x / noisy.divisor + shifts[e];
    else if ((f.selectionBias || f.router.groupCount > 0) && noisy.isOpen(e))
      x = (byScores ? noisy.score(e) : x / noisy.divisor) + (f.selectionBias ? f.selectionBias[e] : 0.0f);
    compared[e] = x;
  }
  __syncwarp();
  if (!shifts && f.router.groupCount > 0) restrictToGroups(f.router, f.E, groupScores, compared);
  __syncwarp();
}

// ------------------------------------------------------------------------------------------------ pieces

/// What the sums over a tile need of a token.
struct RoutedToken {
  TokenScores scores;
  Distribution clean;
  LoadRanks ranks;
  bool live, loss;
};

/// Everything of a live token by its logits. False when something is at fault: `fault` is then the lower of what it was
/// and this one.
__device__ inline bool routeToken(const RouteForward& f, int64_t t, const float* shifts, float* compared,
                                  float* groupScores, RoutedToken& token, uint32_t operation, FaultWord& fault) {
  const auto refuse = [&](Fault kind) {
    fault = earlier(fault, faultWord(operation, kind, t));
    return false;
  };
  if (!isGoodType(f.allowed, t)) return refuse(Fault::TokenType);
  if (f.givenIndices && !copyIndices(f, t)) return refuse(Fault::RoutingIndex);
  const int32_t* allowed = allowedOf(f.allowed, t, f.E);
  if (f.noisy) addNoise(f, t, allowed);
  if (!token.scores.set(f.router, f.E, f.logits + t * f.E, allowed, rowOf(f.noisy, t, f.E)))
    return refuse(Fault::NonFiniteLogits);

  const Distribution& noisy = token.scores.noisy;
  if (f.expertSlots > 0) {
    for (int e = lane(); e < f.E; e += warpSize_)
      f.compared[t * f.E + e] = noisy.isOpen(e) ? noisy.score(e) : -INFINITY;
  } else {
    int32_t* indices = f.indices + t * f.K;
    if (f.compared) compared = f.compared + t * f.E;
    if (!f.givenIndices || f.compared) compareExperts(f, noisy, shifts, groupScores, compared);
    if (!f.givenIndices) chooseExperts(compared, f.E, f.K, indices);
    token.scores.ofSelected(f.router, indices, f.K, f.scores + t * f.K);
    weighChoices(f, t);
  }

  const LossOptions& losses = f.losses;
  if (losses.loadOn || (losses.loadBalanceOn && losses.counts == LossCounts::Unbiased))
    token.ranks = LoadRanks::of(noisy, f.E, f.K);
  if (losses.zOn || (losses.importanceOn && losses.importanceFrom == ImportanceFrom::Softmax))
    token.clean = token.scores.clean(f.E);
  return true;
}

/// Adds a tile to the sums of its piece: each thread has experts of its own and takes the tokens in order.
__device__ inline void addTile(const RouteForward& f, const RouteSums& sums, int64_t piece, int64_t first, int count,
                               const RoutedToken* tile, bool fresh) {
  const LossOptions& losses = f.losses;
  const bool gates = losses.importanceOn && losses.importanceFrom == ImportanceFrom::Gates;
  const bool balance = losses.loadBalanceOn, unbiased = balance && losses.counts == LossCounts::Unbiased;
  const bool masked = sums.lossP != sums.liveP;
  const int choices = f.expertSlots > 0 || !(gates || (balance && !unbiased)) ? 0 : f.K;
  const int counted = unbiased ? 0 : losses.counts == LossCounts::FirstChoice ? 1 : f.K;
  for (int e = threadIdx.x; e < f.E; e += routeThreads) {
    const int64_t at = piece * f.E + e;
    float liveP = fresh ? 0.0f : sums.liveP[at], lossP = fresh || !masked ? 0.0f : sums.lossP[at];
    float importance = fresh || !losses.importanceOn ? 0.0f : sums.importance[at];
    float load = fresh || !losses.loadOn ? 0.0f : sums.load[at];
    int32_t assigned = fresh || !balance ? 0 : sums.counts[at];
    for (int i = 0; i < count; ++i) {
      const RoutedToken& token = tile[i];
      if (!token.live || !token.scores.open.isOpen(e)) continue;
      const float p = token.scores.open.share(e);
      liveP += p;
      if (!token.loss) continue;
      lossP += p;
      if (losses.importanceOn && !gates) importance += token.clean.score(e);
      if (losses.loadOn)
        load += LoadChance::of(f.router, losses.loadThreshold, token.scores, token.ranks,
                               rowOf(f.noiseLogits, first + i, f.E), e)
                    .value();
      if (unbiased) assigned += token.ranks.has(token.scores.noisy, e);
    }
    for (int i = 0; choices > 0 && i < count; ++i) {
      if (!tile[i].loss) continue;
      const int64_t slot = (first + i) * f.K;
      for (int k = 0; k < choices; ++k)
        if (f.indices[slot + k] == e) {
          if (gates) importance += f.weights[slot + k];
          assigned += k < counted;
        }
    }
    sums.liveP[at] = liveP;
    if (masked) sums.lossP[at] = lossP;
    if (losses.importanceOn) sums.importance[at] = importance;
    if (losses.loadOn) sums.load[at] = load;
    if (balance) sums.counts[at] = assigned;
  }
  if (threadIdx.x == 0) {
    double z = fresh ? 0.0 : sums.z[piece];
    int32_t live = fresh ? 0 : sums.live[piece], loss = fresh ? 0 : sums.loss[piece];
    for (int i = 0; i < count; ++i) {
      live += tile[i].live;
      loss += tile[i].loss;
      if (!tile[i].loss || !losses.zOn) continue;
      const float logSumExp = tile[i].clean.logSumExp();
      z += static_cast<double>(logSumExp) * logSumExp;
    }
    sums.z[piece] = z;
    sums.live[piece] = live;
    sums.loss[piece] = loss;
  }
}

/// A block for each piece.
extern "C" __global__ void __launch_bounds__(routeThreads, 1)
    routeGeneral(const __grid_constant__ RouteForward f, const __grid_constant__ RoutePieces pieces,
                 const __grid_constant__ RouteSums sums, const __grid_constant__ RouteRows rows,
                 const float* const shifts, const __grid_constant__ Guard guard) {
  if (!enter(guard)) return;
  __shared__ RoutedToken tile[tileTokens];
  const int64_t piece = blockIdx.x, begin = pieces.begin(piece), end = pieces.end(piece);
  const int64_t row = piece * routeWarps + warp();
  if (piece == 0 && threadIdx.x == 0) *sums.finished = 0;
  FaultWord fault = noFault;
  for (int64_t first = begin; first < end; first += tileTokens) {
    const int count = static_cast<int>(min(int64_t{tileTokens}, end - first));
    for (int i = warp(); i < count; i += routeWarps) {
      const int64_t t = first + i;
      RoutedToken token{};
      if (isLive(f.mask, t))
        token.live = routeToken(f, t, shifts, rows.experts + row * f.E, rows.groups + row * f.router.groupCount, token,
                                guard.operation, fault);
      if (!token.live) clearToken(f, t);
      token.loss = token.live && isLive(f.lossMask, t);
      if (lane() == 0) tile[i] = token;
    }
    __syncthreads();
    addTile(f, sums, piece, first, count, tile, first == begin);
    __syncthreads();
  }
  if (lane() == 0) sums.faults[piece * routeWarps + warp()] = fault;
}

extern "C" __global__ void __launch_bounds__(routeThreads, 2)
    routeGeneralLosses(const __grid_constant__ RouteForward f, const __grid_constant__ RoutePieces pieces,
                       const __grid_constant__ RouteSums sums, const __grid_constant__ Guard guard) {
  if (enter(guard, true)) finishLosses<RouteKind::General>(f, pieces, sums, guard);
}

}  // namespace moe
