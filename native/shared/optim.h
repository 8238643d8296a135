// The AdamW step on CUDA: its tables, filled by the host, and what its first kernel leaves for the second.
#pragma once

#include "operations.h"

namespace moe {

/// What the number of a tensor's updates decides.
struct AdamWCorrection {
  float stepSize;       // learning rate / (1 - beta1^t)
  float varianceScale;  // 1 / √(1 - beta2^t)
  int32_t steps;        // t
};

/// All tensors are cut into pieces, so that many small ones and a large one spread over the GPU alike.
struct AdamWWork {
  static constexpr int pieceElements = 4096;

  int count = 0;
  int64_t pieces = 0;
  int normBlocks = 0;
  const AdamWScalars* scalars = nullptr;   // [1]
  const AdamWTensor* tensors = nullptr;    // [count]
  const int64_t* firstPiece = nullptr;     // [count+1]
  AdamWCorrection* corrections = nullptr;  // [count]
  double* squares = nullptr;               // [normBlocks] Σ grad²
  int32_t* skipped = nullptr;              // AdamWStep's
  float* gradNorm = nullptr;
};

}  // namespace moe
