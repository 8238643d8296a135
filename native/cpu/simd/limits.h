// The two loops that say what a core can do at best; compiled once per instruction set.
#pragma once

#include <cstdint>

#include "../isa.h"

namespace moe::cpu {

struct LimitKernels {
  /// `rounds` times a fixed block of independent float32 multiply-adds on registers; the result keeps them alive.
  float (*multiplyAdd)(int64_t rounds);
  int64_t flopsPerRound;
  /// Reads n floats (a multiple of 256) once.
  float (*read)(const float* data, int64_t n);
};

namespace generic {
extern const LimitKernels limitKernels;
}
namespace avx2 {
extern const LimitKernels limitKernels;
}
namespace avx512 {
extern const LimitKernels limitKernels;
}
namespace neon {
extern const LimitKernels limitKernels;
}

}  // namespace moe::cpu
