#include "driver.h"

#include <algorithm>
#include <cstdio>

extern "C" CUresult cuProfilerStart();
extern "C" CUresult cuProfilerStop();

namespace runner {

const char* const kDriverPtx = R"(.version 8.0
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
}
// Lane l: out[l] = *pointers[l].
.visible .entry follow(.param .u64 pointers, .param .u64 out) {
  .reg .b64 %p, %o; .reg .b32 %v, %lane;
  ld.param.u64 %p, [pointers]; ld.param.u64 %o, [out]; mov.u32 %lane, %laneid;
  mad.wide.u32 %p, %lane, 8, %p; mad.wide.u32 %o, %lane, 4, %o;
  ld.global.u64 %p, [%p]; ld.global.u32 %v, [%p]; st.global.u32 [%o], %v;
  ret;
}
// Every thread's vote is yes: out[thread] = whether all are.
.visible .entry vote(.param .u64 out) {
  .reg .b64 %o; .reg .b32 %t, %v; .reg .pred %p, %q;
  ld.param.u64 %o, [out]; mov.u32 %t, %tid.x; mad.wide.u32 %o, %t, 4, %o;
  setp.ge.u32 %p, %t, 0; bar.red.and.pred %q, 1, 64, %p;
  selp.u32 %v, 1, 0, %q; st.global.u32 [%o], %v;
  ret;
}
.visible .entry count(.param .u64 x) {
  .reg .b64 %x;
  ld.param.u64 %x, [x];
  red.global.add.u32 [%x], 1;
  ret;
})";

namespace {
int failed = 0;
}

void expect(const char* what, bool right) {
  std::printf("%s %s\n", right ? "ok  " : "FAIL", what);
  failed += !right;
}

std::string nameOf(CUresult result) {
  const char* name = nullptr;
  return cuGetErrorName(result, &name) == CUDA_SUCCESS ? name : "error " + std::to_string(result);
}

void step(CUfunction f, CUstream stream, CUdeviceptr x, uint32_t k) {
  void* arguments[] = {&x, &k};
  CHECK(cuLaunchKernel(f, 1, 1, 1, 1, 1, 1, 0, stream, arguments, nullptr));
}

int checkDriver() {
  Module module(kDriverPtx);
  checkLaunches(module);
  checkStreams(module);
  checkHostFunctions(module);
  checkGraphs(module);
  checkMemory();
  checkCopies();
  checkModules();
  checkHandles();
  std::printf("%d failed\n", failed);
  return failed ? 1 : 0;
}

int probe(const std::string& image) {
  auto say = [](const char* call, CUresult result) {
    std::printf("%s: %s\n", call, nameOf(result).c_str());
    return result == CUDA_SUCCESS;
  };
  int version = 0, count = 0, major = 0, minor = 0;
  if (say("cuDriverGetVersion", cuDriverGetVersion(&version))) std::printf("version %d\n", version);
  if (!say("cuInit", cuInit(0))) return 0;
  if (say("cuDeviceGetCount", cuDeviceGetCount(&count))) std::printf("devices %d\n", count);
  cuDeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 0);
  cuDeviceGetAttribute(&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, 0);
  std::printf("capability %d.%d\n", major, minor);
  CUcontext context = nullptr;
  if (!say("cuDevicePrimaryCtxRetain", cuDevicePrimaryCtxRetain(&context, 0))) return 0;
  cuCtxSetCurrent(context);
  CUmodule module = nullptr;
  if (say("cuModuleLoadData", cuModuleLoadData(&module, image.c_str()))) cuModuleUnload(module);
  cuDevicePrimaryCtxRelease(0);
  return 0;
}

int allocate() {
  auto say = [](const char* call, CUresult result) { std::printf("%s: %s\n", call, nameOf(result).c_str()); };
  Stream stream;
  CUmodule module = nullptr;
  CUlibrary library = nullptr;
  CUmemoryPool pool = nullptr;
  CUdeviceptr plain = 0, queued = 0, pooled = 0;
  void *pinned = nullptr, *other = nullptr;
  std::vector<char> own(4096);
  CHECK(cuDeviceGetDefaultMemPool(&pool, 0));
  say("cuModuleLoadData", cuModuleLoadData(&module, kDriverPtx));
  say("cuLibraryLoadData", cuLibraryLoadData(&library, kDriverPtx, nullptr, nullptr, 0, nullptr, nullptr, 0));
  say("cuMemAlloc", cuMemAlloc(&plain, 64));
  say("cuMemAllocAsync", cuMemAllocAsync(&queued, 64, stream));
  say("cuMemAllocFromPoolAsync", cuMemAllocFromPoolAsync(&pooled, 64, pool, stream));
  say("cuMemHostAlloc", cuMemHostAlloc(&pinned, 64, 0));
  say("cuMemAllocHost", cuMemAllocHost(&other, 64));
  say("cuMemHostRegister", cuMemHostRegister(own.data(), own.size(), 0));
  cuMemHostUnregister(own.data());
  if (other) cuMemFreeHost(other);
  if (pinned) cuMemFreeHost(pinned);
  cuMemFreeAsync(pooled, stream);
  cuMemFreeAsync(queued, stream);
  cuMemFree(plain);
  if (library) cuLibraryUnload(library);
  if (module) cuModuleUnload(module);
  return 0;
}

int makeCalls() {
  Module module(kDriverPtx);
  CUfunction f = module.function("step");
  Buffer<uint32_t> x(std::vector<uint32_t>{1});
  Stream stream;
  Event event;
  uint32_t pageable = 0;
  void* pinned = nullptr;
  CHECK(cuMemHostAlloc(&pinned, 4, 0));
  CHECK(cuProfilerStart());
  step(f, stream, x.address(), 1);
  step(f, stream, x.address(), 2);
  CHECK(cuEventRecord(event, stream));
  CHECK(cuMemcpyDtoHAsync(pinned, x.address(), 4, stream));
  CHECK(cuStreamSynchronize(stream));
  CHECK(cuEventQuery(event));
  CHECK(cuMemcpyDtoHAsync(&pageable, x.address(), 4, stream));
  CHECK(cuMemcpyHtoDAsync(x.address(), &pageable, 4, stream));
  CHECK(cuMemcpyDtoH(&pageable, x.address(), 4));
  CUdeviceptr p = 0;
  CHECK(cuMemAllocAsync(&p, 64, stream));
  CHECK(cuMemFreeAsync(p, stream));
  CHECK(cuProfilerStop());
  CHECK(cuMemFreeHost(pinned));
  return 0;
}

}  // namespace runner
