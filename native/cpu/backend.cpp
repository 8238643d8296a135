#include "backend.h"

#include "simd/kernels.h"

namespace moe::cpu {

CpuBackend::CpuBackend(int threads) : CpuBackend(threads, kernelsOf(detectIsa())) {}

CpuBackend::CpuBackend(int threads, const Kernels& kernels)
    : pool_(threads), gemm_(kernels.gemm), row_(kernels.row), limits_(kernels.limits), dot_(kernels.dot) {}

CpuBackend::~CpuBackend() = default;

}  // namespace moe::cpu
