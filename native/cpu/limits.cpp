// What this machine's cores can do at best, measured on the device's own threads.
#include "simd/limits.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <vector>

#include "../core/error.h"
#include "backend.h"
#include "dot/dot.h"

namespace moe::cpu {

namespace {

using Clock = std::chrono::steady_clock;

double seconds(Clock::time_point since) { return std::chrono::duration<double>(Clock::now() - since).count(); }

/// The best of several short runs: whatever else the machine does only ever slows them down.
double peak(ThreadPool& pool, float (*multiplyAdd)(int64_t), int64_t flopsPerRound, std::vector<float>& keep) {
  constexpr int64_t rounds = 200'000;
  double best = 0;
  for (int trial = 0; trial < 20; ++trial) {
    const auto start = Clock::now();
    pool.run([&](int worker) { keep[worker * 16] = multiplyAdd(rounds); });
    best = std::max(best, static_cast<double>(rounds * flopsPerRound * pool.threads()) / seconds(start));
  }
  return best;
}

}  // namespace

DeviceLimits CpuBackend::measureLimits() {
  const int threads = pool_.threads();
  std::vector<float> keep(static_cast<size_t>(threads) * 16);
  DeviceLimits limits{};

  limits.flopsPerSecond = peak(pool_, limits_.multiplyAdd, limits_.flopsPerRound, keep);
  limits.bfloat16FlopsPerSecond =
      dot_ ? peak(pool_, dot_->multiplyAdd, dot_->flopsPerRound, keep) : limits.flopsPerSecond;

  // Far larger than the caches, and a multiple of what the kernel takes at once for every thread.
  const int64_t share = int64_t{16} << 20, floats = share * threads;
  const size_t bytes = static_cast<size_t>(floats) * sizeof(float);
  auto* data = static_cast<float*>(allocate(bytes));
  if (!data) throw Error(ErrorCode::OutOfMemory, "no memory to measure the bandwidth with");
  zero(data, bytes);
  for (int trial = 0; trial < 6; ++trial) {
    const auto start = Clock::now();
    pool_.run([&](int worker) { keep[worker * 16] += limits_.read(data + worker * share, share); });
    limits.readBytesPerSecond = std::max(limits.readBytesPerSecond, static_cast<double>(bytes) / seconds(start));
  }
  release(data, bytes);
  return limits;
}

void CpuBackend::timeKernels() {
  times_.clear();
  timing_ = true;
}

std::vector<KernelTime> CpuBackend::kernelTimes() {
  timing_ = false;
  return std::exchange(times_, {});
}

}  // namespace moe::cpu
