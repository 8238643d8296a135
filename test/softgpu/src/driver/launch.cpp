// Kernel launches: attributes, occupancy, the checks on a configuration, and what a fault does to the context.
#include <algorithm>
#include <cstring>

#include "driver/state.h"

using namespace softgpu;

namespace {

int attribute(CUdevice_attribute a) {
  int value = 0;
  cuDeviceGetAttribute(&value, a, 0);
  return value;
}

// Blocks that fit a multiprocessor by threads and shared memory. Registers are what this allocator uses, which is no
// more than a hint at what ptxas would use.
u32 blocksPerMultiprocessor(const CUfunc_st& f, u32 threads, u64 dynamicShared) {
  const u32 warps = (threads + kWarpSize - 1) / kWarpSize;
  const u64 shared = f.kernel->dynamicSharedOffset + dynamicShared + 1024;
  const u64 perShared = static_cast<u64>(attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR)) / shared;
  return static_cast<u32>(std::min<u64>({32, 64 / std::max(1u, warps), perShared}));
}

CUresult invalid(const CUfunc_st& f, CUresult result, const std::string& why) {
  Fault fault{};
  fault.kind = FaultKind::kInvalidLaunch;
  fault.kernel = f.kernel->name;
  fault.detail = why;
  reportFault(fault);
  return result;
}

CUresult check(const CUfunc_st& f, const LaunchConfig& c) {
  const u64 threads = c.block.count();
  if (c.grid.count() == 0 || threads == 0) return invalid(f, CUDA_ERROR_INVALID_VALUE, "an extent of zero");
  if (c.block.x > 1024 || c.block.y > 1024 || c.block.z > 64 || threads > 1024) {
    return invalid(f, CUDA_ERROR_INVALID_VALUE, std::to_string(threads) + " threads in a block");
  }
  if (c.grid.y > 65535 || c.grid.z > 65535 || c.grid.x > 0x7fffffff) {
    return invalid(f, CUDA_ERROR_INVALID_VALUE, "grid too large");
  }
  if (f.kernel->requiredThreads && threads != f.kernel->requiredThreads) {
    return invalid(f, CUDA_ERROR_INVALID_VALUE,
                   "the kernel needs " + std::to_string(f.kernel->requiredThreads) + " threads");
  }
  if (threads > f.kernel->maxThreads) {
    return invalid(f, CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES,
                   std::to_string(threads) + " threads in a block, bounds say " + std::to_string(f.kernel->maxThreads));
  }
  if (f.kernel->dynamicSharedOffset + c.dynamicShared > static_cast<u32>(f.maxDynamicShared)) {
    return invalid(f, CUDA_ERROR_INVALID_VALUE,
                   std::to_string(f.kernel->dynamicSharedOffset + c.dynamicShared) +
                       " bytes of shared memory, allowed " + std::to_string(f.maxDynamicShared));
  }
  if (c.cooperative && c.grid.count() > c.maxResidentBlocks) {
    return invalid(f, CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE,
                   std::to_string(c.grid.count()) + " blocks, resident " + std::to_string(c.maxResidentBlocks));
  }
  return CUDA_SUCCESS;
}

CUresult errorOf(FaultKind kind) {
  switch (kind) {
    case FaultKind::kOutOfBounds:
    case FaultKind::kUseAfterFree:
      return CUDA_ERROR_ILLEGAL_ADDRESS;
    case FaultKind::kMisaligned:
      return CUDA_ERROR_MISALIGNED_ADDRESS;
    case FaultKind::kDeadlock:
      return CUDA_ERROR_LAUNCH_TIMEOUT;
    case FaultKind::kAssertion:
      return CUDA_ERROR_ASSERT;
    case FaultKind::kDivergedAligned:
    case FaultKind::kWrongMemberMask:
    case FaultKind::kInvalidBarrier:
      return CUDA_ERROR_ILLEGAL_INSTRUCTION;
    default:
      return CUDA_ERROR_LAUNCH_FAILED;
  }
}

void execute(LaunchConfig config, u64 stream) {
  config.id = device().nextId();
  const std::unique_ptr<Launch> launch = runLaunch(std::move(config));
  reportLaunch(*launch, stream);
  if (!launch->faults.empty()) device().fail(errorOf(launch->faults.front().kind));
}

// Parameters come as pointers, or packed in a buffer.
CUresult packParameters(const ptx::Kernel& kernel, void** parameters, void** extra, std::vector<u8>& out) {
  out.assign(kernel.parameterBytes, 0);
  if (parameters) {
    for (size_t k = 0; k < kernel.parameters.size(); ++k) {
      std::memcpy(out.data() + kernel.parameters[k].offset, parameters[k], kernel.parameters[k].size);
    }
    return CUDA_SUCCESS;
  }
  const void* buffer = nullptr;
  size_t size = 0;
  for (; extra && *extra != CU_LAUNCH_PARAM_END; extra += 2) {
    if (*extra == CU_LAUNCH_PARAM_BUFFER_POINTER) buffer = extra[1];
    if (*extra == CU_LAUNCH_PARAM_BUFFER_SIZE) size = *static_cast<size_t*>(extra[1]);
  }
  if (!kernel.parameters.empty() && (!buffer || size < kernel.parameterBytes)) return CUDA_ERROR_INVALID_VALUE;
  if (buffer) std::memcpy(out.data(), buffer, kernel.parameterBytes);
  return CUDA_SUCCESS;
}

CUresult launch(CUfunction f, LaunchConfig config, CUstream stream, void** parameters, void** extra) {
  SOFTGPU_TRY(usable());
  config.kernel = f->kernel;
  config.maxResidentBlocks =
      kMultiprocessors * blocksPerMultiprocessor(*f, static_cast<u32>(config.block.count()), config.dynamicShared);
  SOFTGPU_TRY(check(*f, config));
  SOFTGPU_TRY(packParameters(*f->kernel, parameters, extra, config.parameters));
  Device& d = device();
  std::lock_guard lock(d.mutex);
  stream = d.resolve(stream);
  ++stream->calls.launches;
  d.enqueue(stream, [config = std::move(config), id = stream->id] { execute(config, id); });
  return CUDA_SUCCESS;
}

}  // namespace

SOFTGPU_API cuFuncGetAttribute(int* value, CUfunction_attribute attribute, CUfunction f) {
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

SOFTGPU_API cuFuncSetAttribute(CUfunction f, CUfunction_attribute name, int value) {
  if (name == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) {
    const int total = value + static_cast<int>(f->kernel->dynamicSharedOffset);
    if (value < 0 || total > attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    f->maxDynamicShared = total;
    return CUDA_SUCCESS;
  }
  if (name != CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT) return CUDA_ERROR_INVALID_VALUE;
  f->carveout = value;
  return CUDA_SUCCESS;
}

SOFTGPU_API cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction f, int threads, size_t dynamicShared) {
  *blocks = static_cast<int>(blocksPerMultiprocessor(*f, static_cast<u32>(threads), dynamicShared));
  return CUDA_SUCCESS;
}
SOFTGPU_API cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, CUfunction f, int threads,
                                                                 size_t dynamicShared, unsigned) {
  return cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, f, threads, dynamicShared);
}

SOFTGPU_API cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                           unsigned shared, CUstream stream, void** parameters, void** extra) {
  LaunchConfig config;
  config.grid = {gx, gy, gz};
  config.block = {bx, by, bz};
  config.dynamicShared = shared;
  return launch(f, std::move(config), stream, parameters, extra);
}

SOFTGPU_API cuLaunchCooperativeKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                                      unsigned bz, unsigned shared, CUstream stream, void** parameters) {
  LaunchConfig config;
  config.grid = {gx, gy, gz};
  config.block = {bx, by, bz};
  config.dynamicShared = shared;
  config.cooperative = true;
  return launch(f, std::move(config), stream, parameters, nullptr);
}

SOFTGPU_API cuLaunchKernelEx(const CUlaunchConfig* c, CUfunction f, void** parameters, void** extra) {
  LaunchConfig config;
  config.grid = {c->gridDimX, c->gridDimY, c->gridDimZ};
  config.block = {c->blockDimX, c->blockDimY, c->blockDimZ};
  config.dynamicShared = c->sharedMemBytes;
  for (unsigned k = 0; k < c->numAttrs; ++k) {
    const CUlaunchAttribute& a = c->attrs[k];
    if (a.id == CU_LAUNCH_ATTRIBUTE_COOPERATIVE) config.cooperative = a.value.cooperative != 0;
    if (a.id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION &&
        a.value.clusterDim.x * a.value.clusterDim.y * a.value.clusterDim.z != 1) {
      return invalid(*f, CUDA_ERROR_NOT_SUPPORTED, "clusters of more than one block");
    }
  }
  return launch(f, std::move(config), c->hStream, parameters, extra);
}
