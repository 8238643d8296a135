#include "queue.h"

#include "wait.h"

namespace moe {

Queue::Queue() : thread_([this] { work(); }) {}

Queue::~Queue() { close(); }

void Queue::push(std::unique_ptr<Job> job) {
  if (closed_) return;
  const uint32_t position = pushed_.load(std::memory_order_relaxed);
  for (uint32_t done; position - (done = finished_.load(std::memory_order_acquire)) >= capacity;)
    waitWhileEqual(finished_, done);
  ring_[position % capacity] = std::move(job);
  pushed_.store(position + 1, std::memory_order_release);
  pushed_.notify_one();
}

void Queue::waitIdle() {
  if (closed_) return;
  const uint32_t target = pushed_.load(std::memory_order_relaxed);
  for (uint32_t done; (done = finished_.load(std::memory_order_acquire)) != target;) waitWhileEqual(finished_, done);
}

void Queue::close() {
  if (closed_) return;
  closed_ = true;
  closing_.store(true, std::memory_order_release);
  pushed_.fetch_add(1, std::memory_order_release);  // wakes the thread; it looks at closing_ before the ring
  pushed_.notify_one();
  thread_.join();
  for (std::unique_ptr<Job>& job : ring_) job.reset();
}

void Queue::work() {
  for (uint32_t position = 0;; ++position) {
    while (pushed_.load(std::memory_order_acquire) == position) waitWhileEqual(pushed_, position);
    if (closing_.load(std::memory_order_acquire)) return;
    std::unique_ptr<Job> job = std::move(ring_[position % capacity]);
    job->run();
    job.reset();
    finished_.store(position + 1, std::memory_order_release);
    finished_.notify_all();
  }
}

}  // namespace moe
