// Moves within the device, and what fills tensors.
#include "backend.h"

namespace moe::cuda {

void CudaBackend::copy(void* to, const void* from, size_t bytes) {
  if (bytes > 0) MOE_CUDA(cuMemcpyDtoDAsync_v2, address(to), address(from), bytes, stream_.get());
}

void CudaBackend::zero(void* block, size_t bytes) {
  if (bytes > 0) MOE_CUDA(cuMemsetD8Async, address(block), 0, bytes, stream_.get());
}

void CudaBackend::randomNormal(const RandomNormal& r) {
  launch(typed("randomNormal", r.dtype), {blocksFor((r.n + 3) / 4, threads)}, threads, 0, r);
}

void CudaBackend::convert(const Convert& c) {
  launch(typed("convert", c.from), {blocksFor(c.n, threads)}, threads, 0, c);
}

}  // namespace moe::cuda
