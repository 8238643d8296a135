#include "pinned.h"

#include <bit>

namespace moe::cuda {

namespace {

constexpr size_t smallest = 4096;
// Page-locked memory is taken from the whole machine: large blocks are not kept.
constexpr size_t largestKept = size_t{64} << 20;

}  // namespace

PinnedPool::~PinnedPool() {
  for (const auto& [bytes, blocks] : free_)
    for (char* block : blocks) driver().cuMemFreeHost(block);
}

std::shared_ptr<char[]> PinnedPool::take(size_t bytes) {
  const size_t size = std::bit_ceil(bytes < smallest ? smallest : bytes);
  char* block = nullptr;
  {
    std::lock_guard lock(mutex_);
    if (auto& blocks = free_[size]; !blocks.empty()) {
      block = blocks.back();
      blocks.pop_back();
    }
  }
  if (!block) {
    void* made = nullptr;
    if (driver().cuCtxSetCurrent(context_) != CUDA_SUCCESS || driver().cuMemHostAlloc(&made, size, 0) != CUDA_SUCCESS)
      return nullptr;
    block = static_cast<char*>(made);
  }
  return std::shared_ptr<char[]>(block, [self = shared_from_this(), size](char* given) { self->give(given, size); });
}

void PinnedPool::give(char* block, size_t bytes) {
  if (bytes > largestKept) {
    driver().cuCtxSetCurrent(context_);
    driver().cuMemFreeHost(block);
    return;
  }
  std::lock_guard lock(mutex_);
  free_[bytes].push_back(block);
}

}  // namespace moe::cuda
