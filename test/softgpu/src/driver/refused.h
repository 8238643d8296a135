// Entry points that are not modelled: they name themselves and return CUDA_ERROR_NOT_SUPPORTED.
#pragma once

namespace softgpu {
int refuse(const char* name);
}

// Weak, so that an entry point that is modelled replaces it.
#define SOFTGPU_REFUSED(name)                                         \
  extern "C" __attribute__((weak, visibility("default"))) int name(); \
  extern "C" __attribute__((weak, visibility("default"))) int name() { return ::softgpu::refuse(#name); }
