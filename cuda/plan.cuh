// What every planner does: passes over the assignments by the whole grid, and the rows that follow from which of them
// find a slot.
#pragma once

#include "../native/shared/permute.h"
#include "rank.cuh"

namespace moe {

/// One lane's place in [T,K]; expert -1 where there is no assignment.
struct Assignment {
  int64_t t;
  int k;
  bool inside;  // of [T,K] and of the warp's part
  int expert;
  int64_t slot;
};

/// One block's work on a plan.
struct Planner {
  const BuildPlan& p;
  const Guard& guard;
  Bins bins;         // of the experts
  int32_t* offsets;  // [E+1] shared

  __device__ Planner(const BuildPlan& p, const Guard& guard, int32_t* shared)
      : p(p), guard(guard), bins(p.E, shared), offsets(bins.end()) {}

  /// As a whole number of 32 bits: a plan has fewer assignments.
  __device__ static int32_t bounded(int64_t slots) {
    return slots < 0 || slots > INT32_MAX ? INT32_MAX : static_cast<int32_t>(slots);
  }

  // ---------------------------------------------------------------- assignments

  __device__ int expertAt(int64_t t, int64_t slot) const {
    if (p.mask && p.mask[t] == 0) return -1;
    if (!p.indices) return 0;
    const int expert = p.indices[slot];
    return expert < p.E ? max(expert, -1) : -1;
  }

  __device__ bool isBad(const Assignment& a) const {
    if (!a.inside || !p.indices || (p.mask && p.mask[a.t] == 0)) return false;
    return p.indices[a.slot] < -1 || p.indices[a.slot] >= p.E;
  }

  __device__ Assignment at(int64_t t, int k, bool inside) const {
    const int64_t slot = t * p.K + k;
    return {t, k, inside, inside ? expertAt(t, slot) : -1, slot};
  }

  /// visit(assignment, firstStep, lastStep) by token, then choice. The lanes hold as many whole tokens as fit, or one
  /// token in several steps.
  template <class Visit>
  __device__ void forEachByToken(Visit&& visit) const {
    const int tokens = p.K < warpSize_ ? warpSize_ / p.K : 1;
    const int token = p.K < warpSize_ ? lane() / p.K : 0, choice = lane() - token * p.K;
    const Range part = warpPart(p.T);
    for (int64_t first = part.begin; first < part.end; first += tokens)
      for (int k = choice; k - choice < p.K; k += warpSize_) {
        const bool inside = token < tokens && first + token < part.end && k < p.K;
        visit(at(first + token, k, inside), k == choice, k - choice + warpSize_ >= p.K);
      }
  }

  // ---------------------------------------------------------------- counts

  /// Counts the assignments by the expert that expertOf(assignment) says; -1: not at all. With `check` it also looks
  /// for indices of no expert.
  template <class ExpertOf>
  __device__ void countByToken(int32_t* counts, bool check, ExpertOf&& expertOf) {
    bins.clear();
    forEachByToken([&](const Assignment& a, bool, bool) {
      if (check && isBad(a)) noteFault(guard, Fault::PlanIndex, a.t, faultValue(a.slot, p.indices[a.slot]));
      if (const int expert = expertOf(a); expert >= 0) bins.add(expert);
    });
    meet(counts);
  }

  __device__ void meet(int32_t* counts) {
    bins.publish(counts);
    gridBarrier();
    bins.resolve(counts);
  }

  /// Whether an expert has more than `slots`, in every thread.
  __device__ bool exceeds(int32_t slots) const {
    bool over = false;
    for (int e = threadIdx.x; e < p.E; e += blockDim.x) over |= bins.total[e] > slots;
    return __syncthreads_or(over);
  }

  /// Before what adds to the totals meets another block.
  __device__ void startTotals() const {
    if (blockIdx.x == 0 && threadIdx.x < PlanTotal::count) p.totals[threadIdx.x] = 0;
  }

  __device__ void writeAssigned() const {
    if (blockIdx.x == 0)
      for (int e = threadIdx.x; e < p.E; e += blockDim.x) p.assigned[e] = bins.total[e];
  }

  // ---------------------------------------------------------------- rows

  /// Writes everything that has an entry per expert, assignment, token or row; `assigned` are all assignments, and
  /// `slots` what the totals say. The bins have counted what expertOf(assignment) says, by token; of those every expert
  /// keeps the first `limit`.
  template <class ExpertOf>
  __device__ void writePlan(int32_t assigned, int32_t slots, int32_t limit, ExpertOf&& expertOf) {
    bins.prefix(limit, offsets);
    if (blockIdx.x == 0) {
      for (int e = threadIdx.x; e <= p.E; e += blockDim.x) p.expertOffsets[e] = offsets[e];
      for (int e = threadIdx.x; e < p.E; e += blockDim.x) p.keptCounts[e] = offsets[e + 1] - offsets[e];
      if (threadIdx.x == 0) {
        p.tokenOffsets[p.T] = offsets[p.E];
        p.totals[PlanTotal::droppedAssignments] = assigned - offsets[p.E];
        p.totals[PlanTotal::slots] = slots;
      }
    }

    // The lists of the tokens follow each other, so this warp's begin after what all experts keep of earlier tokens.
    int32_t listed = 0;
    for (int e = lane(); e < p.E; e += warpSize_) listed += min(bins.own[warp() * p.E + e], limit);
    listed = warpSum(listed);
    __syncwarp();

    int tokens = 0, lost = 0;
    unsigned anyAssigned = 0, anyKept = 0;
    const unsigned tokenLanes = p.K < warpSize_ ? ((1u << p.K) - 1) << lane() / p.K * p.K : wholeWarp;
    forEachByToken([&](const Assignment& a, bool firstStep, bool lastStep) {
      const int expert = expertOf(a);
      const int32_t rank = bins.take(expert);
      const bool stays = expert >= 0 && rank < limit;
      const unsigned staying = __ballot_sync(wholeWarp, stays);
      const unsigned assigned = __ballot_sync(wholeWarp, a.expert >= 0) & tokenLanes;
      anyAssigned = firstStep ? assigned : anyAssigned | assigned;
      anyKept = firstStep ? staying & tokenLanes : anyKept | (staying & tokenLanes);
      const int32_t list = listed + __popc(staying & lanesBelow());
      listed += __popc(staying);
      if (a.inside && a.k == 0) p.tokenOffsets[a.t] = list;
      if (a.inside && p.kept) p.kept[a.slot] = stays;
      if (a.inside && p.weights && !stays) p.weights[a.slot] = 0;
      if (stays) {
        const int32_t row = offsets[expert] + rank;
        p.rowToken[row] = static_cast<int32_t>(a.t);
        p.rowSlot[row] = static_cast<int32_t>(a.slot);
        p.tokenRows[list] = row;
      }
      // One lane for each token: the first of its lanes.
      const bool counts = lastStep && lane() == __ffs(tokenLanes) - 1;
      tokens += counts && anyAssigned != 0;
      lost += counts && anyAssigned != 0 && anyKept == 0;
    });
    tokens = warpSum(tokens);
    lost = warpSum(lost);
    if (lane() == 0 && tokens > 0) atomicAdd(p.totals + PlanTotal::tokens, tokens);
    if (lane() == 0 && lost > 0) atomicAdd(p.totals + PlanTotal::droppedTokens, lost);
    for (int64_t row = offsets[p.E] + threadOfGrid(); row < p.R; row += threadsOfGrid())
      p.rowToken[row] = p.rowSlot[row] = p.tokenRows[row] = -1;
  }
};

}  // namespace moe
