// Host data that goes to the device inside the parameters of a kernel.
#pragma once

#include <cstdint>

namespace moe {

/// As many words as fit beside a kernel's other parameters into the 4 KB that every driver takes.
struct UploadPiece {
  static constexpr int maxWords = 448;

  uint64_t* target = nullptr;  // [count]
  int32_t count = 0;
  uint64_t words[maxWords];
};

}  // namespace moe
