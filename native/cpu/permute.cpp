// The permute stage: the plan (which rows each expert computes, what is dropped) and the moves it drives, dispatch and
// combine, which are each other's backward.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "../core/error.h"
#include "../shared/math.h"
#include "../shared/noise.h"
#include "backend.h"
#include "element.h"
#include "lowest.h"
#include "simd/row.h"

namespace moe::cpu {

// ------------------------------------------------------------------------------------------------ plan

namespace {

// Below this many tokens a plan costs less than waking the other threads.
constexpr int64_t tokensPerPiece = 4096;

/// The assignments of a plan: expert per slot, as the mask and the caller's indices say.
struct Assignments {
  const BuildPlan& plan;

  /// -1: none.
  int32_t expert(int64_t t, int k) const {
    if (plan.mask && plan.mask[t] == 0) return -1;
    return plan.indices ? plan.indices[t * plan.K + k] : 0;
  }
};

/// As integers in the order of the numbers.
uint32_t risingBits(float number) {
  const uint32_t bits = floatBits(number + 0.0f);  // -0 becomes 0
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/// Sorts before every key of a lower order; of equal ones by index.
uint64_t fallingKey(uint32_t order, int64_t index) { return uint64_t{~order} << 32 | static_cast<uint32_t>(index); }

int64_t indexOf(uint64_t key) { return static_cast<int64_t>(key & 0xffffffffu); }

/// The assignments of tokens [begin, end) in the order in which they queue for the slots.
class Queue {
 public:
  explicit Queue(const BuildPlan& plan) : plan_(plan), assignments_{plan} {}

  /// visit(t, k, expert) for every assignment.
  template <class Visit>
  void forEach(int64_t begin, int64_t end, Visit&& visit) {
    const int K = plan_.K;
    const auto visitAssigned = [&](int64_t t, int k) {
      if (const int32_t expert = assignments_.expert(t, k); expert >= 0) visit(t, k, expert);
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

/// Gives the slots to the assignments in queue order, a group of tokens at a time; drop(t, k, expert) for the rest.
template <class Drop>
void giveSlots(const BuildPlan& plan, int64_t slots, Drop&& drop) {
  Queue queue(plan);
  const int64_t groupSize = plan.capacity.groupSize > 0 ? plan.capacity.groupSize : plan.T;
  std::vector<int32_t> taken(plan.E);
  std::fill_n(plan.keptCounts, plan.E, 0);
  for (int64_t begin = 0; begin < plan.T; begin += groupSize) {
    std::fill(taken.begin(), taken.end(), 0);
    int64_t spare = plan.capacity.buffer;
    queue.forEach(begin, std::min(plan.T, begin + groupSize), [&](int64_t t, int k, int32_t expert) {
      if (taken[expert] < slots)
        ++taken[expert];
      else if (spare > 0)
        --spare;
      else
        return drop(t, k, expert);
      ++plan.keptCounts[expert];
    });
  }
}

/// The slots of each expert: with a dynamic capacity as few as its target allows.
int64_t slotsOf(const BuildPlan& plan) {
  if (!plan.capacity.dynamic) return plan.capacity.slots;
  const auto dropped = [&](int64_t slots) {
    int64_t sum = 0;
    for (int e = 0; e < plan.E; ++e) sum += std::max<int64_t>(0, plan.assigned[e] - slots);
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

/// The caller's priorities must have an order.
void throwIfNotNumbers(const BuildPlan& plan) {
  if (plan.capacity.priority != Priority::Given) return;
  const Assignments assignments{plan};
  for (int64_t t = 0; t < plan.T; ++t)
    for (int k = 0; k < plan.K; ++k)
      if (assignments.expert(t, k) >= 0 && std::isnan(plan.scores[t * plan.K + k]))
        throw Error(ErrorCode::NonFinite, "priorities of token " + std::to_string(t) + " must be numbers, got NaN");
}

void throwIfBadIndex(const BuildPlan& plan, const Lowest& lowest) {
  if (!lowest.found()) return;
  const int64_t t = lowest.value();
  const int32_t* experts = plan.indices + t * plan.K;
  const int32_t bad = *std::find_if(experts, experts + plan.K, [&](int32_t e) { return e < -1 || e >= plan.E; });
  throw Error(ErrorCode::InvalidArgument, "indices of token " + std::to_string(t) + " must be experts in [0, " +
                                              std::to_string(plan.E) + ") or -1, got " + std::to_string(bad));
}

}  // namespace

void CpuBackend::buildPlan(const BuildPlan& plan) {
  const StageTimer timer(*this, "buildPlan");
  const int64_t T = plan.T;
  const int E = plan.E, K = plan.K;
  const Assignments assignments{plan};
  const int64_t pieces = (T + tokensPerPiece - 1) / tokensPerPiece;

  // Count the assignments of each expert, per piece of tokens so that the pieces can later write their rows at once.
  std::vector<int32_t> counts(static_cast<size_t>(pieces) * E);  // [pieces,E] kept assignments
  std::vector<int32_t> rows(pieces);                             // [pieces] their sum
  Lowest badIndex;
  pool_.parallelRanges(T, tokensPerPiece, [&](int64_t begin, int64_t end, int) {
    const int64_t piece = begin / tokensPerPiece;
    for (int64_t t = begin; t < end; ++t)
      for (int k = 0; k < K; ++k) {
        const int32_t expert = assignments.expert(t, k);
        if (expert < -1 || expert >= E) {
          badIndex.note(t);
        } else if (expert >= 0) {
          ++counts[piece * E + expert];
          ++rows[piece];
        }
      }
  });
  throwIfBadIndex(plan, badIndex);
  std::fill_n(plan.assigned, E, 0);
  for (int64_t piece = 0; piece < pieces; ++piece)
    for (int e = 0; e < E; ++e) plan.assigned[e] += counts[piece * E + e];
  std::copy_n(plan.assigned, E, plan.keptCounts);

  // Queue for the slots, when there may be too few of them somewhere.
  std::vector<uint8_t> dropped;  // [T,K]; empty while nothing is
  throwIfNotNumbers(plan);
  const int64_t slots = slotsOf(plan);
  if (slots >= 0 && *std::max_element(plan.assigned, plan.assigned + E) > slots) {
    dropped.resize(static_cast<size_t>(T) * K);
    giveSlots(plan, slots, [&](int64_t t, int k, int32_t expert) {
      dropped[t * K + k] = 1;
      --counts[t / tokensPerPiece * E + expert];
      --rows[t / tokensPerPiece];
    });
  }

  // First row of every expert in every piece, by expert and then by piece; the same for the tokens' lists.
  int32_t row = 0;
  for (int e = 0; e < E; ++e) {
    plan.expertOffsets[e] = row;
    for (int64_t piece = 0; piece < pieces; ++piece) {
      const int32_t count = counts[piece * E + e];
      counts[piece * E + e] = row;
      row += count;
    }
  }
  plan.expertOffsets[E] = row;
  plan.tokenOffsets[T] = row;
  if (row > plan.R)
    throw Error(ErrorCode::Internal,
                "a plan of " + std::to_string(row) + " rows does not fit its bound of " + std::to_string(plan.R));
  for (int64_t piece = pieces; piece-- > 0;) rows[piece] = (row -= rows[piece]);

  std::vector<int32_t> tokens(pieces), lostTokens(pieces);
  pool_.parallelRanges(T, tokensPerPiece, [&](int64_t begin, int64_t end, int) {
    const int64_t piece = begin / tokensPerPiece;
    int32_t* next = counts.data() + piece * E;
    int32_t list = rows[piece];
    for (int64_t t = begin; t < end; ++t) {
      plan.tokenOffsets[t] = list;
      bool assigned = false;
      for (int k = 0; k < K; ++k) {
        const int64_t slot = t * K + k;
        const int32_t expert = assignments.expert(t, k);
        assigned |= expert >= 0;
        const bool kept = expert >= 0 && (dropped.empty() || !dropped[slot]);
        if (plan.kept) plan.kept[slot] = kept;
        if (!kept) {
          if (plan.weights) plan.weights[slot] = 0;
          continue;
        }
        const int32_t to = next[expert]++;
        plan.rowToken[to] = static_cast<int32_t>(t);
        plan.rowSlot[to] = static_cast<int32_t>(slot);
        plan.tokenRows[list++] = to;
      }
      tokens[piece] += assigned;
      lostTokens[piece] += assigned && list == plan.tokenOffsets[t];
    }
  });

  const int32_t kept = plan.expertOffsets[E];
  for (int32_t* list : {plan.rowToken, plan.rowSlot, plan.tokenRows}) std::fill(list + kept, list + plan.R, -1);
  std::fill_n(plan.totals, PlanTotal::count, 0);
  plan.totals[PlanTotal::slots] = static_cast<int32_t>(slots);
  for (int64_t piece = 0; piece < pieces; ++piece) {
    plan.totals[PlanTotal::tokens] += tokens[piece];
    plan.totals[PlanTotal::droppedTokens] += lostTokens[piece];
  }
  for (int e = 0; e < E; ++e) plan.totals[PlanTotal::droppedAssignments] += plan.assigned[e] - plan.keptCounts[e];
}

// ------------------------------------------------------------------------------------------------ moves

namespace {

constexpr int64_t rowsPerPiece = 32;

/// rows [R,H] past the end of the plan = 0.
template <class T>
void zeroPastEnd(const PlanRows& plan, int H, T* rows, ThreadPool& pool) {
  const int64_t end = plan.expertOffsets[plan.E];
  pool.parallelRanges(plan.R - end, rowsPerPiece, [&](int64_t first, int64_t last, int) {
    std::fill(rows + (end + first) * H, rows + (end + last) * H, T{});
  });
}

template <class T>
void dispatchRows(const Dispatch& d, ThreadPool& pool) {
  const int64_t H = d.H;
  const T* input = elements<T>(d.input);
  T* rows = elements<T>(d.rows);
  pool.parallelRanges(d.plan.expertOffsets[d.plan.E], rowsPerPiece, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) std::copy_n(input + d.plan.rowToken[r] * H, H, rows + r * H);
  });
  zeroPastEnd(d.plan, d.H, rows, pool);
}

template <class T>
void combineRows(const Combine& c, const ElementKernels<T>& kernels, ThreadPool& pool) {
  const int64_t H = c.H;
  const int K = c.plan.K;
  const T* allRows = elements<T>(c.rows);
  T* output = elements<T>(c.output);
  std::vector<const T*> rows(static_cast<size_t>(pool.threads()) * K);
  std::vector<float> weights(rows.size());
  pool.parallelRanges(c.plan.T, rowsPerPiece, [&](int64_t begin, int64_t end, int worker) {
    const T** tokenRows = rows.data() + static_cast<size_t>(worker) * K;
    float* tokenWeights = weights.data() + static_cast<size_t>(worker) * K;
    for (int64_t t = begin; t < end; ++t) {
      const int32_t first = c.plan.tokenOffsets[t], count = c.plan.tokenOffsets[t + 1] - first;
      for (int32_t i = 0; i < count; ++i) {
        const int64_t r = c.plan.tokenRows[first + i];
        tokenRows[i] = allRows + r * H;
        tokenWeights[i] = c.weights ? c.weights[c.plan.rowSlot[r]] : 1.0f;
      }
      kernels.weightedSum(tokenRows, tokenWeights, count, H, output + t * H, c.accumulate);
    }
  });
}

template <class T>
void combineRowsBackward(const CombineBackward& b, const ElementKernels<T>& kernels, ThreadPool& pool) {
  const int64_t H = b.H;
  const T *gradOutput = elements<T>(b.gradOutput), *rows = elements<T>(b.rows);
  T* gradRows = elements<T>(b.gradRows);
  pool.parallelRanges(b.plan.T, rowsPerPiece, [&](int64_t begin, int64_t end, int) {
    std::fill(b.gradWeights + begin * b.plan.K, b.gradWeights + end * b.plan.K, 0.0f);
    for (int64_t t = begin; t < end; ++t)
      for (int32_t i = b.plan.tokenOffsets[t]; i < b.plan.tokenOffsets[t + 1]; ++i) {
        const int64_t r = b.plan.tokenRows[i];
        const int32_t slot = b.plan.rowSlot[r];
        b.gradWeights[slot] =
            kernels.scaleAndDot(b.weights[slot], gradOutput + t * H, rows + r * H, H, gradRows + r * H);
      }
  });
  zeroPastEnd(b.plan, b.H, gradRows, pool);
}

}  // namespace

void CpuBackend::dispatch(const Dispatch& d) {
  const StageTimer timer(*this, "dispatch");
  withElement(d.dtype, [&]<class T>() { dispatchRows<T>(d, pool_); });
}

void CpuBackend::combine(const Combine& c) {
  const StageTimer timer(*this, "combine");
  withElement(c.dtype, [&]<class T>() { combineRows<T>(c, row_.of<T>(), pool_); });
}

void CpuBackend::combineBackward(const CombineBackward& b) {
  const StageTimer timer(*this, "combineBackward");
  withElement(b.dtype, [&]<class T>() { combineRowsBackward<T>(b, row_.of<T>(), pool_); });
}

}  // namespace moe::cpu
