// Cuts the arrays of a workspace from one block: the same function sizes it and carves it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace moe::cuda {

class Carver {
 public:
  /// Null: only counts.
  explicit Carver(void* block) : block_(static_cast<char*>(block)) {}

  template <class T>
  void take(T*& array, int64_t count) {
    if (block_) array = reinterpret_cast<T*>(block_ + used_);
    used_ += (static_cast<size_t>(count) * sizeof(T) + 255) / 256 * 256;
  }

  size_t bytes() const { return used_; }

 private:
  char* const block_;
  size_t used_ = 0;
};

}  // namespace moe::cuda
