// The permute stage: the plan (which rows each expert computes, what is dropped) and the moves it drives, dispatch and
// combine, which are each other's backward.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "../core/error.h"
#include "backend.h"
#include "element.h"
#include "lowest.h"
#include "permute-slots.h"
#include "route-tokens.h"
#include "simd/row.h"

namespace moe::cpu {

// ------------------------------------------------------------------------------------------------ plan

namespace {

// Below this many tokens a plan costs less than waking the other threads.
constexpr int64_t rankedPerPiece = 4096;

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

/// The choices that do not get what they ask for, and the counts of a plan that follow.
class Changes final : public SlotsObserver {
 public:
  /// counts [pieces,E] and rows [pieces] are those of all assignments.
  Changes(const BuildPlan& plan, std::vector<int32_t>& counts, std::vector<int32_t>& rows)
      : plan_(plan), assignments_{plan}, counts_(counts), rows_(rows) {}

  void rejected(int64_t t, int k, int32_t expert) override {
    if (experts_.empty()) experts_.assign(static_cast<size_t>(plan_.T) * plan_.K, asAsked);
    experts_[t * plan_.K + k] = -1;
    --counts_[t / rankedPerPiece * plan_.E + expert];
    --rows_[t / rankedPerPiece];
  }

  void moved(int64_t t, int k, int32_t expert) override {
    experts_[t * plan_.K + k] = expert;
    ++counts_[t / rankedPerPiece * plan_.E + expert];
    ++rows_[t / rankedPerPiece];
  }

  /// The expert that the choice gets; -1: none.
  int32_t expert(int64_t t, int k) const {
    const int32_t expert = experts_.empty() ? asAsked : experts_[t * plan_.K + k];
    return expert == asAsked ? assignments_.expert(t, k) : expert;
  }

 private:
  static constexpr int32_t asAsked = -2;

  const BuildPlan& plan_;
  const Assignments assignments_;
  std::vector<int32_t>&counts_, &rows_;
  std::vector<int32_t> experts_;  // [T,K]; empty while nothing changed
};

}  // namespace

void CpuBackend::buildPlan(const BuildPlan& plan) {
  const StageTimer timer(*this, "buildPlan");
  const int64_t T = plan.T;
  const int E = plan.E, K = plan.K;
  const Assignments assignments{plan};
  const int64_t pieces = (T + rankedPerPiece - 1) / rankedPerPiece;

  // Count the assignments of each expert, per piece of tokens so that the pieces can later write their rows at once.
  std::vector<int32_t> counts(static_cast<size_t>(pieces) * E);  // [pieces,E] kept assignments
  std::vector<int32_t> rows(pieces);                             // [pieces] their sum
  Lowest badIndex;
  pool_.parallelRanges(T, rankedPerPiece, [&](int64_t begin, int64_t end, int) {
    const int64_t piece = begin / rankedPerPiece;
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
  throwIfNotNumbers(plan);
  Changes changes(plan, counts, rows);
  if (plan.withheld)
    for (int64_t t = 0; t < T; ++t)
      if (const int32_t expert = assignments.expert(t, 1); plan.withheld[t] && expert >= 0) {
        changes.rejected(t, 1, expert);
        --plan.keptCounts[expert];
      }
  const int64_t slots = slotsOf(plan, plan.keptCounts);
  if (slots >= 0 && *std::max_element(plan.keptCounts, plan.keptCounts + E) > slots) giveSlots(plan, slots, changes);

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
  pool_.parallelRanges(T, rankedPerPiece, [&](int64_t begin, int64_t end, int) {
    const int64_t piece = begin / rankedPerPiece;
    int32_t* next = counts.data() + piece * E;
    int32_t list = rows[piece];
    for (int64_t t = begin; t < end; ++t) {
      plan.tokenOffsets[t] = list;
      bool assigned = false;
      float carried = 0;
      for (int k = 0; k < K; ++k) {
        const int64_t slot = t * K + k;
        const bool asked = assignments.queued(t, k) >= 0;
        assigned |= assignments.expert(t, k) >= 0;
        const int32_t expert = changes.expert(t, k);
        if (plan.kept) plan.kept[slot] = expert >= 0;
        if (plan.actual) plan.actual[slot] = expert;
        if (expert < 0) {
          if (asked && plan.carried) carried += plan.weights[slot];
          if (plan.weights) plan.weights[slot] = 0;
          continue;
        }
        const int32_t to = next[expert]++;
        plan.rowToken[to] = static_cast<int32_t>(t);
        plan.rowSlot[to] = static_cast<int32_t>(slot);
        plan.tokenRows[list++] = to;
      }
      if (plan.carried) plan.carried[t] = carried;
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

/// The rows of a token and what each of them weighs.
template <class T>
struct TokenRows {
  std::vector<const T*> rows;
  std::vector<float> weights;

  explicit TokenRows(const Combine& c) : rows(c.plan.K), weights(c.plan.K) {}

  void find(const Combine& c, int64_t t) {
    const int32_t first = c.plan.tokenOffsets[t], count = c.plan.tokenOffsets[t + 1] - first;
    rows.resize(count);
    weights.resize(count);
    for (int32_t i = 0; i < count; ++i) {
      const int64_t r = c.plan.tokenRows[first + i];
      rows[i] = elements<T>(c.rows) + r * c.H;
      weights[i] = c.weights ? c.weights[c.plan.rowSlot[r]] : 1.0f;
    }
  }
};

template <class T>
void combineRows(const Combine& c, const ElementKernels<T>& kernels, ThreadPool& pool) {
  const int64_t H = c.H;
  T* output = elements<T>(c.output);
  struct Own {
    TokenRows<T> now, next;
  };
  std::vector<Own> own(pool.threads(), Own{TokenRows<T>(c), TokenRows<T>(c)});
  // The product with the router's weight goes through whole pieces of tokens, whose sums are still in the cache.
  const int64_t grain = c.router.gradLogits ? tokensPerPiece : rowsPerPiece;
  pool.parallelRanges(c.plan.T, grain, [&](int64_t begin, int64_t end, int worker) {
    auto& [now, next] = own[worker];
    now.find(c, begin);
    for (int64_t t = begin; t < end; ++t) {
      // Rows lie anywhere, and are too short for the hardware to foresee.
      next.find(c, std::min(t + 1, end - 1));
      kernels.weightedSum(now.rows.data(), now.weights.data(), std::ssize(now.rows), H, output + t * H, c.accumulate,
                          next.rows.data(), std::ssize(next.rows));
      std::swap(now, next);
    }
    if (!c.router.gradLogits) return;
    int32_t tokens[tokensPerPiece];
    int64_t live = 0;
    for (int64_t t = begin; t < end; ++t)
      if (isLive(c.router.mask, t)) tokens[live++] = static_cast<int32_t>(t);
    kernels.productInput(tokens, live, c.router.gradLogits, c.router.weight, c.H, c.router.E, output);
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

bool isCarried(const CarryBackward& b, int64_t t, int k) {
  return b.indices[t * b.K + k] >= 0 && !b.kept[t * b.K + k] && !(k == 1 && b.withheld && b.withheld[t]);
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

void CpuBackend::carry(const Carry& c) {
  const StageTimer timer(*this, "carry");
  withElement(c.dtype, [&]<class T>() {
    pool_.parallelRanges(c.T, rowsPerPiece, [&](int64_t begin, int64_t end, int) {
      for (int64_t t = begin; t < end; ++t) {
        const T* row = elements<T>(c.input) + t * c.H;
        if (c.carried[t] != 0)
          row_.of<T>().weightedSum(&row, c.carried + t, 1, c.H, elements<T>(c.output) + t * c.H, true, nullptr, 0);
      }
    });
  });
}

void CpuBackend::carryBackward(const CarryBackward& b) {
  const StageTimer timer(*this, "carryBackward");
  withElement(b.dtype, [&]<class T>() {
    const ElementKernels<T>& kernels = row_.of<T>();
    std::vector<T> unused(static_cast<size_t>(pool_.threads()) * b.H);
    pool_.parallelRanges(b.T, rowsPerPiece, [&](int64_t begin, int64_t end, int worker) {
      for (int64_t t = begin; t < end; ++t) {
        if (b.mask && b.mask[t] == 0) continue;
        const T* gradOutput = elements<T>(b.gradOutput) + t * b.H;
        bool carried = false;
        for (int k = 0; k < b.K; ++k) carried |= isCarried(b, t, k);
        if (!carried) continue;
        const float dot = kernels.scaleAndDot(1.0f, gradOutput, elements<T>(b.input) + t * b.H, b.H,
                                              unused.data() + static_cast<int64_t>(worker) * b.H);
        for (int k = 0; k < b.K; ++k)
          if (isCarried(b, t, k)) b.gradWeights[t * b.K + k] = dot;
        kernels.weightedSum(&gradOutput, b.carried + t, 1, b.H, elements<T>(b.gradInput) + t * b.H, true, nullptr, 0);
      }
    });
  });
}

void CpuBackend::combineBackward(const CombineBackward& b) {
  const StageTimer timer(*this, "combineBackward");
  withElement(b.dtype, [&]<class T>() { combineRowsBackward<T>(b, row_.of<T>(), pool_); });
}

}  // namespace moe::cpu
