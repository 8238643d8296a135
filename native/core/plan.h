// From shapes and limits to sizes: the capacity bound, the rows a plan can have, and the integer block that holds a
// plan. Pure: the same on every device.
#pragma once

#include <cstdint>

#include "backend.h"

namespace moe {

/// Slots per expert as the user asks for them; see CapacityConfig.
struct CapacityRule {
  bool limited = false;
  double factor = 1, evalFactor = 1;
  int64_t slots = 0;  // 0: by the factor
  int64_t min = 0, multipleOf = 1;
  double buffer = 0;      // share of all slots
  int64_t groupSize = 0;  // 0: the whole batch
  bool dynamic = false;   // the factor is the most there may be
  double targetDropRate = 0;
  Priority priority = Priority::Position;
  Overflow overflow = Overflow::Drop;
  bool firstChoicesFirst = true;

  /// C = ⌈factor·K·T/E⌉ (in double, T of a group) or `slots`, at least `min`, rounded up to `multipleOf`; the buffer is
  /// ⌈buffer·E·C⌉. Dropless unless limited.
  CapacityOptions resolve(int64_t tokens, int topK, int experts, bool training) const;
};

/// The most rows that a plan can have.
int64_t maxRows(const CapacityOptions& capacity, int64_t tokens, int topK, int experts);

/// The integer arrays of a plan, carved from one block. One function both counts and carves.
struct PlanBlock {
  int32_t *expertOffsets = nullptr, *rowToken = nullptr, *rowSlot = nullptr, *tokenOffsets = nullptr,
          *tokenRows = nullptr;
  int32_t *assigned = nullptr, *keptCounts = nullptr, *totals = nullptr;

  /// Carves `block`, or only counts when it is null; returns the number of int32.
  int64_t carve(int32_t* block, int64_t tokens, int experts, int64_t rows);
};

}  // namespace moe
