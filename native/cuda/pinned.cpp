#include "pinned.h"

#include <bit>
#include <cstdint>

namespace moe::cuda {

namespace {

constexpr size_t smallest = 4096;
// Page-locked memory is taken from the whole machine: larger blocks are kept until another large one is asked for.
constexpr size_t largestKept = size_t{64} << 20;

/// What streams copy from, by a number: the function that a lost GPU calls too late, or never, must find nothing.
struct Copies {
  struct Copy {
    const PinnedPool* pool;
    std::shared_ptr<char[]> block;
  };

  std::mutex mutex;
  std::map<uintptr_t, Copy> copies;
  uintptr_t last = 0;
};

// Never destroyed: a process that just exits does not wait for its streams.
Copies& all() {
  static auto* const copies = new Copies;
  return *copies;
}

// Under the lock, so that forgetCopies() returns when no block is on its way back.
void endCopy(void* number) {
  std::lock_guard lock(all().mutex);
  all().copies.erase(reinterpret_cast<uintptr_t>(number));
}

}  // namespace

PinnedPool::~PinnedPool() {
  driver().cuCtxSetCurrent(context_->get());
  for (const auto& [bytes, blocks] : free_)
    for (char* block : blocks) driver().cuMemFreeHost(block);
}

std::shared_ptr<char[]> PinnedPool::take(size_t bytes) {
  const size_t size = std::bit_ceil(bytes < smallest ? smallest : bytes);
  context_->makeCurrent();
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

// By a function of the stream, not by an event: nobody has to wait for it.
void PinnedPool::keepUntilDone(CUstream stream, std::shared_ptr<char[]> block) {
  uintptr_t number = 0;
  {
    std::lock_guard lock(all().mutex);
    number = ++all().last;
    all().copies.emplace(number, Copies::Copy{this, std::move(block)});
  }
  const CUresult result = driver().cuLaunchHostFunc(stream, endCopy, reinterpret_cast<void*>(number));
  if (result == CUDA_SUCCESS) return;
  endCopy(reinterpret_cast<void*>(number));
  check(result, "cuLaunchHostFunc");
}

void PinnedPool::forgetCopies() {
  std::lock_guard lock(all().mutex);
  std::erase_if(all().copies, [this](const auto& entry) { return entry.second.pool == this; });
}

// Calls nothing of the driver: it may be a function of the stream that gives.
void PinnedPool::give(char* block, size_t bytes) {
  std::lock_guard lock(mutex_);
  free_[bytes].push_back(block);
}

}  // namespace moe::cuda
