// MOE_HD marks what g++, clang and nvcc compile alike. On the host it always inlines: the instruction sets of the CPU
// backend would otherwise share one out-of-line copy, made for whichever of them the linker met first.
#pragma once

#if defined(__CUDACC__)
#define MOE_HD __host__ __device__ __forceinline__
#else
#define MOE_HD __attribute__((always_inline)) inline
#endif
