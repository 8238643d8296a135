// The driver's objects and the queue of asynchronous work. cuda.h leaves its handles' structures open: here they are.
#pragma once

#include <cuda.h>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "base/injection.h"
#include "driver/calls.h"
#include "driver/handles.h"
#include "memory/arena.h"
#include "ptx/program.h"
#include "report/report.h"

namespace softgpu {

// A piece of asynchronous work and what must happen before it.
struct Work {
  std::function<void()> run;
  std::vector<std::shared_ptr<Work>> after;
  bool hostCallback = false;
  bool evenAfterErrors = false;
  bool demanded = false, done = false;
};
using WorkPtr = std::shared_ptr<Work>;

// A piece of work of a graph, and the nodes that must be done before it.
struct GraphNode {
  std::function<void()> run;
  bool hostCallback = false;
  bool evenAfterErrors = false;
  std::vector<size_t> after = {};
  const ptx::Kernel* kernel = nullptr;  // null for what launches none
};

}  // namespace softgpu

struct CUstream_st {
  softgpu::u64 id = 0;
  unsigned flags = 0;
  int priority = 0;
  softgpu::WorkPtr last;
  std::vector<softgpu::WorkPtr> waits;  // from cuStreamWaitEvent, for the next piece of work
  // Set while the stream is captured: work goes there instead of into the queue.
  CUgraph capture = nullptr;
  std::vector<size_t> captured;  // the nodes that the next one follows

  bool nonBlocking() const { return flags & CU_STREAM_NON_BLOCKING; }
};
struct CUevent_st {
  unsigned flags = 0;
  softgpu::WorkPtr recorded;
  std::shared_ptr<double> time = std::make_shared<double>(0);
  CUgraph capture = nullptr;  // recorded inside this capture
  std::vector<size_t> captured;
};
struct CUctx_st {
  int retained = 0;
  unsigned flags = 0;
};
struct CUmod_st {
  std::unique_ptr<softgpu::ptx::Module> program;
  std::vector<softgpu::u64> allocations;
};
struct CUfunc_st {
  std::string name;
  const softgpu::ptx::Kernel* kernel = nullptr;
  CUmodule module = nullptr;
  int maxDynamicShared = 48 * 1024;  // with the static part
  int carveout = -1;
};
struct CUlib_st {
  CUmodule module = nullptr;
};
struct CUgraph_st {
  std::vector<softgpu::GraphNode> nodes;
  // While it is captured.
  CUstream origin = nullptr;
  std::vector<CUstream> streams;
  CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_GLOBAL;
  std::thread::id thread;
  bool invalid = false;
};
struct CUgraphExec_st {
  std::vector<softgpu::GraphNode> nodes;
};
struct CUmemPoolHandle_st {
  cuuint64_t attributes[16] = {};
};

namespace softgpu {

class Device {
 public:
  std::recursive_mutex mutex;  // guards everything the API changes
  bool initialised = false;
  CUctx_st context;
  CUstream_st defaultStream;
  Handles<CUstream_st> streams;
  Handles<CUevent_st> events;
  Handles<CUmod_st> modules;
  Handles<CUfunc_st> functions;
  Handles<CUlib_st> libraries;
  Handles<CUgraph_st> graphs;
  Handles<CUgraphExec_st> executables;
  Handles<CUmemPoolHandle_st> pools;

  CUresult error() const { return error_; }
  void fail(CUresult error) {
    CUresult none = CUDA_SUCCESS;
    error_.compare_exchange_strong(none, error);
  }
  void clearError() { error_ = CUDA_SUCCESS; }

  // Appends work to a stream, or to the graph that captures it.
  void enqueue(CUstream stream, GraphNode node);
  void enqueue(CUstream stream, std::function<void()> run) { enqueue(stream, GraphNode{.run = std::move(run)}); }
  // Appends all work of a graph to a stream, in the order that the graph asks for.
  void launchGraph(CUstream stream, const std::vector<GraphNode>& nodes);
  // Blocks until the work and all that it follows are done.
  void finish(const WorkPtr& work);
  void finishAll();
  // True when done; otherwise lets at least one piece of work happen.
  bool poll(const WorkPtr& work);
  bool isDone(const WorkPtr& work);
  // Host functions must not call the API.
  bool isOwnThread() const;

  // The stream of a handle, or null for one that does not exist.
  CUstream resolve(CUstream stream);
  u64 nextId() { return ++ids_; }
  // Refuses the allocation that SOFTGPU_FAIL_ALLOC names.
  bool refusesAllocation() { return allocations_.strikes(); }
  // Ends the launch that SOFTGPU_FAIL_LAUNCH names as an illegal access does.
  bool failsLaunch() { return launches_.strikes(); }

 private:
  WorkPtr push(CUstream stream, GraphNode node, std::vector<WorkPtr> after);
  std::vector<WorkPtr> dependenciesOf(CUstream stream);
  void startThreads();
  void demand(const WorkPtr& work);
  bool waitsForCallback(const WorkPtr& work);
  void runQueue(bool hostCallbacks);
  WorkPtr pickReady(bool hostCallbacks);

  std::atomic<CUresult> error_ = CUDA_SUCCESS;
  std::atomic<u64> ids_ = 0;
  Injector allocations_{"SOFTGPU_FAIL_ALLOC"}, launches_{"SOFTGPU_FAIL_LAUNCH"};
  WorkPtr lastLegacy_;
  std::mutex queueMutex_;
  std::condition_variable changed_;
  std::vector<WorkPtr> pending_;
  std::mt19937_64 random_{options().seed};  // guarded by queueMutex_
  std::atomic<std::thread::id> threads_[2] = {};
};

Device& device();

// The checks at the head of nearly every entry point: the driver is initialised, the context is alive and current to
// this thread, and no device error came before.
CUresult usable();
bool isCurrent();

// A call that a capture of this thread, or a global one of any thread, forbids.
CUresult notCapturing();

// Implementations that several entry points share.
CUresult loadModule(CUmodule* out, const void* image, std::string* log);
CUresult unloadModule(CUmodule module);
CUresult findFunction(CUfunction* out, CUmodule module, const char* name);
int deviceAttribute(CUdevice_attribute attribute);

inline u64 addressOf(const void* p) { return reinterpret_cast<u64>(p); }

}  // namespace softgpu

#define SOFTGPU_API extern "C" __attribute__((visibility("default"))) CUresult CUDAAPI
#define SOFTGPU_TRY(expression) \
  if (CUresult softgpuResult = (expression); softgpuResult != CUDA_SUCCESS) return softgpuResult
// Counts the call and checks that the driver can serve it.
#define SOFTGPU_ENTER(kind) \
  SOFTGPU_CALL(kind);       \
  SOFTGPU_TRY(::softgpu::usable())
#define SOFTGPU_HANDLE(set, handle) \
  if (!::softgpu::device().set.has(handle)) return CUDA_ERROR_INVALID_HANDLE
#define SOFTGPU_NOT_NULL(pointer) \
  if (!(pointer)) return CUDA_ERROR_INVALID_VALUE
