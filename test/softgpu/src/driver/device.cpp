// Initialisation, and the one device with its attributes.
#include <cstdio>
#include <cstring>

#include "driver/state.h"

using namespace softgpu;

namespace {

constexpr int kSharedPerBlock = 48 * 1024;

// What differs between the compute capabilities: the tables of the CUDA programming guide.
struct Limits {
  int sharedOptIn, sharedPerMultiprocessor, threadsPerMultiprocessor, blocksPerMultiprocessor;
};
Limits limits() {
  constexpr int kKiB = 1024;
  switch (options().capability()) {
    case 80:
    case 87:
      return {163 * kKiB, 164 * kKiB, options().minor == 0 ? 2048 : 1536, options().minor == 0 ? 32 : 16};
    case 86:
      return {99 * kKiB, 100 * kKiB, 1536, 16};
    case 89:
      return {99 * kKiB, 100 * kKiB, 1536, 24};
    default:
      break;
  }
  if (options().major < 8) return {64 * kKiB, 64 * kKiB, 1024, 16};
  if (options().major < 12) return {227 * kKiB, 228 * kKiB, 2048, 32};
  return {99 * kKiB, 100 * kKiB, 1536, 24};
}

// A process that ends without releasing its context still gets its calls reported. That is no leak.
struct AtExit {
  ~AtExit() { reportCalls("exit"); }
};

bool isDevice(CUdevice ordinal) { return ordinal >= 0 && static_cast<u32>(ordinal) < options().devices; }

}  // namespace

#define SOFTGPU_INITIALISED() \
  if (!device().initialised) return CUDA_ERROR_NOT_INITIALIZED
#define SOFTGPU_DEVICE(ordinal) \
  SOFTGPU_CALL(kOther);         \
  SOFTGPU_INITIALISED();        \
  if (!isDevice(ordinal)) return CUDA_ERROR_INVALID_DEVICE

SOFTGPU_API cuInit(unsigned flags) {
  SOFTGPU_CALL(kOther);
  if (flags != 0) return CUDA_ERROR_INVALID_VALUE;
  if (!options().problem.empty()) {
    std::fprintf(stderr, "softgpu: %s\n", options().problem.c_str());
    return CUDA_ERROR_UNKNOWN;
  }
  if (options().devices == 0) return CUDA_ERROR_NO_DEVICE;
  static AtExit atExit;
  device().initialised = true;
  return CUDA_SUCCESS;
}

SOFTGPU_API cuDriverGetVersion(int* version) {
  SOFTGPU_CALL(kOther);
  SOFTGPU_NOT_NULL(version);
  *version = options().driverVersion ? options().driverVersion : CUDA_VERSION;
  return CUDA_SUCCESS;
}

SOFTGPU_API cuDeviceGetCount(int* count) {
  SOFTGPU_CALL(kOther);
  SOFTGPU_INITIALISED();
  SOFTGPU_NOT_NULL(count);
  *count = static_cast<int>(options().devices);
  return CUDA_SUCCESS;
}

SOFTGPU_API cuDeviceGet(CUdevice* out, int ordinal) {
  SOFTGPU_DEVICE(ordinal);
  SOFTGPU_NOT_NULL(out);
  *out = ordinal;
  return CUDA_SUCCESS;
}

SOFTGPU_API cuDeviceGetName(char* name, int length, CUdevice ordinal) {
  SOFTGPU_DEVICE(ordinal);
  if (!name || length < 1) return CUDA_ERROR_INVALID_VALUE;
  std::snprintf(name, static_cast<size_t>(length), "Software GPU %u.%u", options().major, options().minor);
  return CUDA_SUCCESS;
}

SOFTGPU_API cuDeviceGetUuid(CUuuid* uuid, CUdevice ordinal) {
  SOFTGPU_DEVICE(ordinal);
  SOFTGPU_NOT_NULL(uuid);
  std::memcpy(uuid->bytes, "softgpu\0\0\0\0\0\0\0\0", sizeof uuid->bytes);
  return CUDA_SUCCESS;
}

SOFTGPU_API cuDeviceGetPCIBusId(char* name, int length, CUdevice ordinal) {
  SOFTGPU_DEVICE(ordinal);
  if (!name || length < 13) return CUDA_ERROR_INVALID_VALUE;
  std::snprintf(name, static_cast<size_t>(length), "0000:00:00.0");
  return CUDA_SUCCESS;
}

SOFTGPU_API cuDeviceTotalMem(size_t* bytes, CUdevice ordinal) {
  SOFTGPU_DEVICE(ordinal);
  SOFTGPU_NOT_NULL(bytes);
  *bytes = arena().totalBytes();
  return CUDA_SUCCESS;
}

SOFTGPU_API cuDeviceCanAccessPeer(int* can, CUdevice ordinal, CUdevice peer) {
  SOFTGPU_DEVICE(ordinal);
  SOFTGPU_NOT_NULL(can);
  if (!isDevice(peer)) return CUDA_ERROR_INVALID_DEVICE;
  *can = 0;
  return CUDA_SUCCESS;
}

SOFTGPU_API cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice ordinal) {
  SOFTGPU_DEVICE(ordinal);
  SOFTGPU_NOT_NULL(value);
  *value = deviceAttribute(attribute);
  return CUDA_SUCCESS;
}

int softgpu::deviceAttribute(CUdevice_attribute attribute) {
  switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
      return static_cast<int>(options().major);
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
      return static_cast<int>(options().minor);
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
      return kMultiprocessors;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE:
      return kWarpSize;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X:
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y:
      return 1024;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z:
      return 64;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X:
      return 0x7fffffff;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y:
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z:
      return 65535;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK:
      return kSharedPerBlock;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN:
      return limits().sharedOptIn;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR:
      return limits().sharedPerMultiprocessor;
    case CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK:
      return options().major < 8 ? 0 : 1024;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR:
      return limits().threadsPerMultiprocessor;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR:
      return limits().blocksPerMultiprocessor;
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK:
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR:
    case CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY:
      return 65536;
    case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE:
      return 40 << 20;
    case CU_DEVICE_ATTRIBUTE_CLOCK_RATE:
    case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE:
      return 1'000'000;
    case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH:
      return 256;
    case CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT:
      return 2;
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
    case CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS:
    case CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY:
    case CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_COMPUTE_PREEMPTION_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH:
    case CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED:
      return 1;
    // What is not modelled is not there: managed memory, textures, clusters, peers and the like.
    default:
      return 0;
  }
}
