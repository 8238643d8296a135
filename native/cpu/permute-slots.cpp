#include "permute-slots.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "../shared/noise.h"
#include "order.h"

namespace moe::cpu {

namespace {

/// The assignments of tokens [begin, end) in the order in which they queue for the slots.
class Queue {
 public:
  explicit Queue(const BuildPlan& plan) : plan_(plan), assignments_{plan} {}

  /// visit(t, k, expert) for every assignment.
  template <class Visit>
  void forEach(int64_t begin, int64_t end, Visit&& visit) {
    const int K = plan_.K;
    const auto visitAssigned = [&](int64_t t, int k) {
      if (const int32_t expert = assignments_.queued(t, k); expert >= 0) visit(t, k, expert);
    };
    if (!plan_.capacity.firstChoicesFirst) {
      sort(begin * K, end * K, [&](int64_t slot) { return ownOrder(slot / K, static_cast<int>(slot % K)); });
      for (const uint64_t key : keys_) visitAssigned(indexOf(key) / K, static_cast<int>(indexOf(key) % K));
      return;
    }
    const bool byToken = plan_.capacity.priority == Priority::Score || plan_.capacity.priority == Priority::Position;
    if (byToken) sort(begin, end, [&](int64_t t) { return bestScore(t); });
    for (int k = 0; k < K; ++k) {
      if (!byToken) sort(begin, end, [&](int64_t t) { return ownOrder(t, k); });
      for (const uint64_t key : keys_) visitAssigned(indexOf(key), k);
    }
  }

 private:
  /// Larger first.
  uint32_t ownOrder(int64_t t, int k) const {
    const int32_t expert = assignments_.expert(t, k);
    if (expert < 0 || plan_.capacity.priority == Priority::Position) return 0;
    if (plan_.capacity.priority == Priority::Random)
      return noiseBits(valueOf(plan_.drawKey), plan_.tokenOffset + t, expert / 4).word[expert % 4];
    return risingBits(plan_.scores[t * plan_.K + k]);
  }

  uint32_t bestScore(int64_t t) const {
    float best = -std::numeric_limits<float>::infinity();
    if (plan_.capacity.priority == Priority::Score)
      for (int k = 0; k < plan_.K; ++k)
        if (assignments_.expert(t, k) >= 0) best = std::max(best, plan_.scores[t * plan_.K + k]);
    return risingBits(best);
  }

  template <class Order>
  void sort(int64_t begin, int64_t end, Order&& order) {
    keys_.clear();
    for (int64_t index = begin; index < end; ++index) keys_.push_back(fallingKey(order(index), index));
    if (plan_.capacity.priority != Priority::Position) std::sort(keys_.begin(), keys_.end());
  }

  const BuildPlan& plan_;
  const Assignments assignments_;
  std::vector<uint64_t> keys_;
};

/// The choices of one group that were rejected, and the rounds in which they look for another expert: in each, everyone
/// asks the best expert, among those with room at its start, that its token has not tried; slots go in queue order.
class NextChoices {
 public:
  NextChoices(const BuildPlan& plan, int64_t slots)
      : plan_(plan), assignments_{plan}, slots_(slots), room_(plan.E), proposals_(plan.T * plan.K, -1) {}

  void add(int64_t t, int k) { waiting_.push_back(t * plan_.K + k); }

  void settle(std::vector<int32_t>& taken, SlotsObserver& observer) {
    while (!waiting_.empty()) {
      for (int e = 0; e < plan_.E; ++e) room_[e] = taken[e] < slots_;
      std::vector<int64_t> left;
      for (const int64_t slot : waiting_) {
        const int32_t expert = proposals_[slot] = bestUntried(slot / plan_.K);
        if (expert < 0) continue;
        if (taken[expert] >= slots_) {
          left.push_back(slot);
          continue;
        }
        ++taken[expert];
        ++plan_.keptCounts[expert];
        observer.moved(slot / plan_.K, static_cast<int>(slot % plan_.K), expert);
      }
      waiting_ = std::move(left);
    }
  }

 private:
  int32_t bestUntried(int64_t t) const {
    const float* values = plan_.compared + t * plan_.E;
    int32_t best = -1;
    for (int e = 0; e < plan_.E; ++e)
      if (room_[e] && values[e] > (best < 0 ? -std::numeric_limits<float>::infinity() : values[best]) && !tried(t, e))
        best = e;
    return best;
  }

  bool tried(int64_t t, int32_t expert) const {
    for (int k = 0; k < plan_.K; ++k)
      if (assignments_.queued(t, k) == expert || proposals_[t * plan_.K + k] == expert) return true;
    return false;
  }

  const BuildPlan& plan_;
  const Assignments assignments_;
  int64_t slots_;
  std::vector<uint8_t> room_;       // [E] at the start of the round
  std::vector<int32_t> proposals_;  // [T,K] the last expert asked instead; those asked before are full
  std::vector<int64_t> waiting_;    // [T,K] slots, in queue order
};

}  // namespace

void giveSlots(const BuildPlan& plan, int64_t slots, SlotsObserver& observer) {
  Queue queue(plan);
  const int64_t groupSize = plan.capacity.groupSize > 0 ? plan.capacity.groupSize : plan.T;
  std::optional<NextChoices> next;
  if (plan.capacity.overflow == Overflow::NextChoice && plan.compared) next.emplace(plan, slots);
  std::vector<int32_t> taken(plan.E);
  std::fill_n(plan.keptCounts, plan.E, 0);
  for (int64_t begin = 0; begin < plan.T; begin += groupSize) {
    std::fill(taken.begin(), taken.end(), 0);
    int64_t spare = plan.capacity.buffer;
    queue.forEach(begin, std::min(plan.T, begin + groupSize), [&](int64_t t, int k, int32_t expert) {
      if (taken[expert] < slots) {
        ++taken[expert];
      } else if (spare > 0) {
        --spare;
      } else {
        observer.rejected(t, k, expert);
        if (next) next->add(t, k);
        return;
      }
      ++plan.keptCounts[expert];
    });
    if (next) next->settle(taken, observer);
  }
}

int64_t slotsOf(const BuildPlan& plan, const int32_t* queued) {
  if (!plan.capacity.dynamic) return plan.capacity.slots;
  const auto dropped = [&](int64_t slots) {
    int64_t sum = 0;
    for (int e = 0; e < plan.E; ++e) sum += std::max<int64_t>(0, queued[e] - slots);
    return static_cast<double>(sum);
  };
  const double allowed = plan.capacity.targetDropRate * dropped(0);
  int64_t low = 0, high = plan.capacity.slots;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (dropped(middle) <= allowed)
      high = middle;
    else
      low = middle + 1;
  }
  return low;
}

}  // namespace moe::cpu
