// Products of listed rows with a narrow matrix [E,H] and their gradients: what a router and a gate need. Not a GEMM: it
// packs little and expects E to be small beside H. Tiles of 4 rows by 3 vectors fill the 16 registers of AVX2.
#include "row-product.h"

namespace moe::cpu::MOE_ISA {

namespace {

constexpr int tileRows = 4;

int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// ------------------------------------------------------------------------------------------------ forward

// The columns of one pass: what a tile reads of the weights stays in the first cache while the tokens go by.
constexpr int64_t passColumns = 512;

/// out[m][n] = ⟨x[m], weight row n⟩ over `columns` columns.
template <int M, int N, class T>
void dotTile(const T* const* x, const float* weight, int64_t stride, int64_t columns, float (*out)[3]) {
  Vec sums[M][N] = {};
  const auto step = [&](auto&& loadAt) {
    Vec w[N];
    for (int n = 0; n < N; ++n) w[n] = loadAt(weight + n * stride);
    for (int m = 0; m < M; ++m) {
      const Vec value = loadAt(x[m]);
      for (int n = 0; n < N; ++n) sums[m][n] += value * w[n];
    }
  };
  int64_t c = 0;
  for (; c + vecLanes <= columns; c += vecLanes) step([c](const auto* row) { return load(row + c); });
  if (c < columns) step([c, columns](const auto* row) { return loadPart(row + c, columns - c); });
  for (int m = 0; m < M; ++m)
    for (int n = 0; n < N; ++n) out[m][n] = sum(sums[m][n]);
}

template <int M, class T>
void dotTile(int n, const T* const* x, const float* weight, int64_t stride, int64_t columns, float (*out)[3]) {
  if (n == 3) return dotTile<M, 3>(x, weight, stride, columns, out);
  if (n == 2) return dotTile<M, 2>(x, weight, stride, columns, out);
  dotTile<M, 1>(x, weight, stride, columns, out);
}

}  // namespace

template <class T>
void product(const int32_t* tokens, int64_t count, const T* input, const float* weight, const float* bias, int H, int E,
             float* output) {
  for (int64_t c = 0; c < H; c += passColumns) {
    const int64_t columns = smaller(passColumns, H - c);
    for (int e = 0; e < E; e += 3) {
      const int n = static_cast<int>(smaller(3, E - e));
      for (int64_t i = 0; i < count;) {
        const int m = count - i >= tileRows ? tileRows : 1;
        const T* x[tileRows];
        for (int j = 0; j < m; ++j) x[j] = input + int64_t{tokens[i + j]} * H + c;
        float out[tileRows][3];
        if (m == tileRows)
          dotTile<tileRows>(n, x, weight + int64_t{e} * H + c, H, columns, out);
        else
          dotTile<1>(n, x, weight + int64_t{e} * H + c, H, columns, out);
        for (int j = 0; j < m; ++j)
          for (int k = 0; k < n; ++k) {
            float& to = output[int64_t{tokens[i + j]} * E + e + k];
            to = out[j][k] + (c > 0 ? to : bias ? bias[e + k] : 0.0f);
          }
        i += m;
      }
    }
  }
}

// ------------------------------------------------------------------------------------------------ backward

namespace {

/// sums[m] = Σ_i factor(m, i) · row i of a packed strip [count, stripColumns].
template <int M, class Factor>
void strip(int64_t count, Factor&& factor, const float* packed, Vec (*sums)[stripVecs]) {
  Vec acc[M][stripVecs] = {};
  for (int64_t i = 0; i < count; ++i) {
    Vec row[stripVecs];
    for (int v = 0; v < stripVecs; ++v) row[v] = load(packed + i * stripColumns + v * vecLanes);
    for (int m = 0; m < M; ++m)
      for (int v = 0; v < stripVecs; ++v) acc[m][v] += factor(m, i) * row[v];
  }
  for (int m = 0; m < M; ++m)
    for (int v = 0; v < stripVecs; ++v) sums[m][v] = acc[m][v];
}

template <class T>
void pack(const T* from, int64_t columns, float* to) {
  for (int64_t v = 0; v < stripVecs; ++v) {
    const int64_t left = columns - v * vecLanes;
    store(to + v * vecLanes, left >= vecLanes ? load(from + v * vecLanes)
                             : left > 0       ? loadPart(from + v * vecLanes, left)
                                              : Vec{});
  }
}

/// to += a whole strip.
void addStrip(const Vec* from, float* to) {
  for (int v = 0; v < stripVecs; ++v) store(to + v * vecLanes, load(to + v * vecLanes) + from[v]);
}

/// to += the first `columns` of a strip.
void addStrip(const Vec* from, int64_t columns, float* to) {
  if (columns == stripColumns) return addStrip(from, to);
  float lanes[stripColumns];
  for (int v = 0; v < stripVecs; ++v) store(lanes + v * vecLanes, from[v]);
  for (int64_t i = 0; i < columns; ++i) to[i] += lanes[i];
}

constexpr int64_t stripRows = 128, passTokens = 64;

}  // namespace

template <class T>
void productInput(const int32_t* tokens, int64_t count, const float* gradOutput, const float* weight, int H, int E,
                  T* gradInput) {
  float packed[stripRows * stripColumns];
  float totals[passTokens * stripColumns];  // float32 until the last expert has been added
  for (int64_t t = 0; t < count; t += passTokens, tokens += passTokens) {
    const int64_t n = smaller(passTokens, count - t);
    for (int64_t h = 0; h < H; h += stripColumns) {
      const int64_t columns = smaller(stripColumns, H - h);
      for (int64_t i = 0; i < n; ++i) pack(gradInput + int64_t{tokens[i]} * H + h, columns, totals + i * stripColumns);
      for (int64_t e = 0; e < E; e += stripRows) {
        const int64_t experts = smaller(stripRows, E - e);
        for (int64_t i = 0; i < experts; ++i) pack(weight + (e + i) * H + h, columns, packed + i * stripColumns);
        for (int64_t i = 0; i < n;) {
          const int m = n - i >= tileRows ? tileRows : 1;
          const float* factors[tileRows];
          for (int j = 0; j < m; ++j) factors[j] = gradOutput + int64_t{tokens[i + j]} * E + e;
          const auto factor = [&factors](int row, int64_t expert) { return factors[row][expert]; };
          Vec sums[tileRows][stripVecs];
          if (m == tileRows)
            strip<tileRows>(experts, factor, packed, sums);
          else
            strip<1>(experts, factor, packed, sums);
          for (int j = 0; j < m; ++j) addStrip(sums[j], totals + (i + j) * stripColumns);
          i += m;
        }
      }
      for (int64_t i = 0; i < n; ++i) {
        T* to = gradInput + int64_t{tokens[i]} * H + h;
        const float* from = totals + i * stripColumns;
        overRow(columns, [=](auto&& at, auto&& put) { put(to, at(from)); });
      }
    }
  }
}

template <class T>
void productWeight(const int32_t* tokens, int64_t count, const float* gradOutput, const T* input, int H, int E, int h,
                   int eBegin, int eEnd, float* gradWeight, bool accumulate) {
  const int64_t columns = smaller(stripColumns, H - h);
  if (!accumulate)
    for (int64_t e = eBegin; e < eEnd; ++e)
      for (int64_t c = 0; c < columns; ++c) gradWeight[e * H + h + c] = 0;
  // Blocks of tokens are summed in registers and then added: that bounds the rounding of long sums.
  float packed[stripRows * stripColumns];
  const float* factors[stripRows];
  for (int64_t t = 0; t < count; t += stripRows) {
    const int64_t rows = smaller(stripRows, count - t);
    for (int64_t i = 0; i < rows; ++i) {
      pack(input + int64_t{tokens[t + i]} * H + h, columns, packed + i * stripColumns);
      factors[i] = gradOutput + int64_t{tokens[t + i]} * E;
    }
    for (int64_t e = eBegin; e < eEnd;) {
      const int m = eEnd - e >= tileRows ? tileRows : 1;
      const auto factor = [&factors, e](int expert, int64_t row) { return factors[row][e + expert]; };
      Vec sums[tileRows][stripVecs];
      if (m == tileRows)
        strip<tileRows>(rows, factor, packed, sums);
      else
        strip<1>(rows, factor, packed, sums);
      for (int j = 0; j < m; ++j) addStrip(sums[j], columns, gradWeight + (e + j) * H + h);
      e += m;
    }
  }
}

// row.cpp makes tables of them.
#define MOE_NARROW_PRODUCTS(T)                                                                                     \
  template void product<T>(const int32_t*, int64_t, const T*, const float*, const float*, int, int, float*);       \
  template void productInput<T>(const int32_t*, int64_t, const float*, const float*, int, int, T*);                \
  template void productWeight<T>(const int32_t*, int64_t, const float*, const T*, int, int, int, int, int, float*, \
                                 bool);
MOE_NARROW_PRODUCTS(float)
MOE_NARROW_PRODUCTS(BFloat16)
MOE_NARROW_PRODUCTS(Float16)

}  // namespace moe::cpu::MOE_ISA
