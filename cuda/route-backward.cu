// The gradients of the route stage, in two launches (tokens, then the products that sum over tokens).
//
// gradInput += the router's share; gradLogits =; gradWeight and gradBias = or +=, as b.accumulate… says. No sum depends
// on the order in which blocks run.
#include "route.cuh"

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

// ------------------------------------------------------------------------------------------------ products

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
