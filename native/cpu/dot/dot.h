// What dot products of bfloat16 pairs are for: one instruction adds two products to each float32 sum, twice the work of
// a multiply-add. Compiled once, for the instructions of its own (CMakeLists.txt), and used where the machine has them.
#pragma once

#include <cstdint>

namespace moe::cpu {

struct DotKernels {
  /// `rounds` times a fixed block of independent dot products on registers; the result keeps them alive.
  float (*multiplyAdd)(int64_t rounds);
  int64_t flopsPerRound;
};

}  // namespace moe::cpu
