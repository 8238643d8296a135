#include "plan.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace moe {

CapacityOptions CapacityRule::resolve(int64_t tokens, int topK, int experts, bool training) const {
  CapacityOptions options;
  options.priority = priority;
  options.overflow = overflow;
  options.firstChoicesFirst = firstChoicesFirst;
  if (!limited) return options;
  options.dynamic = dynamic;
  options.targetDropRate = targetDropRate;
  options.groupSize = groupSize;
  if (tokens == 0) {
    options.slots = 0;
    return options;
  }
  if (groupSize > 0) tokens = groupSize;
  // In the order that the contract writes it: another order rounds differently at the edge of a whole number.
  const double product = (training ? factor : evalFactor) * topK * static_cast<double>(tokens) / experts;
  const double wanted = slots > 0 ? static_cast<double>(slots) : std::ceil(product);
  // A plan cannot use more slots than there are tokens times choices; the bound keeps the conversion exact.
  constexpr int64_t most = std::numeric_limits<int32_t>::max();
  const auto bounded = [](double slots) { return static_cast<int64_t>(std::min(slots, static_cast<double>(most))); };
  const int64_t count = std::max(bounded(wanted), min);
  options.slots = std::min((count + multipleOf - 1) / multipleOf * multipleOf, most);
  options.buffer = bounded(std::ceil(buffer * (static_cast<double>(experts) * static_cast<double>(options.slots))));
  return options;
}

int64_t maxRows(const CapacityOptions& capacity, int64_t tokens, int topK, int experts) {
  const int64_t all = tokens * topK;
  if (capacity.slots < 0 || capacity.slots >= all) return all;
  const int64_t groups = capacity.groupSize > 0 ? (tokens + capacity.groupSize - 1) / capacity.groupSize : 1;
  return std::min<double>(all, static_cast<double>(groups) * (capacity.slots * experts + capacity.buffer));
}

int64_t PlanBlock::carve(int32_t* block, int64_t tokens, int experts, int64_t rows) {
  int64_t used = 0;
  const auto take = [&](int32_t*& field, int64_t count) {
    if (block) field = block + used;
    used += (count + 15) / 16 * 16;  // whole cache lines
  };
  take(expertOffsets, int64_t{experts} + 1);
  take(rowToken, rows);
  take(rowSlot, rows);
  take(tokenOffsets, tokens + 1);
  take(tokenRows, rows);
  take(assigned, experts);
  take(keptCounts, experts);
  take(totals, PlanTotal::count);
  return used;
}

}  // namespace moe
