#include "pool.h"

#include <algorithm>
#include <limits>
#include <string>

#include "backend.h"
#include "error.h"

namespace moe {

namespace {

constexpr size_t smallest = 256;

// Eight classes per power of two: at most an eighth of a block is never used.
size_t classOf(size_t bytes) {
  if (bytes <= smallest) return smallest;
  size_t power = smallest;
  while (power <= bytes / 2) power *= 2;
  const size_t step = std::max(power / 8, smallest);
  return (bytes + step - 1) / step * step;
}

std::string megabytes(size_t bytes) { return std::to_string((bytes + (1 << 20) - 1) >> 20) + " MiB"; }

}  // namespace

struct Arena {
  Pool::FreeBlocks free;
  bool dropped = false;
};

Pool::Pool(Backend& backend, size_t limit, std::function<void()> waitIdle)
    : backend_(backend), limit_(limit), waitIdle_(std::move(waitIdle)) {}

Pool::~Pool() { close(); }

Block Pool::take(size_t bytes, bool lasting) {
  if (bytes > std::numeric_limits<size_t>::max() / 2)
    throw Error(ErrorCode::OutOfMemory, "a tensor of " + megabytes(bytes) + " is larger than any memory");
  const size_t size = classOf(bytes);
  const auto grow = [&]() -> void* {
    void* const address = size <= limit_ && reserved_ <= limit_ - size ? backend_.allocate(size) : nullptr;
    if (address) {
      blocks_.emplace(address, size);
      reserved_ += size;
    }
    return address;
  };
  const std::shared_ptr<Arena> arena = lasting ? nullptr : arena_;
  void* address = arena ? reuse(arena->free, size) : nullptr;
  if (!address) address = reuse(lasting ? freeLasting_ : free_, size);
  if (!address) address = grow();
  if (!address) address = reuse(lasting ? free_ : freeLasting_, size);
  if (!address) {
    makeRoom();
    address = grow();
  }
  if (!address)
    throw Error(ErrorCode::OutOfMemory,
                "out of memory: " + megabytes(bytes) + " asked for, " + megabytes(allocated_) +
                    " held by live tensors, limit " + megabytes(limit_),
                "Dispose tensors and passes that are no longer needed, or use smaller batches.");
  allocated_ += bytes;
  peak_ = std::max(peak_, allocated_);
  return {address, size, bytes, lasting, arena};
}

void* Pool::reuse(FreeBlocks& blocks, size_t size) {
  const auto found = blocks.find(size);
  if (found == blocks.end() || found->second.empty()) return nullptr;
  void* const address = found->second.back();
  found->second.pop_back();
  return address;
}

void Pool::give(const Block& block) {
  if (!block.address) return;
  allocated_ -= block.requested;
  if (closed_) return;
  const bool kept = block.arena && !block.arena->dropped;
  (kept ? block.arena->free : block.lasting ? freeLasting_ : free_)[block.bytes].push_back(block.address);
}

std::shared_ptr<Arena> Pool::beginArena() { return arena_ = std::make_shared<Arena>(); }

void Pool::drop(const std::shared_ptr<Arena>& arena) {
  arena->dropped = true;
  if (closed_) return;
  for (auto& [size, blocks] : arena->free) {
    std::vector<void*>& own = free_[size];
    own.insert(own.end(), blocks.begin(), blocks.end());
  }
  arena->free.clear();
}

void Pool::makeRoom() {
  waitIdle_();
  for (FreeBlocks* free : {&free_, &freeLasting_}) {
    for (auto& [size, blocks] : *free)
      for (void* address : blocks) {
        backend_.release(address, size);
        blocks_.erase(address);
        reserved_ -= size;
      }
    free->clear();
  }
}

void Pool::close() {
  if (closed_) return;
  closed_ = true;
  for (const auto& [address, size] : blocks_) backend_.release(address, size);
  blocks_.clear();
  free_.clear();
  freeLasting_.clear();
  reserved_ = 0;
}

}  // namespace moe
