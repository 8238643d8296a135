// The row loops behind RowKernels. Plain loops are left to the compiler's vectoriser, sums are written with Vec: their
// lanes are added in one fixed order.
#include "row.h"

#include "../../shared/math.h"
#include "row-product.h"
#include "tables.h"

namespace moe::cpu::MOE_ISA {

namespace {

Vec larger(Vec a, Vec b) { return a < b ? b : a; }

/// Σ term(i) over [0,n): term(i, load) gives the vector at i, `load` reads the part of a row that exists.
template <class Term>
inline __attribute__((always_inline)) float sumOver(int64_t n, Term&& term) {
  Vec sums[4] = {};
  int64_t i = 0;
  for (; i + 4 * vecLanes <= n; i += 4 * vecLanes)
    for (int v = 0; v < 4; ++v) {
      const int64_t at = i + v * vecLanes;
      sums[v] += term([at](const float* row) { return load(row + at); });
    }
  for (; i + vecLanes <= n; i += vecLanes) sums[0] += term([i](const float* row) { return load(row + i); });
  if (i < n) sums[1] += term([i, n](const float* row) { return loadPart(row + i, n - i); });
  return sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

float sumRow(const float* x, int64_t n) {
  return sumOver(n, [x](auto&& at) { return at(x); });
}

// ------------------------------------------------------------------------------------------------ softmax

/// The maximum of a row (NaN is passed over), and whether all of it is finite.
ExpSum scan(const float* x, int64_t n) {
  const Vec lowest = Vec{} - __builtin_inff();
  Vec maxima[2] = {lowest, lowest};
  Vec zeros[2] = {};  // 0·x is 0 for finite x only
  int64_t i = 0;
  for (; i + 2 * vecLanes <= n; i += 2 * vecLanes)
    for (int v = 0; v < 2; ++v) {
      const Vec value = load(x + i + v * vecLanes);
      maxima[v] = larger(maxima[v], value);
      zeros[v] += value * 0.0f;
    }
  for (; i < n; i += vecLanes) {
    const bool whole = i + vecLanes <= n;
    maxima[0] = larger(maxima[0], whole ? load(x + i) : loadPart(x + i, n - i, -__builtin_inff()));
    zeros[0] += (whole ? load(x + i) : loadPart(x + i, n - i)) * 0.0f;
  }
  return {maximum(larger(maxima[0], maxima[1])), 0.0f, sum(zeros[0] + zeros[1]) == 0.0f};
}

ExpSum softmax(const float* x, float divisor, int64_t n, float* p) {
  for (int64_t i = 0; i < n; ++i) p[i] = x[i] / divisor;
  ExpSum result = scan(p, n);
  for (int64_t i = 0; i < n; ++i) p[i] = exp(p[i] - result.maximum);
  result.sum = sumRow(p, n);
  const float inverse = 1.0f / result.sum;
  for (int64_t i = 0; i < n; ++i) p[i] *= inverse;
  return result;
}

ExpSum expSum(const float* x, int64_t n) {
  constexpr int64_t block = 256;
  float terms[block];
  ExpSum result = scan(x, n);
  for (int64_t begin = 0; begin < n; begin += block) {
    const int64_t size = n - begin < block ? n - begin : block;
    for (int64_t i = 0; i < size; ++i) terms[i] = exp(x[begin + i] - result.maximum);
    result.sum += sumRow(terms, size);
  }
  return result;
}

void softmaxBackward(const float* p, const float* g, float shift, float scale, int64_t n, float* gradX,
                     bool accumulate) {
  const float mean = sumOver(n, [=](auto&& at) { return at(p) * (at(g) - shift); });
  if (accumulate)
    for (int64_t i = 0; i < n; ++i) gradX[i] += scale * (p[i] * ((g[i] - shift) - mean));
  else
    for (int64_t i = 0; i < n; ++i) gradX[i] = scale * (p[i] * ((g[i] - shift) - mean));
}

void crossEntropyBackward(const float* x, float logSumExp, float scale, int64_t n, int64_t target, float* gradX) {
  for (int64_t i = 0; i < n; ++i) gradX[i] = scale * exp(x[i] - logSumExp);
  // p - 1 at the target is minus the others' sum, which keeps its digits when p is close to 1.
  gradX[target] = 0;
  gradX[target] = -sumRow(gradX, n);
}

// ------------------------------------------------------------------------------------------------ sums and products

float dot(const float* a, const float* b, int64_t n) {
  return sumOver(n, [=](auto&& at) { return at(a) * at(b); });
}

double sumSquares(const float* x, int64_t n) {
  constexpr int lanes = 2 * vecLanes;
  double sums[lanes] = {};
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (int lane = 0; lane < lanes; ++lane) {
      const double value = x[i + lane];
      sums[lane] += value * value;
    }
  for (int lane = 0; i < n; ++i, ++lane) sums[lane] += static_cast<double>(x[i]) * x[i];
  for (int half = lanes / 2; half > 0; half /= 2)
    for (int lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
  return sums[0];
}

void addScaled(float a, const float* x, int64_t n, float* y) {
  for (int64_t i = 0; i < n; ++i) y[i] += a * x[i];
}

void add(const float* a, const float* b, int64_t n, float* output) {
  for (int64_t i = 0; i < n; ++i) output[i] = a[i] + b[i];
}

void weightedSum(const float* const* rows, const float* weights, int64_t count, int64_t n, float* output,
                 bool accumulate) {
  constexpr int vecs = 4;
  int64_t i = 0;
  for (; i + vecs * vecLanes <= n; i += vecs * vecLanes) {
    Vec sums[vecs] = {};
    if (accumulate)
      for (int v = 0; v < vecs; ++v) sums[v] = load(output + i + v * vecLanes);
    for (int64_t r = 0; r < count; ++r)
      for (int v = 0; v < vecs; ++v) sums[v] += weights[r] * load(rows[r] + i + v * vecLanes);
    for (int v = 0; v < vecs; ++v) store(output + i + v * vecLanes, sums[v]);
  }
  for (; i < n; ++i) {
    float value = accumulate ? output[i] : 0.0f;
    for (int64_t r = 0; r < count; ++r) value += weights[r] * rows[r][i];
    output[i] = value;
  }
}

float scaleAndDot(float a, const float* x, const float* y, int64_t n, float* output) {
  for (int64_t i = 0; i < n; ++i) output[i] = a * x[i];
  return dot(x, y, n);
}

// ------------------------------------------------------------------------------------------------ modules, optimizer

void rmsNorm(const float* input, float inverseRms, const float* weight, int64_t n, float* output) {
  for (int64_t i = 0; i < n; ++i) output[i] = input[i] * inverseRms * weight[i];
}

void rmsNormBackward(const float* input, float inverseRms, const float* weight, const float* gradOutput, int64_t n,
                     float* gradInput, float* gradWeight) {
  const float projection = sumOver(n, [=](auto&& at) { return at(gradOutput) * at(weight) * at(input); });
  const float back = projection * inverseRms * inverseRms / static_cast<float>(n);
  for (int64_t i = 0; i < n; ++i) gradInput[i] = inverseRms * (gradOutput[i] * weight[i] - back * input[i]);
  if (gradWeight)
    for (int64_t i = 0; i < n; ++i) gradWeight[i] += gradOutput[i] * (input[i] * inverseRms);
}

void adamw(const AdamWPiece& piece) {
  const AdamWPiece s = piece;
  float* __restrict value = s.value;
  float* __restrict mean = s.mean;
  float* __restrict variance = s.variance;
  const float* __restrict grad = s.grad;
  for (int64_t i = 0; i < s.n; ++i) {
    const float g = grad[i] * s.gradScale;
    mean[i] = s.beta1 * mean[i] + s.oneMinusBeta1 * g;
    variance[i] = s.beta2 * variance[i] + s.oneMinusBeta2 * (g * g);
    const float denominator = __builtin_sqrtf(variance[i]) * s.varianceScale + s.epsilon;
    value[i] = value[i] * s.decay - s.stepSize * (mean[i] / denominator);
  }
}

}  // namespace

}  // namespace moe::cpu::MOE_ISA

namespace moe::cpu {

using namespace MOE_ISA;

extern const RowKernels MOE_TABLE(rowKernels);
constinit const RowKernels MOE_TABLE(rowKernels) = {
    product,         productInput,         productWeight, stripColumns,    softmax,   expSum,
    softmaxBackward, crossEntropyBackward, dot,           sumSquares,      addScaled, add,
    weightedSum,     scaleAndDot,          rmsNorm,       rmsNormBackward, adamw};

}  // namespace moe::cpu
