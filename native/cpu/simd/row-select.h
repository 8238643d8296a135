// selectTopK of RowKernels, under its name there. Included only by native/cpu/simd/row*.cpp.
#pragma once

#include "vec.h"

namespace moe::cpu::MOE_ISA {

void selectTopK(const float* values, int64_t n, int K, int32_t* indices);

}  // namespace moe::cpu::MOE_ISA
