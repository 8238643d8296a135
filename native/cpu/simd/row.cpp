// The row loops behind RowKernels. Plain loops are left to the compiler's vectoriser, sums are written with Vec: their
// lanes are added in one fixed order.
#include "row.h"

#include "../../shared/math.h"
#include "row-product.h"
#include "row-select.h"
#include "tables.h"

namespace moe::cpu::MOE_ISA {

namespace {

/// Σ over rows that may come in several parts: all but the last must be a multiple of `step`, and then how the rows
/// were cut changes no bit.
class RowSum {
 public:
  static constexpr int64_t step = 4 * vecLanes;

  /// Adds term(at) over [0,n): term(at) gives the vector at one place, at(row) loads the part of a row that exists.
  template <class Term>
  inline __attribute__((always_inline)) void add(int64_t n, Term&& term) {
    int64_t i = 0;
    for (; i + step <= n; i += step)
      for (int v = 0; v < 4; ++v) {
        const int64_t from = i + v * vecLanes;
        sums_[v] += term([from](const auto* row) { return load(row + from); });
      }
    for (; i + vecLanes <= n; i += vecLanes) sums_[0] += term([i](const auto* row) { return load(row + i); });
    if (i < n) sums_[1] += term([i, n](const auto* row) { return loadPart(row + i, n - i); });
  }

  float total() const { return sum((sums_[0] + sums_[1]) + (sums_[2] + sums_[3])); }

 private:
  Vec sums_[4] = {};
};

template <class Term>
inline __attribute__((always_inline)) float sumOver(int64_t n, Term&& term) {
  RowSum result;
  result.add(n, term);
  return result.total();
}

float sumRow(const float* x, int64_t n) {
  return sumOver(n, [x](auto&& at) { return at(x); });
}

// ------------------------------------------------------------------------------------------------ softmax

/// The maximum of a row (NaN is passed over), and whether all of it is finite.
template <class T>
ExpSum scan(const T* x, int64_t n) {
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

void sigmoid(const float* x, float divisor, int64_t n, float* s) {
  for (int64_t i = 0; i < n; ++i) s[i] = 1.0f / (1.0f + exp(-(x[i] / divisor)));
}

void softmaxBackward(const float* p, const float* g, float shift, float scale, int64_t n, float* gradX,
                     bool accumulate) {
  const float mean = sumOver(n, [=](auto&& at) { return at(p) * (at(g) - shift); });
  if (accumulate)
    for (int64_t i = 0; i < n; ++i) gradX[i] += scale * (p[i] * ((g[i] - shift) - mean));
  else
    for (int64_t i = 0; i < n; ++i) gradX[i] = scale * (p[i] * ((g[i] - shift) - mean));
}

// What goes through exp, a loop over floats, is widened into blocks of this size.
constexpr int64_t expBlock = 256;
static_assert(expBlock % RowSum::step == 0);

template <class T>
ExpSum expSum(const T* x, int64_t n) {
  float terms[expBlock];
  ExpSum result = scan(x, n);
  for (int64_t begin = 0; begin < n; begin += expBlock) {
    const int64_t size = n - begin < expBlock ? n - begin : expBlock;
    widen(x + begin, size, terms);
    for (int64_t i = 0; i < size; ++i) terms[i] = exp(terms[i] - result.maximum);
    result.sum += sumRow(terms, size);
  }
  return result;
}

template <class T>
void crossEntropyBackward(const T* x, float logSumExp, float scale, int64_t n, int64_t target, T* gradX) {
  float terms[expBlock];
  RowSum others;
  for (int64_t begin = 0; begin < n; begin += expBlock) {
    const int64_t size = n - begin < expBlock ? n - begin : expBlock;
    widen(x + begin, size, terms);
    for (int64_t i = 0; i < size; ++i) terms[i] = scale * exp(terms[i] - logSumExp);
    if (target >= begin && target < begin + size) terms[target - begin] = 0;
    others.add(size, [&terms](auto&& at) { return at(terms); });
    round(terms, size, gradX + begin);
  }
  // p - 1 at the target is minus the others' sum, which keeps its digits when p is close to 1.
  gradX[target] = roundTo<T>(-others.total());
}

// ------------------------------------------------------------------------------------------------ sums and products

template <class T>
double sumSquares(const T* x, int64_t n) {
  constexpr int lanes = 2 * vecLanes;
  double sums[lanes] = {};
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (int lane = 0; lane < lanes; ++lane) {
      const double value = toFloat(x[i + lane]);
      sums[lane] += value * value;
    }
  for (int lane = 0; i < n; ++i, ++lane) {
    const double value = toFloat(x[i]);
    sums[lane] += value * value;
  }
  for (int half = lanes / 2; half > 0; half /= 2)
    for (int lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
  return sums[0];
}

template <class T>
void addScaled(float a, const T* x, int64_t n, float* y) {
  overRow(n, [=](auto&& at, auto&& put) { put(y, at(y) + a * at(x)); });
}

template <class T>
void add(const T* a, const T* b, int64_t n, T* output) {
  overRow(n, [=](auto&& at, auto&& put) { put(output, at(a) + at(b)); });
}

template <class T>
void weightedSum(const T* const* rows, const float* weights, int64_t count, int64_t n, T* output, bool accumulate,
                 const T* const* next, int64_t nextCount) {
  constexpr int vecs = 4, line = 64 / sizeof(T);
  int64_t i = 0;
  for (; i + vecs * vecLanes <= n; i += vecs * vecLanes) {
    Vec sums[vecs] = {};
    if (accumulate)
      for (int v = 0; v < vecs; ++v) sums[v] = load(output + i + v * vecLanes);
    for (int64_t r = 0; r < nextCount; ++r)
      for (int at = 0; at < vecs * vecLanes; at += line) __builtin_prefetch(next[r] + i + at);
    for (int64_t r = 0; r < count; ++r)
      for (int v = 0; v < vecs; ++v) sums[v] += weights[r] * load(rows[r] + i + v * vecLanes);
    for (int v = 0; v < vecs; ++v) store(output + i + v * vecLanes, sums[v]);
  }
  for (; i < n; ++i) {
    float value = accumulate ? toFloat(output[i]) : 0.0f;
    for (int64_t r = 0; r < count; ++r) value += weights[r] * toFloat(rows[r][i]);
    output[i] = roundTo<T>(value);
  }
}

template <class T>
float scaleAndDot(float a, const T* x, const T* y, int64_t n, T* output) {
  overRow(n, [=](auto&& at, auto&& put) { put(output, a * at(x)); });
  return sumOver(n, [=](auto&& at) { return at(x) * at(y); });
}

// ------------------------------------------------------------------------------------------------ modules, optimizer

template <class T>
void rmsNorm(const T* input, float inverseRms, const T* weight, int64_t n, T* output) {
  overRow(n, [=](auto&& at, auto&& put) { put(output, at(input) * inverseRms * at(weight)); });
}

template <class T>
void rmsNormBackward(const T* input, float inverseRms, const T* weight, const T* gradOutput, int64_t n, T* gradInput,
                     float* gradWeight) {
  const float projection = sumOver(n, [=](auto&& at) { return at(gradOutput) * at(weight) * at(input); });
  const float back = projection * inverseRms * inverseRms / static_cast<float>(n);
  overRow(
      n, [=](auto&& at, auto&& put) { put(gradInput, inverseRms * (at(gradOutput) * at(weight) - back * at(input))); });
  if (gradWeight)
    overRow(
        n, [=](auto&& at, auto&& put) { put(gradWeight, at(gradWeight) + at(gradOutput) * (at(input) * inverseRms)); });
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

template <class T>
constexpr ElementKernels<T> elementKernels = {
    product<T>, productInput<T>, productWeight<T>, expSum<T>,  crossEntropyBackward<T>, sumSquares<T>, addScaled<T>,
    add<T>,     weightedSum<T>,  scaleAndDot<T>,   rmsNorm<T>, rmsNormBackward<T>};

}  // namespace

}  // namespace moe::cpu::MOE_ISA

namespace moe::cpu {

using namespace MOE_ISA;

extern const RowKernels MOE_TABLE(rowKernels);
constinit const RowKernels MOE_TABLE(rowKernels) = {elementKernels<float>,
                                                    elementKernels<BFloat16>,
                                                    elementKernels<Float16>,
                                                    stripColumns,
                                                    softmax,
                                                    sigmoid,
                                                    softmaxBackward,
                                                    selectTopK,
                                                    adamw};

}  // namespace moe::cpu
