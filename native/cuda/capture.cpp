#include "capture.h"

#include <utility>

#include "backend.h"

namespace moe::cuda {

void Executables::add(CUgraphExec executable) {
  std::lock_guard lock(mutex_);
  live_.insert(executable);
}

void Executables::destroy(CUgraphExec executable) {
  std::lock_guard lock(mutex_);
  if (live_.erase(executable) > 0) driver().cuGraphExecDestroy(executable);
}

void Executables::close() {
  std::lock_guard lock(mutex_);
  for (const CUgraphExec executable : live_) driver().cuGraphExecDestroy(executable);
  live_.clear();
}

CudaCapture::~CudaCapture() {
  if (executable) executables_->destroy(executable);
  std::vector<uint32_t> numbers;
  for (const Fallible& operation : fallible) numbers.push_back(operation.number);
  faults_->end(numbers);
}

namespace {

/// A graph is timed as a whole.
struct Untimed {
  bool& timing;
  const bool before = std::exchange(timing, false);
  ~Untimed() { timing = before; }
};

}  // namespace

std::unique_ptr<Capture> CudaBackend::capture(const std::vector<HealthPtr>& inputs, size_t count,
                                              const std::function<void()>& operations) {
  context_->makeCurrent();
  // To clear the memory of statuses must not become part of the graph.
  statuses_->clear(statusesPerOperation * count + 1);
  auto made = std::make_unique<CudaCapture>(executables_, faults_);
  made->entry = std::make_shared<CudaOutcome>(statuses_, true);
  for (const HealthPtr& input : inputs) input->outcome = made->entry;

  struct Ended {
    CUgraph graph = nullptr;
    ~Ended() {
      if (graph) driver().cuGraphDestroy(graph);
    }
  } ended;
  const Untimed untimed{timing_};
  // Relaxed: other threads of the process may allocate meanwhile.
  MOE_CUDA(cuStreamBeginCapture_v2, stream_.get(), CU_STREAM_CAPTURE_MODE_RELAXED);
  capturing_ = made.get();
  try {
    operations();
  } catch (...) {
    capturing_ = nullptr;
    driver().cuStreamEndCapture(stream_.get(), &ended.graph);
    throw;
  }
  capturing_ = nullptr;
  MOE_CUDA(cuStreamEndCapture, stream_.get(), &ended.graph);
  CUgraphExec executable = nullptr;
  MOE_CUDA(cuGraphInstantiateWithFlags, &executable, ended.graph, 0);
  executables_->add(executable);
  made->executable = executable;
  return made;
}

void CudaBackend::replay(Capture& capture, const std::vector<HealthPtr>& inputs) {
  auto& c = static_cast<CudaCapture&>(capture);
  context_->makeCurrent();
  const Untimed untimed{timing_};
  if (untimed.before) timed_.push_back({"graph", {}, {}});
  if (untimed.before) timed_.back().from.record(stream_.get());
  std::vector<const Status*> statuses = distinctStatuses(inputs);
  const bool good = statuses.empty();
  if (!good) {
    mergeInto(c.entry->status, statuses, 0);
  } else if (!c.entryGood) {
    MOE_CUDA(cuMemsetD8Async, address(c.entry->status), 0xff, sizeof(Status), stream_.get());
  }
  c.entryGood = good;
  MOE_CUDA(cuGraphLaunch, c.executable, stream_.get());
  // The next replay overwrites what this one finds.
  std::vector<const Status*> found;
  for (const auto& [number, outcome] : c.fallible) {
    faults_->renew(number);
    found.push_back(outcome->status);
  }
  if (!found.empty()) {
    const auto outcome = std::make_shared<CudaOutcome>(statuses_);
    noteRecent({outcome, 0, true});
    mergeInto(outcome->status, found, 0);
  }
  if (untimed.before) timed_.back().to.record(stream_.get());
}

}  // namespace moe::cuda
