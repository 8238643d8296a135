// The narrow products of RowKernels, under their names there. Included only by native/cpu/simd/row*.cpp.
#pragma once

#include "vec.h"

namespace moe::cpu::MOE_ISA {

/// Columns of one strip of productWeight and productInput.
constexpr int stripVecs = 3, stripColumns = stripVecs * vecLanes;

void product(const int32_t* tokens, int64_t count, const float* input, const float* weight, const float* bias, int H,
             int E, float* output);
void productInput(const int32_t* tokens, int64_t count, const float* gradOutput, const float* weight, int H, int E,
                  float* gradInput);
void productWeight(const int32_t* tokens, int64_t count, const float* gradOutput, const float* input, int H, int E,
                   int h, int eBegin, int eEnd, float* gradWeight, bool accumulate);

}  // namespace moe::cpu::MOE_ISA
