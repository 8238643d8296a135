#include "isa.h"

#include <cstdlib>
#include <cstring>

#if defined(MOE_HAVE_avx2)
#include <cpuid.h>
#endif

namespace moe::cpu {

namespace {

#if defined(MOE_HAVE_avx2)
/// __builtin_cpu_supports() does not know this name in every compiler.
bool hasF16c() {
  unsigned a, b, c, d;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C) != 0;
}
#endif

bool available(Isa isa) {
  switch (isa) {
    case Isa::Generic:
      return true;
#if defined(MOE_HAVE_avx2)
    case Isa::Avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && hasF16c();
    case Isa::Avx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && available(Isa::Avx2);
#endif
#if defined(MOE_HAVE_dot_avx512)
    case Isa::Avx512Bf16:
      return __builtin_cpu_supports("avx512bf16") && available(Isa::Avx512);
#endif
#if defined(MOE_HAVE_neon)
    case Isa::Neon:
      return true;
#endif
    default:
      return false;
  }
}

}  // namespace

const char* isaName(Isa isa) {
  switch (isa) {
    case Isa::Generic:
      return "generic";
    case Isa::Avx2:
      return "avx2";
    case Isa::Avx512:
      return "avx512";
    case Isa::Avx512Bf16:
      return "avx512-bf16";
    case Isa::Neon:
      return "neon";
  }
  return "generic";
}

Isa detectIsa() {
  constexpr Isa best[] = {Isa::Avx512Bf16, Isa::Avx512, Isa::Avx2, Isa::Neon, Isa::Generic};
  if (const char* wanted = std::getenv("SWITCHYARD_ISA"))
    for (Isa isa : best)
      if (std::strcmp(wanted, isaName(isa)) == 0 && available(isa)) return isa;
  for (Isa isa : best)
    if (available(isa)) return isa;
  return Isa::Generic;
}

}  // namespace moe::cpu
