// The outcomes of operations on a CUDA device: where each one's Status lies, and what a fault found there means.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "../core/health.h"
#include "../shared/status.h"
#include "driver.h"

namespace moe::cuda {

/// Device memory for statuses, in blocks that are kept. Any thread may give one back; the queue's thread takes.
class StatusPool {
 public:
  explicit StatusPool(CUstream stream) : stream_(stream) { grow(); }
  ~StatusPool() { close(); }

  /// Gives the memory back, which nobody looks at anymore: statuses may still be given back, but none is taken.
  void close();

  Status* take();
  /// The next so many calls of take() allocate nothing.
  void reserve(size_t count);
  void give(Status* status);

 private:
  static constexpr size_t blockCount = 4096;

  void grow();

  const CUstream stream_;
  std::mutex mutex_;
  std::vector<CUdeviceptr> blocks_;
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
  uint32_t number(const char* operation, FaultLimits limits);
  /// An operation of that number runs again: its failures are new ones.
  void renew(uint32_t number, const char* operation, FaultLimits limits);
  FailurePtr failure(FaultWord word, FaultValue value);

 private:
  struct Origin {
    const char* operation;
    FaultLimits limits;
  };
  static constexpr size_t remembered = 1 << 16;

  std::mutex mutex_;
  uint32_t next_ = 0;
  std::vector<Origin> origins_;  // [remembered], by number
  std::map<FaultWord, FailurePtr> failures_;
  std::deque<FaultWord> order_;  // of failures_, oldest first
};

}  // namespace moe::cuda
