// Every kernel of one instruction set: what a device picks once, when it opens.
#pragma once

#include "../dot/dot.h"
#include "../isa.h"
#include "gemm.h"
#include "limits.h"
#include "row.h"

namespace moe::cpu {

struct Kernels {
  const GemmKernels& gemm;
  const RowKernels& row;
  const LimitKernels& limits;
  const DotKernels* dot;  // of bfloat16; null without
};

/// Those of an instruction set that this build has; the generic ones for any other.
const Kernels& kernelsOf(Isa isa);

}  // namespace moe::cpu
