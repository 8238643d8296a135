// Programs whose mistake is the kernel's: the body of a kernel each.
#pragma once

#include <vector>

namespace runner {

struct FaultCase {
  const char* name;
  const char* fault;  // "none": it is right, and nothing must be raised
  // After the prologue in faults.cpp. %a is a buffer of 64 words, the n-th of which is n; %b one that nobody has
  // written.
  const char* body;
  const char* statement;  // where it is found
  unsigned thread = 0, block = 0;
  const char* base = "";  // what the address is counted from: a, b or nothing
  long offset = 0;
  unsigned bytes = 0;
  unsigned threads = 64, grid = 1, sharedBytes = 0;
  const char* also = "";   // a fault that comes with it
  const char* order = "";  // the only order that finds it
};

// What happens before what: fences, atomics, and the lanes of a warp.
const std::vector<FaultCase>& orderCases();

}  // namespace runner
