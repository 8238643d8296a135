// The kernels of the experts stage that are compiled once per instruction set, as one table of functions. They run on
// one thread and on what fits a cache; sharing the work and choosing blocks is the business of the host code above
// (../gemm.h).
//
// A panel holds `lanes` neighbouring columns of a matrix, row by row: [rows][lanes], 64-byte aligned. The panels of a
// matrix follow each other, [⌈columns/lanes⌉][rows][lanes]; columns past the end, up to a whole vector, are zero.
#pragma once

#include <cstdint>
#include <type_traits>

#include "../../shared/float16.h"
#include "../../shared/operations.h"
#include "../../shared/options.h"

namespace moe::cpu {

/// Elements of a matrix in a word, which is what one step along the depth of a product takes: float or BFloat16Pair.
template <class Word>
constexpr int64_t perWord = std::is_same_v<Word, float> ? 1 : 2;

/// How the left operand of a product is stored. A row of a panel has perWord elements in a word, so it is w =
/// lanes/perWord words where the depth is along it.
enum class Left : int32_t {
  Rows,          // row-major, A[r][k] = a[row(r)·aRow + k], row(r) = aIndex ? aIndex[r] : r
  PanelRows,     // panels, A[r][k] = a[(k/w)·aPanel + r·w + k%w]
  PanelColumns,  // the transpose of panels: A[r][k] = a[(r/lanes)·aPanel + k·lanes + r%lanes]
};

/// C[rows][columns] = init + Σ_k A[r][k]·B[k][column], k counting words. Each element is one chain of additions in the
/// order of k, so that no choice of blocks can change a bit.
template <class Word>
struct Product {
  int64_t rows, columns, depth;
  Left left;
  const Word* a;
  int64_t aRow;           // Left::Rows
  const int32_t* aIndex;  // likewise, or null
  int64_t aPanel;         // distance of the panels of A; the other two
  const Word* b;          // panels of [depth][lanes]
  int64_t bPanel;         // their distance
  float* c;               // C[r][column] = c[(column/lanes)·cPanel + r·cRow + column%lanes]
  int64_t cRow, cPanel;
  bool cPadded;          // C has room for whole vectors; else no column past the end is touched
  bool accumulate;       // init is what C holds
  const float* rowBias;  // [rows] init when not accumulating, null: 0
  bool rowsOutside;      // the loop over rows is the outer one: A is the operand that does not stay in a cache
};

using GemmProduct = Product<float>;

/// Up to so many tokens it takes less to multiply them by whole vectors of a row of weights than to put them in lanes.
constexpr int fewTokens = 8;

/// Between rows of T (float, BFloat16 or Float16) and panels, which are float32 whatever T is: elements are widened on
/// the way there, and rounded once on the way back.
template <class T>
struct PackKernels {
  /// out panels [⌈count/lanes⌉][depth][lanes], out[k][i] = row(i)[k]; row(i) = input + (index ? index[i] : i)·stride.
  void (*packTransposed)(const T* input, int64_t stride, const int32_t* index, int count, int64_t depth, float* out);

  /// The inverse on rows [0, depth) of panels at distance `panel`: out[i·stride + k] = panels[k][i].
  void (*unpackTransposed)(const float* panels, int64_t panel, int count, int64_t depth, T* out, int64_t stride);

  /// out panels, row r of each copied from row(r)[0, columns); `panel` is their distance.
  void (*packPanels)(const T* input, int64_t stride, const int32_t* index, int64_t count, int64_t columns, float* out,
                     int64_t panel);

  /// out[t·stride + r] = ⟨weight row r, x row t⟩ + bias[r] for tokens x [tokens][depth], at most fewTokens; bias null:
  /// 0. Reads the weights once and in order.
  void (*multiplyFew)(const T* weight, int64_t rows, int64_t depth, const float* x, int tokens, const float* bias,
                      float* out, int64_t stride);

  void (*widen)(const T* from, int64_t n, float* to);
  void (*round)(const float* from, int64_t n, T* to);
};

struct GemmKernels {
  int width;  // floats of a vector
  int lanes;  // floats of a panel row

  void (*multiply)(const GemmProduct&);

  PackKernels<float> float32;
  PackKernels<BFloat16> bfloat16;
  PackKernels<Float16> float16;

  template <class T>
  const PackKernels<T>& of() const {
    if constexpr (std::is_same_v<T, BFloat16>)
      return bfloat16;
    else if constexpr (std::is_same_v<T, Float16>)
      return float16;
    else
      return float32;
  }

  /// On one panel: a = act(gate, a) for `columns` lanes of each row; gate null without.
  void (*activate)(const ActivationOptions&, int64_t rows, int columns, const float* gate, float* a);

  /// On one panel: dA[r][lane] becomes weight[r]·a, gate and up (pre-activations, gate null without) become
  /// weight[r]·dz, and dots[r] += Σ_lane dA·a. `columns` lanes are used; weight null: 1.
  void (*activateBackward)(const ActivationOptions&, int64_t rows, int columns, const float* weight, float* gate,
                           float* up, float* dA, float* dots);

  /// The same where the weight multiplies the expert's input: gate and up are the products u of the unweighted input,
  /// z = weight[r]·u + bias[lane], and become dz; dA becomes a; dots[r] += Σ_lane dz·u. A null bias is 0.
  void (*activateInputBackward)(const ActivationOptions&, int64_t rows, int columns, const float* weight,
                                const float* gateBias, const float* upBias, float* gate, float* up, float* dA,
                                float* dots);

  /// On one panel: panel[r][lane] = weight[lane]·panel[r][lane] + bias[r]; bias null: 0.
  void (*scaleLanes)(int64_t rows, const float* weight, const float* bias, float* panel);

  /// On one panel: panel[r][lane] *= weight[r].
  void (*scaleRows)(int64_t rows, const float* weight, float* panel);

  /// factors[feature·featureStride + i·tokenStride] of dropout for `features` neighbouring features, the first of them
  /// a multiple of 4 with its bits at `block`, of the activations of tokens[i].
  void (*dropoutFactors)(const Dropout&, uint32_t block, int64_t features, const int32_t* tokens, int64_t count,
                         int64_t featureStride, int64_t tokenStride, float* factors);

  /// values[i] *= factors[i].
  void (*multiplyBy)(const float* factors, int64_t n, float* values);

  /// out[lane] (+)= Σ_r weight[r]·panel[r][lane] for `columns` lanes of one panel; weight null: 1.
  void (*columnSums)(const float* panel, int64_t rows, int columns, const float* weight, float* out, bool accumulate);
};

}  // namespace moe::cpu
