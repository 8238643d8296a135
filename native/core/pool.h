// The caching pool of one device: blocks in size classes, reused in program order, kept until the device is closed or
// memory runs short. Its bookkeeping is on the host, so that running out of memory throws from the call that asked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

namespace moe {

class Backend;

/// Blocks of a step that is replayed: they come back here, and to nobody else until the arena is dropped.
struct Arena;

struct Block {
  void* address = nullptr;
  size_t bytes = 0;      // of the class
  size_t requested = 0;  // by the tensor
  bool lasting = false;
  std::shared_ptr<Arena> arena;  // null: of the pool itself
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

  /// Until endArena() every block that is taken, but for lasting ones, belongs to the arena and is reused within it.
  std::shared_ptr<Arena> beginArena();
  void endArena() { arena_ = nullptr; }
  /// Its blocks are the pool's again, those that are still held as soon as they are given.
  void drop(const std::shared_ptr<Arena>& arena);

  MemoryUse use() const { return {allocated_, peak_, reserved_}; }
  void resetPeak() { peak_ = allocated_; }
  /// Waits until no queued work is left, and gives cached blocks back to the system.
  void makeRoom();
  /// Gives every block back, also those that are still held; no queued work may be left. Nothing is taken afterwards.
  void close();

 private:
  Backend& backend_;
  const size_t limit_;
  const std::function<void()> waitIdle_;
  using FreeBlocks = std::map<size_t, std::vector<void*>>;  // by class
  static void* reuse(FreeBlocks& blocks, size_t size);
  friend struct Arena;
  FreeBlocks free_, freeLasting_;
  std::shared_ptr<Arena> arena_;              // of the recording
  std::unordered_map<void*, size_t> blocks_;  // all there are, with the bytes of their class
  bool closed_ = false;
  size_t allocated_ = 0, peak_ = 0, reserved_ = 0;
};

}  // namespace moe
