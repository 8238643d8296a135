#include "kernels.h"

#include <dlfcn.h>

#include <fstream>
#include <iterator>

#include "../core/error.h"
// Made by the build: MOE_CUDA_TOOLKIT, and MOE_CUDA_CHECKSUMS or MOE_CUDA_REASON.
#include "kernel-build.h"

namespace moe::cuda {

namespace {

std::vector<char> contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file)
    throw Error(ErrorCode::DeviceUnavailable, "the CUDA kernels are missing: cannot read " + path,
                "\"npx switchyard build\" makes them anew.");
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

}  // namespace

const KernelBuild& kernelBuild() {
#ifdef MOE_CUDA_CHECKSUMS
  static const KernelBuild build{true, "", MOE_CUDA_TOOLKIT, MOE_CUDA_CHECKSUMS};
#else
  static const KernelBuild build{false, MOE_CUDA_REASON, 0, {}};
#endif
  return build;
}

std::string kernelFolder() {
  Dl_info here;
  if (!dladdr(reinterpret_cast<const void*>(&kernelFolder), &here) || !here.dli_fname) return "cuda";
  const std::string addon = here.dli_fname;
  return addon.substr(0, addon.find_last_of('/') + 1) + "cuda";
}

Kernels::Kernels() {
  for (const auto& [name, checksum] : kernelBuild().checksums) {
    const std::vector<char> image = contents(kernelFolder() + "/" + name);
    CUmodule module = nullptr;
    const CUresult result = driver().cuModuleLoadData(&module, image.data());
    if (result == CUDA_ERROR_NO_BINARY_FOR_GPU || result == CUDA_ERROR_INVALID_IMAGE ||
        result == CUDA_ERROR_UNSUPPORTED_PTX_VERSION)
      throw Error(ErrorCode::DeviceUnavailable,
                  std::string("no kernel image for this GPU in ") + name + ": " + errorText(result),
                  "\"npx switchyard build\" on the machine with this GPU builds for it.");
    check(result, "cuModuleLoadData");
    modules_.emplace_back(module);
  }
}

void Kernels::Unload::operator()(CUmodule module) const { driver().cuModuleUnload(module); }

CUfunction Kernels::find(const std::string& name) {
  CUfunction& function = functions_[name];
  for (size_t i = 0; !function && i < modules_.size(); ++i) {
    const CUresult result = driver().cuModuleGetFunction(&function, modules_[i].get(), name.c_str());
    if (result == CUDA_ERROR_NOT_FOUND)
      function = nullptr;
    else
      check(result, "cuModuleGetFunction");
  }
  if (!function) throw Error(ErrorCode::Internal, "there is no CUDA kernel " + name);
  return function;
}

}  // namespace moe::cuda
