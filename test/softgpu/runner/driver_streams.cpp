// Order within and between streams, host functions, capture and replay.
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <thread>

#include "driver.h"

namespace runner {
namespace {

uint32_t afterSteps(uint32_t x, std::initializer_list<uint32_t> steps) {
  for (uint32_t k : steps) x = x * 3 + k;
  return x;
}

void set(const Buffer<uint32_t>& x, uint32_t value) { CHECK(cuMemsetD32(x.address(), value, 1)); }

CUgraphExec capture(CUstream s, const std::function<void()>& work) {
  CUgraph graph = nullptr;
  CUgraphExec exec = nullptr;
  CHECK(cuStreamBeginCapture(s, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
  work();
  CHECK(cuStreamEndCapture(s, &graph));
  CHECK(cuGraphInstantiate(&exec, graph, 0));
  CHECK(cuGraphDestroy(graph));
  return exec;
}

}  // namespace

void checkStreams(const Module& module) {
  CUfunction f = module.function("step");
  Buffer<uint32_t> x(std::vector<uint32_t>{1});
  {
    Stream a, b;
    Event event;
    step(f, a, x.address(), 5);
    CHECK(cuEventRecord(event, a));
    CHECK(cuStreamWaitEvent(b, event, 0));
    step(f, b, x.address(), 7);
    CHECK(cuStreamSynchronize(b));
    expect("a stream that waits for an event of another runs after it", x.read()[0] == afterSteps(1, {5, 7}));
    expect("the event is complete", cuEventQuery(event) == CUDA_SUCCESS);
  }
  {
    // Two streams that only wait for the same host function: a program that forgets the event between them gets what it
    // asked last first with order "latest", and the other way round with "earliest".
    set(x, 1);
    Buffer<uint32_t> y(std::vector<uint32_t>{0});
    Stream gate, a, b;
    Event opened;
    std::atomic<bool> open = false;
    CHECK(cuLaunchHostFunc(
        gate,
        [](void* flag) {
          while (!*static_cast<std::atomic<bool>*>(flag)) std::this_thread::yield();
        },
        &open));
    CHECK(cuEventRecord(opened, gate));
    CHECK(cuStreamWaitEvent(a, opened, 0));
    CHECK(cuStreamWaitEvent(b, opened, 0));
    step(f, a, x.address(), 5);
    CHECK(cuMemcpyDtoDAsync(y.address(), x.address(), sizeof(uint32_t), b));
    open = true;
    CHECK(cuCtxSynchronize());
    const std::string order = std::getenv("SOFTGPU_ORDER") ? std::getenv("SOFTGPU_ORDER") : "latest";
    const uint32_t before = 1, after = afterSteps(1, {5}), got = y.read()[0];
    expect("streams without an event between them overtake each other", order == "latest" ? got == before
                                                                        : order == "earliest"
                                                                            ? got == after
                                                                            : got == before || got == after);
  }
  {
    // Blocking streams and the default stream wait for each other, without any event.
    set(x, 1);
    Stream a(CU_STREAM_DEFAULT), b(CU_STREAM_DEFAULT);
    step(f, a, x.address(), 1);
    step(f, nullptr, x.address(), 2);
    step(f, b, x.address(), 3);
    CHECK(cuStreamSynchronize(b));
    expect("the default stream orders blocking streams", x.read()[0] == afterSteps(1, {1, 2, 3}));
  }
  {
    // Destroyed with work in it, which still runs.
    set(x, 1);
    Event event;
    {
      Stream s;
      step(f, s, x.address(), 9);
      CHECK(cuEventRecord(event, s));
    }
    CHECK(cuEventSynchronize(event));
    expect("work of a destroyed stream still runs", x.read()[0] == afterSteps(1, {9}));
  }
  {
    Event start, end, untimed(CU_EVENT_DISABLE_TIMING);
    float milliseconds = -1;
    CHECK(cuEventRecord(start, nullptr));
    CHECK(cuEventRecord(untimed, nullptr));
    CHECK(cuEventRecord(end, nullptr));
    CHECK(cuEventSynchronize(end));
    expect("events measure time", cuEventElapsedTime(&milliseconds, start, end) == CUDA_SUCCESS && milliseconds >= 0);
    expect("but not without timing", cuEventElapsedTime(&milliseconds, untimed, end) == CUDA_ERROR_INVALID_HANDLE);
    Event fresh;
    expect("an event never recorded is complete", cuEventQuery(fresh) == CUDA_SUCCESS);
  }
  int least = 0, greatest = 0, priority = 0;
  CHECK(cuCtxGetStreamPriorityRange(&least, &greatest));
  CUstream s = nullptr;
  CHECK(cuStreamCreateWithPriority(&s, CU_STREAM_NON_BLOCKING, greatest));
  CHECK(cuStreamGetPriority(s, &priority));
  unsigned flags = 0;
  CHECK(cuStreamGetFlags(s, &flags));
  expect("a stream keeps its priority and flags", priority == greatest && flags == CU_STREAM_NON_BLOCKING);
  CHECK(cuStreamDestroy(s));
}

void checkHostFunctions(const Module& module) {
  CUfunction f = module.function("step");
  {
    // Nobody waits for this one: a device gets there by itself.
    Stream s;
    std::atomic<bool> called = false;
    CHECK(cuLaunchHostFunc(
        s, [](void* flag) { *static_cast<std::atomic<bool>*>(flag) = true; }, &called));
    while (!called) std::this_thread::yield();
    expect("a host function comes without a wait", called);
  }
  {
    // In stream order, between a copy and another one, on another thread.
    struct Seen {
      uint32_t* host;
      uint32_t value = 0;
      std::thread::id thread;
      CUresult insideCall = CUDA_SUCCESS;
    };
    Buffer<uint32_t> x(std::vector<uint32_t>{1});
    void* pinned = nullptr;
    CHECK(cuMemHostAlloc(&pinned, 4, 0));
    Seen seen{.host = static_cast<uint32_t*>(pinned), .thread = {}};
    Stream s;
    step(f, s, x.address(), 4);
    CHECK(cuMemcpyDtoHAsync(pinned, x.address(), 4, s));
    auto look = [](void* p) {
      Seen& mine = *static_cast<Seen*>(p);
      mine.value = *mine.host;
      mine.thread = std::this_thread::get_id();
      CUdeviceptr q = 0;
      mine.insideCall = cuMemAlloc(&q, 16);
    };
    CHECK(cuLaunchHostFunc(s, look, &seen));
    step(f, s, x.address(), 5);
    CHECK(cuMemcpyDtoHAsync(pinned, x.address(), 4, s));
    CHECK(cuStreamSynchronize(s));
    expect("a host function sees what came before it in its stream", seen.value == afterSteps(1, {4}));
    expect("and what follows waits for it", *seen.host == afterSteps(1, {4, 5}));
    expect("it runs on a thread of its own",
           seen.thread != std::thread::id() && seen.thread != std::this_thread::get_id());
    expect("it must not call the API", seen.insideCall == CUDA_ERROR_NOT_PERMITTED);
    CHECK(cuMemFreeHost(pinned));
  }
  {
    // One that blocks holds up its own stream, not the device: it is released by what another stream did.
    struct Gate {
      std::mutex mutex;
      std::condition_variable changed;
      bool open = false;
    } gate;
    Buffer<uint32_t> x(std::vector<uint32_t>{1}), y(std::vector<uint32_t>{1});
    Stream a, b;
    CHECK(cuLaunchHostFunc(
        a,
        [](void* p) {
          Gate& g = *static_cast<Gate*>(p);
          std::unique_lock lock(g.mutex);
          g.changed.wait(lock, [&] { return g.open; });
        },
        &gate));
    step(f, a, x.address(), 1);
    step(f, b, y.address(), 2);
    CHECK(cuStreamSynchronize(b));
    expect("a host function that blocks leaves other streams alone", cuStreamQuery(a) == CUDA_ERROR_NOT_READY);
    {
      std::lock_guard lock(gate.mutex);
      gate.open = true;
    }
    gate.changed.notify_all();
    CHECK(cuStreamSynchronize(a));
    expect("and its own stream goes on when it returns", x.read()[0] == afterSteps(1, {1}));
  }
  {
    // Many, in order.
    std::vector<int> order;
    struct Note {
      std::vector<int>* order;
      int k;
    };
    std::vector<Note> notes;
    for (int k = 0; k < 20; ++k) notes.push_back({&order, k});
    Stream s;
    for (Note& note : notes) {
      CHECK(cuLaunchHostFunc(
          s,
          [](void* p) {
            const Note& n = *static_cast<Note*>(p);
            n.order->push_back(n.k);
          },
          &note));
    }
    CHECK(cuStreamSynchronize(s));
    expect("host functions of a stream keep their order",
           order.size() == 20 && std::is_sorted(order.begin(), order.end()));
  }
}

void checkGraphs(const Module& module) {
  CUfunction f = module.function("step");
  Buffer<uint32_t> x(std::vector<uint32_t>{1}), y(std::vector<uint32_t>{1});
  Stream s, other;
  CUgraph graph = nullptr;
  {
    CHECK(cuStreamBeginCapture(s, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    step(f, s, x.address(), 1);
    expect("waiting for a captured stream is refused", cuStreamQuery(s) == CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    expect("and ends the capture", cuStreamEndCapture(s, &graph) == CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    CHECK(cuStreamBeginCapture(s, CU_STREAM_CAPTURE_MODE_GLOBAL));
    CUdeviceptr p = 0;
    expect("so is an allocation", cuMemAlloc(&p, 64) == CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    expect("with the same end", cuStreamEndCapture(s, &graph) == CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
  }
  {
    CUgraphExec exec = capture(s, [&] {
      step(f, s, x.address(), 1);
      step(f, s, x.address(), 2);
    });
    expect("capture runs nothing", x.read()[0] == 1);
    CHECK(cuGraphLaunch(exec, s));
    CHECK(cuGraphLaunch(exec, s));
    step(f, s, x.address(), 3);
    CHECK(cuStreamSynchronize(s));
    expect("a graph replays what was captured, in its stream's order", x.read()[0] == afterSteps(1, {1, 2, 1, 2, 3}));
    // The same shape with other arguments.
    CHECK(cuStreamBeginCapture(s, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    step(f, s, x.address(), 8);
    step(f, s, x.address(), 9);
    CHECK(cuStreamEndCapture(s, &graph));
    CUgraphExecUpdateResultInfo info;
    CHECK(cuGraphExecUpdate(exec, graph, &info));
    CHECK(cuGraphDestroy(graph));
    set(x, 1);
    CHECK(cuGraphLaunch(exec, s));
    CHECK(cuStreamSynchronize(s));
    expect("an executable graph can be updated", x.read()[0] == afterSteps(1, {8, 9}));
    CHECK(cuStreamBeginCapture(s, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    step(f, s, x.address(), 8);
    CHECK(cuStreamEndCapture(s, &graph));
    expect("but not to another shape", cuGraphExecUpdate(exec, graph, &info) == CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE);
    CHECK(cuGraphDestroy(graph));
    CHECK(cuGraphExecDestroy(exec));
  }
  {
    // Fork and join: the branches are free of each other, the step after the join follows both.
    set(x, 1), set(y, 1);
    Event forked, joined;
    CUgraphExec exec = capture(s, [&] {
      step(f, s, x.address(), 1);
      CHECK(cuEventRecord(forked, s));
      CHECK(cuStreamWaitEvent(other, forked, 0));
      step(f, other, y.address(), 5);
      CHECK(cuEventRecord(joined, other));
      step(f, s, x.address(), 2);
      CHECK(cuStreamWaitEvent(s, joined, 0));
      CHECK(cuMemcpyDtoDAsync(x.address(), y.address(), 4, s));
    });
    CHECK(cuGraphLaunch(exec, s));
    CHECK(cuStreamSynchronize(s));
    expect("a captured fork joins", x.read()[0] == afterSteps(1, {5}));
    CHECK(cuGraphExecDestroy(exec));
    CHECK(cuStreamBeginCapture(s, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    CHECK(cuEventRecord(forked, s));
    CHECK(cuStreamWaitEvent(other, forked, 0));
    step(f, other, y.address(), 5);
    expect("a fork without a join is no graph", cuStreamEndCapture(s, &graph) == CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
  }
}

}  // namespace runner
