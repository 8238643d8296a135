// A thin layer over the driver API for the runner: errors become exceptions, device memory frees itself.
#pragma once

#include <cuda.h>

#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

namespace runner {

inline void check(CUresult result, const char* call) {
  if (result == CUDA_SUCCESS) return;
  const char* name = nullptr;
  cuGetErrorName(result, &name);
  throw std::runtime_error(std::string(call) + ": " + (name ? name : "unknown error"));
}
#define CHECK(call) ::runner::check((call), #call)

// Holds the primary context.
class Context {
 public:
  Context() {
    CHECK(cuInit(0));
    CHECK(cuDevicePrimaryCtxRetain(&context_, 0));
    CHECK(cuCtxSetCurrent(context_));
  }
  ~Context() { cuDevicePrimaryCtxRelease(0); }
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

 private:
  CUcontext context_ = nullptr;
};

class Module {
 public:
  explicit Module(const std::string& image) { CHECK(cuModuleLoadData(&module_, image.c_str())); }
  ~Module() { cuModuleUnload(module_); }
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;
  CUfunction function(const std::string& name) const {
    CUfunction f = nullptr;
    CHECK(cuModuleGetFunction(&f, module_, name.c_str()));
    return f;
  }

 private:
  CUmodule module_ = nullptr;
};

template <class T>
class Buffer {
 public:
  explicit Buffer(size_t count) : count_(count) { CHECK(cuMemAlloc(&address_, count * sizeof(T))); }
  explicit Buffer(const std::vector<T>& values) : Buffer(values.size()) {
    CHECK(cuMemcpyHtoD(address_, values.data(), count_ * sizeof(T)));
  }
  ~Buffer() { cuMemFree(address_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  CUdeviceptr address() const { return address_; }
  std::vector<T> read() const {
    std::vector<T> values(count_);
    CHECK(cuMemcpyDtoH(values.data(), address_, count_ * sizeof(T)));
    return values;
  }

 private:
  CUdeviceptr address_ = 0;
  size_t count_;
};

struct Shape {
  unsigned grid = 1, block = 32, shared = 0, gridY = 1;
};

template <class... Arguments>
void launch(CUfunction f, Shape shape, Arguments... arguments) {
  void* pointers[] = {&arguments..., nullptr};
  if (shape.shared > 48 * 1024) {
    CHECK(cuFuncSetAttribute(f, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, static_cast<int>(shape.shared)));
  }
  CHECK(cuLaunchKernel(f, shape.grid, shape.gridY, 1, shape.block, 1, 1, shape.shared, nullptr, pointers, nullptr));
  CHECK(cuCtxSynchronize());
}

}  // namespace runner
