#include "backend.h"

#include "gemm.h"
#include "simd/row.h"

namespace moe::cpu {

const RowKernels& rowKernels(Isa isa) {
  switch (isa) {
#if defined(MOE_HAVE_avx2)
    case Isa::Avx2:
      return rowKernels_avx2;
    case Isa::Avx512:
      return rowKernels_avx512;
#endif
#if defined(MOE_HAVE_neon)
    case Isa::Neon:
      return rowKernels_neon;
#endif
    default:
      return rowKernels_generic;
  }
}

CpuBackend::CpuBackend(int threads) : pool_(threads), gemm_(gemmKernels(detectIsa())), row_(rowKernels(detectIsa())) {}

CpuBackend::~CpuBackend() = default;

}  // namespace moe::cpu
