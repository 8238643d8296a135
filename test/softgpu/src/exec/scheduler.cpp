// Runs the warps of a block in turns, and says why a block that stands still cannot go on.
#include <algorithm>

#include "exec/warp_runner.h"

namespace softgpu {

using ptx::Flow;
using ptx::Instruction;

namespace {

// Instructions of one block's turn.
constexpr u64 kBlockTurn = 5'000'000;

}  // namespace

BlockResult runBlock(Block& block) {
  std::vector<WarpRunner> runners;
  for (Warp& w : block.warps) runners.emplace_back(w);
  std::vector<u32> order(block.warps.size());
  for (u32 k = 0; k < order.size(); ++k) order[k] = k;
  // Like its blocks: what one warp writes and another one reads too early shows in one of the two orders.
  if (options().order == Order::kEarliest) std::reverse(order.begin(), order.end());
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
