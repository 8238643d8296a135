// Conformance: one case per instruction form, each citing the section of the PTX ISA it follows.
#pragma once

#include <string>
#include <vector>

namespace runner {

// Runs the cases of every target that the device can run. Prints one line per case that fails; 0 when all passed.
int runConformance();
// Cases that expect something else than is right, each of which must fail.
int runWrongCases();
// One module with all cases that a compute capability, times ten, has.
std::string conformancePtx(unsigned capability);
// The forms that no case has, in PTX text or in every PTX entry of the fatbins inside a file, and in which entry.
struct UncoveredForm {
  std::string where, form;
};
std::vector<UncoveredForm> uncoveredForms(const std::string& contents);

}  // namespace runner
