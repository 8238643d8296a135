// Where lanes and warps wait for each other: barriers, and collectives of a warp.
#include "exec/warp_runner.h"

namespace softgpu {

using ptx::Flow;
using ptx::Instruction;

bool WarpRunner::othersWaitHere() const {
  for (size_t k = 0; k < w_.groups.size(); ++k) {
    const LaneGroup& other = w_.groups[k];
    if (k != current_ && other.state == GroupState::kConverge && other.pc == w_.groups[current_].pc) return true;
  }
  return false;
}

// Whether the current group may execute a collective instruction now.
bool WarpRunner::converged(const Instruction& i) {
  const LaneGroup& g = group();
  if (i.aligned) {
    if (g.lanes != w_.live) return false;
    const LaneMask needed = i.flow == Flow::kBarrier ? w_.all : kAllLanes;
    if (g.lanes == needed) return true;
    const u32 absent = lowestLane(needed & ~g.lanes);
    w_.abort(
        i, lowestLane(g.lanes), i.flow == Flow::kBarrier ? FaultKind::kDivergentBarrier : FaultKind::kDivergedAligned,
        0, 0,
        "lane " + std::to_string(absent) + " of the warp " + (w_.all >> absent & 1 ? "has exited" : "does not exist"));
  }
  if (i.flow == Flow::kBarrier) return true;
  const u32* members = lanesOf<u32>(w_, i.slot[i.memberSlot]);
  if (isUniform(members) && (g.lanes & ~members[0]) == 0) return (members[0] & w_.live & ~g.lanes) == 0;
  LaneMask needed = 0;
  for (LaneMask m = g.lanes; m; m &= m - 1) {
    u32 lane = lowestLane(m);
    if (!(members[lane] >> lane & 1)) {
      w_.abort(i, lane, FaultKind::kWrongMemberMask, 0, 0, "the lane is not in its own member mask");
    }
    needed |= members[lane];
  }
  return (needed & w_.live & ~g.lanes) == 0;
}

// Lanes with different member masks are different collectives.
void WarpRunner::executeByMembers(const Instruction& i, LaneMask active) {
  if (i.aligned) return i.execute(w_, i, active);
  const u32* members = lanesOf<u32>(w_, i.slot[i.memberSlot]);
  if (isUniform(members)) return i.execute(w_, i, active);
  while (active) {
    const u32 mask = members[lowestLane(active)];
    LaneMask same = 0;
    for (LaneMask m = active; m; m &= m - 1) {
      if (members[lowestLane(m)] == mask) same |= 1u << lowestLane(m);
    }
    if (mask & w_.live & ~same) {
      w_.abort(i, lowestLane(same), FaultKind::kWrongMemberMask, 0, 0,
               "lanes named by the member mask execute it with another mask");
    }
    i.execute(w_, i, same);
    active &= ~same;
  }
}

// bar.warp.sync is the one collective that lanes may meet at from different places.
bool WarpRunner::releaseWarpBarriers() {
  for (const LaneGroup& g : w_.groups) {
    if (!isWarpBarrier(g)) continue;
    const u32 members = lanesOf<u32>(w_, code_[g.pc].slot[0])[lowestLane(g.lanes)];
    LaneMask here = 0;
    for (const LaneGroup& other : w_.groups) {
      if (isWarpBarrier(other)) here |= other.lanes;
    }
    if (members & w_.live & ~here) continue;
    LaneMask met = 0;
    for (LaneGroup& other : w_.groups) {
      if (!isWarpBarrier(other) || (other.lanes & ~members)) continue;
      met |= other.lanes;
      other.state = GroupState::kReady;
      ++other.pc;
    }
    w_.block->shared.orderLanes(w_.index, met, w_.live);
    return true;
  }
  return false;
}

bool WarpRunner::isWarpBarrier(const LaneGroup& g) const {
  return g.state == GroupState::kConverge && code_[g.pc].flow == Flow::kConverge && !code_[g.pc].aligned &&
         code_[g.pc].immediate[2] == ptx::kWarpBarrier;
}

bool WarpRunner::barrier(const Instruction& i) {
  LaneGroup& g = group();
  const u32 lane = lowestLane(g.lanes);
  const u32 id = lanesOf<u32>(w_, i.slot[0])[lane];
  const u32 count = lanesOf<u32>(w_, i.slot[1])[lane];
  for (LaneMask m = g.lanes; m; m &= m - 1) {
    if (lanesOf<u32>(w_, i.slot[0])[lowestLane(m)] != id) {
      w_.abort(i, lowestLane(m), FaultKind::kInvalidBarrier, 0, 0, "lanes of one warp name different barriers");
    }
  }
  if (id >= kBarriers || count % kWarpSize != 0) {
    w_.abort(i, lane, FaultKind::kInvalidBarrier, 0, 0,
             "barrier " + std::to_string(id) + " with a count of " + std::to_string(count));
  }
  Barrier& b = w_.block->barriers[id];
  ++w_.counters->barriers;
  if (b.arrived == 0) {
    b.expected = count;
    b.instruction = g.pc;
    b.voters = b.count = 0;
    b.reach = {};
    b.sequential = {};
  } else if (b.expected != count) {
    w_.abort(i, lane, FaultKind::kInvalidBarrier, 0, 0,
             "barrier " + std::to_string(id) + " with a count of " + std::to_string(count) + " where others said " +
                 std::to_string(b.expected));
  } else if (count == 0 && b.instruction != g.pc) {
    w_.abort(i, lane, FaultKind::kDivergentBarrier, 0, 0,
             "other warps of the block wait at another barrier (PTX line " +
                 std::to_string(w_.kernel->sources[code_[b.instruction].source].line) + ")");
  }
  // An aligned barrier counts whole warps, even those with fewer threads, when the count is given.
  b.arrived += count != 0 && i.aligned ? kWarpSize : laneCount(g.lanes);
  if (count != 0 && b.arrived > count) {
    w_.abort(i, lane, FaultKind::kInvalidBarrier, 0, 0,
             "more threads arrive than barrier " + std::to_string(id) + " expects");
  }
  w_.block->shared.arrive(w_.index, b.reach);
  if (w_.block->sequentialFences) b.sequential.raise(w_.fences.sequential);
  if (i.immediate[0] == ptx::kBarrierReduce) {
    b.voters += laneCount(g.lanes);
    b.count += laneCount((predicateOf(w_, i.slot[3]) ^ i.invert[0]) & g.lanes);
  }
  if (i.immediate[0] == ptx::kBarrierArrive) {
    ++g.pc;
    completeBarrier(id);
    return true;
  }
  g.state = GroupState::kBarrier;
  g.barrier = id;
  completeBarrier(id);
  return false;
}

// Wakes everybody when the last thread has come.
void WarpRunner::completeBarrier(u32 id) {
  Block& block = *w_.block;
  Barrier& b = block.barriers[id];
  const u32 threads = b.expected ? b.expected : block.liveThreads;
  if (b.arrived == 0 || b.arrived < threads) return;
  for (Warp& warp : block.warps) {
    bool waited = false;
    for (LaneGroup& g : warp.groups) {
      if (g.state != GroupState::kBarrier || g.barrier != id) continue;
      const Instruction& i = code_[g.pc];
      if (i.execute) {
        warp.barrierCount = b.count;
        warp.barrierThreads = b.voters;
        i.execute(warp, i, g.lanes);
      }
      g.state = GroupState::kReady;
      ++g.pc;
      waited = true;
    }
    if (!waited) continue;
    block.shared.leave(warp.index, b.reach);
    if (block.sequentialFences) warp.fences.sequential.raise(b.sequential);
  }
  b.arrived = 0;
}

}  // namespace softgpu
