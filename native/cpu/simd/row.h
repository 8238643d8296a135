// The loops over rows that every stage but the experts' GEMMs runs on, as one table of functions per instruction set.
// They know neither threads nor masks: callers split the work in pieces that do not depend on the number of threads.
#pragma once

#include <cstdint>
#include <type_traits>

#include "../../shared/float16.h"

namespace moe::cpu {

/// Of a row x: its maximum, Σ e^(x - maximum), and whether it holds neither NaN nor ±∞.
struct ExpSum {
  float maximum, sum;
  bool finite;
};

/// One piece of a tensor in an AdamW step.
struct AdamWPiece {
  int64_t n;
  float *value, *mean, *variance;
  const float* grad;
  float gradScale;  // clipping
  float decay;      // value is multiplied by it first
  float beta1, beta2;
  float oneMinusBeta1, oneMinusBeta2;
  float stepSize;       // learning rate / (1 - beta1^t)
  float varianceScale;  // 1 / √(1 - beta2^t)
  float epsilon;
};

/// Loops over rows of T: float, BFloat16 or Float16. They compute in float32 and round each element once.
template <class T>
struct ElementKernels {
  // The product with a narrow float32 matrix [E,H] (a router, a gate) and its gradients, for a list of rows of [T,...].

  /// output[t,e] = ⟨input_t, weight_e⟩ + bias_e for the listed t. bias may be null.
  void (*product)(const int32_t* tokens, int64_t count, const T* input, const float* weight, const float* bias, int H,
                  int E, float* output);
  /// gradInput[t] += Σ_e gradOutput[t,e]·weight_e for the listed t.
  void (*productInput)(const int32_t* tokens, int64_t count, const float* gradOutput, const float* weight, int H, int E,
                       T* gradInput);
  /// gradWeight[e,h] = or += Σ gradOutput[t,e]·input[t,h] over the listed t, for e in [eBegin,eEnd) and the columns
  /// [h, h + stripColumns) that exist.
  void (*productWeight)(const int32_t* tokens, int64_t count, const float* gradOutput, const T* input, int H, int E,
                        int h, int eBegin, int eEnd, float* gradWeight, bool accumulate);

  // Cross-entropy.

  ExpSum (*expSum)(const T* x, int64_t n);
  /// gradX = scale · (e^(x - logSumExp) - onehot(target)).
  void (*crossEntropyBackward)(const T* x, float logSumExp, float scale, int64_t n, int64_t target, T* gradX);

  // Sums and products of whole rows.

  double (*sumSquares)(const T* x, int64_t n);
  /// y += a·x.
  void (*addScaled)(float a, const T* x, int64_t n, float* y);
  void (*add)(const T* a, const T* b, int64_t n, T* output);
  /// output = or += Σ_i weights[i]·rows[i], in order. Meanwhile the rows `next` are fetched.
  void (*weightedSum)(const T* const* rows, const float* weights, int64_t count, int64_t n, T* output, bool accumulate,
                      const T* const* next, int64_t nextCount);
  /// output = a·x; returns ⟨x, y⟩.
  float (*scaleAndDot)(float a, const T* x, const T* y, int64_t n, T* output);

  /// output = input·inverseRms·weight.
  void (*rmsNorm)(const T* input, float inverseRms, const T* weight, int64_t n, T* output);
  /// gradWeight, when not null, is added to.
  void (*rmsNormBackward)(const T* input, float inverseRms, const T* weight, const T* gradOutput, int64_t n,
                          T* gradInput, float* gradWeight);
};

struct RowKernels {
  ElementKernels<float> float32;
  ElementKernels<BFloat16> bfloat16;
  ElementKernels<Float16> float16;

  template <class T>
  const ElementKernels<T>& of() const {
    if constexpr (std::is_same_v<T, BFloat16>)
      return bfloat16;
    else if constexpr (std::is_same_v<T, Float16>)
      return float16;
    else
      return float32;
  }

  int stripColumns;  // of productWeight

  /// p = softmax(x / divisor); the sum is that of x / divisor.
  ExpSum (*softmax)(const float* x, float divisor, int64_t n, float* p);
  /// s = σ(x / divisor).
  void (*sigmoid)(const float* x, float divisor, int64_t n, float* s);
  /// gradX = or += scale · p·((g - shift) - Σ p·(g - shift)). The result does not depend on shift, its rounding does:
  /// with the g of the largest p nothing cancels when that p is close to 1.
  void (*softmaxBackward)(const float* p, const float* g, float shift, float scale, int64_t n, float* gradX,
                          bool accumulate);
  /// The K largest of values [n] in falling order, of equal ones the lower index first; minus infinity and NaN are
  /// never chosen, and -1 stands where none is left.
  void (*selectTopK)(const float* values, int64_t n, int K, int32_t* indices);
  void (*adamw)(const AdamWPiece&);
};

}  // namespace moe::cpu
