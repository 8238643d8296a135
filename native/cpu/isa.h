// The instruction sets that this build has kernels for, and the best one that this machine runs.
#pragma once

namespace moe::cpu {

enum class Isa { Generic, Avx2, Avx512, Avx512Bf16, Neon };

/// The best of this machine. The environment variable SWITCHYARD_ISA (generic, avx2, avx512, avx512-bf16, neon) picks
/// another one that the machine has; anything else is ignored.
Isa detectIsa();

const char* isaName(Isa isa);

}  // namespace moe::cpu
