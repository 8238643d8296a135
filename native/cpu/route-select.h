// The choice of experts for one token among compared values [E]. Minus infinity is never chosen.
#pragma once

#include <cstdint>

#include "../core/backend.h"

namespace moe::cpu {

/// The K largest of values [E] in falling order, of equal ones the lower index first; -1 where none is left.
void selectTopK(const float* values, int E, int K, int32_t* indices);

/// Sets the values outside the groupKeep best groups to minus infinity; of equal groups the lower index stays. Groups
/// are compared by their best value, or by the sum of their two best.
void restrictToGroups(const RouterOptions& router, int E, float* values);

}  // namespace moe::cpu
