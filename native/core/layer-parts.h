// What the files of the layer share: operands by the dozen, the structs of the plan, and what one backward call works
// on.
#pragma once

#include <initializer_list>

#include "layer.h"

namespace moe {

inline void* dataOf(const TensorPtr& tensor) { return tensor ? tensor->data() : nullptr; }
inline float* floatsOf(const TensorPtr& tensor) { return tensor ? tensor->floats() : nullptr; }
inline const int32_t* intsOf(const TensorPtr& tensor) { return tensor ? tensor->ints() : nullptr; }

inline void reads(Operands& operands, std::initializer_list<TensorPtr> tensors) {
  for (const TensorPtr& tensor : tensors)
    if (tensor) operands.inputs.push_back(tensor->health());
}

inline void writes(Operands& operands, std::initializer_list<TensorPtr> tensors) {
  for (const TensorPtr& tensor : tensors)
    if (tensor) operands.outputs.push_back(tensor->health());
}

inline void checkOptional(const TensorPtr& tensor, int64_t size, DType dtype, const char* name) {
  if (tensor) checkTensor(tensor, size, dtype, name);
}

inline BuildPlan planInto(const PlanBlock& block, int64_t tokens, int64_t rows, int experts, int topK) {
  return {.T = tokens,
          .R = rows,
          .E = experts,
          .K = topK,
          .expertOffsets = block.expertOffsets,
          .rowToken = block.rowToken,
          .rowSlot = block.rowSlot,
          .tokenOffsets = block.tokenOffsets,
          .tokenRows = block.tokenRows,
          .assigned = block.assigned,
          .keptCounts = block.keptCounts,
          .totals = block.totals};
}

inline PlanRows planRows(const PlanBlock& block, int64_t tokens, int64_t rows, int experts, int topK, int64_t slots) {
  return {tokens,          rows, experts, topK, block.expertOffsets, block.rowToken, block.rowSlot, block.tokenOffsets,
          block.tokenRows, slots};
}

/// One call of backward: what its stages pass on to each other.
struct MoEPass::BackwardCall {
  TensorPtr gradOutput;
  float lossScale;
  MoEGradients gradients;
  Operands operands;
  TensorPtr gradWeights;                  // [T,K]
  TensorPtr gradRows;                     // [R,H]
  TensorPtr gradLogits, gradNoiseLogits;  // [T,E] or null
  TensorPtr sharedGradRows;               // [T,H] or null
  TensorPtr sharedGradGates;              // [T] or null
};

}  // namespace moe
