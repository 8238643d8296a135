// What can go wrong, by name, and what one occurrence says.
#pragma once

#include <array>
#include <string>
#include <string_view>

#include "base/types.h"

namespace softgpu {

enum class FaultKind : u8 {
  kOutOfBounds,
  kMisaligned,
  kUseAfterFree,
  kUninitialisedGlobal,
  kUninitialisedShared,
  kUninitialisedCopy,
  kUninitialisedRegister,
  kSharedRace,
  kGlobalRace,
  kDivergentBarrier,
  kDivergedAligned,
  kWrongMemberMask,
  kInvalidBarrier,
  kAsyncCopyNotWaited,
  kAsyncCopyAtExit,
  kDeadlock,
  kTrap,
  kAssertion,
  kInvalidLaunch,
  kLeak,
};

// The name in reports, such as "shared-race".
std::string_view nameOf(FaultKind kind);

struct Fault {
  FaultKind kind;
  std::string kernel;
  std::array<u32, 3> block{};
  std::array<u32, 3> thread{};
  u32 line = 0;  // of the PTX text
  std::string statement;
  u64 address = 0;
  u64 bytes = 0;
  std::string detail;
  u64 count = 1;  // occurrences of the same kind at the same instruction

  std::string describe() const;
};

// Ends the launch; the fault has been recorded.
struct LaunchAborted {};

}  // namespace softgpu
