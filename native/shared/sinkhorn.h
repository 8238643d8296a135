// The balanced assignment of the Sinkhorn router: exp(logits) [T,E] is scaled by rows and columns in turn, until every
// token has the same share and every expert the same load (Sinkhorn & Knopp 1967; BASE layers; Megatron-LM).
#pragma once

#include "hd.h"

namespace moe {

struct Sinkhorn {
  /// Steps end when the mean change of the experts' factors falls below the tolerance.
  static constexpr double tolerance = 1e-4;
  static constexpr int maxSteps = 1000;
};

/// The factor that makes a row or column of this sum one of `count` equal shares.
MOE_HD double sinkhornFactor(double sum, double count) { return 1.0 / (count * (sum + 1e-8)); }

}  // namespace moe
