// The plan where assignments queue in other ways than plan.cu knows: a group of tokens at a time, at random, in the
// caller's order, for as many slots as a target asks, for a buffer that experts share, and for other experts than the
// one that is full. The queue is sorted; then whoever asks for a slot is ranked among those who ask for the same, and
// all of a round are answered at once, as they would be one after the other.
#include "../native/shared/noise.h"
#include "plan.cuh"
#include "sort.cuh"

namespace moe {

struct QueuePlanner : Planner {
  const QueueWorkspace& w;
  int32_t* const shared;
  const uint32_t groupSize;
  int32_t limit = INT32_MAX;  // slots per expert and group

  __device__ QueuePlanner(const BuildPlan& p, const QueueWorkspace& w, const Guard& guard, int32_t* shared)
      : Planner(p, guard, shared), w(w), shared(shared), groupSize(static_cast<uint32_t>(w.groupSize)) {}

  __device__ int64_t count() const { return p.T * p.K; }
  __device__ uint32_t tokenOf(uint32_t slot) const { return slot / static_cast<uint32_t>(p.K); }
  __device__ uint32_t groupOf(uint32_t slot) const { return tokenOf(slot) / groupSize; }

  /// -1: none, or one that no slot is asked for.
  __device__ int queuedAt(int64_t t, int k) const {
    return k == 1 && p.withheld && p.withheld[t] ? -1 : expertAt(t, t * p.K + k);
  }

  // ---------------------------------------------------------------- slots

  /// As few as the target allows, of what the bins have counted; in every thread.
  __device__ int32_t fewestSlots() const {
    if (warp() == 0) {
      const auto dropped = [&](int32_t slots) {
        int32_t sum = 0;
        for (int e = lane(); e < p.E; e += warpSize_) sum += max(0, bins.total[e] - slots);
        return static_cast<double>(warpSum(sum));
      };
      const double allowed = p.capacity.targetDropRate * dropped(0);
      int32_t low = 0, high = bounded(p.capacity.slots);
      while (low < high) {
        const int32_t middle = low + (high - low) / 2;
        if (dropped(middle) <= allowed)
          high = middle;
        else
          low = middle + 1;
      }
      if (lane() == 0) offsets[0] = low;
    }
    __syncthreads();
    const int32_t slots = offsets[0];
    __syncthreads();
    return slots;
  }

  // ---------------------------------------------------------------- the queue

  /// The i-th of [T,K] group by group, and by choice and then token where first choices go first.
  __device__ uint32_t unsorted(uint32_t i) const {
    if (!p.capacity.firstChoicesFirst) return i;
    const uint32_t K = p.K, begin = groupOf(i) * groupSize, place = i - begin * K;
    const uint32_t tokens = min(groupSize, static_cast<uint32_t>(p.T) - begin);
    return (begin + place % tokens) * K + place / tokens;
  }

  /// bits.word[i], which would have to be in memory.
  __device__ static uint32_t wordOf(const Philox4& bits, int i) {
    const uint32_t low = i & 1 ? bits.word[1] : bits.word[0], high = i & 1 ? bits.word[3] : bits.word[2];
    return i & 2 ? high : low;
  }

  /// Smaller first.
  __device__ uint32_t orderOf(uint32_t slot) const {
    const int64_t t = tokenOf(slot);
    const int expert = expertAt(t, slot);
    if (expert < 0) return ~0u;
    if (p.capacity.priority == Priority::Random)
      return ~wordOf(noiseBits(valueOf(p.drawKey), p.tokenOffset + t, expert / 4), expert % 4);
    if (p.capacity.priority == Priority::Given || !p.capacity.firstChoicesFirst) return falling(p.scores[slot]);
    uint32_t best = ~0u;
    for (int k = 0; k < p.K; ++k)
      if (expertAt(t, t * p.K + k) >= 0) best = min(best, falling(p.scores[t * p.K + k]));
    return best;
  }

  /// [T,K] indices in the order in which they queue, those without an assignment among them. The grid meets.
  __device__ const uint32_t* makeQueue() const {
    for (int64_t i = threadOfGrid(); i < count(); i += threadsOfGrid()) {
      const uint32_t slot = unsorted(static_cast<uint32_t>(i));
      w.queue[i] = slot;
      if (w.order) w.order[slot] = orderOf(slot);
    }
    gridBarrier();
    if (!w.order) return w.queue;
    const uint32_t ranks = p.capacity.firstChoicesFirst ? p.K : 1;
    Sorter sorter({w.queue, w.spare, w.counts}, shared);
    sorter.sort(count(), 32 + bitsOf(w.groups * ranks - 1),
                [&](uint32_t slot) { return uint64_t{groupOf(slot) * ranks + slot % ranks} << 32 | w.order[slot]; });
    return sorter.items;
  }

  // ---------------------------------------------------------------- rounds

  __device__ bool waits(uint32_t slot) const { return w.actual[slot] < 0 && w.asking[slot] >= 0; }

  /// visit(place, slot, waits) in the order of the queue; by whole warps.
  template <class Visit>
  __device__ void forEachInQueue(const uint32_t* queue, Visit&& visit) const {
    const Range part = warpPart(count());
    for (int64_t first = part.begin; first < part.end; first += warpSize_) {
      const int64_t i = first + lane();
      const uint32_t slot = i < part.end ? queue[i] : 0;
      visit(i, slot, i < part.end && waits(slot));
    }
  }

  /// A round: whoever waits asks the expert that `asking` says for one of its own slots, or the buffer of the group for
  /// one of its. They are ranked among those who ask for the same, which is a cell of [groups,E] or [groups]. The grid
  /// meets before anybody is answered, and after all are.
  __device__ void answer(const uint32_t* queue, int round, bool fromBuffer) {
    Bins ranks(fromBuffer ? 1 : p.E, shared);
    const auto binOf = [&](uint32_t slot) { return fromBuffer ? 0 : w.asking[slot]; };
    const auto cellOf = [&](uint32_t slot) { return int64_t{groupOf(slot)} * ranks.count + binOf(slot); };
    for (int64_t i = threadOfGrid(); i < w.groups * ranks.count; i += threadsOfGrid()) {
      w.first[i] = INT32_MAX;
      if (fromBuffer) continue;
      w.taken[i] = min(limit, w.taken[i] + w.asked[i]);
      w.asked[i] = 0;
    }
    ranks.clear();
    forEachInQueue(queue, [&](int64_t, uint32_t slot, bool waits) {
      if (waits) ranks.add(binOf(slot));
    });
    ranks.publish(w.counts);
    gridBarrier();
    ranks.resolve(w.counts);
    forEachInQueue(queue, [&](int64_t i, uint32_t slot, bool waits) {
      const int32_t rank = ranks.take(waits ? binOf(slot) : -1);
      if (!waits) return;
      w.rank[i] = rank;
      atomicMin(w.first + cellOf(slot), rank);
      if (!fromBuffer) atomicAdd(w.asked + cellOf(slot), 1);
    });
    gridBarrier();
    int32_t left = 0;
    forEachInQueue(queue, [&](int64_t i, uint32_t slot, bool waits) {
      if (!waits) return;
      const int64_t cell = cellOf(slot), room = fromBuffer ? p.capacity.buffer : limit - w.taken[cell];
      if (w.rank[i] - w.first[cell] < room)
        w.actual[slot] = w.asking[slot];
      else
        ++left;
    });
    left = warpSum(left);
    if (lane() == 0 && left > 0) atomicAdd(w.waiting + round, left);
    gridBarrier();
  }

  __device__ bool hasTried(int64_t t, int expert) const {
    for (int k = 0; k < p.K; ++k)
      if (queuedAt(t, k) == expert || w.asking[t * p.K + k] == expert) return true;
    return false;
  }

  /// The best expert with room that the token has not tried; -1: none. In every lane.
  __device__ int bestUntried(int64_t t) const {
    const float* values = p.compared + t * p.E;
    const int64_t cells = t / groupSize * p.E;
    float value = -INFINITY;
    int best = INT32_MAX;
    for (int e = lane(); e < p.E; e += warpSize_)
      if (values[e] > value && w.taken[cells + e] + w.asked[cells + e] < limit && !hasTried(t, e)) {
        value = values[e];
        best = e;
      }
    for (int distance = warpSize_ / 2; distance > 0; distance /= 2) {
      const float otherValue = __shfl_xor_sync(wholeWarp, value, distance);
      const int other = __shfl_xor_sync(wholeWarp, best, distance);
      if (otherValue > value || (otherValue == value && other < best)) {
        value = otherValue;
        best = other;
      }
    }
    return best < p.E ? best : -1;
  }

  /// Chooses whom those who wait ask next. A warp does the choices of one token, in the order of the queue: a later one
  /// does not ask the expert that an earlier one asks in the same round.
  __device__ void chooseNext(const uint32_t* queue) const {
    for (int64_t t = threadOfGrid() / warpSize_; t < p.T; t += threadsOfGrid() / warpSize_)
      for (int32_t done = -1;;) {
        int32_t next = INT32_MAX;
        for (int k = lane(); k < p.K; k += warpSize_) {
          const uint32_t slot = static_cast<uint32_t>(t * p.K + k);
          if (const int32_t place = w.place[slot]; place > done && waits(slot)) next = min(next, place);
        }
        next = warpReduce<Minimum>(next);
        if (next == INT32_MAX) break;
        const int expert = bestUntried(t);
        __syncwarp();
        if (lane() == 0) w.asking[queue[next]] = expert;
        __syncwarp();
        done = next;
      }
  }

  struct Minimum {
    __device__ static int32_t combine(int32_t a, int32_t b) { return min(a, b); }
  };

  /// Sets w.actual, where some expert has too few slots.
  __device__ void giveSlots() {
    for (int64_t t = threadOfGrid(); t < p.T; t += threadsOfGrid())
      for (int k = 0; k < p.K; ++k) {
        w.asking[t * p.K + k] = queuedAt(t, k);
        w.actual[t * p.K + k] = -1;
      }
    for (int64_t i = threadOfGrid(); i < w.groups * p.E; i += threadsOfGrid()) w.taken[i] = w.asked[i] = 0;
    for (int64_t i = threadOfGrid(); i < p.E + 3; i += threadsOfGrid()) w.waiting[i] = 0;
    const uint32_t* queue = makeQueue();
    if (w.place)
      for (int64_t i = threadOfGrid(); i < count(); i += threadsOfGrid()) w.place[queue[i]] = static_cast<int32_t>(i);

    // Every round of next choices fills an expert that had room at its start, or leaves nobody.
    const int firstRounds = p.capacity.buffer > 0 ? 2 : 1;
    for (int round = 0; round < firstRounds || (w.place && w.waiting[round - 1] > 0); ++round) {
      if (round >= firstRounds) {
        chooseNext(queue);
        gridBarrier();
      }
      answer(queue, round, round == 1 && firstRounds == 2);
    }
  }

  // ---------------------------------------------------------------- the plan

  /// What there is of each token or assignment besides rows, before the weights of those dropped become 0. Where slots
  /// were given, w.actual is p.actual.
  __device__ void writeChoices(bool given) const {
    if (!p.carried && !p.actual) return;
    for (int64_t t = threadOfGrid(); t < p.T; t += threadsOfGrid()) {
      float carried = 0;
      for (int k = 0; k < p.K; ++k) {
        const int64_t slot = t * p.K + k;
        const int queued = queuedAt(t, k), actual = given ? w.actual[slot] : queued;
        if (p.carried && queued >= 0 && actual < 0) carried += p.weights[slot];
        if (p.actual && !given) p.actual[slot] = actual;
      }
      if (p.carried) p.carried[t] = carried;
    }
  }

  __device__ void build() {
    startTotals();
    countByToken(w.assignedCounts, guard.first, [](const Assignment& a) { return a.expert; });
    writeAssigned();
    bins.prefix(INT32_MAX, offsets);
    const int32_t assigned = offsets[p.E];
    const auto queuedOf = [&](const Assignment& a) { return a.inside ? queuedAt(a.t, a.k) : -1; };
    if (p.withheld) countByToken(w.queuedCounts, false, queuedOf);
    __syncthreads();
    if (p.capacity.slots >= 0) limit = p.capacity.dynamic ? fewestSlots() : bounded(p.capacity.slots);
    const int32_t slots = p.capacity.slots < 0 ? -1 : limit;

    const bool given = p.capacity.slots >= 0 && exceeds(limit);
    const auto actualOf = [&](const Assignment& a) {
      return !a.inside ? -1 : given ? w.actual[a.slot] : queuedAt(a.t, a.k);
    };
    if (given) giveSlots();
    writeChoices(given);
    if (given) countByToken(w.keptCounts, false, actualOf);
    writePlan(assigned, slots, INT32_MAX, actualOf);
  }
};

extern "C" __global__ void __launch_bounds__(512, 1)
    buildQueuedPlan(const __grid_constant__ BuildPlan p, const __grid_constant__ QueueWorkspace w,
                    const __grid_constant__ Guard guard) {
  extern __shared__ int32_t shared[];
  if (enter(guard, guard.first)) QueuePlanner(p, w, guard, shared).build();
}

/// Looks for priorities that have no order, apart from the plan, whose blocks could not stop without each other.
extern "C" __global__ void __launch_bounds__(256)
    checkPriorities(const __grid_constant__ BuildPlan p, const __grid_constant__ Guard guard) {
  extern __shared__ int32_t shared[];
  if (!enter(guard, true)) return;
  // What has failed before in this operation left nothing to look at.
  const bool failed = threadIdx.x == 0 && faultKind(atomicMin(&guard.status->own, noFault)) < Fault::Priority;
  if (__syncthreads_or(failed)) return;
  const Planner planner(p, guard, shared);
  for (int64_t slot = threadOfGrid(); slot < p.T * p.K; slot += threadsOfGrid()) {
    const int64_t t = slot / p.K;
    const Assignment a = planner.at(t, static_cast<int>(slot - t * p.K), true);
    if (guard.first && planner.isBad(a))
      noteFault(guard, Fault::PlanIndex, t, faultValue(slot, p.indices[slot]));
    else if (a.expert >= 0 && p.scores[slot] != p.scores[slot])
      noteFault(guard, Fault::Priority, t, noValue);
  }
}

}  // namespace moe
