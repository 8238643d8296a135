// The driver's objects and the queue of asynchronous work. cuda.h leaves its handles' structures open: here they are.
#pragma once

#include <cuda.h>

#include <condition_variable>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "ptx/program.h"
#include "report/report.h"

namespace softgpu {

// A piece of asynchronous work and what must happen before it.
struct Work {
  std::function<void()> run;
  std::vector<std::shared_ptr<Work>> after;
  bool hostCallback = false;
  bool demanded = false, done = false;
};
using WorkPtr = std::shared_ptr<Work>;

}  // namespace softgpu

struct CUstream_st {
  softgpu::u64 id = 0;
  bool nonBlocking = false;
  int priority = 0;
  softgpu::WorkPtr last;
  std::vector<softgpu::WorkPtr> waits;  // from cuStreamWaitEvent, for the next piece of work
  softgpu::StreamCalls calls;
  // Set while the stream is captured: work goes there instead of into the queue.
  CUgraph capture = nullptr;
  bool captureOrigin = false;
};
struct CUevent_st {
  softgpu::WorkPtr recorded;
  CUgraph capture = nullptr;  // recorded inside this capture
  std::shared_ptr<double> time = std::make_shared<double>(0);
};
struct CUctx_st {
  int retained = 0;
};
struct CUmod_st {
  std::unique_ptr<softgpu::ptx::Module> program;
  std::vector<softgpu::u64> allocations;
  std::vector<std::unique_ptr<CUfunc_st>> functions;
};
struct CUfunc_st {
  const softgpu::ptx::Kernel* kernel = nullptr;
  CUmodule module = nullptr;
  int maxDynamicShared = 48 * 1024;
  int carveout = -1;
};
// Captured work in the order of capture, which respects every dependency of a legal capture.
struct CUgraph_st {
  std::vector<std::function<void()>> nodes;
  std::vector<CUstream> streams;
  bool invalid = false;
};
struct CUgraphExec_st {
  std::vector<std::function<void()>> nodes;
};

namespace softgpu {

class Device {
 public:
  std::recursive_mutex mutex;  // guards everything the API changes
  CUctx_st context;
  CUstream_st defaultStream;
  std::list<std::unique_ptr<CUstream_st>> streams;

  CUresult error() const { return error_; }
  void fail(CUresult error) {
    if (error_ == CUDA_SUCCESS) error_ = error;
  }
  void clearError() { error_ = CUDA_SUCCESS; }

  // Appends work to a stream, or to the graph that captures it.
  void enqueue(CUstream stream, std::function<void()> run, bool hostCallback = false);
  // Blocks until the work and all that it follows are done.
  void finish(const WorkPtr& work);
  void finishAll();
  // True when done; otherwise lets at least one piece of work happen.
  bool poll(const WorkPtr& work);
  bool isExecutor() const { return std::this_thread::get_id() == executor_; }

  CUstream resolve(CUstream stream);
  u64 nextId() { return ++ids_; }
  // Refuses the allocation that SOFTGPU_FAIL_ALLOC names.
  bool refusesAllocation();

 private:
  void push(const WorkPtr& work);
  void demand(const WorkPtr& work);
  void executorLoop();
  WorkPtr pickReady();

  CUresult error_ = CUDA_SUCCESS;
  u64 ids_ = 0, allocationsAsked_ = 0;
  WorkPtr lastLegacy_;
  std::mutex queueMutex_;
  std::condition_variable changed_;
  std::vector<WorkPtr> pending_;
  std::mt19937_64 random_{options().seed};
  std::thread::id executor_;  // set once the thread runs
};

Device& device();

// The checks at the head of nearly every entry point; null result: go on.
CUresult usable();

}  // namespace softgpu

#define SOFTGPU_API extern "C" __attribute__((visibility("default"))) CUresult CUDAAPI
#define SOFTGPU_TRY(expression) \
  if (CUresult softgpuResult = (expression); softgpuResult != CUDA_SUCCESS) return softgpuResult
