// The gradients of the route stage, in two launches (tokens, then the products that sum over tokens).
//
// gradInput += the router's share; gradLogits =; gradWeight and gradBias = or +=, as b.accumulate… says. No sum depends
// on the order in which blocks run.
#include "route-gradients.cuh"
#include "route-products.cuh"

namespace moe {

// ------------------------------------------------------------------------------------------------ tokens

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

  const auto gradWeight = [&](int k) -> double {
    if (indices[k] < 0) return 0.0;
    return static_cast<double>(b.gradWeights[t * K + k]) + (gates ? slopes.importance[indices[k]] : 0.0f);
  };
  const WeightSlopes weights = WeightSlopes::of(router, scores, K, gradWeight);
  const auto gradScore = [&](int k) { return weights(gradWeight(k), scores[k]); };

  Softmax softmax;
  softmaxOf(logits, E, router.temperatureNow(), softmax);
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
  const float shift = gradP[top], inverse = 1.0f / router.temperatureNow();
  float mean = 0;
  for (int e = lane(); e < E; e += warpSize_) mean += softmax(logits[e]) * (gradP[e] - shift);
  mean = warpSum(mean);

  // By the softmax without temperature: importance and z.
  Softmax clean = softmax;
  if (inLosses && (cleanSoftmax || losses.zOn) && router.temperatureNow() != 1) softmaxOf(logits, E, 1, clean);
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

  __syncwarp();
  softmaxOfSelectedBackward(scores, indices, K, gradScore, router.temperatureNow(), gradLogits);
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
  clearCounters(sums);

  if (losses.loadBalanceOn) {
    const double factor = loadBalanceFactor(b, pieces, piece, E, scratch);
    const float* counts = b.lossCounts + pieces.scopeOf(piece) * E;
    for (int e = threadIdx.x; e < E; e += routeThreads) balance[e] = static_cast<float>(factor * counts[e]);
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
  if (b.gradBias) sumBias(b, sums, piece, begin, end);
}

// ------------------------------------------------------------------------------------------------ products

#define MOE_ROUTE_PRODUCTS(name, type)                                                                          \
  extern "C" __global__ void __launch_bounds__(routeThreads, 2)                                                 \
      routeProducts_##name(const __grid_constant__ RouteBackward b, const __grid_constant__ RoutePieces pieces, \
                           const __grid_constant__ RouteGradientSums sums, const int64_t inputTiles,            \
                           const int64_t weightTiles, const __grid_constant__ Guard guard) {                    \
    if (enter(guard)) routeProduct<type>(b, pieces, sums, inputTiles, weightTiles);                             \
  }
MOE_FLOAT_TYPES(MOE_ROUTE_PRODUCTS)

}  // namespace moe
