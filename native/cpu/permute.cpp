// The permute stage: the plan (which rows each expert computes, what is dropped) and the moves it drives, dispatch and
// combine, which are each other's backward.
#include <algorithm>
#include <string>
#include <vector>

#include "../core/error.h"
#include "../shared/math.h"
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

/// Sorts after every key of a lower score; of equal scores by index.
uint64_t fallingKey(float score, int64_t index) {
  const uint32_t bits = floatBits(score + 0.0f);  // -0 becomes 0
  const uint32_t rising = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return uint64_t{~rising} << 32 | static_cast<uint32_t>(index);
}

int64_t indexOf(uint64_t key) { return static_cast<int64_t>(key & 0xffffffffu); }

/// visit(t, k, expert) for every assignment in the order in which they queue for the slots.
template <class Visit>
void forEachInQueue(const BuildPlan& plan, Visit&& visit) {
  const Assignments assignments{plan};
  const auto visitAssigned = [&](int64_t t, int k) {
    if (const int32_t expert = assignments.expert(t, k); expert >= 0) visit(t, k, expert);
  };
  if (plan.capacity.priority == Priority::Position) {
    if (plan.capacity.firstChoicesFirst) {
      for (int k = 0; k < plan.K; ++k)
        for (int64_t t = 0; t < plan.T; ++t) visitAssigned(t, k);
    } else {
      for (int64_t t = 0; t < plan.T; ++t)
        for (int k = 0; k < plan.K; ++k) visitAssigned(t, k);
    }
    return;
  }
  std::vector<uint64_t> queue;
  for (int64_t t = 0; t < plan.T; ++t) {
    int best = -1;
    for (int k = 0; k < plan.K; ++k) {
      if (assignments.expert(t, k) < 0) continue;
      if (!plan.capacity.firstChoicesFirst)
        queue.push_back(fallingKey(plan.scores[t * plan.K + k], t * plan.K + k));
      else if (best < 0 || plan.scores[t * plan.K + k] > plan.scores[t * plan.K + best])
        best = k;
    }
    if (best >= 0) queue.push_back(fallingKey(plan.scores[t * plan.K + best], t));
  }
  std::sort(queue.begin(), queue.end());
  if (plan.capacity.firstChoicesFirst) {
    for (int k = 0; k < plan.K; ++k)
      for (const uint64_t key : queue) visitAssigned(indexOf(key), k);
  } else {
    for (const uint64_t key : queue) visitAssigned(indexOf(key) / plan.K, static_cast<int>(indexOf(key) % plan.K));
  }
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

  // Queue for the slots, when there are too few of them somewhere.
  std::vector<uint8_t> dropped;  // [T,K]; empty while nothing is
  const int64_t slots = plan.capacity.slots;
  if (slots >= 0 && *std::max_element(plan.assigned, plan.assigned + E) > slots) {
    dropped.resize(static_cast<size_t>(T) * K);
    std::fill_n(plan.keptCounts, E, 0);
    forEachInQueue(plan, [&](int64_t t, int k, int32_t expert) {
      if (plan.keptCounts[expert] < slots) {
        ++plan.keptCounts[expert];
        return;
      }
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
  withElement(d.dtype, [&]<class T>() { dispatchRows<T>(d, pool_); });
}

void CpuBackend::combine(const Combine& c) {
  withElement(c.dtype, [&]<class T>() { combineRows<T>(c, row_.of<T>(), pool_); });
}

void CpuBackend::combineBackward(const CombineBackward& b) {
  withElement(b.dtype, [&]<class T>() { combineRowsBackward<T>(b, row_.of<T>(), pool_); });
}

}  // namespace moe::cpu
