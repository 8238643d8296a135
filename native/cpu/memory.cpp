// Blocks of memory, the moves between them, and what fills them: random draws and conversions.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "../shared/random.h"
#include "backend.h"
#include "element.h"

namespace moe::cpu {

namespace {

constexpr size_t smallAlignment = 256, hugePage = size_t{2} << 20;
constexpr size_t bigBlock = 2 * hugePage;

constexpr int64_t bytesPerPiece = 1 << 18;

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

std::shared_ptr<char[]> CpuBackend::staging(size_t bytes) {
  return std::shared_ptr<char[]>(new (std::nothrow) char[bytes + 1]);
}

void CpuBackend::write(void* device, const std::shared_ptr<char[]>& staging, size_t bytes) {
  copyBytes(pool_, device, staging.get(), bytes);
}

void CpuBackend::read(void* host, const void* device, size_t bytes, const OutcomePtr&, Completion completion) {
  copyBytes(pool_, host, device, bytes);
  completion(nullptr);
}

void CpuBackend::copy(void* to, const void* from, size_t bytes) { copyBytes(pool_, to, from, bytes); }

void CpuBackend::zero(void* block, size_t bytes) {
  pool_.parallelRanges(static_cast<int64_t>(bytes), bytesPerPiece, [&](int64_t begin, int64_t end, int) {
    std::memset(static_cast<char*>(block) + begin, 0, end - begin);
  });
}

void CpuBackend::randomNormal(const RandomNormal& r) {
  const StageTimer timer(*this, "randomNormal");
  withElement(r.dtype, [&]<class T>() {
    T* out = elements<T>(r.output);
    pool_.parallelRanges(r.n, elementsPerPiece, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; i += 4) {
        const Normal4 draws = randomNormals(r.seed, r.purpose, static_cast<uint64_t>(i) / 4);
        for (int64_t j = 0; j < 4 && i + j < end; ++j) out[i + j] = roundTo<T>(r.std * draws.value[j]);
      }
    });
  });
}

namespace {

template <class To, class From>
void convertElements(const Convert& c, ThreadPool& pool) {
  const From* from = elements<From>(c.input);
  To* to = elements<To>(c.output);
  pool.parallelRanges(c.n, elementsPerPiece, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) to[i] = convertTo<To>(from[i]);
  });
}

template <class From>
void convertFrom(const Convert& c, ThreadPool& pool) {
  if (c.to == DType::Int32) return convertElements<int32_t, From>(c, pool);
  withElement(c.to, [&]<class To>() { convertElements<To, From>(c, pool); });
}

}  // namespace

void CpuBackend::convert(const Convert& c) {
  const StageTimer timer(*this, "convert");
  if (c.from == DType::Int32) return convertFrom<int32_t>(c, pool_);
  withElement(c.from, [&]<class From>() { convertFrom<From>(c, pool_); });
}

}  // namespace moe::cpu
