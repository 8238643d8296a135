// How failures travel: what an operation failed of, and whether the contents of a tensor can be trusted.
#pragma once

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "error.h"

namespace moe {

/// Why an operation failed. One object per failure, shared by everything it poisoned.
struct Failure {
  Failure(ErrorCode code, std::string message, std::string hint)
      : code(code), message(std::move(message)), hint(std::move(hint)) {}

  const ErrorCode code;
  const std::string message;
  const std::string hint;
  std::atomic<bool> reported{false};
};
using FailurePtr = std::shared_ptr<Failure>;

/// Adds to failures that nobody may have been told of, oldest first. A program that never synchronises must not grow:
/// past so many, later ones are told by reads alone.
inline void addUnreported(std::vector<FailurePtr>& failures, FailurePtr failure) {
  constexpr size_t most = 1000;
  std::erase_if(failures, [](const FailurePtr& old) { return old->reported.load(); });
  const bool known = std::find(failures.begin(), failures.end(), failure) != failures.end();
  if (!known && failures.size() < most) failures.push_back(std::move(failure));
}

/// Where a device will tell how an operation went that has only been given to it: of the backend's own kind.
class Outcome {
 public:
  virtual ~Outcome() = default;
};
using OutcomePtr = std::shared_ptr<Outcome>;

/// Whether a tensor's contents can be trusted at this point of the queue. Only the queue's thread touches it.
struct Health {
  FailurePtr failure;  // known already
  OutcomePtr outcome;  // known to the device alone; null when nothing can be wrong
};
using HealthPtr = std::shared_ptr<Health>;

/// The tensors of one operation. When an input is poisoned the operation does nothing; when it did nothing or failed,
/// its outputs are poisoned; when it succeeded, they are healthy again. A gradient that is poisoned stays so until it
/// is cleared.
struct Operands {
  std::vector<HealthPtr> inputs, outputs, gradients;
};

/// Told once how a read or a synchronisation ended; null is success. From the queue's thread or one of the backend's.
using Completion = std::function<void(FailurePtr)>;

}  // namespace moe
