#include "pinned.h"

#include <bit>

namespace moe::cuda {

namespace {

constexpr size_t smallest = 4096;
// Page-locked memory is taken from the whole machine: larger blocks are kept until another large one is asked for.
constexpr size_t largestKept = size_t{64} << 20;

}  // namespace

PinnedPool::~PinnedPool() {
  for (const auto& [bytes, blocks] : free_)
    for (char* block : blocks) driver().cuMemFreeHost(block);
}

std::shared_ptr<char[]> PinnedPool::take(size_t bytes) {
  const size_t size = std::bit_ceil(bytes < smallest ? smallest : bytes);
  MOE_CUDA(cuCtxSetCurrent, context_);
  char* block = nullptr;
  std::vector<char*> large;
  {
    std::lock_guard lock(mutex_);
    if (auto& blocks = free_[size]; !blocks.empty()) {
      block = blocks.back();
      blocks.pop_back();
    }
    for (auto it = free_.upper_bound(largestKept); size > largestKept && it != free_.end(); it = free_.erase(it))
      large.insert(large.end(), it->second.begin(), it->second.end());
  }
  for (char* unused : large) driver().cuMemFreeHost(unused);
  if (!block) {
    void* made = nullptr;
    const CUresult result = driver().cuMemHostAlloc(&made, size, 0);
    if (result == CUDA_ERROR_OUT_OF_MEMORY) return nullptr;
    check(result, "cuMemHostAlloc");
    block = static_cast<char*>(made);
  }
  return std::shared_ptr<char[]>(block, [self = shared_from_this(), size](char* given) { self->give(given, size); });
}

// Calls nothing of the driver: it may be a function of the stream that gives.
void PinnedPool::give(char* block, size_t bytes) {
  std::lock_guard lock(mutex_);
  free_[bytes].push_back(block);
}

}  // namespace moe::cuda
