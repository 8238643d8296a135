// Waiting for an atomic to change: a short spin, because queued stages follow each other within microseconds, then
// sleep.
#pragma once

#include <atomic>
#include <chrono>

namespace moe {

inline void relaxProcessor() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// Returns once `value` differs from `old`; spins for at most about 40 µs. Whoever changes it must notify.
template <class T>
void waitWhileEqual(const std::atomic<T>& value, T old) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::microseconds(40);
  do {
    for (int i = 0; i < 32; ++i) {
      if (value.load(std::memory_order_acquire) != old) return;
      relaxProcessor();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  value.wait(old, std::memory_order_acquire);
}

}  // namespace moe
