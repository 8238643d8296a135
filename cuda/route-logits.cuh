// The router's product, for a tile of tokens.
#pragma once

#include "route.cuh"

namespace moe {

constexpr int tileTokens = RoutePieces::tileTokens;

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

/// What the product multiplies: input [T,H] of live tokens with weight [E,H], and bias [E] or null.
struct LogitOperands {
  const void* input;
  const float *weight, *bias;
  const int32_t* mask;
  int H, E;

  __device__ static LogitOperands of(const RouteForward& f) { return {f.input, f.weight, f.bias, f.mask, f.H, f.E}; }
};

/// logits = x·weightᵀ + bias for tokens [first, first + count), x = change(input, token, column). Each lane has a
/// token, each warp every eighth expert.
template <class T, class Change = Unchanged>
__device__ void multiplyLogits(const LogitOperands& o, int64_t first, int count, LogitTiles& tiles,
                               const TileLogits& logits, const Change& change = {}) {
  const T* input = static_cast<const T*>(o.input);
  for (int e0 = 0; e0 < o.E; e0 += tileExperts) {
    const int experts = min(tileExperts, o.E - e0);
    float sums[expertsPerWarp] = {};
    for (int k0 = 0; k0 < o.H; k0 += depthTile) {
      const int h = k0 + lane();
      const bool inside = h < o.H;
      for (int t = warp(); t < tileTokens; t += routeWarps) {
        const bool needed = inside && t < count && isLive(o.mask, first + t);
        tiles.x[t][lane()] = needed ? change(toFloat(input[(first + t) * o.H + h]), first + t, h) : 0.0f;
      }
      for (int e = warp(); e < experts; e += routeWarps)
        tiles.w[e][lane()] = inside ? o.weight[int64_t{e0 + e} * o.H + h] : 0.0f;
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
          const bool live = isLive(o.mask, first + lane());
          const float bias = o.bias ? o.bias[e0 + e] : 0.0f;
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

}  // namespace moe
