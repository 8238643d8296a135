// The worker threads of one CPU device: a fork-join pool. The thread that calls takes part as worker 0. Which worker
// runs which index is not determined, so a body must never let a result depend on it.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

#include "../core/wait.h"

namespace moe::cpu {

/// What a worker takes at once.
inline constexpr int64_t tokensPerPiece = 64, rowsPerPiece = 32, elementsPerPiece = 1 << 14;

class ThreadPool {
 public:
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  /// body(worker) once on every thread, worker in [0, threads()). Rethrows the first exception after all have returned.
  template <class Body>
  void run(Body&& body) {
    forkBody(body, true);
  }

  /// body(index, worker) for every index in [0, count), handed out in rising order to whoever is free.
  template <class Body>
  void parallelFor(int64_t count, Body&& body) {
    if (count <= 1 || workers_.empty()) {
      for (int64_t index = 0; index < count; ++index) body(index, 0);
      return;
    }
    std::atomic<int64_t> next{0};
    // Who comes when all is handed out is not waited for: on a busy machine that may be long.
    forkBody(
        [&](int worker) {
          for (int64_t index; (index = next.fetch_add(1, std::memory_order_relaxed)) < count;) body(index, worker);
        },
        false);
  }

  /// body(begin, end, worker) over [0, count) in pieces of `grain`; the pieces do not depend on the number of threads.
  template <class Body>
  void parallelRanges(int64_t count, int64_t grain, Body&& body) {
    parallelFor((count + grain - 1) / grain, [&](int64_t piece, int worker) {
      const int64_t begin = piece * grain;
      body(begin, begin + grain < count ? begin + grain : count, worker);
    });
  }

  /// body(step, index, worker) for the indices [0, counts[step]) of every step, handed out in this order to whoever is
  /// free. A step begins when the one before is done; nobody waits for step 0.
  template <class Body>
  void parallelSteps(const std::vector<int64_t>& counts, Body&& body) {
    std::vector<std::atomic<int64_t>> left(counts.size());
    int64_t count = 0;
    for (size_t step = 0; step < counts.size(); ++step) {
      left[step].store(counts[step], std::memory_order_relaxed);
      count += counts[step];
    }
    parallelFor(count, [&](int64_t index, int worker) {
      size_t step = 0;
      for (; index >= counts[step]; ++step) index -= counts[step];
      size_t before = step > 0 ? step - 1 : 0;
      while (before > 0 && counts[before] == 0) --before;
      if (before > 0)
        for (int64_t n; (n = left[before].load(std::memory_order_acquire)) != 0;) waitWhileEqual(left[before], n);
      const Finished finished{left[step]};
      body(step, index, worker);
    });
  }

 private:
  using Entry = void (*)(void* context, int worker);

  /// Of an item of a step, also when its body throws: others wait for it.
  struct Finished {
    std::atomic<int64_t>& left;
    ~Finished() {
      if (left.fetch_sub(1, std::memory_order_acq_rel) == 1) left.notify_all();
    }
  };

  template <class Body>
  void forkBody(Body&& body, bool everyone) {
    fork([](void* context, int worker) { (*static_cast<std::remove_reference_t<Body>*>(context))(worker); },
         const_cast<void*>(static_cast<const void*>(&body)), everyone);
  }
  void fork(Entry entry, void* context, bool everyone);
  void work(int worker);
  void runOne(int worker);

  // Of fork_: the number of the fork, whether one may still join, how many workers have joined, and how many of these
  // are done.
  static constexpr uint64_t oneDone = 1, oneJoined = 1 << 15, isOpen = 1 << 30;
  static uint32_t numberOf(uint64_t fork) { return static_cast<uint32_t>(fork >> 32); }
  static uint32_t joinedIn(uint64_t fork) { return fork >> 15 & 0x7fff; }
  static uint32_t doneIn(uint64_t fork) { return fork & 0x7fff; }

  std::vector<std::thread> workers_;
  Entry entry_ = nullptr;
  void* context_ = nullptr;
  std::atomic<uint64_t> fork_{0};
  std::atomic<uint32_t> calls_{0};  // a new value wakes the workers
  std::atomic<bool> stopping_{false};
  std::mutex failureMutex_;
  std::exception_ptr failure_;
};

}  // namespace moe::cpu
