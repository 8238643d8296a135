// Kernel launches: the checks on a configuration, and what a fault does to the context.
#include <algorithm>
#include <cstring>

#include "driver/function.h"

using namespace softgpu;

namespace {

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
  if (const u64 bytes = f.kernel->sharedBytes(c.dynamicShared); bytes > static_cast<u64>(f.maxDynamicShared)) {
    return invalid(f, CUDA_ERROR_INVALID_VALUE,
                   std::to_string(bytes) + " bytes of shared memory, allowed " + std::to_string(f.maxDynamicShared));
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
  if (device().failsLaunch()) return device().fail(CUDA_ERROR_ILLEGAL_ADDRESS);
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

CUresult launch(CallSite& site, CUfunction f, LaunchConfig config, CUstream handle, void** parameters, void** extra) {
  Device& d = device();
  CUstream stream = d.resolve(handle);
  const bool known = d.functions.has(f);
  site.note(CallKind::kLaunching, known ? f->name : "", stream ? stream->id : 0);
  SOFTGPU_TRY(usable());
  if (!known || !stream) return CUDA_ERROR_INVALID_HANDLE;
  config.kernel = f->kernel;
  config.maxResidentBlocks =
      kMultiprocessors * blocksPerMultiprocessor(*f, static_cast<u32>(config.block.count()), config.dynamicShared);
  config.maxResidentWarps =
      static_cast<u32>(deviceAttribute(CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR)) / kWarpSize;
  SOFTGPU_TRY(check(*f, config));
  SOFTGPU_TRY(packParameters(*f->kernel, parameters, extra, config.parameters));
  std::lock_guard lock(d.mutex);
  d.enqueue(stream,
            {.run = [config = std::move(config), id = stream->id] { execute(config, id); }, .kernel = f->kernel});
  return CUDA_SUCCESS;
}

}  // namespace

SOFTGPU_API cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                           unsigned shared, CUstream stream, void** parameters, void** extra) {
  SOFTGPU_SITE();
  LaunchConfig config;
  config.grid = {gx, gy, gz};
  config.block = {bx, by, bz};
  config.dynamicShared = shared;
  return launch(softgpuSite, f, std::move(config), stream, parameters, extra);
}

SOFTGPU_API cuLaunchCooperativeKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                                      unsigned bz, unsigned shared, CUstream stream, void** parameters) {
  SOFTGPU_SITE();
  LaunchConfig config;
  config.grid = {gx, gy, gz};
  config.block = {bx, by, bz};
  config.dynamicShared = shared;
  config.cooperative = true;
  return launch(softgpuSite, f, std::move(config), stream, parameters, nullptr);
}

SOFTGPU_API cuLaunchKernelEx(const CUlaunchConfig* c, CUfunction f, void** parameters, void** extra) {
  SOFTGPU_SITE();
  LaunchConfig config;
  config.grid = {c->gridDimX, c->gridDimY, c->gridDimZ};
  config.block = {c->blockDimX, c->blockDimY, c->blockDimZ};
  config.dynamicShared = c->sharedMemBytes;
  for (unsigned k = 0; k < c->numAttrs; ++k) {
    const CUlaunchAttribute& a = c->attrs[k];
    if (a.id == CU_LAUNCH_ATTRIBUTE_COOPERATIVE) config.cooperative = a.value.cooperative != 0;
    if (a.id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION &&
        a.value.clusterDim.x * a.value.clusterDim.y * a.value.clusterDim.z != 1) {
      return device().functions.has(f) ? invalid(*f, CUDA_ERROR_NOT_SUPPORTED, "clusters of more than one block")
                                       : CUDA_ERROR_INVALID_HANDLE;
    }
  }
  return launch(softgpuSite, f, std::move(config), c->hStream, parameters, extra);
}
