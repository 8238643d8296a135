// The lowest index at which several threads found something wrong: so that an error names the same token in every run.
#pragma once

#include <atomic>
#include <cstdint>
#include <limits>

namespace moe::cpu {

class Lowest {
 public:
  void note(int64_t index) {
    int64_t seen = value_.load(std::memory_order_relaxed);
    while (index < seen && !value_.compare_exchange_weak(seen, index, std::memory_order_relaxed)) {
    }
  }

  bool found() const { return value() != std::numeric_limits<int64_t>::max(); }
  int64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<int64_t> value_{std::numeric_limits<int64_t>::max()};
};

}  // namespace moe::cpu
