// The narrow products of ElementKernels, under their names there. Included only by native/cpu/simd/row*.cpp.
#pragma once

#include "vec.h"

namespace moe::cpu::MOE_ISA {

/// Columns of one strip of productWeight and productInput.
constexpr int stripVecs = 3, stripColumns = stripVecs * vecLanes;

template <class T>
void product(const int32_t* tokens, int64_t count, const T* input, const float* weight, const float* bias, int H, int E,
             float* output);
template <class T>
void productInput(const int32_t* tokens, int64_t count, const float* gradOutput, const float* weight, int H, int E,
                  T* gradInput);
template <class T>
void productWeight(const int32_t* tokens, int64_t count, const float* gradOutput, const T* input, int H, int E, int h,
                   int eBegin, int eEnd, float* gradWeight, bool accumulate);

}  // namespace moe::cpu::MOE_ISA
