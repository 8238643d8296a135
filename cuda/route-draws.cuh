// What the route draws of single columns: the noise on the router's input, and what the hash and the random router
// compare.
#pragma once

#include "../native/shared/noise.h"
#include "route.cuh"

namespace moe {

/// The bits of one column of a token.
__device__ inline uint32_t columnBits(uint64_t key, int64_t token, int column) {
  const Philox4 bits = noiseBits(key, token, static_cast<uint32_t>(column / 4));
  const uint32_t low = column % 2 == 0 ? bits.word[0] : bits.word[1];
  const uint32_t high = column % 2 == 0 ? bits.word[2] : bits.word[3];
  return column % 4 < 2 ? low : high;
}

/// The input times what is drawn for it.
struct Jitter {
  const RouterOptions& router;
  const RouteNoise& noise;

  __device__ float operator()(float x, int64_t t, int h) const {
    return x * jitterOf(columnBits(valueOf(noise.key), noise.tokenOffset + t, h), router.noiseScale);
  }
};

/// Of an expert of a token.
__device__ inline float drawnExpert(const RouteForward& f, int64_t t, int e) {
  return drawnValue(columnBits(valueOf(f.expertKey), f.tokenIds ? f.tokenIds[t] : f.noise.tokenOffset + t, e));
}

}  // namespace moe
