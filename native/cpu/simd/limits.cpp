#include "limits.h"

#include "tables.h"
#include "vec.h"

namespace moe::cpu::MOE_ISA {

namespace {

// Enough independent chains to hide the latency of a multiply-add on every core we know: 2 a cycle × 5 cycles, and a
// few.
constexpr int chains = 12;

float multiplyAdd(int64_t rounds) {
  const Vec a = Vec{} + 0.1f, x = Vec{} + 0.999f, y = Vec{} + 1e-3f;
  Vec a0 = a, a1 = a + 1, a2 = a + 2, a3 = a + 3, a4 = a + 4, a5 = a + 5;
  Vec a6 = a + 6, a7 = a + 7, a8 = a + 8, a9 = a + 9, a10 = a + 10, a11 = a + 11;
  for (int64_t i = 0; i < rounds; ++i) {
    a0 = a0 * x + y, a1 = a1 * x + y, a2 = a2 * x + y, a3 = a3 * x + y, a4 = a4 * x + y, a5 = a5 * x + y;
    a6 = a6 * x + y, a7 = a7 * x + y, a8 = a8 * x + y, a9 = a9 * x + y, a10 = a10 * x + y, a11 = a11 * x + y;
  }
  return sum(a0 + a1 + a2 + a3 + a4 + a5 + a6 + a7 + a8 + a9 + a10 + a11);
}

float read(const float* data, int64_t n) {
  Vec sums[8] = {};
  for (int64_t i = 0; i < n; i += 8 * vecLanes) {
    __builtin_prefetch(data + i + 1024);
    for (int j = 0; j < 8; ++j) sums[j] += load(data + i + j * vecLanes);
  }
  Vec total = sums[0];
  for (int j = 1; j < 8; ++j) total += sums[j];
  return sum(total);
}

}  // namespace

}  // namespace moe::cpu::MOE_ISA

namespace moe::cpu {

using namespace MOE_ISA;

extern const LimitKernels MOE_TABLE(limitKernels);
constinit const LimitKernels MOE_TABLE(limitKernels) = {multiplyAdd, int64_t{chains} * vecLanes * 2, read};

}  // namespace moe::cpu
