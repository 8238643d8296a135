// What the kernels of cuda/modules.cu leave for each other.
#pragma once

#include "operations.h"

namespace moe {

/// The gradient of a vector of weights: one kernel sums pieces of rows, the next adds the pieces.
struct PieceSums {
  static constexpr int mostRows = 64;  // of a piece

  int rowsPerPiece = 0;
  int64_t pieces = 0;
  float* partials = nullptr;  // [pieces,size]; null when the weights are frozen
};

struct SumPieces {
  PieceSums sums;
  int size;
  float* output;  // [size]
  bool accumulate;
};

/// A position among the indices of an embedding, with what stands there.
struct EmbeddingItem {
  int32_t index, position;
};

/// Positions are sorted by index and summed in windows of that order. Where an index goes beyond a window, the sums of
/// its windows are added in a second step.
struct EmbeddingWork {
  static constexpr int digitBits = 8, window = 64;

  /// Of the largest index below `count`.
  static constexpr int digitsOf(int count) {
    int digits = 1;
    for (int64_t rest = (count - 1) >> digitBits; rest > 0; rest >>= digitBits) ++digits;
    return digits;
  }

  int digits = 0;                   // of the largest index: passes of the sort
  int64_t windows = 0;              // ⌈N/window⌉
  int32_t* counts = nullptr;        // [blocks,2^digitBits]
  EmbeddingItem* sorted = nullptr;  // [N]
  EmbeddingItem* spare = nullptr;   // [N] what the last pass but one, three … writes
  float* heads = nullptr;           // [windows,size] sums of an index that an earlier window begins with
  float* tails = nullptr;           // [windows,size] sums of an index that goes on in the next window
};

static_assert(EmbeddingWork::digitsOf(1) == 1 && EmbeddingWork::digitsOf(256) == 1 &&
              EmbeddingWork::digitsOf(257) == 2);
static_assert(EmbeddingWork::digitsOf(1 << 24) == 3 && EmbeddingWork::digitsOf((1 << 24) + 1) == 4 &&
              EmbeddingWork::digitsOf(INT32_MAX) == 4);

/// What one block of the cross-entropy found.
struct LossPartial {
  double sum;
  int64_t counted;
};

struct LossWork {
  int blocks = 0;
  LossPartial* partials = nullptr;  // [blocks]
};

}  // namespace moe
