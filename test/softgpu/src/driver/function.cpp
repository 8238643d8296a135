// Functions of a module: attributes, occupancy, and libraries with their kernels, which are the same thing by newer
// names.
#include "driver/function.h"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>

using namespace softgpu;

// Blocks that fit a multiprocessor by threads and shared memory. Registers are what this allocator uses, which is no
// more than a hint at what ptxas would use.
u32 softgpu::blocksPerMultiprocessor(const CUfunc_st& f, u32 threads, u64 dynamicShared) {
  const u32 warps = (threads + kWarpSize - 1) / kWarpSize;
  auto limit = [](CUdevice_attribute name) { return static_cast<u64>(deviceAttribute(name)); };
  const u64 shared = f.kernel->sharedBytes(dynamicShared) + limit(CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK);
  const u64 byWarps = limit(CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR) / kWarpSize / std::max(1u, warps);
  const u64 byShared = limit(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR) / std::max<u64>(1, shared);
  return static_cast<u32>(std::min({limit(CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR), byWarps, byShared}));
}

namespace {

CUresult getAttribute(int* value, CUfunction_attribute attribute, CUfunction f) {
  SOFTGPU_HANDLE(functions, f);
  SOFTGPU_NOT_NULL(value);
  switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
      *value = static_cast<int>(f->kernel->maxThreads);
      break;
    case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES:
      *value = static_cast<int>(f->kernel->staticShared);
      break;
    case CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES:
      *value = static_cast<int>(f->kernel->localBytes);
      break;
    case CU_FUNC_ATTRIBUTE_NUM_REGS:
      *value = static_cast<int>(std::min(255u, f->kernel->registersPerThread));
      break;
    case CU_FUNC_ATTRIBUTE_PTX_VERSION:
      *value = static_cast<int>(f->kernel->target);
      break;
    case CU_FUNC_ATTRIBUTE_BINARY_VERSION:
      *value = static_cast<int>(options().capability());
      break;
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
      *value = f->maxDynamicShared - static_cast<int>(f->kernel->dynamicSharedOffset);
      break;
    case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
      *value = f->carveout;
      break;
    default:
      *value = 0;
  }
  return CUDA_SUCCESS;
}

CUresult setAttribute(CUfunction f, CUfunction_attribute name, int value) {
  SOFTGPU_HANDLE(functions, f);
  if (name == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) {
    const i64 total = i64{value} + f->kernel->dynamicSharedOffset;
    if (value < 0 || total > deviceAttribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    f->maxDynamicShared = static_cast<int>(total);
    return CUDA_SUCCESS;
  }
  if (name != CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT || value < -1 || value > 100) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  f->carveout = value;
  return CUDA_SUCCESS;
}

CUresult occupancy(int* blocks, CUfunction f, int threads, size_t dynamicShared) {
  SOFTGPU_HANDLE(functions, f);
  if (!blocks || threads < 1) return CUDA_ERROR_INVALID_VALUE;
  *blocks = static_cast<u32>(threads) > f->kernel->maxThreads
                ? 0
                : static_cast<int>(blocksPerMultiprocessor(*f, static_cast<u32>(threads), dynamicShared));
  return CUDA_SUCCESS;
}

// The block size that keeps most threads on a multiprocessor; of equal ones the largest.
CUresult bestBlockSize(int* grid, int* block, CUfunction f, CUoccupancyB2DSize sharedOf, size_t shared, int limit) {
  SOFTGPU_HANDLE(functions, f);
  if (!grid || !block) return CUDA_ERROR_INVALID_VALUE;
  int most = 0;
  const int highest =
      limit > 0 ? std::min(limit, static_cast<int>(f->kernel->maxThreads)) : static_cast<int>(f->kernel->maxThreads);
  for (int threads = highest / 32 * 32; threads >= 32; threads -= 32) {
    const int blocks =
        static_cast<int>(blocksPerMultiprocessor(*f, static_cast<u32>(threads), sharedOf ? sharedOf(threads) : shared));
    if (blocks * threads <= most) continue;
    most = blocks * threads;
    *block = threads;
    *grid = blocks * static_cast<int>(kMultiprocessors);
  }
  return most ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUfunction functionOf(CUkernel kernel) { return reinterpret_cast<CUfunction>(kernel); }

CUresult loadLibrary(CUlibrary* out, const void* image) {
  SOFTGPU_NOT_NULL(out);
  CUmodule module = nullptr;
  SOFTGPU_TRY(loadModule(&module, image, nullptr));
  *out = device().libraries.add(std::make_unique<CUlib_st>(CUlib_st{module}));
  return CUDA_SUCCESS;
}

}  // namespace

SOFTGPU_API cuFuncGetAttribute(int* value, CUfunction_attribute attribute, CUfunction f) {
  SOFTGPU_ENTER(kOther);
  return getAttribute(value, attribute, f);
}
SOFTGPU_API cuFuncSetAttribute(CUfunction f, CUfunction_attribute name, int value) {
  SOFTGPU_ENTER(kOther);
  return setAttribute(f, name, value);
}
SOFTGPU_API cuFuncSetCacheConfig(CUfunction f, CUfunc_cache) {
  SOFTGPU_ENTER(kOther);
  SOFTGPU_HANDLE(functions, f);
  return CUDA_SUCCESS;
}
SOFTGPU_API cuFuncGetModule(CUmodule* module, CUfunction f) {
  SOFTGPU_ENTER(kOther);
  SOFTGPU_HANDLE(functions, f);
  *module = f->module;
  return CUDA_SUCCESS;
}
SOFTGPU_API cuFuncGetName(const char** name, CUfunction f) {
  SOFTGPU_ENTER(kOther);
  SOFTGPU_HANDLE(functions, f);
  *name = f->name.c_str();
  return CUDA_SUCCESS;
}
SOFTGPU_API cuFuncGetParamInfo(CUfunction f, size_t index, size_t* offset, size_t* size) {
  SOFTGPU_ENTER(kOther);
  SOFTGPU_HANDLE(functions, f);
  if (index >= f->kernel->parameters.size()) return CUDA_ERROR_INVALID_VALUE;
  if (offset) *offset = f->kernel->parameters[index].offset;
  if (size) *size = f->kernel->parameters[index].size;
  return CUDA_SUCCESS;
}
SOFTGPU_API cuFuncLoad(CUfunction f) {
  SOFTGPU_ENTER(kOther);
  SOFTGPU_HANDLE(functions, f);
  return CUDA_SUCCESS;
}
SOFTGPU_API cuFuncIsLoaded(CUfunctionLoadingState* state, CUfunction f) {
  SOFTGPU_ENTER(kOther);
  SOFTGPU_HANDLE(functions, f);
  *state = CU_FUNCTION_LOADING_STATE_LOADED;
  return CUDA_SUCCESS;
}

SOFTGPU_API cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction f, int threads, size_t dynamicShared) {
  SOFTGPU_ENTER(kOther);
  return occupancy(blocks, f, threads, dynamicShared);
}
SOFTGPU_API cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, CUfunction f, int threads,
                                                                 size_t dynamicShared, unsigned) {
  SOFTGPU_ENTER(kOther);
  return occupancy(blocks, f, threads, dynamicShared);
}
SOFTGPU_API cuOccupancyMaxPotentialBlockSize(int* grid, int* block, CUfunction f, CUoccupancyB2DSize sharedOf,
                                             size_t shared, int limit) {
  SOFTGPU_ENTER(kOther);
  return bestBlockSize(grid, block, f, sharedOf, shared, limit);
}
SOFTGPU_API cuOccupancyAvailableDynamicSMemPerBlock(size_t* bytes, CUfunction f, int blocks, int threads) {
  SOFTGPU_ENTER(kOther);
  SOFTGPU_HANDLE(functions, f);
  if (!bytes || blocks < 1 || threads < 1) return CUDA_ERROR_INVALID_VALUE;
  size_t shared = static_cast<size_t>(f->maxDynamicShared) - f->kernel->dynamicSharedOffset;
  while (shared > 0 && blocksPerMultiprocessor(*f, static_cast<u32>(threads), shared) < static_cast<u32>(blocks)) {
    shared -= std::min<size_t>(shared, 256);
  }
  *bytes = shared;
  return CUDA_SUCCESS;
}

// ---- Libraries.

SOFTGPU_API cuLibraryLoadData(CUlibrary* out, const void* image, CUjit_option*, void**, unsigned, CUlibraryOption*,
                              void**, unsigned) {
  SOFTGPU_ENTER(kAllocating);
  return loadLibrary(out, image);
}
SOFTGPU_API cuLibraryLoadFromFile(CUlibrary* out, const char* path, CUjit_option*, void**, unsigned, CUlibraryOption*,
                                  void**, unsigned) {
  SOFTGPU_ENTER(kAllocating);
  SOFTGPU_NOT_NULL(path);
  std::ifstream file(path, std::ios::binary);
  if (!file) return CUDA_ERROR_FILE_NOT_FOUND;
  const std::string image{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  return loadLibrary(out, image.c_str());
}
SOFTGPU_API cuLibraryUnload(CUlibrary library) {
  SOFTGPU_ENTER(kFreeing);
  std::unique_ptr<CUlib_st> taken = device().libraries.take(library);
  return taken ? unloadModule(taken->module) : CUDA_ERROR_INVALID_HANDLE;
}
SOFTGPU_API cuLibraryGetKernel(CUkernel* out, CUlibrary library, const char* name) {
  SOFTGPU_ENTER(kOther);
  SOFTGPU_HANDLE(libraries, library);
  SOFTGPU_NOT_NULL(out);
  CUfunction f = nullptr;
  SOFTGPU_TRY(findFunction(&f, library->module, name));
  *out = reinterpret_cast<CUkernel>(f);
  return CUDA_SUCCESS;
}
SOFTGPU_API cuLibraryGetKernelCount(unsigned* count, CUlibrary library) {
  SOFTGPU_ENTER(kOther);
  SOFTGPU_HANDLE(libraries, library);
  *count = static_cast<unsigned>(library->module->program->kernels.size());
  return CUDA_SUCCESS;
}
SOFTGPU_API cuLibraryGetModule(CUmodule* out, CUlibrary library) {
  SOFTGPU_ENTER(kOther);
  SOFTGPU_HANDLE(libraries, library);
  *out = library->module;
  return CUDA_SUCCESS;
}
SOFTGPU_API cuLibraryGetGlobal(CUdeviceptr* address, size_t* bytes, CUlibrary library, const char* name) {
  SOFTGPU_ENTER(kOther);
  SOFTGPU_HANDLE(libraries, library);
  return findGlobal(address, bytes, library->module, name);
}
SOFTGPU_API cuKernelGetFunction(CUfunction* out, CUkernel kernel) {
  SOFTGPU_ENTER(kOther);
  SOFTGPU_HANDLE(functions, functionOf(kernel));
  *out = functionOf(kernel);
  return CUDA_SUCCESS;
}
SOFTGPU_API cuKernelGetName(const char** name, CUkernel kernel) {
  SOFTGPU_ENTER(kOther);
  SOFTGPU_HANDLE(functions, functionOf(kernel));
  *name = functionOf(kernel)->name.c_str();
  return CUDA_SUCCESS;
}
SOFTGPU_API cuKernelGetAttribute(int* value, CUfunction_attribute attribute, CUkernel kernel, CUdevice) {
  SOFTGPU_ENTER(kOther);
  return getAttribute(value, attribute, functionOf(kernel));
}
SOFTGPU_API cuKernelSetAttribute(CUfunction_attribute attribute, int value, CUkernel kernel, CUdevice) {
  SOFTGPU_ENTER(kOther);
  return setAttribute(functionOf(kernel), attribute, value);
}
