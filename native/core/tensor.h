// Tensors as the core sees them: a typed block of device memory and what is known about its contents. Shapes live in
// JavaScript and in the parameters of each operation.
//
// Memory is owned by the JS thread alone: a block goes back to the pool in program order, the moment its last handle is
// dropped, and may be handed out again at once, because the queue runs in that same order. Queued work therefore holds
// raw pointers and the Health of what it touches, never a Tensor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "../shared/dtype.h"
#include "health.h"
#include "pool.h"

namespace moe {

class Device;

class Tensor : public std::enable_shared_from_this<Tensor> {
 public:
  Tensor(std::shared_ptr<Device> device, DType dtype, int64_t size, bool lasting = false);
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
  /// Whether it outlives the step that makes it, as gradients do. See Pool::take().
  bool lasting() const { return block_.lasting; }
  /// Of the recorded step that it belongs to; null: of none.
  const Arena* arena() const { return block_.arena.get(); }
  /// Whose health it is; null when that tensor is gone. Of the thread that owns the device.
  static Tensor* of(const HealthPtr& health);

  /// Writes so far: a pass that saved this tensor is stale once it changes.
  uint64_t version = 0;
  /// Replays so far that have written it; see Watched.
  uint64_t replays = 0;
  /// Zero by definition, whatever the memory holds: filled only when somebody reads it. Only gradients ever are.
  bool cleared = false;
  /// Of a cleared tensor: somebody has read it, so the memory holds the zeros.
  bool zeroed = false;

  void clear() {
    cleared = true;
    zeroed = false;
  }

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
    throw Error(ErrorCode::DType,
                std::string(name) + " must be " + dtypeName(dtype) + ", got " + dtypeName(tensor->dtype()));
  if (tensor->size() != size)
    throw Error(ErrorCode::Shape, std::string(name) + " must have " + std::to_string(size) + " elements, got " +
                                      std::to_string(tensor->size()));
}

}  // namespace moe
