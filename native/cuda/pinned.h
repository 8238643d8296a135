// Page-locked host memory: the only kind that the GPU copies from and to without anybody waiting.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "driver.h"

namespace moe::cuda {

/// A cache of blocks. Any thread; a context must be current when a block is made.
class PinnedPool : public std::enable_shared_from_this<PinnedPool> {
 public:
  explicit PinnedPool(CUcontext context) : context_(context) {}
  ~PinnedPool();
  PinnedPool(const PinnedPool&) = delete;
  PinnedPool& operator=(const PinnedPool&) = delete;

  /// Null when the system has no such block. The block comes back to the pool with its last owner.
  std::shared_ptr<char[]> take(size_t bytes);

 private:
  void give(char* block, size_t bytes);

  const CUcontext context_;
  std::mutex mutex_;
  std::map<size_t, std::vector<char*>> free_;
};

}  // namespace moe::cuda
