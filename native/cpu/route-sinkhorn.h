// The balanced assignment that the Sinkhorn router chooses by. See shared/sinkhorn.h.
#pragma once

#include <vector>

#include "../core/backend.h"
#include "parallel.h"

namespace moe::cpu {

/// [E] logarithms of the experts' factors: a token prefers the experts whose logit plus this is largest. Writes
/// f.noisy where there is noise.
std::vector<float> sinkhornShifts(const RouteForward& f, const std::vector<int32_t>& live, ThreadPool& pool);

}  // namespace moe::cpu
