// Experts that choose their tokens: the choice, and the plan of what they chose. Both sort. Shapes and meanings are in
// native/shared/operations.h.
#include "sort.cuh"

namespace moe {

// ------------------------------------------------------------------------------------------------ choice

/// Of `experts` experts from `begin` on: their tokens by falling score, all of them; the items are [experts,T].
__device__ inline const uint32_t* sortTokens(const RouteForward& f, const SortSpace& space, int begin, int experts,
                                             int32_t* shared) {
  const uint32_t T = static_cast<uint32_t>(f.T);
  const int64_t count = experts * f.T;
  for (int64_t i = threadOfGrid(); i < count; i += threadsOfGrid()) space.items[i] = static_cast<uint32_t>(i);
  gridBarrier();
  Sorter sorter(space, shared);
  sorter.sort(count, 32 + bitsOf(experts - 1), [&](uint32_t item) {
    const uint32_t expert = item / T;
    const float score = f.compared[int64_t{item % T} * f.E + begin + expert];
    return uint64_t{expert} << 32 | falling(score);
  });
  return sorter.items;
}

/// Scores of minus infinity come last and are not chosen.
__device__ inline void writeChoices(const RouteForward& f, const uint32_t* sorted, int begin, int experts) {
  const int64_t C = f.expertSlots;
  for (int64_t i = threadOfGrid(); i < experts * C; i += threadsOfGrid()) {
    const int64_t expert = i / C, choice = i - expert * C, slot = begin * C + i;
    f.indices[slot] = -1;
    f.weights[slot] = 0;
    if (choice >= f.T) continue;
    const int64_t token = sorted[expert * f.T + choice] - expert * f.T;
    const float score = f.compared[token * f.E + begin + expert];
    if (score == -INFINITY) continue;
    f.indices[slot] = static_cast<int32_t>(token);
    f.weights[slot] = f.router.weightScale * score;
  }
}

/// `atOnce` experts are sorted together: as many as 32-bit ranks allow.
extern "C" __global__ void __launch_bounds__(512, 1)
    chooseTokens(const __grid_constant__ RouteForward f, const __grid_constant__ SortSpace space,
                 const __grid_constant__ int32_t atOnce, const __grid_constant__ Guard guard) {
  extern __shared__ int32_t shared[];
  if (!enter(guard)) return;
  for (int begin = 0; begin < f.E; begin += atOnce) {
    const int experts = min(atOnce, f.E - begin);
    writeChoices(f, sortTokens(f, space, begin, experts, shared), begin, experts);
    gridBarrier();
  }
}

// ------------------------------------------------------------------------------------------------ plan

struct ChoicePlanner {
  const BuildExpertPlan& p;
  const SortSpace& space;
  int32_t* const shared;

  __device__ ChoicePlanner(const BuildExpertPlan& p, const SortSpace& space, int32_t* shared)
      : p(p), space(space), shared(shared) {}

  /// How many tokens an expert has chosen: those come first.
  __device__ int32_t chosenBy(int64_t expert) const {
    const int32_t* choices = p.indices + expert * p.C;
    int64_t low = 0, high = p.C;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (choices[middle] >= 0)
        low = middle + 1;
      else
        high = middle;
    }
    return static_cast<int32_t>(low);
  }

  /// Everything in order of the rows, and the rows themselves as the items to sort. Returns how many there are; the
  /// grid meets.
  __device__ int32_t writeRows() const {
    Bins bins(p.E, shared);
    int32_t* offsets = bins.end();
    for (int e = threadIdx.x; e < p.E; e += blockDim.x) bins.total[e] = chosenBy(e);
    __syncthreads();
    bins.prefix(INT32_MAX, offsets);
    const int32_t rows = offsets[p.E];
    if (blockIdx.x == 0) {
      for (int e = threadIdx.x; e <= p.E; e += blockDim.x) p.expertOffsets[e] = offsets[e];
      for (int e = threadIdx.x; e < p.E; e += blockDim.x) p.assigned[e] = p.keptCounts[e] = bins.total[e];
      if (threadIdx.x < PlanTotal::count)
        p.totals[threadIdx.x] = threadIdx.x == PlanTotal::slots ? static_cast<int32_t>(p.C) : 0;
    }
    for (int64_t slot = threadOfGrid(); slot < p.E * p.C; slot += threadsOfGrid()) {
      const int64_t expert = slot / p.C;
      const int32_t token = p.indices[slot];
      p.kept[slot] = token >= 0;
      if (token >= 0) {
        const int32_t row = offsets[expert] + static_cast<int32_t>(slot - expert * p.C);
        p.rowToken[row] = token;
        p.rowSlot[row] = static_cast<int32_t>(slot);
        space.items[row] = row;
      }
      if (slot >= rows) p.rowToken[slot] = p.rowSlot[slot] = p.tokenRows[slot] = -1;
    }
    gridBarrier();
    return rows;
  }

  /// The rows of every token, in order: `sorted` are all rows by token.
  __device__ void writeTokens(const uint32_t* sorted, int32_t rows) const {
    for (int64_t i = threadOfGrid(); i < rows; i += threadsOfGrid()) p.tokenRows[i] = static_cast<int32_t>(sorted[i]);
    int tokens = 0, lost = 0;
    for (int64_t t = threadOfGrid(); t <= p.T; t += threadsOfGrid()) {
      int32_t low = 0, high = rows;
      while (low < high) {
        const int32_t middle = low + (high - low) / 2;
        if (p.rowToken[sorted[middle]] < t)
          low = middle + 1;
        else
          high = middle;
      }
      p.tokenOffsets[t] = low;
      if (t == p.T || (p.mask && p.mask[t] == 0)) continue;
      ++tokens;
      lost += low == rows || p.rowToken[sorted[low]] != t;
    }
    tokens = warpSum(tokens);
    lost = warpSum(lost);
    if (lane() == 0 && tokens > 0) atomicAdd(p.totals + PlanTotal::tokens, tokens);
    if (lane() == 0 && lost > 0) atomicAdd(p.totals + PlanTotal::droppedTokens, lost);
  }

  __device__ void build() const {
    const int32_t rows = writeRows();
    Sorter sorter(space, shared);
    sorter.sort(rows, bitsOf(p.T - 1), [&](uint32_t row) { return static_cast<uint32_t>(p.rowToken[row]); });
    writeTokens(sorter.items, rows);
  }
};

extern "C" __global__ void __launch_bounds__(512, 1)
    buildExpertPlan(const __grid_constant__ BuildExpertPlan p, const __grid_constant__ SortSpace space,
                    const __grid_constant__ Guard guard) {
  extern __shared__ int32_t shared[];
  if (enter(guard)) ChoicePlanner(p, space, shared).build();
}

}  // namespace moe
