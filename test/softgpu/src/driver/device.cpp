// Initialisation, the one device and its attributes, and its primary context.
#include <cstdio>
#include <cstring>

#include "driver/state.h"

using namespace softgpu;

namespace {

constexpr int kSharedPerBlock = 48 * 1024;
int sharedOptIn() {
  return (options().major == 8 && options().minor == 0 ? 163 : options().major == 9 ? 227 : 99) * 1024;
}

// The calls of each stream, for the report.
void reportCalls(Device& d) {
  auto report = [](CUstream stream) {
    reportStream(stream->id, stream->calls);
    stream->calls = {};
  };
  report(&d.defaultStream);
  for (auto& stream : d.streams) report(stream.get());
}

void destroyContext(Device& d) {
  d.finishAll();
  for (const Allocation* a : arena().liveAllocations()) {
    if (a->module) continue;
    // After a device error every free is refused, so what is left says nothing.
    if (d.error() != CUDA_SUCCESS) {
      arena().free(a->base);
      continue;
    }
    Fault fault{};
    fault.kind = FaultKind::kLeak;
    fault.address = a->base;
    fault.bytes = static_cast<u32>(a->size);
    fault.detail = "still allocated when the context ended";
    reportFault(fault);
    arena().free(a->base);
  }
  reportCalls(d);
  d.clearError();
}

// A process that ends without releasing its context still gets its host calls reported. That is no leak.
struct AtExit {
  ~AtExit() {
    if (device().context.retained) reportCalls(device());
  }
};

}  // namespace

SOFTGPU_API cuInit(unsigned flags) {
  if (flags != 0) return CUDA_ERROR_INVALID_VALUE;
  if (!options().problem.empty()) {
    std::fprintf(stderr, "softgpu: %s\n", options().problem.c_str());
    return CUDA_ERROR_UNKNOWN;
  }
  static AtExit atExit;
  return CUDA_SUCCESS;
}

SOFTGPU_API cuDriverGetVersion(int* version) {
  *version = CUDA_VERSION;
  return CUDA_SUCCESS;
}

SOFTGPU_API cuDeviceGetCount(int* count) {
  *count = 1;
  return CUDA_SUCCESS;
}

SOFTGPU_API cuDeviceGet(CUdevice* out, int ordinal) {
  if (ordinal != 0) return CUDA_ERROR_INVALID_DEVICE;
  *out = 0;
  return CUDA_SUCCESS;
}

SOFTGPU_API cuDeviceGetName(char* name, int length, CUdevice) {
  std::snprintf(name, static_cast<size_t>(length), "Software GPU %u.%u", options().major, options().minor);
  return CUDA_SUCCESS;
}

SOFTGPU_API cuDeviceGetUuid(CUuuid* uuid, CUdevice) {
  std::memcpy(uuid->bytes, "softgpu\0\0\0\0\0\0\0\0", sizeof uuid->bytes);
  return CUDA_SUCCESS;
}

SOFTGPU_API cuDeviceTotalMem(size_t* bytes, CUdevice) {
  *bytes = arena().totalBytes();
  return CUDA_SUCCESS;
}

SOFTGPU_API cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice) {
  switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
      *value = static_cast<int>(options().major);
      break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
      *value = static_cast<int>(options().minor);
      break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
      *value = kMultiprocessors;
      break;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE:
      *value = kWarpSize;
      break;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
      *value = 1024;
      break;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X:
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y:
      *value = 1024;
      break;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z:
      *value = 64;
      break;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X:
      *value = 0x7fffffff;
      break;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y:
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z:
      *value = 65535;
      break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK:
      *value = kSharedPerBlock;
      break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN:
      *value = sharedOptIn();
      break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR:
      *value = sharedOptIn() + 1024;
      break;
    case CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK:
      *value = 1024;
      break;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR:
      *value = 2048;
      break;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR:
      *value = 32;
      break;
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK:
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR:
      *value = 65536;
      break;
    case CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY:
      *value = 65536;
      break;
    case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE:
      *value = 40 << 20;
      break;
    case CU_DEVICE_ATTRIBUTE_CLOCK_RATE:
    case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE:
      *value = 1'000'000;
      break;
    case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH:
      *value = 256;
      break;
    case CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT:
      *value = 2;
      break;
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
    case CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS:
    case CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH:
    case CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED:
      *value = 1;
      break;
    // What is not modelled is not there: managed memory, textures, clusters, peers and the like.
    default:
      *value = 0;
  }
  return CUDA_SUCCESS;
}

SOFTGPU_API cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice) {
  Device& d = device();
  std::lock_guard lock(d.mutex);
  ++d.context.retained;
  *context = &d.context;
  return CUDA_SUCCESS;
}

SOFTGPU_API cuDevicePrimaryCtxRelease(CUdevice) {
  Device& d = device();
  std::lock_guard lock(d.mutex);
  if (d.context.retained == 0) return CUDA_ERROR_INVALID_CONTEXT;
  if (--d.context.retained == 0) destroyContext(d);
  return CUDA_SUCCESS;
}

SOFTGPU_API cuDevicePrimaryCtxReset(CUdevice) {
  Device& d = device();
  std::lock_guard lock(d.mutex);
  destroyContext(d);
  return CUDA_SUCCESS;
}

SOFTGPU_API cuDevicePrimaryCtxSetFlags(CUdevice, unsigned) { return CUDA_SUCCESS; }

SOFTGPU_API cuDevicePrimaryCtxGetState(CUdevice, unsigned* flags, int* active) {
  *flags = 0;
  *active = device().context.retained > 0;
  return CUDA_SUCCESS;
}

namespace {
// Every thread has a stack of current contexts; there is one context, so a depth is enough.
thread_local int contextDepth = 0;
}  // namespace

SOFTGPU_API cuCtxSetCurrent(CUcontext context) {
  contextDepth = context ? 1 : 0;
  return CUDA_SUCCESS;
}
SOFTGPU_API cuCtxGetCurrent(CUcontext* context) {
  *context = contextDepth > 0 ? &device().context : nullptr;
  return CUDA_SUCCESS;
}
SOFTGPU_API cuCtxPushCurrent(CUcontext context) {
  if (!context) return CUDA_ERROR_INVALID_CONTEXT;
  ++contextDepth;
  return CUDA_SUCCESS;
}
SOFTGPU_API cuCtxPopCurrent(CUcontext* context) {
  if (contextDepth == 0) return CUDA_ERROR_INVALID_CONTEXT;
  --contextDepth;
  if (context) *context = &device().context;
  return CUDA_SUCCESS;
}
SOFTGPU_API cuCtxGetDevice(CUdevice* out) {
  *out = 0;
  return contextDepth > 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}
SOFTGPU_API cuCtxSynchronize() {
  SOFTGPU_TRY(usable());
  ++device().defaultStream.calls.synchronisations;
  device().finishAll();
  return device().error();
}
SOFTGPU_API cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return CUDA_SUCCESS;
}
