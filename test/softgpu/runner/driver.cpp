// What a backend relies on beyond launches: order within and between streams, capture and replay, and honest errors.
#include "driver.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <thread>

#include "gpu.h"

namespace runner {
namespace {

// step: x[0] = x[0] · 3 + k. Not commutative, so that the order of steps shows.
const char* kPtx = R"(.version 8.0
.target sm_80
.address_size 64
.global .align 4 .u32 answer = 42;
// Every thread writes its coordinates and its grid's extents to eight words of its own.
.visible .entry coordinates(.param .u64 out) {
  .reg .b64 %o; .reg .b32 %t<8>, %n;
  ld.param.u64 %o, [out];
  mov.u32 %t0, %tid.x; mov.u32 %t1, %tid.y; mov.u32 %t2, %tid.z;
  mov.u32 %t3, %ctaid.x; mov.u32 %t4, %ctaid.y; mov.u32 %t5, %ctaid.z;
  mov.u32 %n, %nctaid.y; mad.lo.u32 %n, %t5, %n, %t4; mov.u32 %t6, %nctaid.x; mad.lo.u32 %n, %n, %t6, %t3;
  mov.u32 %t6, %ntid.z; mad.lo.u32 %n, %n, %t6, %t2; mov.u32 %t6, %ntid.y; mad.lo.u32 %n, %n, %t6, %t1;
  mov.u32 %t6, %ntid.x; mad.lo.u32 %n, %n, %t6, %t0;
  mad.wide.u32 %o, %n, 32, %o;
  mov.u32 %t6, %nctaid.z; mov.u32 %t7, %laneid;
  st.global.v4.u32 [%o], {%t0, %t1, %t2, %t3}; st.global.v4.u32 [%o+16], {%t4, %t5, %t6, %t7};
  ret;
}
.visible .entry step(.param .u64 x, .param .u32 k) {
  .reg .b64 %x; .reg .b32 %v, %k;
  ld.param.u64 %x, [x]; ld.param.u32 %k, [k];
  ld.global.u32 %v, [%x]; mad.lo.u32 %v, %v, 3, %k; st.global.u32 [%x], %v;
  ret;
})";

class Stream {
 public:
  Stream() { CHECK(cuStreamCreate(&stream_, CU_STREAM_NON_BLOCKING)); }
  ~Stream() { cuStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  operator CUstream() const { return stream_; }

 private:
  CUstream stream_ = nullptr;
};

void step(CUfunction f, CUstream stream, CUdeviceptr x, uint32_t k) {
  void* arguments[] = {&x, &k};
  CHECK(cuLaunchKernel(f, 1, 1, 1, 1, 1, 1, 0, stream, arguments, nullptr));
}

int failed = 0;
void expect(const char* what, bool right) {
  std::printf("%s %s\n", right ? "ok  " : "FAIL", what);
  failed += !right;
}

// A grid and blocks of three dimensions.
void checkCoordinates(const Module& module) {
  constexpr unsigned kGrid[] = {2, 3, 4}, kBlock[] = {5, 2, 3}, kThreads = 2 * 3 * 4 * 5 * 2 * 3;
  Buffer<uint32_t> out(kThreads * 8);
  CUdeviceptr address = out.address();
  void* arguments[] = {&address};
  CHECK(cuLaunchKernel(module.function("coordinates"), kGrid[0], kGrid[1], kGrid[2], kBlock[0], kBlock[1], kBlock[2], 0,
                       nullptr, arguments, nullptr));
  const std::vector<uint32_t> got = out.read();
  bool right = true;
  for (unsigned n = 0; n < kThreads; ++n) {
    const unsigned thread = n % 30, block = n / 30;
    const unsigned expected[] = {thread % 5,    thread / 5 % 2, thread / 10, block % 2,
                                 block / 2 % 3, block / 6,      4,           thread};
    right &= std::equal(expected, expected + 8, got.begin() + n * 8);
  }
  expect("threads and blocks have their coordinates", right);
}

}  // namespace

int checkDriver() {
  Module module(kPtx);
  checkCoordinates(module);
  CUfunction f = module.function("step");
  Buffer<uint32_t> x(std::vector<uint32_t>{1});
  auto reset = [&] { CHECK(cuMemsetD32(x.address(), 1, 1)); };

  {
    Stream a, b;
    CUevent event;
    CHECK(cuEventCreate(&event, 0));
    step(f, a, x.address(), 5);
    CHECK(cuEventRecord(event, a));
    CHECK(cuStreamWaitEvent(b, event, 0));
    step(f, b, x.address(), 7);
    CHECK(cuStreamSynchronize(b));
    expect("a stream that waits for an event of another runs after it", x.read()[0] == (1 * 3 + 5) * 3 + 7);
    expect("the event is complete", cuEventQuery(event) == CUDA_SUCCESS);
    CHECK(cuEventDestroy(event));
  }
  {
    reset();
    Stream s;
    CHECK(cuStreamBeginCapture(s, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    step(f, s, x.address(), 1);
    step(f, s, x.address(), 2);
    expect("waiting for a captured stream is refused", cuStreamQuery(s) == CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    CUgraph graph = nullptr;
    expect("and ends the capture", cuStreamEndCapture(s, &graph) == CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    CHECK(cuStreamBeginCapture(s, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    step(f, s, x.address(), 1);
    step(f, s, x.address(), 2);
    CHECK(cuStreamEndCapture(s, &graph));
    CUgraphExec exec = nullptr;
    CHECK(cuGraphInstantiate(&exec, graph, 0));
    expect("capture runs nothing", x.read()[0] == 1);
    CHECK(cuGraphLaunch(exec, s));
    CHECK(cuGraphLaunch(exec, s));
    CHECK(cuStreamSynchronize(s));
    uint32_t expected = 1;
    for (int k = 0; k < 2; ++k) expected = (expected * 3 + 1) * 3 + 2;
    expect("a graph replays what was captured", x.read()[0] == expected);
    CHECK(cuGraphExecDestroy(exec));
    CHECK(cuGraphDestroy(graph));
  }
  {
    // Nobody waits for this one: a device gets there by itself.
    Stream s;
    std::atomic<bool> called = false;
    CHECK(cuLaunchHostFunc(
        s, [](void* flag) { *static_cast<std::atomic<bool>*>(flag) = true; }, &called));
    while (!called) std::this_thread::yield();
    expect("a host callback comes without a wait", called);
  }
  {
    CUdeviceptr answer = 0;
    size_t bytes = 0;
    CUmodule raw = nullptr;
    CHECK(cuModuleLoadData(&raw, kPtx));
    CHECK(cuModuleGetGlobal(&answer, &bytes, raw, "answer"));
    uint32_t value = 0;
    CHECK(cuMemcpyDtoH(&value, answer, 4));
    expect("a module's variable has its initial value", value == 42 && bytes == 4);
    CUfunction unknown = nullptr;
    expect("an unknown kernel is not found", cuModuleGetFunction(&unknown, raw, "nothing") == CUDA_ERROR_NOT_FOUND);
    CHECK(cuModuleUnload(raw));
  }
  {
    CUmodule none = nullptr;
    expect("a module for a newer device has no image for this one",
           cuModuleLoadData(&none, ".version 9.0\n.target sm_999\n.address_size 64\n") == CUDA_ERROR_NO_BINARY_FOR_GPU);
    expect("an unknown opcode is invalid PTX",
           cuModuleLoadData(&none, ".version 8.0\n.target sm_80\n.address_size 64\n.entry e() { frobnicate.u32 1; }") ==
               CUDA_ERROR_INVALID_PTX);
    CUdeviceptr p = 0;
    expect("more than there is, is out of memory", cuMemAlloc(&p, size_t{1} << 40) == CUDA_ERROR_OUT_OF_MEMORY);
    void* address = nullptr;
    CHECK(cuGetProcAddress("cuMemAlloc", &address, 12000, 0, nullptr));
    expect("entry points are found by name", address == reinterpret_cast<void*>(&cuMemAlloc));
  }
  std::printf("%d failed\n", failed);
  return failed ? 1 : 0;
}

}  // namespace runner
