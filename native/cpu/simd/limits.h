// The two loops that say what a core can do at best; compiled once per instruction set.
#pragma once

#include <cstdint>

namespace moe::cpu {

struct LimitKernels {
  /// `rounds` times a fixed block of independent float32 multiply-adds on registers; the result keeps them alive.
  float (*multiplyAdd)(int64_t rounds);
  int64_t flopsPerRound;
  /// Reads n floats (a multiple of 256) once.
  float (*read)(const float* data, int64_t n);
};

}  // namespace moe::cpu
