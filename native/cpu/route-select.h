// What narrows the choice of experts for one token among compared values [E]. Minus infinity is never chosen.
#pragma once

#include <cstdint>

#include "../core/backend.h"
#include "simd/row.h"

namespace moe::cpu {

/// Sets the values outside the groupKeep best groups to minus infinity; of equal groups the lower index stays. Groups
/// are compared by their best value, or by the sum of their two best.
void restrictToGroups(const RowKernels& row, const RouterOptions& router, int E, float* values);

}  // namespace moe::cpu
