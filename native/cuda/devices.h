// Which GPUs there are, and why one cannot be used.
#pragma once

#include <string>
#include <vector>

namespace moe::cuda {

struct GpuInfo {
  std::string name;
  std::string reason;  // why it cannot be used; empty when it can
  int major = 0, minor = 0, multiprocessors = 0;
  double memoryBytes = 0;
};

struct GpuList {
  std::string reason;  // why there are none at all
  int driverVersion = 0;
  std::vector<GpuInfo> gpus;
};

/// Tries every GPU: makes a context on it and loads a kernel.
GpuList listGpus();

}  // namespace moe::cuda
