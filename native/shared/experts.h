// What the kernels of the CUDA backend's experts stage take besides the operations themselves, and the memory between
// them. R rows, H and F the widths of layer and expert, E experts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "operations.h"
#include "tile-map.h"

namespace moe {

/// output[r] = Σ_i gradients_i[r] · weights_i(e) over one or two pairs; and what becomes of the partial sums that the
/// backward of down left for the routing weights.
struct RowGradient {
  int64_t R;
  int E, depth, width;
  const int32_t* expertOffsets;           // [E+1]; null: one group of all R rows
  const void *gradients[2], *weights[2];  // [R,depth], [E,depth,width]; the second null when there is one pair
  void* output;                           // [R,width]; null to skip
  bool clearTail;                         // rows past the end become zero; otherwise they stay as they are

  const float* dots;        // [R,dotCount] to be summed; null to skip all below
  int dotCount, hidden;     // hidden: H
  const int32_t* rowToken;  // [R]
  const int32_t* rowSlot;   // [R]
  const void* gradOutput;   // [T,H]
  const void* downBias;     // [E,H] or null
  float* gradWeights;       // by slot
};

/// gradient(e) = or += leftᵀ·right over the rows of expert e.
struct WeightGradient {
  const void *left, *right;               // [.,M], [.,N]
  const int32_t *leftIndex, *rightIndex;  // [R] the row of left or right for each row of the plan; null: itself
  int M, N;
  float* gradient;  // [E,M,N]
  bool accumulate;
};

struct WeightGradients {
  static constexpr int max = 3;

  int64_t R;
  int E;
  const int32_t* expertOffsets;  // [E+1]; null: one group of all R rows
  int count;
  WeightGradient list[max];
};

/// gradient(e) = or += the sum over expert e's rows of weight·row.
struct BiasGradient {
  const void* rows;        // [.,N]
  const int32_t* index;    // [R] or null, as above
  const float* weights;    // by slot, or null
  const int32_t* rowSlot;  // [R] with weights
  int N;
  float* gradient;  // [E,N]
  bool accumulate;
};

struct BiasGradients {
  static constexpr int max = 3;

  int64_t R;
  int E;
  const int32_t* expertOffsets;
  int count;
  BiasGradient list[max];
};

/// Between up and down.
struct ExpertsForwardSpace {
  void* activated;  // [R,F]

  size_t carve(char* block, const ExpertsForward& p) {
    activated = block;
    return static_cast<size_t>(p.plan.R) * p.F * dtypeSize(p.dtype);
  }
};

/// Between the backward of down and the products that follow it.
struct ExpertsBackwardSpace {
  void *gradGate, *gradUp;  // [R,F] of the pre-activations, or of the products of inputs with weights; gradGate null
                            // without gate
  void *biasGate, *biasUp;  // [R,F] of the pre-activations of inputs with weights, for gradients of biases; else null
  void* weighted;           // [R,F] activations times the weight of the expert's output; null when down is frozen
  float* dots;              // [R,dotCount] ⟨dA, a⟩ over the columns of each warp
  int dotCount;

  size_t carve(char* block, const ExpertsBackward& p, const TileShape& tile) {
    size_t used = 0;
    const auto take = [&](auto*& field, size_t bytes) {
      field = block ? reinterpret_cast<std::remove_reference_t<decltype(field)>>(block + used) : nullptr;
      used += (bytes + 255) / 256 * 256;
    };
    const size_t rows = static_cast<size_t>(p.plan.R), bytes = rows * p.F * dtypeSize(p.dtype);
    dotCount = static_cast<int>(ceilDivide(p.F, tile.columns())) * tile.warpsN;
    gradGate = biasGate = biasUp = weighted = nullptr;
    if (p.activation.gated()) take(gradGate, bytes);
    take(gradUp, bytes);
    if (p.inputWeights && p.gradGateBias) take(biasGate, bytes);
    if (p.inputWeights && p.gradUpBias) take(biasUp, bytes);
    if (p.gradDown) take(weighted, bytes);
    take(dots, rows * dotCount * sizeof(float));
    return used;
  }
};

}  // namespace moe
