// One warp: its register file, and its lanes in groups that each have a program counter.
#pragma once

#include <cstring>
#include <deque>
#include <vector>

#include "base/types.h"
#include "memory/arena.h"
#include "memory/shared.h"
#include "ptx/program.h"
#include "report/counters.h"
#include "report/fault.h"

namespace softgpu {

class Block;
struct Launch;

enum class GroupState : u8 {
  kReady,
  kBarrier,   // counted by a barrier, waits for the others
  kConverge,  // waits for other lanes of its warp
  kSpinning,  // proven to repeat itself until memory changes
};

struct LaneGroup {
  u32 pc;
  LaneMask lanes;
  GroupState state;
  u32 barrier = 0;        // kBarrier: which one
  u64 memoryVersion = 0;  // kSpinning: as long as this is the launch's version
};

// Copies of one cp.async instruction that have not been waited for.
struct PendingCopy {
  const ptx::Instruction* instruction;
  LaneMask lanes;
  u32 group;  // the commit group, in the lanes' own count
  u32 bytes;
  bool landed = false;  // the bytes are there already; only the wait is missing
  u32 to[kWarpSize];
  u64 from[kWarpSize];
  u8 sourceBytes[kWarpSize];
};

// What a warp's fences put before its later strong writes.
struct Fences {
  u8 scope = 0;       // the widest, as Instruction::strong has it; 0 before the first
  Reach any, device;  // … of fences of any scope, and of those of the device
  Reach sequential;   // what fence.sc of the device's scope has made visible, here or before a barrier
};

class Warp {
 public:
  u8* registers = nullptr;
  u8* local = nullptr;  // localBytes per lane, lane after lane
  Block* block = nullptr;
  Launch* launch = nullptr;
  const ptx::Kernel* kernel = nullptr;
  u32 index = 0;      // in the block
  LaneMask all = 0;   // the lanes it began with
  LaneMask live = 0;  // those that have not exited
  std::vector<LaneGroup> groups;
  Counters* counters = nullptr;
  Allocation* recent = nullptr;  // the allocation accessed last
  std::deque<PendingCopy> pending;
  u32 commits[kWarpSize] = {};  // commit groups closed, per lane
  Fences fences;
  u32 barrierCount = 0;    // bar.red: how many predicates were true …
  u32 barrierThreads = 0;  // … of how many threads, at the barrier just completed

  // Records a fault of a lane. Fatal ones do not return.
  void report(const ptx::Instruction& i, u32 lane, FaultKind kind, u64 address, u32 bytes, const std::string& detail);
  [[noreturn]] void abort(const ptx::Instruction& i, u32 lane, FaultKind kind, u64 address, u32 bytes,
                          const std::string& detail);
};

template <class T>
T* lanesOf(Warp& w, u32 slot) {
  return reinterpret_cast<T*>(w.registers + slot);
}
inline LaneMask& predicateOf(Warp& w, u32 slot) { return *lanesOf<LaneMask>(w, slot); }
inline void setPredicate(Warp& w, u32 slot, LaneMask lanes, LaneMask value) {
  LaneMask& p = predicateOf(w, slot);
  p = (p & ~lanes) | (value & lanes);
}

// kLaneBit[l] is 1 << l: what vector units without variable shifts can work with.
struct LaneBits {
  u32 bit[kWarpSize];
  constexpr LaneBits() : bit() {
    for (u32 l = 0; l < kWarpSize; ++l) bit[l] = 1u << l;
  }
};
inline constexpr LaneBits kLaneBits;

// The lanes whose byte is 1; all bytes are 0 or 1.
inline LaneMask packLanes(const u8 (&bytes)[kWarpSize]) {
  LaneMask mask = 0;
  for (u32 k = 0; k < kWarpSize; k += 8) {
    u64 eight;
    std::memcpy(&eight, bytes + k, 8);
    mask |= static_cast<LaneMask>(eight * 0x0102040810204080 >> 56) << k;
  }
  return mask;
}

inline bool isUniform(const u32* values) {
  u32 difference = 0;
  for (u32 l = 0; l < kWarpSize; ++l) difference |= values[l] ^ values[0];
  return difference == 0;
}

// The fast path: a full warp is one loop that the compiler vectorises.
template <class Body>
inline __attribute__((always_inline)) void forLanes(LaneMask lanes, Body body) {
  if (lanes == kAllLanes) {
#pragma GCC ivdep
    for (u32 lane = 0; lane < kWarpSize; ++lane) body(lane);
  } else {
    for (; lanes; lanes &= lanes - 1) body(lowestLane(lanes));
  }
}

}  // namespace softgpu
