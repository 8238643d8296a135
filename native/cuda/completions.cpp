#include "completions.h"

#include <utility>

namespace moe::cuda {

Completions::Completions(CUcontext context, CUstream stream)
    : context_(context), stream_(stream), thread_([this] { work(); }) {}

Completions::~Completions() {
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
  }
  changed_.notify_all();
  thread_.join();
  for (const CUevent event : spare_) driver().cuEventDestroy_v2(event);
}

void Completions::after(std::function<void(CUresult)> then, Passed passed) {
  CUevent event = nullptr;
  {
    std::lock_guard lock(mutex_);
    if (!spare_.empty()) {
      event = spare_.back();
      spare_.pop_back();
    }
  }
  if (!event) MOE_CUDA(cuEventCreate, &event, CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING);
  MOE_CUDA(cuEventRecord, event, stream_);
  {
    std::lock_guard lock(mutex_);
    items_.push_back({event, std::move(then), std::move(passed)});
  }
  changed_.notify_all();
}

void Completions::wake() {
  std::lock_guard lock(mutex_);
  changed_.notify_all();
}

void Completions::waitIdle() {
  std::unique_lock lock(mutex_);
  ++waiting_;
  changed_.notify_all();
  changed_.wait(lock, [this] { return items_.empty() && !running_; });
  --waiting_;
}

void Completions::work() {
  driver().cuCtxSetCurrent(context_);
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return closing_ || !items_.empty(); });
    if (items_.empty()) return;
    // A lost device never says that it has come so far: the driver does, to the first that asks.
    if (const Passed passed = items_.front().passed)
      changed_.wait(lock, [&] { return *passed || items_.size() > 1 || waiting_ > 0 || closing_; });
    Item item = std::move(items_.front());
    items_.pop_front();
    running_ = true;
    lock.unlock();
    item.then(item.passed && *item.passed ? CUDA_SUCCESS : driver().cuEventSynchronize(item.event));
    item.then = nullptr;
    lock.lock();
    spare_.push_back(item.event);
    running_ = false;
    changed_.notify_all();
  }
}

}  // namespace moe::cuda
