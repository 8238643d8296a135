// The environment variables that steer the software GPU, read once, but for those of
// base/injection.h. README.md lists them.
#pragma once

#include <random>
#include <string>

#include "base/types.h"

namespace softgpu {

// When asynchronous work (copies inside a kernel, queued stream work) takes effect.
enum class Order : u8 { kLatest, kEarliest, kRandom };

struct Options {
  u32 major = 8;
  u32 minor = 0;
  Order order = Order::kLatest;
  u64 seed = 0;
  std::string reportPath;
  std::string tracePath;  // one line per driver call
  u64 memoryBytes = u64{16} << 30;
  int driverVersion = 0;  // as cuDriverGetVersion gives it; 0: that of cuda.h
  u32 devices = 1;
  // Why the environment was rejected; empty when it is fine.
  std::string problem;

  u32 capability() const { return major * 10 + minor; }
};

const Options& options();

}  // namespace softgpu
