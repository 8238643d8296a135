// Who gets a slot: the queue of a plan's assignments, and what becomes of those that find their expert full.
#pragma once

#include <cstdint>

#include "../core/backend.h"

namespace moe::cpu {

/// The assignments of a plan: expert per slot, as the mask and the caller's indices say.
struct Assignments {
  const BuildPlan& plan;

  /// -1: none.
  int32_t expert(int64_t t, int k) const {
    if (plan.mask && plan.mask[t] == 0) return -1;
    return plan.indices ? plan.indices[t * plan.K + k] : 0;
  }

  /// -1: none, or one that no slot is asked for.
  int32_t queued(int64_t t, int k) const { return k == 1 && plan.withheld && plan.withheld[t] ? -1 : expert(t, k); }
};

/// What giveSlots tells as it goes.
class SlotsObserver {
 public:
  /// The expert that the choice asked for is full.
  virtual void rejected(int64_t t, int k, int32_t expert) = 0;
  /// A choice that was rejected has found room at another expert.
  virtual void moved(int64_t t, int k, int32_t expert) = 0;

 protected:
  ~SlotsObserver() = default;
};

/// Gives the slots to the assignments in queue order, a group of tokens at a time, and counts keptCounts anew.
void giveSlots(const BuildPlan& plan, int64_t slots, SlotsObserver& observer);

/// The slots of each expert when it is asked for `queued` [E] of them: with a dynamic capacity as few as its target
/// allows.
int64_t slotsOf(const BuildPlan& plan, const int32_t* queued);

}  // namespace moe::cpu
