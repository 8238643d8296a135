// The permute stage: the plan (which rows each expert computes, what is dropped) and the moves it drives, dispatch and
// combine, which are each other's backward. Shapes and meanings are in native/shared/operations.h.
#include "../native/shared/math.h"
#include "../native/shared/permute.h"
#include "rank.cuh"
#include "rows.cuh"

namespace moe {

// ------------------------------------------------------------------------------------------------ plan

/// One lane's place in [T,K]; expert -1 where there is no assignment.
struct Assignment {
  int64_t t;
  int k;
  bool inside;  // of [T,K] and of the warp's part
  int expert;
  int64_t slot;
};

struct QueueKey {
  uint32_t choice, score, index;
};

/// One block's work on the plan: passes over all assignments, each by the whole grid.
struct Planner {
  const BuildPlan& p;
  const PlanWorkspace& w;
  const Guard& guard;
  Bins bins;
  int32_t* offsets;  // [E+1] shared
  int32_t limit;     // slots per expert

  __device__ Planner(const BuildPlan& p, const PlanWorkspace& w, const Guard& guard, int32_t* shared)
      : p(p),
        w(w),
        guard(guard),
        bins(p.E, shared),
        offsets(bins.end()),
        limit(p.capacity.slots < 0 || p.capacity.slots > INT32_MAX ? INT32_MAX
                                                                   : static_cast<int32_t>(p.capacity.slots)) {}

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

  /// visit(assignment) by choice, then token.
  template <class Visit>
  __device__ void forEachByChoice(Visit&& visit) const {
    const Range part = warpPart(p.T * p.K);
    for (int64_t first = part.begin; first < part.end; first += warpSize_) {
      // Both fit 32 bits, whose division is cheaper.
      const uint32_t position = static_cast<uint32_t>(first) + lane(), T = static_cast<uint32_t>(p.T);
      visit(at(position % T, static_cast<int>(position / T), position < part.end));
    }
  }

  __device__ void countByToken(int32_t* counts, bool kept, bool check) {
    bins.clear();
    forEachByToken([&](const Assignment& a, bool, bool) {
      if (check && isBad(a)) noteFault(guard, Fault::PlanIndex, a.t, faultValue(a.slot, p.indices[a.slot]));
      if (a.expert >= 0 && (!kept || w.keep[a.slot])) bins.add(a.expert);
    });
    meet(counts);
  }

  __device__ void meet(int32_t* counts) {
    bins.publish(counts);
    gridBarrier();
    bins.resolve(counts);
  }

  /// Sets w.keep when tokens and then choices are the queue.
  __device__ void keepByPosition() {
    bins.clear();
    forEachByChoice([&](const Assignment& a) {
      if (a.expert >= 0) bins.add(a.expert);
    });
    meet(w.queueCounts);
    forEachByChoice([&](const Assignment& a) {
      const int32_t rank = bins.take(a.expert);
      if (a.inside) w.keep[a.slot] = a.expert >= 0 && rank < limit;
    });
    gridBarrier();
  }

  // ---------------------------------------------------------------- the queue by score

  /// Smaller for a larger score.
  __device__ static uint32_t falling(float score) {
    const uint32_t bits = floatBits(score + 0.0f);  // -0 becomes 0
    return ~(bits & 0x80000000u ? ~bits : bits | 0x80000000u);
  }

  __device__ QueueKey keyOf(const Assignment& a) const {
    if (!p.capacity.firstChoicesFirst) return {0, falling(p.scores[a.slot]), static_cast<uint32_t>(a.slot)};
    return {static_cast<uint32_t>(a.k), w.tokenScore[a.t], static_cast<uint32_t>(a.t)};
  }

  /// Tokens queue by the best score among their assignments.
  __device__ void scoreTokens() const {
    for (int64_t t = threadOfGrid(); t < p.T; t += threadsOfGrid()) {
      uint32_t best = ~0u;
      for (int k = 0; k < p.K; ++k)
        if (expertAt(t, t * p.K + k) >= 0) best = min(best, falling(p.scores[t * p.K + k]));
      w.tokenScore[t] = best;
    }
  }

  /// `word` counts the parts of a key, choice first.
  __device__ static uint32_t wordOf(uint32_t choice, uint32_t score, uint32_t index, int word) {
    return word == 0 ? choice : word == 1 ? score : index;
  }

  /// Whether a key has the digits that the cut has above this one.
  __device__ static bool agrees(const QueueKey& key, const SlotCut& cut, int word, int shift) {
    if (word > 0 && key.choice != cut.choice) return false;
    if (word > 1 && key.score != cut.score) return false;
    const uint32_t differ =
        wordOf(key.choice, key.score, key.index, word) ^ wordOf(cut.choice, cut.score, cut.index, word);
    return differ >> shift >> cutDigitBits == 0;
  }

  __device__ void countDigits(int word, int shift) const {
    forEachByToken([&](const Assignment& a, bool, bool) {
      if (a.expert < 0) return;
      const SlotCut cut = w.cuts[a.expert];
      if (cut.open == 0) return;
      const QueueKey key = keyOf(a);
      if (!agrees(key, cut, word, shift)) return;
      const uint32_t digit = wordOf(key.choice, key.score, key.index, word) >> shift & (cutDigits - 1);
      atomicAdd(w.digits + static_cast<int64_t>(a.expert) * cutDigits + digit, 1);
    });
  }

  /// Fixes the digit at which the slots run out, one warp per expert, and zeroes the counts.
  __device__ void chooseDigits(int word, int shift) const {
    constexpr int share = cutDigits / warpSize_;
    for (int64_t e = threadOfGrid() / warpSize_; e < p.E; e += threadsOfGrid() / warpSize_) {
      SlotCut cut = w.cuts[e];
      if (cut.open == 0) continue;
      int32_t* digits = w.digits + e * cutDigits + lane() * share;
      int32_t items[share], mine = 0;
      for (int i = 0; i < share; ++i) {
        mine += items[i] = digits[i];
        digits[i] = 0;
      }
      int32_t upTo = mine;
      for (int distance = 1; distance < warpSize_; distance *= 2) {
        const int32_t below = __shfl_up_sync(wholeWarp, upTo, distance);
        if (lane() >= distance) upTo += below;
      }
      int32_t before = upTo - mine;
      if (before >= cut.open || upTo < cut.open) continue;
      uint32_t digit = lane() * share;
      int32_t chosen = items[0];
      for (int i = 1; i < share && before + chosen < cut.open; ++i) {
        before += chosen;
        chosen = items[i];
        ++digit;
      }
      cut.open -= before;
      const bool found = chosen == cut.open;  // all that share the digit are kept
      if (found) cut.open = 0;
      const uint32_t bits = digit << shift | (found ? (1u << shift) - 1 : 0);
      if (word == 0) cut.choice |= bits;
      if (word == 1) cut.score |= bits;
      if (word == 2) cut.index |= bits;
      if (found && word < 1) cut.score = ~0u;
      if (found && word < 2) cut.index = ~0u;
      w.cuts[e] = cut;
    }
  }

  __device__ bool allFound() const {
    bool open = false;
    for (int e = threadIdx.x; e < p.E; e += blockDim.x) open |= w.cuts[e].open != 0;
    return !__syncthreads_or(open);
  }

  __device__ static int bitsOf(int64_t largest) { return largest > 0 ? 64 - __clzll(largest) : 0; }

  __device__ void findCuts() const {
    if (p.capacity.firstChoicesFirst) scoreTokens();
    for (int64_t e = threadOfGrid(); e < p.E; e += threadsOfGrid()) {
      const bool fits = bins.total[e] <= limit;
      w.cuts[e] = fits ? SlotCut{~0u, ~0u, ~0u, 0} : SlotCut{0, 0, 0, limit};
    }
    for (int64_t i = threadOfGrid(); i < int64_t{p.E} * cutDigits; i += threadsOfGrid()) w.digits[i] = 0;
    gridBarrier();
    const int choiceBits = p.capacity.firstChoicesFirst ? bitsOf(p.K - 1) : 0;
    const int indexBits = bitsOf((p.capacity.firstChoicesFirst ? p.T : p.T * p.K) - 1);
    for (int word = 0; word < 3; ++word) {
      const int bits = word == 0 ? choiceBits : word == 1 ? 32 : indexBits;
      for (int shift = (bits + cutDigitBits - 1) / cutDigitBits * cutDigitBits; shift > 0;) {
        shift -= cutDigitBits;
        if (allFound()) return;
        countDigits(word, shift);
        gridBarrier();
        chooseDigits(word, shift);
        gridBarrier();
      }
    }
  }

  /// Sets w.keep when scores make the queue.
  __device__ void keepByScore() {
    findCuts();
    forEachByToken([&](const Assignment& a, bool, bool) {
      if (!a.inside) return;
      bool keep = a.expert >= 0 && limit > 0;
      if (keep) {
        const QueueKey key = keyOf(a);
        const SlotCut cut = w.cuts[a.expert];
        keep = key.choice != cut.choice ? key.choice < cut.choice
               : key.score != cut.score ? key.score < cut.score
                                        : key.index <= cut.index;
      }
      w.keep[a.slot] = keep;
    });
    gridBarrier();
  }

  // ---------------------------------------------------------------- rows

  __device__ bool overflows() const {
    bool over = false;
    for (int e = threadIdx.x; e < p.E; e += blockDim.x) over |= bins.total[e] > limit;
    return __syncthreads_or(over);
  }

  /// Writes everything that has an entry per assignment, token or row. With `kept` the counts are of what w.keep says;
  /// else experts keep their first assignments.
  __device__ void place(bool kept) {
    // The lists of the tokens follow each other, so this warp's begin after what all experts keep of earlier tokens.
    int32_t listed = 0;
    for (int e = lane(); e < p.E; e += warpSize_) listed += min(bins.own[warp() * p.E + e], limit);
    listed = warpSum(listed);
    __syncwarp();

    int tokens = 0, lost = 0;
    unsigned anyAssigned = 0, anyKept = 0;
    const unsigned tokenLanes = p.K < warpSize_ ? ((1u << p.K) - 1) << lane() / p.K * p.K : wholeWarp;
    forEachByToken([&](const Assignment& a, bool firstStep, bool lastStep) {
      const bool candidate = a.expert >= 0 && (!kept || w.keep[a.slot]);
      const int32_t rank = bins.take(candidate ? a.expert : -1);
      const bool stays = candidate && rank < limit;
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
        const int32_t row = offsets[a.expert] + rank;
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

  __device__ void build() {
    if (blockIdx.x == 0 && threadIdx.x < PlanTotal::count)
      p.totals[threadIdx.x] = threadIdx.x == PlanTotal::slots ? static_cast<int32_t>(p.capacity.slots) : 0;
    countByToken(w.counts, false, true);
    if (blockIdx.x == 0)
      for (int e = threadIdx.x; e < p.E; e += blockDim.x) p.assigned[e] = bins.total[e];
    const bool kept = w.keep && overflows();
    bins.prefix(INT32_MAX, offsets);
    const int32_t assigned = offsets[p.E];
    if (kept) {
      if (p.capacity.priority == Priority::Position)
        keepByPosition();
      else
        keepByScore();
      countByToken(w.keptCounts, true, false);
    } else {
      __syncthreads();
    }
    bins.prefix(limit, offsets);
    if (blockIdx.x == 0) {
      for (int e = threadIdx.x; e <= p.E; e += blockDim.x) p.expertOffsets[e] = offsets[e];
      for (int e = threadIdx.x; e < p.E; e += blockDim.x) p.keptCounts[e] = offsets[e + 1] - offsets[e];
      if (threadIdx.x == 0) {
        p.tokenOffsets[p.T] = offsets[p.E];
        p.totals[PlanTotal::droppedAssignments] = assigned - offsets[p.E];
      }
    }
    place(kept);
  }
};

extern "C" __global__ void __launch_bounds__(1024)
    buildPlan(const __grid_constant__ BuildPlan p, const __grid_constant__ PlanWorkspace w,
              const __grid_constant__ Guard guard) {
  extern __shared__ int32_t shared[];
  // As the first kernel it looks for bad indices, and then no block may stop at what another has found: the rest would
  // wait for it. After a route there are none: their faults have ended the operation.
  if (enter(guard, guard.first)) Planner(p, w, guard, shared).build();
}

// ------------------------------------------------------------------------------------------------ moves

/// The warp of the grid; every warp moves one row or one token.
__device__ inline int64_t warpOfGrid() { return threadOfGrid() / warpSize_; }

template <class T>
__device__ void dispatchRow(const Dispatch& d) {
  const int64_t r = warpOfGrid();
  if (r >= d.plan.R) return;
  const int64_t token = d.plan.rowToken[r];
  const T* from = token < 0 ? nullptr : static_cast<const T*>(d.input) + token * d.H;
  copyRow(startsAligned<T>(d.H, d.input, d.rows), from, static_cast<T*>(d.rows) + r * d.H, d.H);
}

/// What one lane knows of the list of a token's rows: the entry `lane` of 32.
struct ListEntry {
  int32_t row;
  float weight;
};

template <class T, int width>
__device__ void combineToken(const Combine& c, int64_t t) {
  const int32_t first = c.plan.tokenOffsets[t], count = c.plan.tokenOffsets[t + 1] - first;
  const auto entryAt = [&](int32_t begin) {
    ListEntry entry{0, 1.0f};
    if (begin + lane() < count) {
      entry.row = c.plan.tokenRows[first + begin + lane()];
      if (c.weights) entry.weight = c.weights[c.plan.rowSlot[entry.row]];
    }
    return entry;
  };
  const T* rows = static_cast<const T*>(c.rows);
  T* output = static_cast<T*>(c.output) + t * c.H;
  ListEntry entry = entryAt(0);
  for (int h0 = 0; h0 < c.H; h0 += warpSize_ * width) {
    const int h = h0 + lane() * width;
    float sums[width] = {};
    if (c.accumulate && h < c.H) load(output + h, sums);
    for (int32_t begin = 0; begin < count; begin += warpSize_) {
      if (count > warpSize_) entry = entryAt(begin);
      const int32_t entries = min(count - begin, warpSize_);
#pragma unroll 4
      for (int32_t i = 0; i < entries; ++i) {
        const int64_t row = __shfl_sync(wholeWarp, entry.row, i);
        const float weight = __shfl_sync(wholeWarp, entry.weight, i);
        if (h < c.H) {
          float x[width];
          load(rows + row * c.H + h, x);
#pragma unroll
          for (int j = 0; j < width; ++j) sums[j] = fmaf(weight, x[j], sums[j]);
        }
      }
    }
    if (h < c.H) store(output + h, sums);
  }
}

template <class T>
__device__ void combineToken(const Combine& c) {
  const int64_t t = warpOfGrid();
  if (t >= c.plan.T) return;
  if (startsAligned<T>(c.H, c.rows, c.output))
    combineToken<T, wide<T>>(c, t);
  else
    combineToken<T, 1>(c, t);
}

/// gradRow = weight·gradOutput; returns ⟨gradOutput, row⟩.
template <class T, int width>
__device__ float scaleAndDot(float weight, const T* gradOutput, const T* row, T* gradRow, int H) {
  float dot = 0;
  for (int h = lane() * width; h < H; h += warpSize_ * width) {
    float g[width], y[width];
    load(gradOutput + h, g);
    load(row + h, y);
#pragma unroll
    for (int j = 0; j < width; ++j) {
      dot = fmaf(g[j], y[j], dot);
      g[j] *= weight;
    }
    store(gradRow + h, g);
  }
  return warpSum(dot);
}

/// Warp i does the rows of token i, and row i when that is past the end of the plan.
template <class T>
__device__ void combineBackwardRows(const CombineBackward& b) {
  const bool aligned = startsAligned<T>(b.H, b.gradOutput, b.rows, b.gradRows);
  const int64_t i = warpOfGrid();
  T* gradRows = static_cast<T*>(b.gradRows);
  if (i < b.plan.R && b.plan.rowToken[i] < 0) copyRow<T>(aligned, nullptr, gradRows + i * b.H, b.H);
  if (i >= b.plan.T) return;
  for (int k = lane(); k < b.plan.K; k += warpSize_) b.gradWeights[i * b.plan.K + k] = 0;
  __syncwarp();
  const T* gradOutput = static_cast<const T*>(b.gradOutput) + i * b.H;
  for (int32_t entry = b.plan.tokenOffsets[i]; entry < b.plan.tokenOffsets[i + 1]; ++entry) {
    const int64_t r = b.plan.tokenRows[entry];
    const int32_t slot = b.plan.rowSlot[r];
    const T* row = static_cast<const T*>(b.rows) + r * b.H;
    const float dot = aligned ? scaleAndDot<T, wide<T>>(b.weights[slot], gradOutput, row, gradRows + r * b.H, b.H)
                              : scaleAndDot<T, 1>(b.weights[slot], gradOutput, row, gradRows + r * b.H, b.H);
    if (lane() == 0) b.gradWeights[slot] = dot;
  }
}

#define MOE_MOVES(name, type)                                                                                  \
  extern "C" __global__ void __launch_bounds__(256)                                                            \
      dispatch_##name(const __grid_constant__ Dispatch d, const __grid_constant__ Guard guard) {               \
    if (enter(guard)) dispatchRow<type>(d);                                                                    \
  }                                                                                                            \
  extern "C" __global__ void __launch_bounds__(256)                                                            \
      combine_##name(const __grid_constant__ Combine c, const __grid_constant__ Guard guard) {                 \
    if (enter(guard)) combineToken<type>(c);                                                                   \
  }                                                                                                            \
  extern "C" __global__ void __launch_bounds__(256)                                                            \
      combineBackward_##name(const __grid_constant__ CombineBackward b, const __grid_constant__ Guard guard) { \
    if (enter(guard)) combineBackwardRows<type>(b);                                                            \
  }
MOE_FLOAT_TYPES(MOE_MOVES)

}  // namespace moe
