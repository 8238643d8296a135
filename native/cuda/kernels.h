// The compiled kernels: one fatbin per file of cuda/, in a folder beside the addon, loaded into a device's context.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "driver.h"

namespace moe::cuda {

/// What this build has; empty and a reason when it was made without nvcc.
struct KernelBuild {
  bool built;
  const char* reason;                                          // why not
  int toolkit;                                                 // version as the driver counts, 13000 for CUDA 13.0
  std::vector<std::pair<const char*, const char*>> checksums;  // file name, SHA-256
};

const KernelBuild& kernelBuild();

/// The folder of the fatbins: "cuda" beside the addon.
std::string kernelFolder();

class Kernels {
 public:
  /// Loads every fatbin into the current context. Throws DeviceUnavailable when the GPU has no use for one.
  Kernels();
  Kernels(const Kernels&) = delete;
  Kernels& operator=(const Kernels&) = delete;

  /// Throws Internal when there is none of that name.
  CUfunction find(const std::string& name);

 private:
  struct Unload {
    void operator()(CUmodule module) const;
  };

  std::vector<std::unique_ptr<CUmod_st, Unload>> modules_;
  std::unordered_map<std::string, CUfunction> functions_;
};

}  // namespace moe::cuda
