// The shape of a conformance case: a few instructions that turn up to four inputs per lane into one result per lane.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace runner {

using Lane = const uint64_t (&)[4];

struct Case {
  std::string section;  // of the PTX ISA
  std::string body;     // PTX; %a0…%a3 are the inputs and %d the result; %p, %q predicates; %t0…%t3 32-bit scratch
  std::string types;    // of d, then the inputs: 'h' 16 bits, 'w' 32 bits, 'l' 64 bits
  std::vector<std::vector<uint64_t>> inputs;  // one row per lane, repeated to fill the warp
  // What lane l must give, from its own inputs.
  std::function<uint64_t(Lane, unsigned lane)> expected;
  double tolerance = 0;  // relative, for f32 results of approximate instructions; 0 asks for equal bits
  unsigned capability = 80;
};

std::vector<Case> integerCases();
std::vector<Case> carryCases();
std::vector<Case> floatCases();
std::vector<Case> halfCases();
std::vector<Case> convertCases();
std::vector<Case> memoryCases();
std::vector<Case> accessCases();
std::vector<Case> atomicCases();
std::vector<Case> warpCases();
std::vector<Case> matrixCases();
std::vector<Case> specialCases();
std::vector<Case> libraryCases();

}  // namespace runner
