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
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::work(int worker) {
  uint32_t seen = 0;
  for (;;) {
    waitWhileEqual(generation_, seen);
    ++seen;
    if (stopping_.load(std::memory_order_relaxed)) return;
    runOne(worker);
    if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) running_.notify_one();
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

void ThreadPool::fork(Entry entry, void* context) {
  entry_ = entry;
  context_ = context;
  if (!workers_.empty()) {
    running_.store(static_cast<int32_t>(workers_.size()), std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
  }
  runOne(0);
  for (int32_t left; (left = running_.load(std::memory_order_acquire)) != 0;) waitWhileEqual(running_, left);
  if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
}

}  // namespace moe::cpu
