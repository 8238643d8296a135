// Checks of kernels that use CUDA's libraries: mathematics, half precision, cooperative groups, libcu++, wmma.
#pragma once

#include <cstdio>
#include <optional>
#include <string>

#include "gpu.h"

namespace runner {

// Compares a kernel's results with the host's; nothing when there is no such kernel.
std::optional<bool> runLibrary(const std::string& name, const Module& module);
bool runMath(const Module& module);
bool runHalf(const Module& module);

// Says what a function of two numbers got wrong.
inline bool complain(const char* name, double x, double y, double got, double want) {
  std::printf("%s(%.17g, %.17g) gave %.17g, expected %.17g\n", name, x, y, got, want);
  return false;
}

}  // namespace runner
