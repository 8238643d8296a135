// Deadlock is found by progress, never by a timer: a warp that comes back to where it was, with nothing changed, spins.
#pragma once

#include <cstring>
#include <vector>

#include "exec/launch.h"

namespace softgpu {

// Backward branches after which a suspected spin that never repeated itself is believed to compute something.
constexpr u32 kProbeVisits = 256;

// Proves that a loop repeats itself: registers and groups are what they were, and memory did not change since.
class SpinProbe {
 public:
  void arm() {
    armed_ = true;
    taken_ = false;
    visits_ = 0;
  }
  bool armed() const { return armed_; }
  void disarm() { armed_ = false; }

  // At a taken backward branch to `pc`. True when the warp is where it was before, with nothing changed.
  bool repeats(const Warp& w, u32 pc) {
    if (++visits_ > kProbeVisits) {
      disarm();
      return false;
    }
    const size_t bytes = w.kernel->constantsOffset;
    if (taken_ && version_ == w.launch->memoryVersion) {
      return pc == pc_ && std::memcmp(image_.data(), w.registers, bytes) == 0;
    }
    taken_ = true;
    pc_ = pc;
    version_ = w.launch->memoryVersion;
    image_.assign(w.registers, w.registers + bytes);
    return false;
  }

 private:
  bool armed_ = false, taken_ = false;
  u32 pc_ = 0, visits_ = 0;
  u64 version_ = 0;
  std::vector<u8> image_;
};

}  // namespace softgpu
