// The outcomes of operations on a CUDA device: where each one's Status lies, and what a fault found there means. What
// the host remembers of operations is settled with the statuses as they were at one point of the stream: whatever has
// left no trace in any of them is forgotten.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "../core/health.h"
#include "../shared/status.h"
#include "driver.h"

namespace moe::cuda {

struct StatusBlock {
  static constexpr size_t count = 4096;

  Status* device;
  Status* host;  // page-locked, for snapshots
};

/// The statuses as they were at one point of the stream, once it has come there.
class Snapshot {
 public:
  explicit Snapshot(std::vector<StatusBlock> blocks) : blocks_(std::move(blocks)) {}

  const Status& of(const Status* status) const;
  template <class Visit>
  void forEach(Visit visit) const {
    for (const StatusBlock& block : blocks_) std::for_each_n(block.host, StatusBlock::count, visit);
  }

 private:
  std::vector<StatusBlock> blocks_;
};

/// An outcome of its own, and one that gradients start with.
inline constexpr size_t statusesPerOperation = 2;

/// Device memory for statuses, in blocks that are kept. Any thread may give one back or reserve; the queue's thread
/// does the rest.
class StatusPool {
 public:
  StatusPool(CUcontext context, CUstream stream) : context_(context), stream_(stream) { clear(1); }
  ~StatusPool() { close(); }

  /// Gives the memory back, which nobody looks at anymore: statuses may still be given back, but none is taken.
  void close();

  Status* take();
  /// The next so many calls of take() allocate nothing.
  void reserve(size_t count);
  /// Nor give anything to the stream.
  void clear(size_t count);
  void give(Status* status);
  /// Has all statuses copied. The snapshot before it has been looked at.
  Snapshot snapshot();

 private:
  void grow();
  void clearNext();

  const CUcontext context_;
  const CUstream stream_;
  std::mutex mutex_;
  std::vector<StatusBlock> blocks_;
  size_t cleared_ = 0;  // of the blocks: the others have never been taken from
  std::vector<Status*> free_;
};

class CudaOutcome final : public Outcome {
 public:
  explicit CudaOutcome(std::shared_ptr<StatusPool> pool, bool ofReplays = false)
      : ofReplays(ofReplays), pool_(std::move(pool)), status(pool_->take()) {}
  ~CudaOutcome() override { pool_->give(status); }

  /// Every replay of a graph writes it anew: who depends on one replay alone must not share it.
  const bool ofReplays;

 private:
  const std::shared_ptr<StatusPool> pool_;

 public:
  Status* const status;
};

/// What the indices that an operation is given must stay below.
struct FaultLimits {
  int64_t indices = 0, tokenTypes = 0;
};

/// Numbers the operations that can fail on the device, and turns what they find into failures: one object each, however
/// many tensors it poisons. Any thread.
class Faults {
 public:
  /// One that no status tells of.
  uint32_t number(const char* operation, FaultLimits limits);
  /// The operation of that number runs again: its failures are new ones.
  void renew(uint32_t number);
  FailurePtr failure(FaultWord word, FaultValue value);
  /// The operations of these numbers are not given to the stream again.
  void end(const std::vector<uint32_t>& numbers);
  std::vector<uint32_t> takeEnded();
  /// Of the `ended` ones, which were so before the snapshot, what is left is what the snapshot holds.
  void settle(const Snapshot& snapshot, const std::vector<uint32_t>& ended);

 private:
  struct Origin {
    const char* operation = "an operation";
    FaultLimits limits;
  };

  bool isInUse(uint32_t number) const;
  const FailurePtr& find(FaultWord word, FaultValue value);

  std::mutex mutex_;
  uint32_t last_ = 0;
  std::unordered_map<uint32_t, Origin> origins_;  // by number, of what is not settled
  std::map<FaultWord, FailurePtr> failures_;
  std::vector<uint32_t> ended_;
};

}  // namespace moe::cuda
