// Page-locked host memory: the only kind that the GPU copies from and to without anybody waiting.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "context.h"

namespace moe::cuda {

/// A cache of blocks. Any thread. Holds the context, since the blocks go with it.
class PinnedPool : public std::enable_shared_from_this<PinnedPool> {
 public:
  explicit PinnedPool(std::shared_ptr<const Context> context) : context_(std::move(context)) {}
  ~PinnedPool();
  PinnedPool(const PinnedPool&) = delete;
  PinnedPool& operator=(const PinnedPool&) = delete;

  /// Null when the system has no such block. The block comes back to the pool with its last owner.
  std::shared_ptr<char[]> take(size_t bytes);
  /// Holds the block until the stream has done what it was given. A lost GPU never says that it has.
  void keepUntilDone(CUstream stream, std::shared_ptr<char[]> block);
  /// Lets go of the blocks that no stream has let go of; nothing is copied from them anymore.
  void forgetCopies();

 private:
  void give(char* block, size_t bytes);

  const std::shared_ptr<const Context> context_;
  std::mutex mutex_;
  std::map<size_t, std::vector<char*>> free_;
};

}  // namespace moe::cuda
