// The few functions of the CUDA runtime that CUB calls, on the driver API: what a program linked with -cudart none
// needs. Test-only; no more of the runtime than that.
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <utility>
#include <vector>

namespace {

struct FatBinary {
  const void* image;
  CUmodule module = nullptr;
};
struct Kernel {
  FatBinary* binary;
  const char* name;
  CUfunction function = nullptr;
};
struct CallConfiguration {
  dim3 grid, block;
  size_t shared;
  CUstream stream;
};

// Registration runs before main, in any order of translation units.
std::map<const void*, Kernel>& kernels() {
  static std::map<const void*, Kernel> map;
  return map;
}
std::vector<std::unique_ptr<FatBinary>>& binaries() {
  static std::vector<std::unique_ptr<FatBinary>> list;
  return list;
}
thread_local std::vector<CallConfiguration> configurations;
thread_local cudaError_t lastError = cudaSuccess;

// The two enumerations have the same numbers.
cudaError_t note(CUresult result) {
  if (result != CUDA_SUCCESS) lastError = static_cast<cudaError_t>(result);
  return static_cast<cudaError_t>(result);
}

CUresult initialise() {
  static const CUresult result = [] {
    CUcontext context = nullptr;
    if (CUresult r = cuInit(0)) return r;
    if (CUresult r = cuDevicePrimaryCtxRetain(&context, 0)) return r;
    std::atexit([] { cuDevicePrimaryCtxRelease(0); });
    return cuCtxSetCurrent(context);
  }();
  return result;
}

CUresult functionOf(const void* symbol, CUfunction* out) {
  if (CUresult r = initialise()) return r;
  auto it = kernels().find(symbol);
  if (it == kernels().end()) return CUDA_ERROR_INVALID_HANDLE;
  Kernel& k = it->second;
  if (!k.binary->module) {
    if (CUresult r = cuModuleLoadData(&k.binary->module, k.binary->image)) return r;
  }
  if (!k.function) {
    if (CUresult r = cuModuleGetFunction(&k.function, k.binary->module, k.name)) return r;
  }
  *out = k.function;
  return CUDA_SUCCESS;
}

CUdeviceptr device(const void* p) { return reinterpret_cast<CUdeviceptr>(p); }

}  // namespace

extern "C" {

void** __cudaRegisterFatBinary(void* wrapper) {
  binaries().push_back(std::make_unique<FatBinary>(FatBinary{wrapper}));
  return reinterpret_cast<void**>(binaries().back().get());
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
char __cudaInitModule(void**) { return 0; }
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
void __cudaRegisterFunction(void** binary, const char* host, char*, const char* name, int, uint3*, uint3*, dim3*, dim3*,
                            int*) {
  kernels()[host] = {reinterpret_cast<FatBinary*>(binary), name};
}

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, CUstream_st* stream) {
  configurations.push_back({grid, block, shared, stream});
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  const CallConfiguration c = configurations.back();
  configurations.pop_back();
  *grid = c.grid, *block = c.block, *shared = c.shared;
  *static_cast<CUstream*>(stream) = c.stream;
  return cudaSuccess;
}
// A handle is the host symbol itself.
cudaError_t __cudaGetKernel(cudaKernel_t* out, const void* symbol) {
  *out = static_cast<cudaKernel_t>(const_cast<void*>(symbol));
  return cudaSuccess;
}
cudaError_t cudaLaunchKernel(const void* symbol, dim3 grid, dim3 block, void** arguments, size_t shared,
                             cudaStream_t stream) {
  CUfunction f = nullptr;
  if (CUresult r = functionOf(symbol, &f)) return note(r);
  return note(cuLaunchKernel(f, grid.x, grid.y, grid.z, block.x, block.y, block.z, static_cast<unsigned>(shared),
                             stream, arguments, nullptr));
}
// The attributes are the driver's, by another name.
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* c, const void* symbol, void** arguments) {
  CUfunction f = nullptr;
  if (CUresult r = functionOf(symbol, &f)) return note(r);
  const CUlaunchConfig config{c->gridDim.x,
                              c->gridDim.y,
                              c->gridDim.z,
                              c->blockDim.x,
                              c->blockDim.y,
                              c->blockDim.z,
                              static_cast<unsigned>(c->dynamicSmemBytes),
                              c->stream,
                              reinterpret_cast<CUlaunchAttribute*>(c->attrs),
                              c->numAttrs};
  return note(cuLaunchKernelEx(&config, f, arguments, nullptr));
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments, size_t shared,
                               cudaStream_t stream) {
  return cudaLaunchKernel(kernel, grid, block, arguments, shared, stream);
}

cudaError_t cudaGetDeviceCount(int* count) {
  if (CUresult r = initialise()) return note(r);
  return note(cuDeviceGetCount(count));
}
cudaError_t cudaGetDevice(int* out) {
  *out = 0;
  return note(initialise());
}
cudaError_t cudaSetDevice(int) { return note(initialise()); }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  if (CUresult r = initialise()) return note(r);
  return note(cuDeviceGetAttribute(value, static_cast<CUdevice_attribute>(attribute), 0));
}
cudaError_t cudaDeviceSynchronize() { return note(cuCtxSynchronize()); }
cudaError_t cudaGetLastError() { return std::exchange(lastError, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return lastError; }

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* out, const void* symbol) {
  CUfunction f = nullptr;
  if (CUresult r = functionOf(symbol, &f)) return note(r);
  *out = {};
  auto get = [&](CUfunction_attribute name) {
    int value = 0;
    note(cuFuncGetAttribute(&value, name, f));
    return value;
  };
  out->sharedSizeBytes = static_cast<size_t>(get(CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES));
  out->localSizeBytes = static_cast<size_t>(get(CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES));
  out->maxThreadsPerBlock = get(CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK);
  out->numRegs = get(CU_FUNC_ATTRIBUTE_NUM_REGS);
  out->ptxVersion = get(CU_FUNC_ATTRIBUTE_PTX_VERSION);
  out->binaryVersion = get(CU_FUNC_ATTRIBUTE_BINARY_VERSION);
  out->maxDynamicSharedSizeBytes = get(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES);
  return cudaPeekAtLastError();
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void* symbol, int threads,
                                                                   size_t shared, unsigned flags) {
  CUfunction f = nullptr;
  if (CUresult r = functionOf(symbol, &f)) return note(r);
  return note(cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, f, threads, shared, flags));
}

cudaError_t cudaMalloc(void** out, size_t bytes) {
  if (CUresult r = initialise()) return note(r);
  return note(cuMemAlloc(reinterpret_cast<CUdeviceptr*>(out), bytes));
}
cudaError_t cudaFree(void* p) { return note(cuMemFree(device(p))); }
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  if (kind == cudaMemcpyHostToDevice) return note(cuMemcpyHtoD(device(to), from, bytes));
  if (kind == cudaMemcpyDeviceToHost) return note(cuMemcpyDtoH(to, device(from), bytes));
  return note(cuMemcpyDtoD(device(to), device(from), bytes));
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  if (kind == cudaMemcpyHostToDevice) return note(cuMemcpyHtoDAsync(device(to), from, bytes, stream));
  if (kind == cudaMemcpyDeviceToHost) return note(cuMemcpyDtoHAsync(to, device(from), bytes, stream));
  return note(cuMemcpyDtoDAsync(device(to), device(from), bytes, stream));
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  return note(cuMemsetD8Async(device(to), static_cast<unsigned char>(value), bytes, stream));
}

}  // extern "C"
