// The plan of most layers in one launch: dropless, or with a number of slots that tokens queue for by position or
// score. Other queues are in plan-queue.cu. Shapes and meanings are in native/shared/operations.h.
#include "plan.cuh"
#include "sort.cuh"

namespace moe {

struct QueueKey {
  uint32_t choice, score, index;
};

struct PlainPlanner : Planner {
  const PlanWorkspace& w;
  int32_t limit;  // slots per expert

  __device__ PlainPlanner(const BuildPlan& p, const PlanWorkspace& w, const Guard& guard, int32_t* shared)
      : Planner(p, guard, shared), w(w), limit(bounded(p.capacity.slots)) {}

  // ---------------------------------------------------------------- the queue by position

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

  // ----------------------------------------------------------------

  __device__ void build() {
    startTotals();
    countByToken(w.counts, guard.first, [](const Assignment& a) { return a.expert; });
    writeAssigned();
    const bool queues = w.keep && exceeds(limit);
    bins.prefix(INT32_MAX, offsets);
    const int32_t assigned = offsets[p.E];
    const auto expertOf = [&](const Assignment& a) {
      return a.expert >= 0 && (!queues || w.keep[a.slot]) ? a.expert : -1;
    };
    if (queues) {
      if (p.capacity.priority == Priority::Position)
        keepByPosition();
      else
        keepByScore();
      countByToken(w.keptCounts, false, expertOf);
    } else {
      __syncthreads();
    }
    writePlan(assigned, static_cast<int32_t>(p.capacity.slots), limit, expertOf);
  }
};

extern "C" __global__ void __launch_bounds__(1024)
    buildPlan(const __grid_constant__ BuildPlan p, const __grid_constant__ PlanWorkspace w,
              const __grid_constant__ Guard guard) {
  extern __shared__ int32_t shared[];
  // As the first kernel it looks for bad indices, and then no block may stop at what another has found: the rest would
  // wait for it. After a route there are none: their faults have ended the operation.
  if (enter(guard, guard.first)) PlainPlanner(p, w, guard, shared).build();
}

}  // namespace moe
