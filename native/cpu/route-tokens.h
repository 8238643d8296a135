// What the parts of the route stage ask of one token.
#pragma once

#include <cstdint>

#include "../core/backend.h"

namespace moe::cpu {

inline bool isLive(const int32_t* mask, int64_t t) { return !mask || mask[t] != 0; }

inline const float* rowOf(const float* matrix, int64_t t, int E) { return matrix ? matrix + t * E : nullptr; }

/// [E] of a live token, or null: all.
inline const int32_t* allowedOf(const AllowedExperts& allowed, int64_t t, int E) {
  return allowed.table ? allowed.table + static_cast<int64_t>(allowed.tokenTypes[t]) * E : nullptr;
}

}  // namespace moe::cpu
