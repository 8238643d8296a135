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

/// With `tryThem`, makes a context on every GPU and loads the kernels: only that finds all reasons.
GpuList listGpus(bool tryThem);

}  // namespace moe::cuda
