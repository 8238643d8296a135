// Memory, copies, modules, launches, and what a wrong handle gives.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <thread>

#include "driver.h"

namespace runner {

void checkMemory() {
  CUdeviceptr p = 0;
  expect("more than there is, is out of memory", cuMemAlloc(&p, size_t{1} << 42) == CUDA_ERROR_OUT_OF_MEMORY);
  expect("and so is more pinned memory", [] {
    void* q = nullptr;
    return cuMemHostAlloc(&q, size_t{1} << 45, 0) == CUDA_ERROR_OUT_OF_MEMORY;
  }());
  size_t before = 0, during = 0, after = 0, total = 0;
  CHECK(cuMemGetInfo(&before, &total));
  CHECK(cuMemAlloc(&p, 1 << 20));
  CHECK(cuMemGetInfo(&during, &total));
  CHECK(cuMemFree(p));
  CHECK(cuMemGetInfo(&after, &total));
  expect("free memory is counted", during + (1 << 20) == before && after == before);
  expect("freeing twice is an error", cuMemFree(p) == CUDA_ERROR_INVALID_VALUE);
  CHECK(cuMemAlloc(&p, 100));
  expect("only the start of an allocation can be freed", cuMemFree(p + 4) == CUDA_ERROR_INVALID_VALUE);
  CUdeviceptr base = 0;
  size_t bytes = 0;
  CHECK(cuMemGetAddressRange(&base, &bytes, p + 50));
  expect("an address knows its allocation", base == p && bytes == 100);
  unsigned type = 0;
  CHECK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, p));
  expect("and its kind", type == CU_MEMORYTYPE_DEVICE);
  CHECK(cuMemFree(p));
  // Registered memory is the program's own.
  std::vector<uint32_t> own(256, 7);
  CHECK(cuMemHostRegister(own.data(), own.size() * 4, 0));
  expect("memory is registered once",
         cuMemHostRegister(own.data() + 8, 64, 0) == CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
  CHECK(cuMemHostUnregister(own.data()));
  expect("and unregistered once", cuMemHostUnregister(own.data()) == CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
  expect("it is the program's again", own[255] == 7);
  CUmemoryPool pool = nullptr;
  cuuint64_t threshold = 12345, read = 0;
  int reuse = 1, none = -1;
  CHECK(cuDeviceGetDefaultMemPool(&pool, 0));
  CHECK(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &threshold));
  CHECK(cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &read));
  CHECK(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES, &reuse));
  CHECK(cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES, &none));
  expect("a pool keeps its attributes", read == threshold && none == 1);
  Stream s;
  CHECK(cuMemAllocFromPoolAsync(&p, 64, pool, s));
  CHECK(cuMemsetD8Async(p, 1, 64, s));
  CHECK(cuMemFreeAsync(p, s));
  expect("memory that a stream will free is freed once", cuMemFreeAsync(p, s) == CUDA_ERROR_INVALID_VALUE);
  CHECK(cuStreamSynchronize(s));
  expect("memory of a pool is freed in stream order", cuMemFree(p) == CUDA_ERROR_INVALID_VALUE);
}

void checkCopies() {
  constexpr size_t kCount = 1000;
  std::vector<uint32_t> values(kCount);
  std::iota(values.begin(), values.end(), 1u);
  Buffer<uint32_t> a(values), b(kCount);
  CHECK(cuMemcpyDtoD(b.address(), a.address(), kCount * 4));
  expect("a copy on the device", b.read() == values);
  CHECK(cuMemcpyHtoD(b.address(), nullptr, 0));
  expect("a copy of nothing", b.read() == values);
  CHECK(cuMemsetD16(b.address(), 0x1234, 2 * kCount));
  expect("a fill with 16 bits", b.read() == std::vector<uint32_t>(kCount, 0x12341234));
  expect("a misaligned fill is refused", cuMemsetD32(b.address() + 2, 0, 1) == CUDA_ERROR_INVALID_VALUE);
  // Pageable memory may change as soon as the call has returned.
  Stream s;
  std::vector<uint32_t> changing = values;
  CHECK(cuMemcpyHtoDAsync(b.address(), changing.data(), kCount * 4, s));
  std::fill(changing.begin(), changing.end(), 0u);
  CHECK(cuStreamSynchronize(s));
  expect("an asynchronous copy from pageable memory", b.read() == values);
  std::vector<uint32_t> back(kCount);
  CHECK(cuMemcpyDtoHAsync(back.data(), b.address(), kCount * 4, s));
  expect("one to pageable memory is complete when the call returns", back == values);
  // Rows of 10 words out of rows of 100, into rows of 20.
  Buffer<uint32_t> narrow(200);
  CHECK(cuMemsetD32(narrow.address(), 0, 200));
  CUDA_MEMCPY2D rows{};
  rows.srcMemoryType = rows.dstMemoryType = CU_MEMORYTYPE_DEVICE;
  rows.srcDevice = a.address(), rows.srcPitch = 400, rows.srcXInBytes = 8;
  rows.dstDevice = narrow.address(), rows.dstPitch = 80;
  rows.WidthInBytes = 40, rows.Height = 10;
  CHECK(cuMemcpy2D(&rows));
  std::vector<uint32_t> expected(200, 0);
  for (size_t r = 0; r < 10; ++r) std::copy_n(values.begin() + r * 100 + 2, 10, expected.begin() + r * 20);
  expect("a copy of rows", narrow.read() == expected);
  CHECK(cuMemsetD2D32(narrow.address() + 40, 80, 5, 3, 10));
  for (size_t r = 0; r < 10; ++r) std::fill_n(expected.begin() + r * 20 + 10, 3, 5u);
  expect("a fill of rows", narrow.read() == expected);
}

void checkModules() {
  CUmodule module = nullptr, none = nullptr;
  CHECK(cuModuleLoadData(&module, kDriverPtx));
  CUdeviceptr answer = 0;
  size_t bytes = 0;
  uint32_t value = 0;
  CHECK(cuModuleGetGlobal(&answer, &bytes, module, "answer"));
  CHECK(cuMemcpyDtoH(&value, answer, 4));
  expect("a module's variable has its initial value", value == 42 && bytes == 4);
  CUfunction f = nullptr, again = nullptr, unknown = nullptr;
  CHECK(cuModuleGetFunction(&f, module, "step"));
  CHECK(cuModuleGetFunction(&again, module, "step"));
  expect("a kernel is found by its name", f == again);
  expect("an unknown kernel is not found", cuModuleGetFunction(&unknown, module, "nothing") == CUDA_ERROR_NOT_FOUND);
  CHECK(cuModuleUnload(module));
  int registers = 0;
  expect("a kernel goes with its module",
         cuFuncGetAttribute(&registers, CU_FUNC_ATTRIBUTE_NUM_REGS, f) == CUDA_ERROR_INVALID_HANDLE);
  const std::string header = ".version 8.0\n.target sm_80\n.address_size 64\n";
  expect("a module for a newer device has no image for this one",
         cuModuleLoadData(&none, ".version 8.0\n.target sm_999\n.address_size 64\n") == CUDA_ERROR_NO_BINARY_FOR_GPU);
  expect("what is no PTX is no image", cuModuleLoadData(&none, "hello") == CUDA_ERROR_INVALID_IMAGE);
  char log[256] = "";
  CUjit_option names[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
  void* values[] = {log, reinterpret_cast<void*>(sizeof log)};
  expect("an unknown opcode is invalid PTX",
         cuModuleLoadDataEx(&none, (header + ".entry e() { frobnicate.u32 1; }").c_str(), 2, names, values) ==
             CUDA_ERROR_INVALID_PTX);
  expect("and named in the log", std::strstr(log, "unknown opcode 'frobnicate'") != nullptr);
  expect("so is an unknown modifier",
         cuModuleLoadDataEx(&none, (header + ".entry e() { .reg .b32 %a; add.odd.u32 %a, 1, 2; }").c_str(), 2, names,
                            values) == CUDA_ERROR_INVALID_PTX &&
             std::strstr(log, "unknown modifier .odd") != nullptr);
  CUlibrary library = nullptr;
  CUkernel kernel = nullptr;
  CHECK(cuLibraryLoadData(&library, kDriverPtx, nullptr, nullptr, 0, nullptr, nullptr, 0));
  CHECK(cuLibraryGetKernel(&kernel, library, "step"));
  CHECK(cuKernelGetFunction(&f, kernel));
  Buffer<uint32_t> x(std::vector<uint32_t>{2});
  step(f, nullptr, x.address(), 1);
  step(reinterpret_cast<CUfunction>(kernel), nullptr, x.address(), 1);
  expect("a library's kernel runs", x.read()[0] == (2 * 3 + 1) * 3 + 1);
  CHECK(cuLibraryUnload(library));
  void* address = nullptr;
  CHECK(cuGetProcAddress("cuMemAlloc", &address, 12000, 0, nullptr));
  expect("entry points are found by name", address == reinterpret_cast<void*>(&cuMemAlloc));
  expect("others are not", cuGetProcAddress("cuFrobnicate", &address, 12000, 0, nullptr) == CUDA_ERROR_NOT_FOUND);
  CUarray array = nullptr;
  CUDA_ARRAY_DESCRIPTOR description{};
  expect("what is not modelled says so", cuArrayCreate(&array, &description) == CUDA_ERROR_NOT_SUPPORTED);
}

// A grid and blocks of three dimensions, then attributes and occupancy.
void checkLaunches(const Module& module) {
  {
    Buffer<uint32_t> low(std::vector<uint32_t>{1}), high(std::vector<uint32_t>{2}), out(32);
    std::vector<CUdeviceptr> addresses(32, low.address());
    addresses[31] = high.address();
    Buffer<CUdeviceptr> pointers(addresses);
    launch(module.function("follow"), {1, 32}, pointers.address(), out.address());
    std::vector<uint32_t> right(32, 1);
    right[31] = 2;
    expect("the lanes of one load may read several allocations", out.read() == right);
  }
  {
    Buffer<uint32_t> out(48);
    launch(module.function("vote"), {1, 48}, out.address());
    expect("a barrier with a count takes the votes of the threads that a last warp has",
           out.read() == std::vector<uint32_t>(48, 1));
  }
  constexpr unsigned kGrid[] = {2, 3, 4}, kBlock[] = {5, 2, 3}, kThreads = 2 * 3 * 4 * 5 * 2 * 3;
  Buffer<uint32_t> out(kThreads * 8);
  CUdeviceptr address = out.address();
  void* arguments[] = {&address};
  CUfunction f = module.function("coordinates");
  CHECK(
      cuLaunchKernel(f, kGrid[0], kGrid[1], kGrid[2], kBlock[0], kBlock[1], kBlock[2], 0, nullptr, arguments, nullptr));
  auto right = [&] {
    const std::vector<uint32_t> got = out.read();
    for (unsigned n = 0; n < kThreads; ++n) {
      const unsigned thread = n % 30, block = n / 30;
      const unsigned expected[] = {thread % 5,    thread / 5 % 2, thread / 10, block % 2,
                                   block / 2 % 3, block / 6,      4,           thread};
      if (!std::equal(expected, expected + 8, got.begin() + n * 8)) return false;
    }
    return true;
  };
  expect("threads and blocks have their coordinates", right());
  // The same by the other calls, with packed parameters.
  CHECK(cuMemsetD32(address, 0, kThreads * 8));
  size_t size = sizeof address;
  void* packed[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, &address, CU_LAUNCH_PARAM_BUFFER_SIZE, &size, CU_LAUNCH_PARAM_END};
  CUlaunchConfig config{kGrid[0], kGrid[1], kGrid[2], kBlock[0], kBlock[1], kBlock[2], 0, nullptr, nullptr, 0};
  CHECK(cuLaunchKernelEx(&config, f, nullptr, packed));
  expect("with packed parameters as well", right());
  int blocks = 0, resident = 0, multiprocessors = 0, threads = 0;
  CHECK(cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, f, 1024, 0));
  CHECK(cuDeviceGetAttribute(&resident, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, 0));
  CHECK(cuDeviceGetAttribute(&multiprocessors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 0));
  CHECK(cuFuncGetAttribute(&threads, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, f));
  expect("occupancy is limited by threads", blocks == resident / 1024 && threads == 1024 && multiprocessors > 0);
  CHECK(cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, f, 32, 48 * 1024));
  int perMultiprocessor = 0;
  CHECK(cuDeviceGetAttribute(&perMultiprocessor, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, 0));
  expect("and by shared memory", blocks == perMultiprocessor / (49 * 1024));
  int optIn = 0;
  CHECK(cuDeviceGetAttribute(&optIn, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, 0));
  expect("more shared memory than there is cannot be asked for",
         cuFuncSetAttribute(f, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, optIn + 1) == CUDA_ERROR_INVALID_VALUE);
  CHECK(cuFuncSetAttribute(f, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, optIn));
}

void checkHandles() {
  CUdeviceptr p = 0;
  CUstream stream = nullptr;
  CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  CHECK(cuStreamDestroy(stream));
  expect("a destroyed stream is no stream", cuStreamSynchronize(stream) == CUDA_ERROR_INVALID_HANDLE &&
                                                cuStreamDestroy(stream) == CUDA_ERROR_INVALID_HANDLE &&
                                                cuMemsetD8Async(0, 0, 0, stream) == CUDA_ERROR_INVALID_HANDLE);
  CUevent event = nullptr;
  CHECK(cuEventCreate(&event, 0));
  CHECK(cuEventDestroy(event));
  expect("nor a destroyed event an event", cuEventRecord(event, nullptr) == CUDA_ERROR_INVALID_HANDLE &&
                                               cuEventQuery(event) == CUDA_ERROR_INVALID_HANDLE);
  uint32_t k = 0;
  void* arguments[] = {&p, &k};
  expect("nor is a null a kernel",
         cuLaunchKernel(nullptr, 1, 1, 1, 1, 1, 1, 0, nullptr, arguments, nullptr) == CUDA_ERROR_INVALID_HANDLE);
  // A context is current to the threads that say so.
  CUresult unset = CUDA_SUCCESS, made = CUDA_ERROR_UNKNOWN;
  CUcontext context = nullptr;
  CHECK(cuCtxGetCurrent(&context));
  std::thread([&] {
    unset = cuMemAlloc(&p, 16);
    cuCtxSetCurrent(context);
    made = cuMemAlloc(&p, 16);
  }).join();
  expect("a thread without a context cannot allocate", unset == CUDA_ERROR_INVALID_CONTEXT);
  expect("and with it can", made == CUDA_SUCCESS);
  CHECK(cuMemFree(p));
  expect("an output that is null is refused", cuMemAlloc(nullptr, 16) == CUDA_ERROR_INVALID_VALUE);
  const char* text = nullptr;
  expect("errors have texts",
         cuGetErrorString(CUDA_ERROR_OUT_OF_MEMORY, &text) == CUDA_SUCCESS && std::string(text) == "out of memory");
  expect("unknown errors do not", cuGetErrorName(static_cast<CUresult>(12345), &text) == CUDA_ERROR_INVALID_VALUE);
}

}  // namespace runner
