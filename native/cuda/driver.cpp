#include "driver.h"

#include <dlfcn.h>

#include "../core/error.h"

namespace moe::cuda {

namespace {

struct Search {
  Driver driver{};
  std::string reason;  // empty when the driver is there

  Search() {
    // Never closed: the driver has threads of its own.
    void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) {
      reason = std::string("no CUDA driver: ") + dlerror() + ". Install NVIDIA's driver for this machine's GPU.";
      return;
    }
    const auto find = [&](auto& entry, const char* name) {
      entry = reinterpret_cast<std::remove_reference_t<decltype(entry)>>(dlsym(library, name));
      if (!entry && reason.empty())
        reason = std::string("the CUDA driver is too old: it has no ") + name + ". Install a newer one.";
    };
#define MOE_FIND(name) find(driver.name, #name)
    MOE_FIND(cuInit);
    MOE_FIND(cuDriverGetVersion);
    MOE_FIND(cuGetErrorName);
    MOE_FIND(cuGetErrorString);
    MOE_FIND(cuDeviceGetCount);
    MOE_FIND(cuDeviceGet);
    MOE_FIND(cuDeviceGetName);
    MOE_FIND(cuDeviceGetAttribute);
    MOE_FIND(cuDeviceTotalMem_v2);
    MOE_FIND(cuDevicePrimaryCtxRetain);
    MOE_FIND(cuDevicePrimaryCtxRelease_v2);
    MOE_FIND(cuCtxSetCurrent);
    MOE_FIND(cuModuleLoadData);
    MOE_FIND(cuModuleUnload);
    MOE_FIND(cuModuleGetFunction);
    MOE_FIND(cuFuncSetAttribute);
    MOE_FIND(cuLaunchKernel);
    MOE_FIND(cuLaunchCooperativeKernel);
    MOE_FIND(cuStreamBeginCapture_v2);
    MOE_FIND(cuStreamEndCapture);
    MOE_FIND(cuGraphInstantiateWithFlags);
    MOE_FIND(cuGraphLaunch);
    MOE_FIND(cuGraphExecDestroy);
    MOE_FIND(cuGraphDestroy);
    MOE_FIND(cuLaunchHostFunc);
    MOE_FIND(cuStreamCreate);
    MOE_FIND(cuStreamDestroy_v2);
    MOE_FIND(cuStreamSynchronize);
    MOE_FIND(cuEventCreate);
    MOE_FIND(cuEventDestroy_v2);
    MOE_FIND(cuEventRecord);
    MOE_FIND(cuEventSynchronize);
    MOE_FIND(cuEventElapsedTime);
    MOE_FIND(cuMemAlloc_v2);
    MOE_FIND(cuMemFree_v2);
    MOE_FIND(cuMemHostAlloc);
    MOE_FIND(cuMemFreeHost);
    MOE_FIND(cuMemcpyHtoDAsync_v2);
    MOE_FIND(cuMemcpyDtoHAsync_v2);
    MOE_FIND(cuMemcpyDtoDAsync_v2);
    MOE_FIND(cuMemsetD8Async);
#undef MOE_FIND
    if (!reason.empty()) return;
    if (const CUresult result = driver.cuInit(0); result == CUDA_ERROR_NO_DEVICE)
      reason = noGpu;
    else if (result != CUDA_SUCCESS)
      reason = "the CUDA driver does not start: " + text(result) + ". nvidia-smi may say more.";
  }

  std::string text(CUresult result) const {
    const char *name = nullptr, *words = nullptr;
    driver.cuGetErrorName(result, &name);
    driver.cuGetErrorString(result, &words);
    return std::string(name ? name : "CUDA error " + std::to_string(result)) + (words ? " (" : "") +
           (words ? words : "") + (words ? ")" : "");
  }
};

const Search& search() {
  static const Search found;
  return found;
}

/// Whether the driver has refused a call for its arguments. No kernel has failed then, and later calls may succeed.
bool isOfTheCall(CUresult result) {
  switch (result) {
    case CUDA_ERROR_INVALID_VALUE:
    case CUDA_ERROR_INVALID_HANDLE:
    case CUDA_ERROR_NOT_FOUND:
    case CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES:
    case CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE:
    case CUDA_ERROR_NOT_SUPPORTED:
      return true;
    default:
      return false;
  }
}

}  // namespace

const Driver* findDriver(std::string& reason) {
  reason = search().reason;
  return reason.empty() ? &search().driver : nullptr;
}

const Driver& driver() { return search().driver; }

std::string errorText(CUresult result) { return search().text(result); }

void check(CUresult result, const char* call) {
  if (result == CUDA_SUCCESS) return;
  const std::string what = std::string(call) + ": " + errorText(result);
  if (result == CUDA_ERROR_OUT_OF_MEMORY)
    throw Error(ErrorCode::OutOfMemory, what, "Dispose tensors and passes that are no longer needed.");
  if (isOfTheCall(result)) throw Error(ErrorCode::Internal, what);
  throw Error(ErrorCode::DeviceLost, what,
              "Dispose every device opened on this GPU and open one again, in a new process if that fails.");
}

}  // namespace moe::cuda
