// Products of live tokens with a narrow matrix [E,H], forward and backward, on the pool: the router's and the shared
// gate's (E = 1). Rows of masked tokens are neither read nor written.
#pragma once

#include <cstdint>
#include <vector>

#include "parallel.h"
#include "scratch.h"
#include "simd/gemm.h"
#include "simd/row.h"

namespace moe::cpu {

/// The tokens whose mask is not 0 (all without a mask), in order.
std::vector<int32_t> liveTokens(const int32_t* mask, int64_t T);

/// T is the type of the tokens' elements; the narrow matrix and what it is multiplied to are float32.
template <class T>
struct Narrow {
  ThreadPool& pool;
  Scratch& scratch;
  const GemmKernels& gemm;
  const RowKernels& row;
  const std::vector<int32_t>& tokens;
  int H, E;

  /// output [T,E] = input [T,H] · weightᵀ + bias.
  void forward(const T* input, const float* weight, const float* bias, float* output) const;
  /// gradInput [T,H] += gradOutput [T,E] · weight.
  void backwardInput(const float* gradOutput, const float* weight, T* gradInput) const;
  /// gradWeight [E,H] = or += gradOutputᵀ · input.
  void backwardWeight(const float* gradOutput, const T* input, float* gradWeight, bool accumulate) const;

 private:
  /// forward() in register tiles, the weight in panels.
  void forwardTiled(const T* input, const float* weight, const float* bias, float* output) const;
};

}  // namespace moe::cpu
