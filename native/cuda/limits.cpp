// What a bench asks for: the roofline, measured, and the times of kernels. Nothing else waits for the device.
#include <algorithm>
#include <functional>

#include "backend.h"
#include "event.h"

namespace moe::cuda {

namespace {

constexpr double enough = 0.02;           // seconds that a measurement takes at least
constexpr int chains = 16, products = 8;  // of cuda/limits.cu

/// Seconds that the stream takes for what `work` gives to it.
double timed(CUstream stream, const std::function<void()>& work) {
  const Event from, to;
  from.record(stream);
  work();
  to.record(stream);
  to.synchronize();
  return std::max(to.millisecondsSince(from) * 1e-3, 1e-9);
}

}  // namespace

DeviceLimits CudaBackend::measureLimits() {
  DeviceLimits limits{};
  const unsigned blocks = 8 * static_cast<unsigned>(properties_.multiprocessors);
  CUdeviceptr block = 0;
  // Far more than a cache holds; less when that is all there is.
  size_t bytes = size_t{1} << 30;
  while (driver().cuMemAlloc_v2(&block, bytes) != CUDA_SUCCESS)
    if ((bytes /= 2) < (size_t{1} << 20)) throw Error(ErrorCode::OutOfMemory, "out of memory for the measurement");
  struct Free {
    CUdeviceptr block;
    ~Free() { driver().cuMemFree_v2(block); }
  } const free{block};
  auto* sink = reinterpret_cast<float*>(block);

  const auto peak = [&](const char* kernel, double flopsPerThread) {
    double best = 0;
    int rounds = 64;
    for (double seconds = 0; seconds < enough; rounds *= 2) {
      seconds = timed(stream_.get(), [&] { launch(kernel, {blocks}, threads, 0, sink, rounds); });
      best = flopsPerThread * rounds * blocks * threads / seconds;
    }
    return best;
  };
  limits.flopsPerSecond = peak("peakMultiplyAdd", 2.0 * chains);
  limits.bfloat16FlopsPerSecond = peak("peakTensor", products * 4096.0 / 32);
  // Grows like the rounds above, so that a slow device is not kept for long.
  for (size_t part = size_t{1} << 20; part <= bytes; part *= 2) {
    const auto count = static_cast<int64_t>(part / 16);
    MOE_CUDA(cuMemsetD8Async, block, 0, part, stream_.get());
    const double seconds = timed(stream_.get(), [&] { launch("peakRead", {blocks}, threads, 0, sink, block, count); });
    limits.readBytesPerSecond = static_cast<double>(part) / seconds;
    if (seconds > enough) break;
  }
  return limits;
}

void CudaBackend::timeKernels() {
  timed_.clear();
  timing_ = true;
}

std::vector<KernelTime> CudaBackend::kernelTimes() {
  timing_ = false;
  std::vector<KernelTime> times;
  for (const TimedLaunch& launch : timed_) {
    launch.to.synchronize();
    times.push_back({launch.kernel, launch.to.millisecondsSince(launch.from)});
  }
  timed_.clear();
  return times;
}

}  // namespace moe::cuda
