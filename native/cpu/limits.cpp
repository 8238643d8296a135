// What this machine's cores can do at best, measured on the device's own threads.
#include "simd/limits.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <vector>

#include "../core/error.h"
#include "backend.h"

namespace moe::cpu {

namespace {

using Clock = std::chrono::steady_clock;

const LimitKernels& limitKernels(Isa isa) {
  switch (isa) {
#if defined(MOE_HAVE_avx2)
    case Isa::Avx2:
      return avx2::limitKernels;
    case Isa::Avx512:
      return avx512::limitKernels;
#endif
#if defined(MOE_HAVE_neon)
    case Isa::Neon:
      return neon::limitKernels;
#endif
    default:
      return generic::limitKernels;
  }
}

double seconds(Clock::time_point since) { return std::chrono::duration<double>(Clock::now() - since).count(); }

}  // namespace

DeviceLimits CpuBackend::measureLimits() {
  const LimitKernels& kernels = limitKernels(detectIsa());
  const int threads = pool_.threads();
  std::vector<float> keep(static_cast<size_t>(threads) * 16);
  DeviceLimits limits{};

  // The best of several short runs: whatever else the machine does only ever slows them down.
  constexpr int64_t rounds = 200'000;
  for (int trial = 0; trial < 20; ++trial) {
    const auto start = Clock::now();
    pool_.run([&](int worker) { keep[worker * 16] = kernels.multiplyAdd(rounds); });
    const double flops = static_cast<double>(rounds * kernels.flopsPerRound * threads);
    limits.flopsPerSecond = std::max(limits.flopsPerSecond, flops / seconds(start));
  }

  // Far larger than the caches, and a multiple of what the kernel takes at once for every thread.
  const int64_t share = int64_t{16} << 20, floats = share * threads;
  const size_t bytes = static_cast<size_t>(floats) * sizeof(float);
  auto* data = static_cast<float*>(allocate(bytes));
  if (!data) throw Error(ErrorCode::OutOfMemory, "no memory to measure the bandwidth with");
  zero(data, bytes);
  for (int trial = 0; trial < 6; ++trial) {
    const auto start = Clock::now();
    pool_.run([&](int worker) { keep[worker * 16] += kernels.read(data + worker * share, share); });
    limits.readBytesPerSecond = std::max(limits.readBytesPerSecond, static_cast<double>(bytes) / seconds(start));
  }
  release(data, bytes);
  return limits;
}

}  // namespace moe::cpu
