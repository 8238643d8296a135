// Blocks of memory, the moves between them, and what fills them: random draws and conversions.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "../shared/random.h"
#include "backend.h"

namespace moe::cpu {

namespace {

constexpr size_t smallAlignment = 256, hugePage = size_t{2} << 20;
constexpr size_t bigBlock = 2 * hugePage;

constexpr int64_t bytesPerPiece = 1 << 18, elementsPerPiece = 1 << 14;

void copyBytes(ThreadPool& pool, void* to, const void* from, size_t bytes) {
  pool.parallelRanges(static_cast<int64_t>(bytes), bytesPerPiece, [&](int64_t begin, int64_t end, int) {
    std::memcpy(static_cast<char*>(to) + begin, static_cast<const char*>(from) + begin, end - begin);
  });
}

}  // namespace

void* CpuBackend::allocate(size_t bytes) {
  const size_t alignment = bytes >= bigBlock ? hugePage : smallAlignment;
  void* block = nullptr;
  if (posix_memalign(&block, alignment, bytes > 0 ? bytes : 1) != 0) return nullptr;
#if defined(__linux__)
  // Only advice: weights and activations are read in long strides, where small pages cost a TLB miss each.
  if (bytes >= bigBlock) madvise(block, bytes, MADV_HUGEPAGE);
#endif
  return block;
}

void CpuBackend::release(void* block, size_t) { std::free(block); }

void CpuBackend::write(void* device, const void* host, size_t bytes) { copyBytes(pool_, device, host, bytes); }

void CpuBackend::read(void* host, const void* device, size_t bytes) { copyBytes(pool_, host, device, bytes); }

void CpuBackend::copy(void* to, const void* from, size_t bytes) { copyBytes(pool_, to, from, bytes); }

void CpuBackend::zero(void* block, size_t bytes) {
  pool_.parallelRanges(static_cast<int64_t>(bytes), bytesPerPiece, [&](int64_t begin, int64_t end, int) {
    std::memset(static_cast<char*>(block) + begin, 0, end - begin);
  });
}

void CpuBackend::randomNormal(float* out, int64_t n, uint64_t seed, uint32_t purpose, float std) {
  pool_.parallelRanges(n, elementsPerPiece, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; i += 4) {
      const Normal4 draws = randomNormals(seed, purpose, static_cast<uint64_t>(i) / 4);
      for (int64_t j = 0; j < 4 && i + j < end; ++j) out[i + j] = std * draws.value[j];
    }
  });
}

void CpuBackend::toFloat(float* out, const int32_t* in, int64_t n) {
  pool_.parallelRanges(n, elementsPerPiece, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) out[i] = static_cast<float>(in[i]);
  });
}

void CpuBackend::toInt(int32_t* out, const float* in, int64_t n) {
  using Limits = std::numeric_limits<int32_t>;
  pool_.parallelRanges(n, elementsPerPiece, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const float x = in[i];
      out[i] = x >= 0x1p31f ? Limits::max() : x < -0x1p31f ? Limits::min() : x == x ? static_cast<int32_t>(x) : 0;
    }
  });
}

}  // namespace moe::cpu
