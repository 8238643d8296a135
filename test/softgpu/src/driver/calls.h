// Counts the driver calls of a program by what they do, and writes them to the trace.
#pragma once

#include <atomic>
#include <string_view>

#include "base/types.h"

namespace softgpu {

enum class CallKind : u8 {
  kOther,
  kLaunching,      // kernels and graphs
  kEnqueueing,     // other work on a stream that the host does not wait for
  kSynchronising,  // the host waits for the device
  kQuerying,       // the host asks how far the device is
  kBlockingCopy,   // a copy or fill that the host waits for, or may have to
  kAllocating,     // device memory, pinned memory, modules
  kFreeing,
};
constexpr u32 kCallKinds = 8;

// One entry point. A static of the function, so that counting costs one addition.
class CallSite {
 public:
  explicit CallSite(const char* function);
  // `kernel` and `stream` go to the trace.
  void note(CallKind kind, std::string_view kernel = {}, u64 stream = 0);

  std::string_view name() const { return name_; }
  u64 count(CallKind kind) const { return counts_[static_cast<u32>(kind)]; }

 private:
  std::string_view name_;  // without its version suffix
  std::atomic<u64> counts_[kCallKinds] = {};
};

// Writes a "calls" record with the counts since the program began, or since the mark, which it takes away.
void reportCalls(std::string_view when);
// cuProfilerStart: from here on the next report counts.
void markCalls();

}  // namespace softgpu

#define SOFTGPU_SITE() static ::softgpu::CallSite softgpuSite(__func__)
#define SOFTGPU_CALL(kind) \
  SOFTGPU_SITE();          \
  softgpuSite.note(::softgpu::CallKind::kind)
