// Names and one-line descriptions of faults.
#include "report/fault.h"

#include <cstdio>

namespace softgpu {

std::string_view nameOf(FaultKind kind) {
  switch (kind) {
    case FaultKind::kOutOfBounds:
      return "out-of-bounds";
    case FaultKind::kMisaligned:
      return "misaligned";
    case FaultKind::kUseAfterFree:
      return "use-after-free";
    case FaultKind::kUninitialisedGlobal:
      return "uninitialised-global";
    case FaultKind::kUninitialisedShared:
      return "uninitialised-shared";
    case FaultKind::kUninitialisedCopy:
      return "uninitialised-copy";
    case FaultKind::kUninitialisedRegister:
      return "uninitialised-register";
    case FaultKind::kSharedRace:
      return "shared-race";
    case FaultKind::kGlobalRace:
      return "global-race";
    case FaultKind::kDivergentBarrier:
      return "divergent-barrier";
    case FaultKind::kDivergedAligned:
      return "diverged-aligned";
    case FaultKind::kWrongMemberMask:
      return "wrong-member-mask";
    case FaultKind::kInvalidBarrier:
      return "invalid-barrier";
    case FaultKind::kAsyncCopyNotWaited:
      return "async-copy-not-waited";
    case FaultKind::kAsyncCopyAtExit:
      return "async-copy-at-exit";
    case FaultKind::kDeadlock:
      return "deadlock";
    case FaultKind::kTrap:
      return "trap";
    case FaultKind::kAssertion:
      return "assertion";
    case FaultKind::kInvalidLaunch:
      return "invalid-launch";
    case FaultKind::kLeak:
      return "leak";
  }
  return "unknown";
}

std::string Fault::describe() const {
  std::string text = "softgpu: " + std::string(nameOf(kind));
  if (!kernel.empty()) text += " in " + kernel;
  char place[160];
  if (line != 0) {
    std::snprintf(place, sizeof place, ", block (%u,%u,%u) thread (%u,%u,%u), PTX line %u `", block[0], block[1],
                  block[2], thread[0], thread[1], thread[2], line);
    text += place + statement + "`";
  }
  if (bytes != 0) {
    std::snprintf(place, sizeof place, ", %llu bytes at 0x%llx", static_cast<unsigned long long>(bytes),
                  static_cast<unsigned long long>(address));
    text += place;
  }
  return detail.empty() ? text : text + ": " + detail;
}

}  // namespace softgpu
