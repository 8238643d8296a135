// Experts that choose tokens, in place of tokens that choose experts (Zhou et al. 2022).
#pragma once

#include "../core/backend.h"
#include "parallel.h"

namespace moe::cpu {

/// Each expert's tokens [E,C] with the largest scores, f.compared [T,E], in falling order, of equal ones the lower
/// token first; -1 behind the last where there are fewer. The weights are the scores times weightScale.
void chooseTokens(const RouteForward& f, ThreadPool& pool);

}  // namespace moe::cpu
