// The queue of asynchronous work. One thread executes it, as a device does beside its host. When it may: with order
// "earliest" at once, with "latest" when somebody waits for it (or nobody has for a while: a device does not idle for
// ever), with "random" by the throw of a seeded die.
#include <algorithm>
#include <chrono>

#include "driver/state.h"

namespace softgpu {

using namespace std::chrono_literals;

Device& device() {
  // Never destroyed: other static destructors may still call the driver.
  static Device* instance = new Device;
  return *instance;
}

CUresult usable() {
  Device& d = device();
  std::lock_guard lock(d.mutex);
  if (d.isExecutor()) return CUDA_ERROR_NOT_PERMITTED;
  if (d.context.retained == 0) return CUDA_ERROR_INVALID_CONTEXT;
  return d.error();
}

CUstream Device::resolve(CUstream stream) {
  return stream == nullptr || stream == CU_STREAM_LEGACY || stream == CU_STREAM_PER_THREAD ? &defaultStream : stream;
}

bool Device::refusesAllocation() { return ++allocationsAsked_ == options().failAllocation; }

void Device::enqueue(CUstream stream, std::function<void()> run, bool hostCallback) {
  if (stream->capture) {
    stream->capture->nodes.push_back(std::move(run));
    return;
  }
  auto work = std::make_shared<Work>();
  work->run = std::move(run);
  work->hostCallback = hostCallback;
  work->after = std::move(stream->waits);
  stream->waits.clear();
  if (stream->last) work->after.push_back(stream->last);
  // The default stream and the blocking ones wait for each other.
  if (stream == &defaultStream) {
    for (auto& other : streams) {
      if (!other->nonBlocking && other->last) work->after.push_back(other->last);
    }
    lastLegacy_ = work;
  } else if (!stream->nonBlocking && lastLegacy_) {
    work->after.push_back(lastLegacy_);
  }
  stream->last = work;
  push(work);
  const bool now = options().order == Order::kEarliest || (options().order == Order::kRandom && random_() % 2);
  if (now && hostCallback) {
    std::lock_guard lock(queueMutex_);
    demand(work);
    changed_.notify_all();
  } else if (now) {
    finish(work);
  }
}

void Device::push(const WorkPtr& work) {
  std::lock_guard lock(queueMutex_);
  pending_.push_back(work);
  if (executor_ == std::thread::id()) {
    std::thread thread([this] { executorLoop(); });
    executor_ = thread.get_id();
    thread.detach();
  }
  changed_.notify_all();
}

void Device::demand(const WorkPtr& work) {
  std::vector<WorkPtr> stack{work};
  while (!stack.empty()) {
    WorkPtr next = stack.back();
    stack.pop_back();
    if (next->demanded) continue;
    next->demanded = true;
    stack.insert(stack.end(), next->after.begin(), next->after.end());
  }
}

void Device::finish(const WorkPtr& work) {
  if (!work) return;
  std::unique_lock lock(queueMutex_);
  demand(work);
  changed_.notify_all();
  changed_.wait(lock, [&] { return work->done; });
}

void Device::finishAll() {
  std::unique_lock lock(queueMutex_);
  for (const WorkPtr& work : pending_) demand(work);
  changed_.notify_all();
  changed_.wait(lock, [&] { return pending_.empty(); });
}

bool Device::poll(const WorkPtr& work) {
  if (!work) return true;
  std::lock_guard lock(queueMutex_);
  if (work->done) return true;
  demand(work);
  changed_.notify_all();
  return false;
}

WorkPtr Device::pickReady() {
  std::vector<WorkPtr> ready;
  for (const WorkPtr& work : pending_) {
    if (!work->demanded) continue;
    if (std::all_of(work->after.begin(), work->after.end(), [](const WorkPtr& w) { return w->done; })) {
      ready.push_back(work);
    }
  }
  if (ready.empty()) return nullptr;
  return ready[options().order == Order::kRandom ? random_() % ready.size() : 0];
}

void Device::executorLoop() {
  constexpr auto kIdle = 5ms;
  std::unique_lock lock(queueMutex_);
  while (true) {
    WorkPtr work = pickReady();
    if (!work) {
      const size_t before = pending_.size();
      const bool timedOut = changed_.wait_for(lock, kIdle) == std::cv_status::timeout;
      if (timedOut && before == pending_.size()) {
        for (const WorkPtr& waiting : pending_) demand(waiting);
      }
      if (pending_.empty()) changed_.wait(lock, [&] { return !pending_.empty(); });
      continue;
    }
    lock.unlock();
    // After a device error nothing runs any more, but host callbacks are still called.
    if (error_ == CUDA_SUCCESS || work->hostCallback) work->run();
    lock.lock();
    work->done = true;
    work->run = nullptr;
    work->after.clear();
    std::erase(pending_, work);
    changed_.notify_all();
  }
}

}  // namespace softgpu
