// MOE_HD marks what g++, clang and nvcc compile alike. On the host it is always inlined and has internal linkage: the
// instruction sets of the CPU backend would otherwise share one copy, made for whichever of them the linker met first.
#pragma once

#if defined(__CUDACC__)
#define MOE_HD static __host__ __device__ __forceinline__
#define MOE_MEMBER __host__ __device__ __forceinline__
#else
#define MOE_HD static inline __attribute__((always_inline))
#define MOE_MEMBER
#endif
