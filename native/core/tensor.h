// Tensors as the core sees them: a typed block of device memory and what is known about its contents. Shapes live in
// JavaScript and in the parameters of each operation.
//
// Memory is owned by the JS thread alone: a block goes back to the pool in program order, the moment its last handle is
// dropped, and may be handed out again at once, because the queue runs in that same order. Queued work therefore holds
// raw pointers and the Health of what it touches, never a Tensor.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "error.h"
#include "pool.h"

namespace moe {

enum class DType : int32_t { Float32, BFloat16, Float16, Int32 };

inline size_t dtypeSize(DType dtype) { return dtype == DType::BFloat16 || dtype == DType::Float16 ? 2 : 4; }

/// Why an operation failed. One object per failure, shared by everything it poisoned.
struct Failure {
  Failure(ErrorCode code, std::string message, std::string hint)
      : code(code), message(std::move(message)), hint(std::move(hint)) {}

  const ErrorCode code;
  const std::string message;
  const std::string hint;
  std::atomic<bool> reported{false};
};
using FailurePtr = std::shared_ptr<Failure>;

/// Whether a tensor's contents can be trusted at this point of the queue. Only the queue's thread touches it.
struct Health {
  FailurePtr failure;
};
using HealthPtr = std::shared_ptr<Health>;

class Device;

class Tensor {
 public:
  Tensor(std::shared_ptr<Device> device, DType dtype, int64_t size);
  ~Tensor();
  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;

  Device& device() const { return *device_; }
  DType dtype() const { return dtype_; }
  int64_t size() const { return size_; }
  size_t bytes() const { return static_cast<size_t>(size_) * dtypeSize(dtype_); }
  void* data() const { return block_.address; }
  float* floats() const { return static_cast<float*>(block_.address); }
  int32_t* ints() const { return static_cast<int32_t*>(block_.address); }
  const HealthPtr& health() const { return health_; }

  /// Writes so far: a pass that saved this tensor is stale once it changes.
  uint64_t version = 0;
  /// Zero by definition, whatever the memory holds: filled only when somebody reads it. Only gradients ever are.
  bool cleared = false;

 private:
  std::shared_ptr<Device> device_;
  DType dtype_;
  int64_t size_;
  Block block_;
  HealthPtr health_;
};
using TensorPtr = std::shared_ptr<Tensor>;

/// What memory safety needs of a tensor that an operation is given; lib/ has said it in the caller's words before.
inline void checkTensor(const TensorPtr& tensor, int64_t size, DType dtype, const char* name) {
  if (tensor->dtype() != dtype)
    throw Error(ErrorCode::DType, std::string(name) + " must be " + (dtype == DType::Int32 ? "int32" : "float32"));
  if (tensor->size() != size)
    throw Error(ErrorCode::Shape, std::string(name) + " must have " + std::to_string(size) + " elements, got " +
                                      std::to_string(tensor->size()));
}

}  // namespace moe
