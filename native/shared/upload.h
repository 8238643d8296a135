// Host data that goes to the device inside the parameters of a kernel.
#pragma once

#include <cstdint>

namespace moe {

/// As many words as fit, beside the other two fields, into the 4 KB of parameters that every driver takes.
struct UploadPiece {
  static constexpr int maxWords = 480;

  uint64_t* target;  // [count]
  int32_t count;
  uint64_t words[maxWords];
};

}  // namespace moe
