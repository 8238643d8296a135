// The kernels of gemm.h for the instruction set MOE_ISA, in vector extensions of GCC and Clang. Everything has internal
// linkage, so that no function of a newer instruction set can replace its namesake in the rest of the program.
#include "gemm.h"

#include "../../shared/activation.h"
#include "../../shared/noise.h"
#include "gemm-few.h"
#include "gemm-pack.h"
#include "gemm-product.h"
#include "tables.h"

namespace moe::cpu {

namespace {

// ------------------------------------------------------------------------------------------------ panels

template <class T>
void unpackTransposed(const float* panels, int64_t panel, int count, int64_t depth, T* out, int64_t stride) {
  for (int first = 0; first < count; first += width) {
    const int rows = count - first < width ? count - first : width;
    const float* from = panels + first / lanes * panel + first % lanes;
    T* to = out + first * stride;
    int64_t k = 0;
    for (; k + width <= depth; k += width) {
      Vec block[width];
#pragma GCC unroll 16
      for (int i = 0; i < width; ++i) block[i] = load(from + (k + i) * lanes);
      transpose<width / 2>(block);
#pragma GCC unroll 16
      for (int i = 0; i < width; ++i)
        if (i < rows) store(to + i * stride + k, block[i]);
    }
    for (; k < depth; ++k)
      for (int i = 0; i < rows; ++i) to[i * stride + k] = roundTo<T>(from[k * lanes + i]);
  }
}

template <class T>
void packPanels(const T* input, int64_t stride, const int32_t* index, int64_t count, int64_t columns, float* out,
                int64_t panel) {
  constexpr int64_t line = 64 / sizeof(T);
  for (int64_t r = 0; r < count; ++r) {
    const T* row = input + (index ? index[r] : r) * stride;
    if (!index)
      for (int64_t i = 0; i < columns; i += line) __builtin_prefetch(row + 12 * stride + i);
    float* to = out + r * lanes;
    int64_t column = 0;
    for (; column + lanes <= columns; column += lanes, to += panel)
#pragma GCC unroll 4
      for (int v = 0; v < shape.vectors; ++v) store(to + v * width, load(row + column + v * width));
    const int64_t rest = columns - column;
    for (int64_t i = 0; i < (rest + width - 1) / width * width; ++i) to[i] = i < rest ? toFloat(row[column + i]) : 0.0f;
  }
}

template <class T>
constexpr PackKernels<T> packKernels = {
    packWords<float, T>, unpackTransposed<T>, packPanels<T>, multiplyFew<T, float>, widen<T>, round<T>,
};

// ------------------------------------------------------------------------------------------------ activation

template <Activation kind>
void activateLoop(const ActivationOptions& options, const float* __restrict gate, float* __restrict a, int64_t n) {
  const float alpha = options.alpha, limit = options.limit;
  for (int64_t i = 0; i < n; ++i) a[i] = activationAt<kind>(isGated(kind) ? gate[i] : 0.0f, a[i], alpha, limit).value;
}

template <Activation kind>
void activateBackwardRow(const ActivationOptions& options, int n, float weight, float* __restrict gate,
                         float* __restrict up, float* __restrict dA, float* __restrict products) {
  const float alpha = options.alpha, limit = options.limit;
  for (int i = 0; i < n; ++i) {
    const ActivationPoint point = activationAt<kind>(isGated(kind) ? gate[i] : 0.0f, up[i], alpha, limit);
    const float d = dA[i], weighted = weight * d;
    products[i] = d * point.value;
    if (isGated(kind)) gate[i] = weighted * point.dGate;
    up[i] = weighted * point.dUp;
    dA[i] = weight * point.value;
  }
}

template <Activation kind>
void activateBackwardRows(const ActivationOptions& options, int64_t rows, int columns, const float* weight, float* gate,
                          float* up, float* dA, float* dots) {
  const int n = (columns + width - 1) / width * width;
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t at = r * lanes;
    float products[lanes];
    activateBackwardRow<kind>(options, n, weight ? weight[r] : 1.0f, gate ? gate + at : nullptr, up + at, dA + at,
                              products);
    float sum = 0;
    for (int i = 0; i < columns; ++i) sum += products[i];
    dots[r] += sum;
  }
}

/// Calls body.operator()<kind>().
template <class Body>
inline __attribute__((always_inline)) void forKind(Activation kind, Body body) {
  switch (kind) {
    case Activation::Relu:
      return body.template operator()<Activation::Relu>();
    case Activation::Gelu:
      return body.template operator()<Activation::Gelu>();
    case Activation::GeluTanh:
      return body.template operator()<Activation::GeluTanh>();
    case Activation::Silu:
      return body.template operator()<Activation::Silu>();
    case Activation::SwiGlu:
      return body.template operator()<Activation::SwiGlu>();
    case Activation::GeGlu:
      return body.template operator()<Activation::GeGlu>();
    case Activation::GeGluTanh:
      return body.template operator()<Activation::GeGluTanh>();
    case Activation::ReGlu:
      return body.template operator()<Activation::ReGlu>();
    case Activation::ClampedSwiGlu:
      return body.template operator()<Activation::ClampedSwiGlu>();
  }
}

void activate(const ActivationOptions& options, int64_t rows, int columns, const float* gate, float* a) {
  forKind(options.kind, [&]<Activation kind>() {
    if (columns > lanes - width) return activateLoop<kind>(options, gate, a, rows * lanes);
    const int n = (columns + width - 1) / width * width;
    for (int64_t r = 0; r < rows; ++r) activateLoop<kind>(options, gate ? gate + r * lanes : nullptr, a + r * lanes, n);
  });
}

void activateBackward(const ActivationOptions& options, int64_t rows, int columns, const float* weight, float* gate,
                      float* up, float* dA, float* dots) {
  forKind(options.kind,
          [&]<Activation kind>() { activateBackwardRows<kind>(options, rows, columns, weight, gate, up, dA, dots); });
}

template <Activation kind>
void activateInputBackwardRow(const ActivationOptions& options, int n, float weight, const float* __restrict gateBias,
                              const float* __restrict upBias, float* __restrict gate, float* __restrict up,
                              float* __restrict dA, float* __restrict products) {
  const float alpha = options.alpha, limit = options.limit;
  for (int i = 0; i < n; ++i) {
    const float g = isGated(kind) ? gate[i] : 0.0f, u = up[i];
    const ActivationPoint point = activationAt<kind>(weight * g + (gateBias ? gateBias[i] : 0.0f),
                                                     weight * u + (upBias ? upBias[i] : 0.0f), alpha, limit);
    const float dGate = dA[i] * point.dGate, dUp = dA[i] * point.dUp;
    products[i] = dGate * g + dUp * u;
    if (isGated(kind)) gate[i] = dGate;
    up[i] = dUp;
    dA[i] = point.value;
  }
}

void activateInputBackward(const ActivationOptions& options, int64_t rows, int columns, const float* weight,
                           const float* gateBias, const float* upBias, float* gate, float* up, float* dA, float* dots) {
  const int n = (columns + width - 1) / width * width;
  forKind(options.kind, [&]<Activation kind>() {
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t at = r * lanes;
      float products[lanes];
      activateInputBackwardRow<kind>(options, n, weight[r], gateBias, upBias, gate ? gate + at : nullptr, up + at,
                                     dA + at, products);
      float sum = 0;
      for (int i = 0; i < columns; ++i) sum += products[i];
      dots[r] += sum;
    }
  });
}

// ------------------------------------------------------------------------------------------------ scaling and dropout

void scaleLanes(int64_t rows, const float* weight, const float* bias, float* panel) {
  for (int64_t r = 0; r < rows; ++r)
    for (int i = 0; i < lanes; ++i) panel[r * lanes + i] = weight[i] * panel[r * lanes + i] + (bias ? bias[r] : 0.0f);
}

void scaleRows(int64_t rows, const float* weight, float* panel) {
  for (int64_t r = 0; r < rows; ++r)
    for (int i = 0; i < lanes; ++i) panel[r * lanes + i] *= weight[r];
}

void multiplyBy(const float* __restrict factors, int64_t n, float* __restrict values) {
  for (int64_t i = 0; i < n; ++i) values[i] *= factors[i];
}

/// noiseBits() of `tokenRun` tokens side by side: counters and key word by word, so that the rounds are vector loops.
constexpr int tokenRun = 16;

void drawBits(uint64_t key, const int64_t (&tokens)[tokenRun], uint32_t block, uint32_t (&words)[4][tokenRun]) {
  for (int i = 0; i < tokenRun; ++i) {
    const Philox4 bits = noiseBits(key, tokens[i], block);
    for (int word = 0; word < 4; ++word) words[word][i] = bits.word[word];
  }
}

void dropoutFactors(const Dropout& dropout, uint32_t block, int64_t features, const int32_t* tokens, int64_t count,
                    int64_t featureStride, int64_t tokenStride, float* factors) {
  for (int64_t first = 0; first < count; first += tokenRun) {
    const int64_t n = smaller(tokenRun, count - first);
    int64_t numbers[tokenRun] = {};
    for (int64_t i = 0; i < n; ++i) numbers[i] = dropout.tokenOffset + tokens[first + i];
    for (int64_t f = 0; f < features; f += 4) {
      uint32_t words[4][tokenRun];
      drawBits(valueOf(dropout.key), numbers, block + static_cast<uint32_t>(f / 4), words);
      for (int64_t k = 0; k < smaller(4, features - f); ++k)
        for (int64_t i = 0; i < n; ++i)
          factors[(f + k) * featureStride + (first + i) * tokenStride] =
              dropoutFactor(words[k][i], dropout.threshold, dropout.scale);
    }
  }
}

void columnSums(const float* panel, int64_t rows, int columns, const float* weight, float* out, bool accumulate) {
  // Blocks of rows are summed apart and then added: that bounds the rounding of long sums.
  constexpr int64_t block = 64;
  for (int first = 0; first < columns; first += width) {
    Vec sum = {};
    for (int64_t begin = 0; begin < rows; begin += block) {
      Vec part = {};
      for (int64_t r = begin; r < smaller(begin + block, rows); ++r)
        part += (weight ? weight[r] : 1.0f) * load(panel + r * lanes + first);
      sum += part;
    }
    for (int i = 0; i < width && first + i < columns; ++i)
      out[first + i] = accumulate ? out[first + i] + sum[i] : sum[i];
  }
}

}  // namespace

extern const GemmKernels MOE_TABLE(gemmKernels);
constinit const GemmKernels MOE_TABLE(gemmKernels) = {
    width,
    lanes,
    multiply<float>,
    packKernels<float>,
    packKernels<BFloat16>,
    packKernels<Float16>,
    activate,
    activateBackward,
    activateInputBackward,
    scaleLanes,
    scaleRows,
    dropoutFactors,
    multiplyBy,
    columnSums,
};

}  // namespace moe::cpu
