// Conformance: one case per instruction form, each citing the section of the PTX ISA it follows.
#pragma once

#include <string>
#include <vector>

namespace runner {

// Prints one line per case; 0 when all passed.
int runConformance();
// One module with all cases that a compute capability, times ten, has.
std::string conformancePtx(unsigned capability);
// The forms in a PTX text that no case has.
std::vector<std::string> uncoveredForms(const std::string& ptx);

}  // namespace runner
