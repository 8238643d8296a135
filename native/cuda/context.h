// The primary context of a GPU. A process has one, and all of its devices on that GPU share it: it ends, and with it
// the error that has lost it, when the last one lets go.
#pragma once

#include "driver.h"

namespace moe::cuda {

class Context {
 public:
  explicit Context(int ordinal) {
    MOE_CUDA(cuDeviceGet, &device_, ordinal);
    MOE_CUDA(cuDevicePrimaryCtxRetain, &context_, device_);
    if (const CUresult result = driver().cuCtxSetCurrent(context_); result != CUDA_SUCCESS) {
      driver().cuDevicePrimaryCtxRelease_v2(device_);
      check(result, "cuCtxSetCurrent");
    }
  }
  ~Context() { driver().cuDevicePrimaryCtxRelease_v2(device_); }
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  CUcontext get() const { return context_; }
  void makeCurrent() const { MOE_CUDA(cuCtxSetCurrent, context_); }

 private:
  CUdevice device_ = 0;
  CUcontext context_ = nullptr;
};

}  // namespace moe::cuda
