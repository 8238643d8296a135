// How an operation that fails on the device is told apart later, without anybody waiting for it. Every operation that
// can fail there, or depends on one that can, has a Status in device memory: its first kernel writes what it inherits
// from its inputs, whoever finds a fault notes it, and all kernels of an operation whose status is bad do nothing.
#pragma once

#include <cstdint>

#include "hd.h"

namespace moe {

/// Names one failure: [62..40] number of the operation, [39..34] its Fault, [33..0] the index it concerns.
using FaultWord = unsigned long long;

constexpr FaultWord noFault = ~FaultWord{0};

/// What kernels can find, what is told first of several first. The message of each is in native/cuda/outcomes.cpp.
enum class Fault : uint32_t {
  TokenType,
  RoutingIndex,
  NonFiniteLogits,
  PlanIndex,
  Priority,
  EmbeddingIndex,
  TargetIndex
};

MOE_HD constexpr FaultWord faultWord(uint32_t operation, Fault fault, int64_t index) {
  return FaultWord{operation & 0x7fffffu} << 40 | FaultWord{static_cast<uint32_t>(fault)} << 34 |
         (static_cast<FaultWord>(index) & 0x3ffffffffu);
}

constexpr uint32_t faultOperation(FaultWord word) { return static_cast<uint32_t>(word >> 40) & 0x7fffffu; }
MOE_HD constexpr Fault faultKind(FaultWord word) { return static_cast<Fault>(word >> 34 & 0x3fu); }
MOE_HD constexpr int64_t faultIndex(FaultWord word) { return static_cast<int64_t>(word & 0x3ffffffffu); }

/// What a faulty index is: [63..32] its place among the operation's indices, [31..0] its value. Noted like the fault
/// word, so that it is the first in every run.
using FaultValue = unsigned long long;

/// Of a fault that is of no index, or of one whose place needs more bits.
constexpr FaultValue noValue = ~FaultValue{0};

MOE_HD constexpr FaultValue faultValue(int64_t place, int32_t value) {
  return place < 0xffffffff ? static_cast<FaultValue>(place) << 32 | static_cast<uint32_t>(value) : noValue;
}

constexpr int32_t foundValue(FaultValue value) { return static_cast<int32_t>(static_cast<uint32_t>(value)); }

/// The words are noFault while all is well; at most one of them is not, and the value is of that one. Faults of one
/// operation are noted by atomic minimum, so that the lowest index wins in every run.
struct alignas(16) Status {
  FaultWord inherited, own;
  FaultValue value;
};

/// What the first kernel of an operation is given to write, and what every kernel checks before it does anything.
struct Guard {
  static constexpr int maxInputs = 10, maxGradients = 16;

  const Status* inputs[maxInputs];
  Status* gradients[maxGradients];  // of the gradients that the operation accumulates into
  uint32_t freshGradients;          // bit i: gradients[i] starts anew, whatever it was
  int32_t inputCount, gradientCount;
  Status* status;      // the operation's own; null when nothing can go wrong
  bool first;          // this kernel writes status->inherited and gradients; later ones only check status
  bool resetOwn;       // and status->own and value, which a later kernel of the operation may then set
  uint32_t operation;  // for faultWord()
};

}  // namespace moe
