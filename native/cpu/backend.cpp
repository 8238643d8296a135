#include "backend.h"

#include "gemm.h"
#include "simd/row.h"

namespace moe::cpu {

const RowKernels& rowKernels(Isa isa) {
  switch (isa) {
#if defined(MOE_HAVE_avx2)
    case Isa::Avx2:
      return avx2::rowKernels;
    case Isa::Avx512:
      return avx512::rowKernels;
#endif
#if defined(MOE_HAVE_neon)
    case Isa::Neon:
      return neon::rowKernels;
#endif
    default:
      return generic::rowKernels;
  }
}

CpuBackend::CpuBackend(int threads) : pool_(threads), gemm_(gemmKernels(detectIsa())), row_(rowKernels(detectIsa())) {}

CpuBackend::~CpuBackend() = default;

}  // namespace moe::cpu
