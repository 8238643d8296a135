// The caching pool of one device: blocks in size classes, reused in program order, kept until the device is closed or
// memory runs short. Its bookkeeping is on the host, so that running out of memory throws from the call that asked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <unordered_map>
#include <vector>

namespace moe {

class Backend;

struct Block {
  void* address = nullptr;
  size_t bytes = 0;      // of the class
  size_t requested = 0;  // by the tensor
  bool lasting = false;
};

struct MemoryUse {
  size_t allocated, peak, reserved;
};

/// Used from one thread, the one that opened the device.
class Pool {
 public:
  /// waitIdle returns when no queued work is left: only then may cached blocks be given back to the system.
  Pool(Backend& backend, size_t limit, std::function<void()> waitIdle);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  /// Throws OutOfMemory. Zero bytes still give a block. Lasting blocks, which a step makes once, and the others are
  /// reused apart as long as there is memory: what a step has given back is what the next one will ask for.
  Block take(size_t bytes, bool lasting = false);
  void give(const Block& block);

  MemoryUse use() const { return {allocated_, peak_, reserved_}; }
  void resetPeak() { peak_ = allocated_; }
  /// Gives cached blocks back to the system; no queued work may be left.
  void trim();
  /// Gives every block back, also those that are still held; no queued work may be left. Nothing is taken afterwards.
  void close();

 private:
  Backend& backend_;
  const size_t limit_;
  const std::function<void()> waitIdle_;
  using FreeBlocks = std::map<size_t, std::vector<void*>>;  // by class
  static void* reuse(FreeBlocks& blocks, size_t size);
  FreeBlocks free_, freeLasting_;
  std::unordered_map<void*, size_t> blocks_;  // all there are, with the bytes of their class
  bool closed_ = false;
  size_t allocated_ = 0, peak_ = 0, reserved_ = 0;
};

}  // namespace moe
