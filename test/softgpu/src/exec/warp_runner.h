// Runs one warp. Lanes that took different ways are groups with program counters of their own: the lowest goes first,
// and groups that meet become one again. There is no stack of reconvergence points, because lanes of one warp may wait
// for each other.
#pragma once

#include "exec/launch.h"
#include "exec/spin_probe.h"

namespace softgpu {

class WarpRunner {
 public:
  explicit WarpRunner(Warp& warp) : w_(warp), code_(warp.kernel->code.data()) {}

  // True when at least one instruction was executed.
  bool run();

 private:
  LaneGroup& group() { return w_.groups[current_]; }

  bool pick();
  void merge();
  void erase(size_t k);
  void addGroup(u32 pc, LaneMask lanes);
  void runGroup();
  bool step(const ptx::Instruction& i, LaneMask active);
  bool branch(const ptx::Instruction& i, LaneMask active);
  bool continueLoop();
  bool branchIndexed(const ptx::Instruction& i, LaneMask active);
  bool exit(LaneMask active);

  // Where lanes meet: exec/convergence.cpp.
  bool othersWaitHere() const;
  bool converged(const ptx::Instruction& i);
  void executeByMembers(const ptx::Instruction& i, LaneMask active);
  bool releaseWarpBarriers();
  bool isWarpBarrier(const LaneGroup& g) const;
  bool barrier(const ptx::Instruction& i);
  void completeBarrier(u32 id);

  Warp& w_;
  const ptx::Instruction* code_;
  size_t current_ = ~size_t{0};
  u32 limit_ = ~0u;
  bool alone_ = true, picked_ = false, turnOver_ = false;
  u32 backwardBranches_ = 0, turnChecks_ = 0;
  SpinProbe probe_;
};

}  // namespace softgpu
