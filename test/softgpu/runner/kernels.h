// The checks of whole kernels, and the bench.
#pragma once

#include <string>

namespace runner {

// Compares a kernel's results with the host's; false when they differ.
bool runKernel(const std::string& name, const std::string& ptx);
void benchGemm(const std::string& ptx);
// `report` is the file that SOFTGPU_REPORT names.
void benchTopk(const std::string& ptx, const std::string& report);

}  // namespace runner
