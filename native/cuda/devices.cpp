#include "devices.h"

#include "backend.h"

namespace moe::cuda {

namespace {

std::string versionText(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

/// What is wrong, and what to do about it.
std::string reasonOf(const Error& error) {
  if (error.code() == ErrorCode::OutOfMemory)
    return std::string("the GPU is out of memory: ") + error.what() +
           ". Dispose what this process has on it, or end other processes that use it: nvidia-smi lists them.";
  return error.hint().empty() ? error.what() : std::string(error.what()) + ". " + error.hint();
}

GpuInfo inspect(int ordinal, bool tryIt) {
  GpuInfo info;
  CUdevice device;
  MOE_CUDA(cuDeviceGet, &device, ordinal);
  char name[256] = "";
  MOE_CUDA(cuDeviceGetName, name, sizeof(name), device);
  info.name = name;
  MOE_CUDA(cuDeviceGetAttribute, &info.major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device);
  MOE_CUDA(cuDeviceGetAttribute, &info.minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device);
  MOE_CUDA(cuDeviceGetAttribute, &info.multiprocessors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device);
  size_t bytes = 0;
  MOE_CUDA(cuDeviceTotalMem_v2, &bytes, device);
  info.memoryBytes = static_cast<double>(bytes);
  if (info.major < 8) {
    info.reason = "no kernel image for this GPU: its compute capability is " + std::to_string(info.major) + "." +
                  std::to_string(info.minor) + ", the kernels need 8.0 or later. Use another GPU, or the CPU.";
    return info;
  }
  if (!tryIt) return info;
  try {
    const Context context(ordinal);
    const Kernels kernels;
  } catch (const Error& error) {
    info.reason = reasonOf(error);
  }
  return info;
}

}  // namespace

GpuList listGpus(bool tryThem) {
  GpuList list;
  const KernelBuild& build = kernelBuild();
  if (!build.built) {
    list.reason =
        std::string(build.reason) + ". \"npx switchyard build\" makes the kernels where it finds the CUDA toolkit.";
    return list;
  }
  const Driver* found = findDriver(list.reason);
  if (!found) return list;
  try {
    MOE_CUDA(cuDriverGetVersion, &list.driverVersion);
    // A driver runs everything that toolkits of its own major version have made.
    if (list.driverVersion / 1000 < build.toolkit / 1000) {
      list.reason = "the CUDA driver is too old: it supports CUDA " + versionText(list.driverVersion) +
                    ", the kernels were made by CUDA " + versionText(build.toolkit) + ". Install a newer driver.";
      return list;
    }
    int count = 0;
    MOE_CUDA(cuDeviceGetCount, &count);
    for (int ordinal = 0; ordinal < count; ++ordinal) list.gpus.push_back(inspect(ordinal, tryThem));
    if (count == 0) list.reason = noGpu;
  } catch (const Error& error) {
    list.reason = reasonOf(error);
  }
  return list;
}

}  // namespace moe::cuda
