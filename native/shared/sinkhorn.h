// The balanced assignment of the Sinkhorn router: exp(logits) [T,E] is scaled by rows and columns in turn, until every
// token has the same share and every expert the same load (Sinkhorn & Knopp 1967; BASE layers; Megatron-LM).
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "hd.h"

namespace moe {

struct Sinkhorn {
  /// Steps end when the mean change of the experts' factors falls below the tolerance.
  static constexpr double tolerance = 1e-4;
  static constexpr int maxSteps = 1000;
};

/// What the CUDA backend's steps leave for each other. Tokens are in `pieces`.
struct SinkhornWork {
  float* costs;   // [T,E]
  double* loads;  // [2,pieces,E] of a step and the one before
  double* live;   // [pieces] tokens that are no padding
  float* shifts;  // [E] logarithms of the experts' factors: a token prefers where its logit plus this is largest

  size_t carve(char* block, int64_t T, int E, int64_t pieces) {
    size_t used = 0;
    const auto take = [&](auto*& field, size_t elements) {
      field = block ? reinterpret_cast<std::remove_reference_t<decltype(field)>>(block + used) : nullptr;
      used += (elements * sizeof(*field) + 15) / 16 * 16;
    };
    take(costs, static_cast<size_t>(T) * E);
    take(loads, static_cast<size_t>(2 * pieces) * E);
    take(live, pieces);
    take(shifts, E);
    return used;
  }
};

/// The factor that makes a row or column of this sum one of `count` equal shares.
MOE_HD double sinkhornFactor(double sum, double count) { return 1.0 / (count * (sum + 1e-8)); }

}  // namespace moe
