// The checks of whole kernels, and the bench.
#pragma once

#include <string>

namespace runner {

// Compares a kernel's results with the host's; false when they differ.
bool runKernel(const std::string& name, const std::string& ptx);
void benchGemm(const std::string& ptx);
void benchTopk(const std::string& ptx);

}  // namespace runner
