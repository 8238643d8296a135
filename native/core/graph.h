// A step that was recorded once and is queued again as a whole: the operations it queued, the memory they work in, and
// what the host does beside them. Used from the thread that owns the device, as everything of the core is.
//
// A recorded operation holds raw pointers for as long as the graph lives. So what the step makes and drops goes back to
// the graph's own arena and to nobody else, and what it was given from outside is held.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "backend.h"
#include "pool.h"
#include "tensor.h"

namespace moe {

class Device;

class Graph : public std::enable_shared_from_this<Graph> {
 public:
  explicit Graph(std::shared_ptr<Device> device);
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  /// From here on the device records what it is given instead of queuing it.
  void begin();
  /// Ends the recording. Throws when the step did what no replay can.
  void end();
  /// Queues the recorded step. Throws StalePass when gradients are not in the state that the step was recorded in.
  void replay();

  // What the device calls while it records.

  void add(const char* name, Operands operands, std::function<void(Backend&)> body);
  /// `step` at every replay, on the calling thread and in order, before the operations are queued.
  void onReplay(std::function<void()> step) { steps_.push_back(std::move(step)); }
  /// Where the operations find what `now` answers at every replay, in device memory.
  template <class T>
  const T* replayed(std::function<T()> now) {
    static_assert(std::is_trivially_copyable_v<T>);
    const size_t words = (sizeof(T) + 7) / 8, first = reserve(words);
    onReplay([this, first, now = std::move(now)] {
      const T value = now();
      std::memcpy(&values_[first], &value, sizeof value);
    });
    return reinterpret_cast<const T*>(static_cast<char*>(chunks_.back()->data()) + first % chunkWords * 8);
  }
  /// The step depends on whether this gradient is cleared.
  void consult(const TensorPtr& gradient);
  /// From here on it does not depend on what was before the step.
  void settle(const TensorPtr& gradient);
  /// Whether the step has made this tensor.
  bool owns(const Tensor& tensor) const { return tensor.arena() == arena_.get(); }
  void hold(std::shared_ptr<void> owner) { held_.push_back(std::move(owner)); }
  /// The memory of replayed(), for who may read it when the graph is gone.
  const std::vector<TensorPtr>& replayedMemory() const { return chunks_; }
  /// The step has called what only makes sense once.
  void refuse(const char* call);

 private:
  /// What is shared with queued jobs, which may outlive the graph.
  struct Recorded;
  /// A gradient that the step uses, as it was before.
  struct GradientState {
    TensorPtr gradient;
    bool cleared, zeroed;
    bool consulted;  // before the step has cleared it
  };
  static constexpr size_t chunkWords = 64;

  size_t reserve(size_t words);
  /// Of a gradient that the step uses for the first time.
  void note(const TensorPtr& gradient, bool consulted);
  void stop();
  /// Nothing was recorded after all.
  void abort();
  void prepareGradients();
  void queueValues();

  const std::shared_ptr<Device> device_;
  std::shared_ptr<Arena> arena_;
  std::shared_ptr<Recorded> recorded_;
  std::vector<std::function<void()>> steps_;
  std::vector<GradientState> gradients_;
  std::vector<std::weak_ptr<Tensor>> written_;  // all that may be read from outside
  std::vector<std::shared_ptr<void>> held_;
  std::vector<TensorPtr> chunks_;          // of replayed values
  std::vector<uint64_t> values_, queued_;  // [chunks·chunkWords] now, and as the device has them
  std::string refused_;
};
using GraphPtr = std::shared_ptr<Graph>;

}  // namespace moe
