// One PTX instruction per function, named after it; there is no inline assembly anywhere else. Section numbers are
// those of the PTX ISA 8.x.
#pragma once

#include <cstdint>

namespace moe::ptx {

/// An address in the window of shared memory, which is what the instructions below take.
__device__ __forceinline__ uint32_t sharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

/// from + index·pitch. 9.7.1.4
__device__ __forceinline__ const char* madWide(uint32_t index, uint32_t pitch, const char* from) {
  const char* to;
  asm("mad.wide.u32 %0, %1, %2, %3;" : "=l"(to) : "r"(index), "r"(pitch), "l"(from));
  return to;
}

__device__ __forceinline__ void storeShared(uint32_t to, uint16_t value) {
  asm volatile("st.shared.u16 [%0], %1;" ::"r"(to), "h"(value) : "memory");
}
__device__ __forceinline__ void storeShared(uint32_t to, uint32_t value) {
  asm volatile("st.shared.u32 [%0], %1;" ::"r"(to), "r"(value) : "memory");
}
__device__ __forceinline__ uint32_t loadShared(uint32_t from) {
  uint32_t value;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(value) : "r"(from) : "memory");
  return value;
}

/// Copies the first `bytes` of 16 and zeroes the others; with 0 the source is not read. 9.7.9.25.3
__device__ __forceinline__ void cpAsync16(uint32_t to, const void* from, uint32_t bytes) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
__device__ __forceinline__ void cpAsync16(uint32_t to, const void* from) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
__device__ __forceinline__ void cpAsyncCommitGroup() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// All groups of this thread but the last `pending` are there.
template <int pending>
__device__ __forceinline__ void cpAsyncWaitGroup() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

/// Four 8×8 matrices of 16-bit elements; lanes 8m…8m+7 give the addresses of matrix m's rows. Lane l gets of each
/// matrix row l/4, columns 2(l%4) and 2(l%4)+1, or with .trans those of the transposed matrix. 9.7.14.5.15
__device__ __forceinline__ void ldmatrixX4(uint32_t& m0, uint32_t& m1, uint32_t& m2, uint32_t& m3, uint32_t from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m0), "=r"(m1), "=r"(m2), "=r"(m3)
               : "r"(from)
               : "memory");
}
__device__ __forceinline__ void ldmatrixX4Trans(uint32_t& m0, uint32_t& m1, uint32_t& m2, uint32_t& m3, uint32_t from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m0), "=r"(m1), "=r"(m2), "=r"(m3)
               : "r"(from)
               : "memory");
}

// d = a·b + c. Input and output are different operands, for a tied one would cost a move each. 9.7.14.5.14

__device__ __forceinline__ void mmaM16N8K16BF16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                                const float (&c)[4]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%10, %11, %12, %13};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}

__device__ __forceinline__ void mmaM16N8K16F16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                               const float (&c)[4]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%10, %11, %12, %13};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}

// On the bits of float32, which is how ldmatrix gives and mma takes them: as floats each would cost a move.

/// To nearest, ties away from zero. 9.7.9.21
__device__ __forceinline__ uint32_t cvtRnaTF32(uint32_t x) {
  uint32_t y;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}
__device__ __forceinline__ uint32_t subF32(uint32_t x, uint32_t y) {
  uint32_t difference;
  asm("sub.rn.f32 %0, %1, %2;" : "=r"(difference) : "r"(x), "r"(y));
  return difference;
}

__device__ __forceinline__ void mmaM16N8K8TF32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                               const float (&c)[4]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%10, %11, %12, %13};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}

}  // namespace moe::ptx
