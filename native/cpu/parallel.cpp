#include "parallel.h"

#include <utility>

namespace moe::cpu {

ThreadPool::ThreadPool(int threads) {
  workers_.reserve(threads > 1 ? threads - 1 : 0);
  try {
    for (int worker = 1; worker < threads; ++worker) workers_.emplace_back([this, worker] { work(worker); });
  } catch (const std::exception&) {
    // The system has no more threads or memory: results do not depend on their number, so go on with what there is.
  }
}

ThreadPool::~ThreadPool() {
  stopping_.store(true, std::memory_order_relaxed);
  calls_.fetch_add(1, std::memory_order_release);
  calls_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::work(int worker) {
  uint32_t answered = 0, joined = 0;
  for (;;) {
    waitWhileEqual(calls_, answered);
    answered = calls_.load(std::memory_order_acquire);
    if (stopping_.load(std::memory_order_relaxed)) return;
    uint64_t fork = fork_.load(std::memory_order_acquire);
    // One that began before it was called has taken part in this fork already.
    while ((fork & isOpen) && numberOf(fork) != joined) {
      if (!fork_.compare_exchange_weak(fork, fork + oneJoined, std::memory_order_acq_rel)) continue;
      joined = numberOf(fork);
      runOne(worker);
      fork = fork_.fetch_add(oneDone, std::memory_order_acq_rel) + oneDone;
      if (doneIn(fork) == joinedIn(fork)) fork_.notify_one();
      break;
    }
  }
}

void ThreadPool::runOne(int worker) {
  try {
    entry_(context_, worker);
  } catch (...) {
    std::lock_guard lock(failureMutex_);
    if (!failure_) failure_ = std::current_exception();
  }
}

void ThreadPool::fork(Entry entry, void* context, bool everyone) {
  entry_ = entry;
  context_ = context;
  if (workers_.empty()) {
    runOne(0);
  } else {
    const uint32_t number = numberOf(fork_.load(std::memory_order_relaxed)) + 1;
    fork_.store(uint64_t{number} << 32 | isOpen, std::memory_order_release);
    calls_.fetch_add(1, std::memory_order_release);
    calls_.notify_all();
    runOne(0);
    uint64_t fork = fork_.load(std::memory_order_acquire);
    for (; everyone && doneIn(fork) < workers_.size(); fork = fork_.load(std::memory_order_acquire))
      waitWhileEqual(fork_, fork);
    fork = fork_.fetch_and(~isOpen, std::memory_order_acq_rel) & ~isOpen;
    for (; doneIn(fork) != joinedIn(fork); fork = fork_.load(std::memory_order_acquire)) waitWhileEqual(fork_, fork);
  }
  if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
}

}  // namespace moe::cpu
