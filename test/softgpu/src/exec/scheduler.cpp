// Runs the warps of a block. Lanes of a warp that took different ways are groups with program counters of their own:
// the lowest goes first, and groups that meet become one again. There is no stack of reconvergence points, because
// lanes of one warp may wait for each other. Deadlock is found by progress, never by a timer.
#include <algorithm>
#include <cstring>

#include "exec/launch.h"

namespace softgpu {
namespace {

using ptx::Flow;
using ptx::Instruction;

// Instructions of one warp's turn, and of one block's turn.
constexpr u64 kWarpTurn = 50'000;
constexpr u64 kBlockTurn = 5'000'000;
// Backward branches that a group may take while others of its warp wait.
constexpr u32 kFairness = 64;
// Backward branches after which a suspected spin that never repeated itself is believed to compute something.
constexpr u32 kProbeVisits = 256;

// Proves that a loop repeats itself: registers and groups are what they were, and memory did not change since.
class SpinProbe {
 public:
  void arm() {
    armed_ = true;
    taken_ = false;
    visits_ = 0;
  }
  bool armed() const { return armed_; }
  void disarm() { armed_ = false; }

  // At a taken backward branch to `pc`. True when the warp is where it was before, with nothing changed.
  bool repeats(const Warp& w, u32 pc) {
    if (++visits_ > kProbeVisits) {
      disarm();
      return false;
    }
    const size_t bytes = w.kernel->constantsOffset;
    if (taken_ && version_ == w.launch->memoryVersion) {
      return pc == pc_ && std::memcmp(image_.data(), w.registers, bytes) == 0;
    }
    taken_ = true;
    pc_ = pc;
    version_ = w.launch->memoryVersion;
    image_.assign(w.registers, w.registers + bytes);
    return false;
  }

 private:
  bool armed_ = false, taken_ = false;
  u32 pc_ = 0, visits_ = 0;
  u64 version_ = 0;
  std::vector<u8> image_;
};

class WarpRunner {
 public:
  explicit WarpRunner(Warp& warp) : w_(warp), code_(warp.kernel->code.data()) {}

  // True when at least one instruction was executed.
  bool run() {
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

 private:
  LaneGroup& group() { return w_.groups[current_]; }

  // Chooses the ready group with the lowest program counter, or the next one after it when that one spun for long.
  bool pick() {
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
  void merge() {
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

  bool othersWaitHere() const {
    for (size_t k = 0; k < w_.groups.size(); ++k) {
      const LaneGroup& other = w_.groups[k];
      if (k != current_ && other.state == GroupState::kConverge && other.pc == w_.groups[current_].pc) return true;
    }
    return false;
  }

  void erase(size_t k) {
    w_.groups.erase(w_.groups.begin() + static_cast<std::ptrdiff_t>(k));
    if (current_ > k) --current_;
  }

  void addGroup(u32 pc, LaneMask lanes) { w_.groups.push_back({pc, lanes, GroupState::kReady}); }

  void runGroup() {
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
  bool step(const Instruction& i, LaneMask active) {
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

  bool branch(const Instruction& i, LaneMask active) {
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
  bool continueLoop() {
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

  bool branchIndexed(const Instruction& i, LaneMask active) {
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

  bool exit(LaneMask active) {
    LaneGroup& g = group();
    const Instruction& i = code_[g.pc];
    for (const PendingCopy& copy : w_.pending) {
      if (LaneMask left = copy.lanes & active) {
        w_.report(*copy.instruction, lowestLane(left), FaultKind::kAsyncCopyAtExit, copy.to[lowestLane(left)],
                  copy.bytes, "the thread ends without waiting for this copy");
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

  // Whether the current group may execute a collective instruction now.
  bool converged(const Instruction& i) {
    const LaneGroup& g = group();
    if (i.aligned) {
      if (g.lanes != w_.live) return false;
      const LaneMask needed = i.flow == Flow::kBarrier ? w_.all : kAllLanes;
      if (g.lanes == needed) return true;
      const u32 absent = lowestLane(needed & ~g.lanes);
      w_.abort(i, lowestLane(g.lanes),
               i.flow == Flow::kBarrier ? FaultKind::kDivergentBarrier : FaultKind::kDivergedAligned, 0, 0,
               "lane " + std::to_string(absent) + " of the warp " +
                   (w_.all >> absent & 1 ? "has exited" : "does not exist"));
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
  void executeByMembers(const Instruction& i, LaneMask active) {
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
  bool releaseWarpBarriers() {
    for (const LaneGroup& g : w_.groups) {
      if (!isWarpBarrier(g)) continue;
      const u32 members = lanesOf<u32>(w_, code_[g.pc].slot[0])[lowestLane(g.lanes)];
      LaneMask here = 0;
      for (const LaneGroup& other : w_.groups) {
        if (isWarpBarrier(other)) here |= other.lanes;
      }
      if (members & w_.live & ~here) continue;
      for (LaneGroup& other : w_.groups) {
        if (!isWarpBarrier(other) || (other.lanes & ~members)) continue;
        other.state = GroupState::kReady;
        ++other.pc;
      }
      w_.block->shared.orderWarp(w_.index);
      return true;
    }
    return false;
  }
  bool isWarpBarrier(const LaneGroup& g) const {
    return g.state == GroupState::kConverge && code_[g.pc].flow == Flow::kConverge && !code_[g.pc].aligned &&
           code_[g.pc].immediate[2] == ptx::kWarpBarrier;
  }

  bool barrier(const Instruction& i) {
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
      b.count = 0;
      b.clock.fill(0);
      b.sequentialClock.fill(0);
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
    w_.block->shared.arrive(w_.index, b.clock);
    if (w_.block->sequentialFences) raise(b.sequentialClock, w_.sequentialClock);
    if (i.immediate[0] == ptx::kBarrierReduce) {
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
  void completeBarrier(u32 id) {
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
          warp.barrierThreads = b.arrived;
          i.execute(warp, i, g.lanes);
        }
        g.state = GroupState::kReady;
        ++g.pc;
        waited = true;
      }
      if (!waited) continue;
      block.shared.leave(warp.index, b.clock);
      if (block.sequentialFences) raise(warp.sequentialClock, b.sequentialClock);
    }
    b.arrived = 0;
  }

  Warp& w_;
  const Instruction* code_;
  size_t current_ = ~size_t{0};
  u32 limit_ = ~0u;
  bool alone_ = true, picked_ = false, turnOver_ = false;
  u32 backwardBranches_ = 0, turnChecks_ = 0;
  SpinProbe probe_;
};

}  // namespace

BlockResult runBlock(Block& block) {
  std::vector<WarpRunner> runners;
  for (Warp& w : block.warps) runners.emplace_back(w);
  std::vector<u32> order(block.warps.size());
  for (u32 k = 0; k < order.size(); ++k) order[k] = k;
  Launch& launch = *block.warps[0].launch;
  const u64 end = launch.counters.warpInstructions + kBlockTurn;
  while (block.liveThreads > 0) {
    if (options().order == Order::kRandom) std::shuffle(order.begin(), order.end(), launch.random);
    bool progressed = false;
    for (u32 k : order) {
      if (block.warps[k].live) progressed |= runners[k].run();
    }
    if (block.liveThreads == 0) break;
    if (!progressed) return BlockResult::kStalled;
    if (launch.counters.warpInstructions > end) return BlockResult::kPaused;
  }
  return BlockResult::kFinished;
}

void reportStall(Block& block) {
  // The most telling group first: lanes that wait for lanes of their own warp, then barriers, then spins.
  for (GroupState state : {GroupState::kConverge, GroupState::kBarrier, GroupState::kSpinning}) {
    for (Warp& w : block.warps) {
      for (const LaneGroup& g : w.groups) {
        if (g.state != state) continue;
        const Instruction& i = w.kernel->code[g.pc];
        const u32 lane = lowestLane(g.lanes);
        if (state == GroupState::kConverge && i.aligned) {
          bool barrier = i.flow == Flow::kBarrier;
          w.abort(i, lane, barrier ? FaultKind::kDivergentBarrier : FaultKind::kDivergedAligned, 0, 0,
                  "the other lanes of the warp never come here");
        }
        if (state == GroupState::kConverge) {
          w.abort(i, lane, FaultKind::kDeadlock, 0, 0, "waits for lanes of its member mask that never come");
        }
        if (state == GroupState::kBarrier) {
          const Barrier& b = block.barriers[g.barrier];
          w.abort(i, lane, FaultKind::kDeadlock, 0, 0,
                  "barrier " + std::to_string(g.barrier) + ": " + std::to_string(b.arrived) + " of " +
                      std::to_string(b.expected ? b.expected : block.liveThreads) + " threads came");
        }
        w.abort(i, lane, FaultKind::kDeadlock, 0, 0, "spins on memory that nobody will change");
      }
    }
  }
  throw LaunchAborted{};
}

}  // namespace softgpu
