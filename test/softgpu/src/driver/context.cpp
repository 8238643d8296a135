// The primary context, which is the only one, and which thread it is current to.
#include <map>

#include "driver/state.h"

using namespace softgpu;

namespace {

// What a real context takes of the device's memory, roughly: with less than that it cannot be made.
constexpr u64 kContextBytes = u64{64} << 20;

const char* nameOf(MemoryKind kind) {
  return kind == MemoryKind::kHost ? "pinned memory" : kind == MemoryKind::kRegistered ? "registered memory" : "memory";
}

void destroyContext(Device& d) {
  d.finishAll();
  for (const Allocation* a : arena().liveAllocations()) {
    if (a->kind == MemoryKind::kModule) continue;
    // After a device error every free is refused, so what is left says nothing.
    if (d.error() == CUDA_SUCCESS) {
      Fault fault{};
      fault.kind = FaultKind::kLeak;
      fault.address = a->base;
      fault.bytes = a->size;
      fault.detail = std::string(nameOf(a->kind)) + " still allocated when the context ended";
      reportFault(fault);
    }
    arena().free(a->base);
  }
  // Everything else goes with its context.
  d.modules.forEach([](CUmod_st& module) {
    for (u64 base : module.allocations) arena().free(base);
  });
  d.libraries.clear();
  d.functions.clear();
  d.modules.clear();
  d.executables.clear();
  d.graphs.clear();
  d.events.clear();
  d.streams.clear();
  d.pools.clear();
  reportCalls("context end");
  d.clearError();
}

// Every thread has a stack of current contexts; there is one context, so only null or not matters.
thread_local std::vector<CUcontext> current;

bool isContext(CUcontext context) { return context == nullptr || context == &device().context; }

std::map<CUlimit, size_t>& limitValues() {
  static auto* values = new std::map<CUlimit, size_t>{{CU_LIMIT_STACK_SIZE, 1024},
                                                      {CU_LIMIT_PRINTF_FIFO_SIZE, size_t{7} << 20},
                                                      {CU_LIMIT_MALLOC_HEAP_SIZE, size_t{8} << 20}};
  return *values;
}

/// Ends it: not allowed to the device's own thread, which runs host callbacks.
template <class End>
CUresult endPrimaryContext(CUdevice ordinal, End end) {
  Device& d = device();
  if (d.isOwnThread()) return CUDA_ERROR_NOT_PERMITTED;
  std::lock_guard lock(d.mutex);
  if (!d.initialised) return CUDA_ERROR_NOT_INITIALIZED;
  if (ordinal != 0) return CUDA_ERROR_INVALID_DEVICE;
  return end(d);
}

}  // namespace

bool softgpu::isCurrent() { return !current.empty() && current.back() != nullptr; }

SOFTGPU_API cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice ordinal) {
  SOFTGPU_CALL(kOther);
  Device& d = device();
  std::lock_guard lock(d.mutex);
  if (!d.initialised) return CUDA_ERROR_NOT_INITIALIZED;
  SOFTGPU_NOT_NULL(context);
  if (ordinal != 0) return CUDA_ERROR_INVALID_DEVICE;
  if (d.context.retained == 0 && arena().freeBytes() < kContextBytes) return CUDA_ERROR_OUT_OF_MEMORY;
  ++d.context.retained;
  *context = &d.context;
  return CUDA_SUCCESS;
}

SOFTGPU_API cuDevicePrimaryCtxRelease(CUdevice ordinal) {
  SOFTGPU_CALL(kOther);
  return endPrimaryContext(ordinal, [](Device& d) {
    if (d.context.retained == 0) return CUDA_ERROR_INVALID_CONTEXT;
    if (--d.context.retained == 0) destroyContext(d);
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuDevicePrimaryCtxReset(CUdevice ordinal) {
  SOFTGPU_CALL(kOther);
  return endPrimaryContext(ordinal, [](Device& d) {
    destroyContext(d);
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuDevicePrimaryCtxSetFlags(CUdevice ordinal, unsigned flags) {
  SOFTGPU_CALL(kOther);
  if (ordinal != 0) return CUDA_ERROR_INVALID_DEVICE;
  device().context.flags = flags;
  return CUDA_SUCCESS;
}

SOFTGPU_API cuDevicePrimaryCtxGetState(CUdevice ordinal, unsigned* flags, int* active) {
  SOFTGPU_CALL(kOther);
  if (ordinal != 0) return CUDA_ERROR_INVALID_DEVICE;
  *flags = device().context.flags;
  *active = device().context.retained > 0;
  return CUDA_SUCCESS;
}

SOFTGPU_API cuCtxSetCurrent(CUcontext context) {
  SOFTGPU_CALL(kOther);
  if (!device().initialised) return CUDA_ERROR_NOT_INITIALIZED;
  if (!isContext(context)) return CUDA_ERROR_INVALID_CONTEXT;
  if (current.empty()) {
    if (context) current.push_back(context);
  } else if (context) {
    current.back() = context;
  } else {
    current.pop_back();
  }
  return CUDA_SUCCESS;
}
SOFTGPU_API cuCtxGetCurrent(CUcontext* context) {
  SOFTGPU_CALL(kOther);
  if (!device().initialised) return CUDA_ERROR_NOT_INITIALIZED;
  SOFTGPU_NOT_NULL(context);
  *context = current.empty() ? nullptr : current.back();
  return CUDA_SUCCESS;
}
SOFTGPU_API cuCtxPushCurrent(CUcontext context) {
  SOFTGPU_CALL(kOther);
  if (!device().initialised) return CUDA_ERROR_NOT_INITIALIZED;
  if (!context || !isContext(context)) return CUDA_ERROR_INVALID_CONTEXT;
  current.push_back(context);
  return CUDA_SUCCESS;
}
SOFTGPU_API cuCtxPopCurrent(CUcontext* context) {
  SOFTGPU_CALL(kOther);
  if (current.empty()) return CUDA_ERROR_INVALID_CONTEXT;
  if (context) *context = current.back();
  current.pop_back();
  return CUDA_SUCCESS;
}
SOFTGPU_API cuCtxGetDevice(CUdevice* out) {
  SOFTGPU_CALL(kOther);
  SOFTGPU_NOT_NULL(out);
  if (!isCurrent()) return CUDA_ERROR_INVALID_CONTEXT;
  *out = 0;
  return CUDA_SUCCESS;
}
SOFTGPU_API cuCtxGetFlags(unsigned* flags) {
  SOFTGPU_ENTER(kOther);
  SOFTGPU_NOT_NULL(flags);
  *flags = device().context.flags;
  return CUDA_SUCCESS;
}
SOFTGPU_API cuCtxGetApiVersion(CUcontext context, unsigned* version) {
  SOFTGPU_ENTER(kOther);
  if (!isContext(context)) return CUDA_ERROR_INVALID_CONTEXT;
  SOFTGPU_NOT_NULL(version);
  *version = 3020;
  return CUDA_SUCCESS;
}
SOFTGPU_API cuCtxSynchronize() {
  SOFTGPU_ENTER(kSynchronising);
  SOFTGPU_TRY(notCapturing());
  device().finishAll();
  return device().error();
}
SOFTGPU_API cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  SOFTGPU_ENTER(kOther);
  if (least) *least = 0;
  if (greatest) *greatest = -5;
  return CUDA_SUCCESS;
}

// Limits are kept and change nothing.
SOFTGPU_API cuCtxSetLimit(CUlimit limit, size_t value) {
  SOFTGPU_ENTER(kOther);
  std::lock_guard lock(device().mutex);
  auto it = limitValues().find(limit);
  if (it == limitValues().end()) return CUDA_ERROR_UNSUPPORTED_LIMIT;
  it->second = value;
  return CUDA_SUCCESS;
}
SOFTGPU_API cuCtxGetLimit(size_t* value, CUlimit limit) {
  SOFTGPU_ENTER(kOther);
  SOFTGPU_NOT_NULL(value);
  std::lock_guard lock(device().mutex);
  auto it = limitValues().find(limit);
  if (it == limitValues().end()) return CUDA_ERROR_UNSUPPORTED_LIMIT;
  *value = it->second;
  return CUDA_SUCCESS;
}
SOFTGPU_API cuCtxGetCacheConfig(CUfunc_cache* config) {
  SOFTGPU_ENTER(kOther);
  SOFTGPU_NOT_NULL(config);
  *config = CU_FUNC_CACHE_PREFER_NONE;
  return CUDA_SUCCESS;
}
SOFTGPU_API cuCtxSetCacheConfig(CUfunc_cache) {
  SOFTGPU_ENTER(kOther);
  return CUDA_SUCCESS;
}

// Marks for the counts of calls, as profilers take them.
SOFTGPU_API cuProfilerStart() {
  markCalls();
  return CUDA_SUCCESS;
}
SOFTGPU_API cuProfilerStop() {
  reportCalls("cuProfilerStop");
  return CUDA_SUCCESS;
}
