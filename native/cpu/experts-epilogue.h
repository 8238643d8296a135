// What the experts do to a product besides the activation: the weights of the expert's input, and dropout. In the
// forward tokens are in the lanes of a panel, in the backward features.
#pragma once

#include <algorithm>
#include <cstring>

#include "../shared/noise.h"
#include "element.h"
#include "gemm.h"

namespace moe::cpu {

/// n biases from `at` on as float32, at `wide`; null without.
template <class T>
const float* widenedBias(const GemmKernels& gemm, const void* bias, int64_t at, int64_t n, float* wide) {
  if (!bias) return nullptr;
  gemm.of<T>().widen(elements<T>(bias) + at, n, wide);
  return wide;
}

/// Drops of one panel a [features][L] of at most L tokens; the first feature is a multiple of 4. factors: as large as
/// a.
inline void dropTokens(const GemmKernels& gemm, const Dropout& dropout, uint32_t block, int64_t features,
                       const int32_t* tokens, int64_t count, float* factors, float* a) {
  const int64_t L = gemm.lanes, n = features * L;
  if (count < L) std::memset(factors, 0, sizeof(float) * n);
  gemm.dropoutFactors(dropout, block, features, tokens, count, L, 1, factors);
  gemm.multiplyBy(factors, n, a);
}

/// factors [panels][rows][L] of `features` features from `feature` on, for rows of an expert of width F.
inline void rowFactors(const GemmKernels& gemm, const Dropout& dropout, int64_t expert, int F, int64_t feature,
                       int64_t features, const int32_t* tokens, int64_t rows, float* factors) {
  const int64_t L = gemm.lanes;
  for (int64_t i = 0; i < features; i += L, factors += rows * L) {
    const int64_t n = std::min(L, features - i);
    if (n < L) std::memset(factors, 0, sizeof(float) * rows * L);
    gemm.dropoutFactors(dropout, dropoutBlock(expert, F, static_cast<int>(feature + i)), n, tokens, rows, 1, L,
                        factors);
  }
}

/// One panel of the backward where the weight multiplies the expert's input, features from `at` on. The gradients of
/// the biases take dz before its weight; `more`: they hold something already.
template <class T>
void activateInputRows(const GemmKernels& gemm, const ExpertsBackward& p, int64_t at, int64_t rows, int lanes,
                       const float* weights, float* gate, float* up, float* dA, float* dots, bool more) {
  float wideGate[columnBlock] = {}, wideUp[columnBlock] = {};
  const float* gateBias = widenedBias<T>(gemm, p.gateBias, at, lanes, wideGate);
  const float* upBias = widenedBias<T>(gemm, p.upBias, at, lanes, wideUp);
  gemm.activateInputBackward(p.activation, rows, lanes, weights, gateBias, upBias, gate, up, dA, dots);
  if (p.gradUpBias) gemm.columnSums(up, rows, lanes, nullptr, p.gradUpBias + at, p.accumulateUpBias || more);
  if (p.gradGateBias) gemm.columnSums(gate, rows, lanes, nullptr, p.gradGateBias + at, p.accumulateGateBias || more);
  gemm.scaleRows(rows, weights, up);
  if (gate) gemm.scaleRows(rows, weights, gate);
}

}  // namespace moe::cpu
