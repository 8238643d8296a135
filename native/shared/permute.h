// What the passes of the planners on CUDA leave for each other, and the shape of a combine's blocks.
#pragma once

#include "operations.h"

namespace moe {

/// A combine that also takes the router's share: tokens and columns of a thread, and warps of a block. Four columns of
/// the float32 weight are a whole piece of 16 bytes.
constexpr int routedTokens = 4, routedColumns = 4, routedWarps = 8;

/// The search for the last assignment that an expert with too many of them keeps. Assignments queue by choice, falling
/// score and index; the search fixes the digits of that key one by one, from the highest.
struct SlotCut {
  uint32_t choice, score, index;  // the digits so far; once found, the key of the last one kept
  int32_t open;                   // how many that share these digits are kept; 0: found
};

constexpr int cutDigitBits = 8, cutDigits = 1 << cutDigitBits;
/// Of a sort (cuda/sort.cuh).
constexpr int sortDigitBits = 8, sortDigits = 1 << sortDigitBits;

struct SortSpace {
  uint32_t* items = nullptr;  // [n]
  uint32_t* spare = nullptr;  // [n]
  int32_t* counts = nullptr;  // [blocks,sortDigits]
};

/// Of buildPlan.
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

/// Of buildQueuedPlan. Its queue is a list of [T,K] indices, a group of tokens after the other.
struct QueueWorkspace {
  int64_t groupSize = 0, groups = 0;  // of tokens; at least one

  int32_t* assignedCounts = nullptr;  // [blocks,E] assignments by token
  int32_t* queuedCounts = nullptr;    // [blocks,E] those that queue; null when all do

  // Null without a number of slots.
  int32_t* keptCounts = nullptr;  // [blocks,E] those that get a slot
  int32_t* counts = nullptr;      // [blocks,max(E,sortDigits)] of a pass over the queue
  uint32_t* queue = nullptr;      // [T,K]
  uint32_t* spare = nullptr;      // [T,K] where the sort moves the queue; null by position, which needs none
  uint32_t* order = nullptr;      // [T,K] by assignment: the smaller queues earlier; likewise
  int32_t* rank = nullptr;        // [T,K] by place in the queue: how many before it ask for the same
  int32_t* asking = nullptr;      // [T,K] the last expert that the assignment has asked for a slot; -1: none
  int32_t* actual = nullptr;      // [T,K] the expert that gives one; -1: none so far
  int32_t* first = nullptr;       // [groups,E] the lowest rank
  int32_t* asked = nullptr;       // [groups,E] how many have asked in this round
  int32_t* taken = nullptr;       // [groups,E] slots given in the rounds before
  int32_t* waiting = nullptr;     // [E+3] how many are left without a slot after each round
  int32_t* place = nullptr;       // [T,K] by assignment: its place in the queue; null without next choices
};

}  // namespace moe
