// The instruction sets that this build has kernels for, and the best one that this machine runs.
#pragma once

namespace moe::cpu {

enum class Isa { Generic, Avx2, Avx512, Neon };

/// The best of this machine. The environment variable SWITCHYARD_ISA (generic, avx2, avx512, neon) picks another one
/// that the machine has; anything else is ignored.
Isa detectIsa();

/// Whether this build and this machine have AVX512_BF16.
bool hasAvx512Bf16();

const char* isaName(Isa isa);

}  // namespace moe::cpu
