#include "exec/warp_runner.h"

#include <algorithm>

namespace softgpu {

using ptx::Flow;
using ptx::Instruction;

namespace {

// Instructions of one warp's turn.
constexpr u64 kWarpTurn = 50'000;
// Backward branches that a group may take while others of its warp wait.
constexpr u32 kFairness = 64;

}  // namespace

// True when at least one instruction was executed.
bool WarpRunner::run() {
  bool progressed = false;
  u64 end = w_.counters->warpInstructions + kWarpTurn;
  turnOver_ = false;
  while (!turnOver_ && (pick() || releaseWarpBarriers())) {
    if (!picked_) continue;
    progressed = true;
    runGroup();
    if (w_.counters->warpInstructions >= end) {
      turnOver_ = true;
      probe_.arm();
    }
  }
  return progressed;
}

// Chooses the ready group with the lowest program counter, or the next one after it when that one spun for long.
bool WarpRunner::pick() {
  picked_ = false;
  bool spun = false;
  size_t best = w_.groups.size(), next = best;
  for (size_t k = 0; k < w_.groups.size(); ++k) {
    LaneGroup& g = w_.groups[k];
    if (g.state == GroupState::kSpinning && g.memoryVersion != w_.launch->memoryVersion) {
      g.state = GroupState::kReady;
      spun = true;
    }
    if (g.state != GroupState::kReady) continue;
    if (best == w_.groups.size() || g.pc < w_.groups[best].pc) {
      next = best;
      best = k;
    } else if (next == w_.groups.size() || g.pc < w_.groups[next].pc) {
      next = k;
    }
  }
  if (best == w_.groups.size()) return false;
  if (backwardBranches_ > kFairness && next != w_.groups.size()) best = next;
  backwardBranches_ = 0;
  if (best != current_) probe_.disarm();
  current_ = best;
  // Who spun before is expected to spin on: prove it at once.
  if (spun) probe_.arm();
  merge();
  picked_ = true;
  return true;
}

// Joins the groups that are where the current one is, and finds where the next one waits.
void WarpRunner::merge() {
  const u32 pc = group().pc;
  limit_ = ~0u;
  alone_ = true;
  for (size_t k = w_.groups.size(); k-- > 0;) {
    if (k == current_) continue;
    LaneGroup& other = w_.groups[k];
    if (other.state == GroupState::kReady) alone_ = false;
    if (other.state == GroupState::kBarrier) continue;
    if (other.pc == pc) {
      group().lanes |= other.lanes;
      erase(k);
    } else if (other.pc > pc) {
      limit_ = std::min(limit_, other.pc);
    }
  }
}

void WarpRunner::erase(size_t k) {
  w_.groups.erase(w_.groups.begin() + static_cast<std::ptrdiff_t>(k));
  if (current_ > k) --current_;
}

void WarpRunner::addGroup(u32 pc, LaneMask lanes) { w_.groups.push_back({pc, lanes, GroupState::kReady}); }

void WarpRunner::runGroup() {
  Counters& counters = *w_.counters;
  u32 pc = group().pc;
  const LaneMask lanes = group().lanes;
  const u32 width = laneCount(lanes);
  while (true) {
    const Instruction& i = code_[pc];
    const LaneMask active = lanes & (predicateOf(w_, i.guard) ^ i.guardInvert);
    ++counters.warpInstructions;
    counters.threadInstructions += active == lanes ? width : laneCount(active);
    if (i.flow == Flow::kNormal) {
      if (active) i.execute(w_, i, active);
      ++pc;
    } else {
      group().pc = pc;
      if (!step(i, active)) return;
      pc = group().pc;
    }
    if (pc >= limit_) break;
  }
  group().pc = pc;
}

// Everything that may stop, split or wake a group. False when another group must be picked.
bool WarpRunner::step(const Instruction& i, LaneMask active) {
  LaneGroup& g = group();
  if (!active && i.flow != Flow::kBranch) {
    ++g.pc;
    return true;
  }
  switch (i.flow) {
    case Flow::kBranch:
      return branch(i, active);
    case Flow::kBranchIndexed:
      return branchIndexed(i, active);
    case Flow::kExit:
      return exit(active);
    case Flow::kYield:
      i.execute(w_, i, active);
      ++g.pc;
      backwardBranches_ += kFairness;
      turnOver_ = true;
      probe_.arm();
      return false;
    case Flow::kBarrier:
    case Flow::kConverge:
      if (active != g.lanes) {
        LaneMask others = g.lanes & ~active;
        g.lanes = active;
        addGroup(g.pc + 1, others);
        return false;
      }
      if (!converged(i)) {
        // Lanes that came here from below have not met those that wait: the next pick joins them.
        if (!othersWaitHere()) group().state = GroupState::kConverge;
        return false;
      }
      if (i.flow == Flow::kBarrier) return barrier(i);
      executeByMembers(i, active);
      ++group().pc;
      return true;
    default:
      return true;
  }
}

bool WarpRunner::branch(const Instruction& i, LaneMask active) {
  LaneGroup& g = group();
  ++w_.counters->branches;
  if (!active) {
    ++g.pc;
    return true;
  }
  if (active != g.lanes) {
    ++w_.counters->divergentBranches;
    LaneMask others = g.lanes & ~active;
    g.lanes = others;
    ++g.pc;
    addGroup(i.target, active);
    return false;
  }
  const bool backward = i.target <= g.pc;
  g.pc = i.target;
  return backward ? continueLoop() : true;
}

// After a taken backward branch.
bool WarpRunner::continueLoop() {
  LaneGroup& g = group();
  if (probe_.armed() && probe_.repeats(w_, g.pc)) {
    g.state = GroupState::kSpinning;
    g.memoryVersion = w_.launch->memoryVersion;
    return false;
  }
  if (++backwardBranches_ <= kFairness) return true;
  if (!alone_) return false;
  backwardBranches_ = 0;
  // The turn ends only here, so that straight code pays nothing for it.
  if (++turnChecks_ % 64 == 0) return false;
  return true;
}

bool WarpRunner::branchIndexed(const Instruction& i, LaneMask active) {
  const auto& table = w_.kernel->branchTables[i.target];
  const u32* index = lanesOf<u32>(w_, i.slot[0]);
  LaneGroup g = group();
  ++w_.counters->branches;
  if (active != g.lanes) addGroup(g.pc + 1, g.lanes & ~active);
  u32 ways = 0;
  for (LaneMask rest = active; rest; ++ways) {
    u32 value = index[lowestLane(rest)];
    if (value >= table.size()) {
      w_.abort(i, lowestLane(rest), FaultKind::kTrap, value, 0, "brx.idx beyond its table");
    }
    LaneMask same = 0;
    for (LaneMask m = rest; m; m &= m - 1) {
      if (index[lowestLane(m)] == value) same |= 1u << lowestLane(m);
    }
    rest &= ~same;
    addGroup(table[value], same);
  }
  w_.counters->divergentBranches += ways > 1;
  erase(current_);
  current_ = 0;
  return false;
}

bool WarpRunner::exit(LaneMask active) {
  LaneGroup& g = group();
  const Instruction& i = code_[g.pc];
  for (const PendingCopy& copy : w_.pending) {
    if (LaneMask left = copy.lanes & active) {
      w_.report(*copy.instruction, lowestLane(left), FaultKind::kAsyncCopyAtExit, copy.to[lowestLane(left)], copy.bytes,
                "the thread ends without waiting for this copy");
    }
  }
  for (const LaneGroup& other : w_.groups) {
    if (other.state == GroupState::kConverge && code_[other.pc].flow == Flow::kBarrier && code_[other.pc].aligned) {
      w_.abort(code_[other.pc], lowestLane(other.lanes), FaultKind::kDivergentBarrier, 0, 0,
               "other lanes of the warp exit without reaching this barrier (PTX line " +
                   std::to_string(w_.kernel->sources[i.source].line) + ")");
    }
  }
  w_.live &= ~active;
  w_.block->liveThreads -= laneCount(active);
  if (active != g.lanes) {
    g.lanes &= ~active;
    ++g.pc;
  } else {
    erase(current_);
    current_ = 0;
  }
  // Who waited for these lanes must look again.
  for (LaneGroup& other : w_.groups) {
    if (other.state == GroupState::kConverge) other.state = GroupState::kReady;
  }
  for (u32 id = 0; id < kBarriers; ++id) completeBarrier(id);
  return false;
}

}  // namespace softgpu
