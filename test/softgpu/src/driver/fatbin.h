// The container that nvcc -fatbin writes: PTX and machine code of one program for several architectures.
#pragma once

#include <string_view>
#include <vector>

#include "base/types.h"

namespace softgpu {

struct FatbinEntry {
  bool isPtx = false;  // otherwise machine code
  bool compressed = false;
  u32 architecture = 0;   // 80 for 8.0
  std::string_view text;  // the PTX, when it is not compressed
};

// Whether a fatbin, or the structure that host code wraps around its address, starts here.
bool isFatbin(const void* image);
std::vector<FatbinEntry> entriesOf(const void* image);
// The entries of every fatbin inside a file: a .fatbin, an object or a program.
std::vector<FatbinEntry> entriesInFile(std::string_view contents);

}  // namespace softgpu
