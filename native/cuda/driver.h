// The CUDA driver, opened at run time: the addon links no CUDA library and needs no CUDA header. Only the driver API is
// used, so whatever is found as libcuda.so.1 will do.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace moe::cuda {

// The driver's ABI, with its own names.
using CUresult = int;
using CUdevice = int;
using CUdeviceptr = unsigned long long;
using CUcontext = struct CUctx_st*;
using CUmodule = struct CUmod_st*;
using CUfunction = struct CUfunc_st*;
using CUstream = struct CUstream_st*;
using CUevent = struct CUevent_st*;
using CUgraph = struct CUgraph_st*;
using CUgraphExec = struct CUgraphExec_st*;

enum : CUresult {
  CUDA_SUCCESS = 0,
  CUDA_ERROR_INVALID_VALUE = 1,
  CUDA_ERROR_OUT_OF_MEMORY = 2,
  CUDA_ERROR_NO_DEVICE = 100,
  CUDA_ERROR_INVALID_IMAGE = 200,
  CUDA_ERROR_NO_BINARY_FOR_GPU = 209,
  CUDA_ERROR_UNSUPPORTED_PTX_VERSION = 222,
  CUDA_ERROR_INVALID_HANDLE = 400,
  CUDA_ERROR_NOT_FOUND = 500,
  CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES = 701,
  CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE = 720,
  CUDA_ERROR_NOT_SUPPORTED = 801,
};

enum : int {
  CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT = 16,
  CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75,
  CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76,
  CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN = 97,
  CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8,
  CU_STREAM_NON_BLOCKING = 1,
  CU_EVENT_BLOCKING_SYNC = 1,
  CU_STREAM_CAPTURE_MODE_RELAXED = 2,
  CU_EVENT_DISABLE_TIMING = 2,
};

/// The entry points, by their exported names.
struct Driver {
  CUresult (*cuInit)(unsigned flags);
  CUresult (*cuDriverGetVersion)(int* version);
  CUresult (*cuGetErrorName)(CUresult, const char** name);
  CUresult (*cuGetErrorString)(CUresult, const char** text);
  CUresult (*cuDeviceGetCount)(int* count);
  CUresult (*cuDeviceGet)(CUdevice*, int ordinal);
  CUresult (*cuDeviceGetName)(char* name, int length, CUdevice);
  CUresult (*cuDeviceGetAttribute)(int* value, int attribute, CUdevice);
  CUresult (*cuDeviceTotalMem_v2)(size_t* bytes, CUdevice);
  CUresult (*cuDevicePrimaryCtxRetain)(CUcontext*, CUdevice);
  CUresult (*cuDevicePrimaryCtxRelease_v2)(CUdevice);
  CUresult (*cuCtxSetCurrent)(CUcontext);
  CUresult (*cuModuleLoadData)(CUmodule*, const void* image);
  CUresult (*cuModuleUnload)(CUmodule);
  CUresult (*cuModuleGetFunction)(CUfunction*, CUmodule, const char* name);
  CUresult (*cuFuncSetAttribute)(CUfunction, int attribute, int value);
  CUresult (*cuLaunchKernel)(CUfunction, unsigned gridX, unsigned gridY, unsigned gridZ, unsigned blockX,
                             unsigned blockY, unsigned blockZ, unsigned sharedBytes, CUstream, void** parameters,
                             void** extra);
  CUresult (*cuLaunchCooperativeKernel)(CUfunction, unsigned gridX, unsigned gridY, unsigned gridZ, unsigned blockX,
                                        unsigned blockY, unsigned blockZ, unsigned sharedBytes, CUstream,
                                        void** parameters);
  CUresult (*cuStreamBeginCapture_v2)(CUstream, int mode);
  CUresult (*cuStreamEndCapture)(CUstream, CUgraph*);
  CUresult (*cuGraphInstantiateWithFlags)(CUgraphExec*, CUgraph, unsigned long long flags);
  CUresult (*cuGraphLaunch)(CUgraphExec, CUstream);
  CUresult (*cuGraphExecDestroy)(CUgraphExec);
  CUresult (*cuGraphDestroy)(CUgraph);
  CUresult (*cuLaunchHostFunc)(CUstream, void (*function)(void*), void* data);
  CUresult (*cuStreamCreate)(CUstream*, unsigned flags);
  CUresult (*cuStreamDestroy_v2)(CUstream);
  CUresult (*cuStreamSynchronize)(CUstream);
  CUresult (*cuEventCreate)(CUevent*, unsigned flags);
  CUresult (*cuEventDestroy_v2)(CUevent);
  CUresult (*cuEventRecord)(CUevent, CUstream);
  CUresult (*cuEventSynchronize)(CUevent);
  // Not _v2, which drivers before 12.8 have not.
  CUresult (*cuEventElapsedTime)(float* milliseconds, CUevent from, CUevent to);
  CUresult (*cuMemAlloc_v2)(CUdeviceptr*, size_t bytes);
  CUresult (*cuMemFree_v2)(CUdeviceptr);
  CUresult (*cuMemHostAlloc)(void** host, size_t bytes, unsigned flags);
  CUresult (*cuMemFreeHost)(void* host);
  CUresult (*cuMemcpyHtoDAsync_v2)(CUdeviceptr, const void* host, size_t bytes, CUstream);
  CUresult (*cuMemcpyDtoHAsync_v2)(void* host, CUdeviceptr, size_t bytes, CUstream);
  CUresult (*cuMemcpyDtoDAsync_v2)(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream);
  CUresult (*cuMemsetD8Async)(CUdeviceptr, unsigned char value, size_t count, CUstream);
};

inline constexpr char noGpu[] =
    "the CUDA driver finds no GPU. See that nvidia-smi lists one, and that CUDA_VISIBLE_DEVICES does not hide it.";

/// The driver of this process, opened and initialised by the first call; null when there is none, and `reason` says
/// why.
const Driver* findDriver(std::string& reason);

/// The driver that a device has been opened with.
const Driver& driver();

/// "CUDA_ERROR_X (what CUDA says of it)".
std::string errorText(CUresult);

/// Throws what a failed call means, with CUDA's name and text: ERR_OUT_OF_MEMORY, ERR_INTERNAL where the call itself
/// was wrong, which harms nothing else, or ERR_DEVICE_LOST.
void check(CUresult, const char* call);

inline CUdeviceptr address(const void* pointer) { return reinterpret_cast<CUdeviceptr>(pointer); }

}  // namespace moe::cuda

/// Calls an entry point and throws when it fails.
#define MOE_CUDA(name, ...) ::moe::cuda::check(::moe::cuda::driver().name(__VA_ARGS__), #name)
