// The queue of asynchronous work. One thread executes it, as a device does beside its host, and another calls host
// functions. When work may run: with order "earliest" at once, with "latest" when somebody waits for it (or nobody has
// for a while: a device does not idle for ever), with "random" by the throw of a seeded die.
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

bool Device::isOwnThread() const {
  const std::thread::id self = std::this_thread::get_id();
  return self == threads_[0].load() || self == threads_[1].load();
}

CUresult usable() {
  Device& d = device();
  if (d.isOwnThread()) return CUDA_ERROR_NOT_PERMITTED;
  std::lock_guard lock(d.mutex);
  if (!d.initialised) return CUDA_ERROR_NOT_INITIALIZED;
  if (!isCurrent()) return CUDA_ERROR_INVALID_CONTEXT;
  if (d.context.retained == 0) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
  return d.error();
}

CUstream Device::resolve(CUstream stream) {
  if (stream == nullptr || stream == CU_STREAM_LEGACY || stream == CU_STREAM_PER_THREAD) return &defaultStream;
  return streams.has(stream) ? stream : nullptr;
}

void Device::enqueue(CUstream stream, GraphNode node) {
  if (stream->capture) {
    node.after = std::move(stream->captured);
    stream->captured = {stream->capture->nodes.size()};
    stream->capture->nodes.push_back(std::move(node));
    return;
  }
  stream->last = push(stream, std::move(node), dependenciesOf(stream));
}

void Device::launchGraph(CUstream stream, const std::vector<GraphNode>& nodes) {
  const std::vector<WorkPtr> before = dependenciesOf(stream);
  std::vector<WorkPtr> works;
  for (const GraphNode& node : nodes) {
    std::vector<WorkPtr> after;
    for (size_t k : node.after) after.push_back(works[k]);
    works.push_back(push(stream, node, node.after.empty() ? before : after));
  }
  works.insert(works.end(), before.begin(), before.end());
  stream->last = push(stream, {.run = [] {}}, std::move(works));
}

// What the next work of a stream follows. The default stream and the blocking ones wait for each other.
std::vector<WorkPtr> Device::dependenciesOf(CUstream stream) {
  std::vector<WorkPtr> after = std::move(stream->waits);
  stream->waits.clear();
  if (stream->last) after.push_back(stream->last);
  if (stream == &defaultStream) {
    streams.forEach([&](CUstream_st& other) {
      if (!other.nonBlocking() && other.last) after.push_back(other.last);
    });
  } else if (!stream->nonBlocking() && lastLegacy_) {
    after.push_back(lastLegacy_);
  }
  return after;
}

WorkPtr Device::push(CUstream stream, GraphNode node, std::vector<WorkPtr> after) {
  auto work = std::make_shared<Work>();
  work->run = std::move(node.run);
  work->hostCallback = node.hostCallback;
  work->evenAfterErrors = node.evenAfterErrors;
  work->after = std::move(after);
  if (stream == &defaultStream) lastLegacy_ = work;
  std::unique_lock lock(queueMutex_);
  pending_.push_back(work);
  startThreads();
  const bool now = options().order == Order::kEarliest || (options().order == Order::kRandom && random_() % 2);
  if (now) demand(work);
  changed_.notify_all();
  // The host never waits for its own functions: they may wait for it.
  if (now && !waitsForCallback(work)) changed_.wait(lock, [&] { return work->done; });
  return work;
}

void Device::startThreads() {
  if (threads_[0].load() != std::thread::id()) return;
  for (int k : {0, 1}) {
    std::thread thread([this, k] { runQueue(k == 1); });
    threads_[k] = thread.get_id();
    thread.detach();
  }
}

bool Device::waitsForCallback(const WorkPtr& work) {
  if (work->done) return false;
  return work->hostCallback ||
         std::any_of(work->after.begin(), work->after.end(), [this](const WorkPtr& w) { return waitsForCallback(w); });
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

bool Device::isDone(const WorkPtr& work) {
  std::lock_guard lock(queueMutex_);
  return work->done;
}

WorkPtr Device::pickReady(bool hostCallbacks) {
  std::vector<WorkPtr> ready;
  for (const WorkPtr& work : pending_) {
    if (!work->demanded || work->hostCallback != hostCallbacks) continue;
    if (std::all_of(work->after.begin(), work->after.end(), [](const WorkPtr& w) { return w->done; })) {
      ready.push_back(work);
    }
  }
  if (ready.empty()) return nullptr;
  if (options().order == Order::kRandom) return ready[random_() % ready.size()];
  // Of streams that do not wait for each other, the one that was asked last overtakes the others.
  return options().order == Order::kLatest ? ready.back() : ready.front();
}

void Device::runQueue(bool hostCallbacks) {
  constexpr auto kIdle = 5ms;
  std::unique_lock lock(queueMutex_);
  while (true) {
    WorkPtr work = pickReady(hostCallbacks);
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
    // After a device error nothing runs any more, host functions neither; stream callbacks are told of the error.
    if (error_ == CUDA_SUCCESS || work->evenAfterErrors) work->run();
    lock.lock();
    work->done = true;
    work->run = nullptr;
    work->after.clear();
    std::erase(pending_, work);
    changed_.notify_all();
  }
}

}  // namespace softgpu
