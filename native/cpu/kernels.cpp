#include "simd/kernels.h"

namespace moe::cpu {

extern const GemmKernels gemmKernels_generic, gemmKernels_avx2, gemmKernels_avx512, gemmKernels_neon;
extern const RowKernels rowKernels_generic, rowKernels_avx2, rowKernels_avx512, rowKernels_neon;
extern const LimitKernels limitKernels_generic, limitKernels_avx2, limitKernels_avx512, limitKernels_neon;
extern const DotKernels dotKernels_avx512;

const Kernels& kernelsOf(Isa isa) {
  static constexpr Kernels generic = {gemmKernels_generic, rowKernels_generic, limitKernels_generic, nullptr};
#if defined(MOE_HAVE_avx2)
  static constexpr Kernels avx2 = {gemmKernels_avx2, rowKernels_avx2, limitKernels_avx2, nullptr};
  static constexpr Kernels avx512 = {gemmKernels_avx512, rowKernels_avx512, limitKernels_avx512, nullptr};
  if (isa == Isa::Avx2) return avx2;
#if defined(MOE_HAVE_dot_avx512)
  static constexpr Kernels avx512Bf16 = {gemmKernels_avx512, rowKernels_avx512, limitKernels_avx512,
                                         &dotKernels_avx512};
  if (isa == Isa::Avx512Bf16) return avx512Bf16;
#endif
  if (isa == Isa::Avx512) return avx512;
#endif
#if defined(MOE_HAVE_neon)
  static constexpr Kernels neon = {gemmKernels_neon, rowKernels_neon, limitKernels_neon, nullptr};
  if (isa == Isa::Neon) return neon;
#endif
  return generic;
}

}  // namespace moe::cpu
