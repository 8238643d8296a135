// The loops over rows that every stage but the experts' GEMMs runs on, as one table of functions per instruction set.
// They know neither threads nor masks: callers split the work in pieces that do not depend on the number of threads.
#pragma once

#include <cstdint>

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

struct RowKernels {
  // The product with a narrow matrix [E,H] (a router, a gate) and its gradients, for a list of rows of [T,...].

  /// output[t,e] = ⟨input_t, weight_e⟩ + bias_e for the listed t. bias may be null.
  void (*product)(const int32_t* tokens, int64_t count, const float* input, const float* weight, const float* bias,
                  int H, int E, float* output);
  /// gradInput[t] += Σ_e gradOutput[t,e]·weight_e for the listed t.
  void (*productInput)(const int32_t* tokens, int64_t count, const float* gradOutput, const float* weight, int H, int E,
                       float* gradInput);
  /// gradWeight[e,h] = or += Σ gradOutput[t,e]·input[t,h] over the listed t, for e in [eBegin,eEnd) and the columns
  /// [h, h + stripColumns) that exist.
  void (*productWeight)(const int32_t* tokens, int64_t count, const float* gradOutput, const float* input, int H, int E,
                        int h, int eBegin, int eEnd, float* gradWeight, bool accumulate);
  int stripColumns;

  // Softmax.

  /// p = softmax(x / divisor); the sum is that of x / divisor.
  ExpSum (*softmax)(const float* x, float divisor, int64_t n, float* p);
  ExpSum (*expSum)(const float* x, int64_t n);
  /// gradX = or += scale · p·((g - shift) - Σ p·(g - shift)). The result does not depend on shift, its rounding does:
  /// with the g of the largest p nothing cancels when that p is close to 1.
  void (*softmaxBackward)(const float* p, const float* g, float shift, float scale, int64_t n, float* gradX,
                          bool accumulate);
  /// gradX = scale · (e^(x - logSumExp) - onehot(target)).
  void (*crossEntropyBackward)(const float* x, float logSumExp, float scale, int64_t n, int64_t target, float* gradX);

  // Sums and products of whole rows.

  float (*dot)(const float* a, const float* b, int64_t n);
  double (*sumSquares)(const float* x, int64_t n);
  /// y += a·x.
  void (*addScaled)(float a, const float* x, int64_t n, float* y);
  void (*add)(const float* a, const float* b, int64_t n, float* output);
  /// output = or += Σ_i weights[i]·rows[i], in order.
  void (*weightedSum)(const float* const* rows, const float* weights, int64_t count, int64_t n, float* output,
                      bool accumulate);
  /// output = a·x; returns ⟨x, y⟩.
  float (*scaleAndDot)(float a, const float* x, const float* y, int64_t n, float* output);

  /// output = input·inverseRms·weight.
  void (*rmsNorm)(const float* input, float inverseRms, const float* weight, int64_t n, float* output);
  /// gradWeight, when not null, is added to.
  void (*rmsNormBackward)(const float* input, float inverseRms, const float* weight, const float* gradOutput, int64_t n,
                          float* gradInput, float* gradWeight);

  void (*adamw)(const AdamWPiece&);
};

}  // namespace moe::cpu
