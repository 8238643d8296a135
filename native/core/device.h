// A device: a backend, its pool and its queue, and the rule by which failures travel. Used from one thread.
#pragma once

#include <algorithm>
#include <atomic>
#include <functional>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <vector>

#include "backend.h"
#include "graph.h"
#include "pool.h"
#include "queue.h"
#include "tensor.h"

namespace moe {

class Device : public std::enable_shared_from_this<Device> {
 public:
  Device(std::unique_ptr<Backend> backend, size_t memoryLimit);
  ~Device();

  Pool& pool() { return pool_; }
  bool closed() const { return closed_; }
  /// Cancels what is queued, waits for what runs, and gives the backend up with all memory: tensors that outlive it are
  /// empty husks. Everything later throws Disposed.
  void close();
  /// Throws Disposed, or DeviceLost.
  void checkOpen() const;

  /// Lasting: made once, by a step that is repeated. See Pool::take().
  TensorPtr empty(DType dtype, int64_t size, bool lasting = false);
  TensorPtr zeros(DType dtype, int64_t size);
  /// Gives the operations of one job the workspace that the backend asks for, all of them the same, since they run one
  /// after the other; null when none is needed. The answer is held until the job is queued: dropped earlier, the memory
  /// may go back to the system when the next allocation finds too little.
  template <class... Operation>
  [[nodiscard]] TensorPtr workspace(Operation&... operation) {
    checkOpen();
    const size_t bytes = std::max({backend_->workspaceBytes(operation)...});
    if (bytes == 0) return nullptr;
    TensorPtr block = empty(DType::Int32, static_cast<int64_t>((bytes + 3) / 4));
    ((operation.workspace = block->data()), ...);
    return block;
  }

  /// So many operations more than usual can be queued, and none of them runs out of memory to tell how it went in: that
  /// throws OutOfMemory here. Every allocation asks for the usual ones.
  void prepare(size_t operations);
  /// Queues body, or records it; `name` begins the message of whatever it throws. See Operands.
  void enqueue(const char* name, Operands operands, std::function<void(Backend&)> body);

  // While a step is recorded (graph.h); outside of one the first three just do it.

  /// What the host keeps about the operations that it queues, now and at every replay.
  void nowAndOnReplay(std::function<void()> step);
  /// What is counted: a recording is no step yet.
  void nowOrOnReplay(std::function<void()> step);
  /// Where operations find what `now` answers at every replay; null outside of a recording.
  template <class T>
  const T* replayed(std::function<T()> now) {
    return recording_ ? recording_->replayed<T>(std::move(now)) : nullptr;
  }
  /// The memory of replayed(), for who may read it when the graph is gone; empty outside of a recording.
  std::vector<TensorPtr> replayedMemory() const {
    return recording_ ? recording_->replayedMemory() : std::vector<TensorPtr>();
  }
  /// The operation that is about to be queued depends on whether this gradient is cleared.
  void consult(const TensorPtr& gradient);
  /// The operation that is about to be queued uses what this owns, besides its operands.
  void hold(std::shared_ptr<void> owner);
  /// Throws InvalidArgument while a step is recorded.
  void refuseRecording(const char* call) const;
  /// Of a call whose answer somebody will wait for: before anything is promised.
  void checkReadable(const char* call) const {
    checkOpen();
    refuseRecording(call);
  }
  /// From here on it is known whether the gradient is cleared, whatever was before the step.
  void settle(const TensorPtr& gradient);
  Graph* recording() const { return recording_; }
  void setRecording(Graph* graph) { recording_ = graph; }

  /// Copies the tensor as it is at this point of the queue to `host`, which must outlive the completion. The dtype of
  /// the host's array is one that isHostDType() allows: 16-bit floats are widened, and rounded by write().
  void read(const TensorPtr& tensor, void* host, DType hostDType, Completion completion);
  /// Blocks; throws what poisoned the tensor.
  void readSync(const TensorPtr& tensor, void* host, DType hostDType);
  /// Takes `host` over by copy before it returns.
  void write(const TensorPtr& tensor, const void* host, DType hostDType);
  /// A copy on this device of a tensor of another one.
  TensorPtr transfer(const TensorPtr& source);
  /// Completes with the first failure that nobody has been told of.
  void synchronize(Completion completion);

  /// Fills a cleared gradient with the zeros that it stands for; every reader calls this first. It stays cleared: the
  /// next backward writes it, and an optimizer sees no gradient.
  const TensorPtr& materialise(const TensorPtr& tensor);

  // On the queue's thread.

  Backend& backend() { return *backend_; }
  /// What went wrong, noted as not yet reported; or null.
  FailurePtr attempt(const char* name, const std::function<void(Backend&)>& body);
  FailurePtr run(const char* name, const Operands& operands, const std::function<void(Backend&)>& body);
  void push(std::function<void()> body);

 private:
  friend class Tensor;
  void noteLoss(const FailurePtr& failure);
  /// What body throws; null when it throws nothing. `name` begins the message of it where there is one.
  template <class Body>
  FailurePtr caught(const char* name, const Body& body);
  /// Runs body, and notes when what it throws says that the device is lost.
  template <class Body>
  void noting(const Body& body);
  std::shared_ptr<char[]> staging(size_t bytes, const char* purpose);
  void copyOut(const TensorPtr& tensor, void* host, Completion completion);
  FailurePtr firstUnreported(std::vector<FailurePtr> found);

  std::unique_ptr<Backend> backend_;  // null once closed
  std::mutex failuresMutex_;
  std::vector<FailurePtr> failures_;  // not yet reported, oldest first
  Queue queue_;
  Pool pool_;
  std::atomic<bool> isLost_{false};
  FailurePtr lost_;  // the failure that has made the device useless; written once, before isLost_
  bool closed_ = false;
  Graph* recording_ = nullptr;
};

/// The failure as an Error.
[[noreturn]] void rethrow(const Failure& failure);

}  // namespace moe
