// Programs whose mistake is the host's.
#pragma once

#include <cuda.h>

#include <functional>
#include <vector>

namespace runner {

// Of the buffer that every program is given, each its own number.
constexpr unsigned kWords = 64;

struct HostCase {
  const char* name;
  const char* fault;
  const char* kernel;  // that the report names
  std::function<void(CUfunction plain, CUfunction bounded, CUdeviceptr a)> run;
  const char* base = "";
  long offset = 0;
  unsigned bytes = 0;
};

// Of the kernels "plain", which reads its buffer, and "bounded", which has bounds.
extern const char* const kHostPtx;

const std::vector<HostCase>& hostCases();

}  // namespace runner
