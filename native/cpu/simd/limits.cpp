#include "limits.h"

namespace moe::cpu::MOE_ISA {

namespace {

#if defined(MOE_ISA_avx512)
constexpr int lanes = 16;
#elif defined(MOE_ISA_avx2)
constexpr int lanes = 8;
#else
constexpr int lanes = 4;
#endif

typedef float Vector __attribute__((vector_size(lanes * sizeof(float)), aligned(4), may_alias));

// Enough independent chains to hide the latency of a multiply-add on every core we know: 2 a cycle × 5 cycles, and a
// few.
constexpr int chains = 12;

Vector broadcast(float value) { return Vector{} + value; }

float sum(Vector v) {
  float total = 0;
  for (int i = 0; i < lanes; ++i) total += v[i];
  return total;
}

float multiplyAdd(int64_t rounds) {
  Vector a0 = broadcast(0.1f), a1 = a0 + 1, a2 = a0 + 2, a3 = a0 + 3, a4 = a0 + 4, a5 = a0 + 5;
  Vector a6 = a0 + 6, a7 = a0 + 7, a8 = a0 + 8, a9 = a0 + 9, a10 = a0 + 10, a11 = a0 + 11;
  const Vector x = broadcast(0.999f), y = broadcast(1e-3f);
  for (int64_t i = 0; i < rounds; ++i) {
    a0 = a0 * x + y, a1 = a1 * x + y, a2 = a2 * x + y, a3 = a3 * x + y, a4 = a4 * x + y, a5 = a5 * x + y;
    a6 = a6 * x + y, a7 = a7 * x + y, a8 = a8 * x + y, a9 = a9 * x + y, a10 = a10 * x + y, a11 = a11 * x + y;
  }
  return sum(a0 + a1 + a2 + a3 + a4 + a5 + a6 + a7 + a8 + a9 + a10 + a11);
}

float read(const float* data, int64_t n) {
  Vector sums[8] = {};
  for (int64_t i = 0; i < n; i += 8 * lanes) {
    __builtin_prefetch(data + i + 1024);
    for (int j = 0; j < 8; ++j) sums[j] += *reinterpret_cast<const Vector*>(data + i + j * lanes);
  }
  Vector total = sums[0];
  for (int j = 1; j < 8; ++j) total += sums[j];
  return sum(total);
}

}  // namespace

constinit const LimitKernels limitKernels = {multiplyAdd, int64_t{chains} * lanes * 2, read};

}  // namespace moe::cpu::MOE_ISA
