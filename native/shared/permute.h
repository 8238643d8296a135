// The grid of buildPlan on CUDA and what its passes leave for each other.
#pragma once

#include "operations.h"

namespace moe {

/// The search for the last assignment that an expert with too many of them keeps. Assignments queue by choice, falling
/// score and index; the search fixes the digits of that key one by one, from the highest.
struct SlotCut {
  uint32_t choice, score, index;  // the digits so far; once found, the key of the last one kept
  int32_t open;                   // how many that share these digits are kept; 0: found
};

constexpr int cutDigitBits = 8, cutDigits = 1 << cutDigitBits;

struct PlanWorkspace {
  int32_t* counts = nullptr;  // [blocks,E] assignments by token

  // Null unless the queue may keep others than each expert's first assignments by token.
  uint8_t* keep = nullptr;        // [T,K] 0/1
  int32_t* keptCounts = nullptr;  // [blocks,E] what is kept, by token

  int32_t* queueCounts = nullptr;  // [blocks,E] by choice, then token

  // For the 'score' priority.
  uint32_t* tokenScore = nullptr;  // [T] of the token's best choice: smaller means better
  int32_t* digits = nullptr;       // [E,cutDigits] assignments by the next digit of their key
  SlotCut* cuts = nullptr;         // [E]
};

}  // namespace moe
