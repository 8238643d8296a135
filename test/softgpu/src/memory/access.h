// Checked and counted access of a warp's lanes to memory: what every instruction that touches memory goes through.
#pragma once

#include "exec/launch.h"

namespace softgpu {

// Generic addresses: global ones are host addresses, the other spaces live in windows above them.
constexpr u64 kWindowShift = 48;
constexpr u64 kSharedWindow = u64{1} << kWindowShift;
constexpr u64 kLocalWindow = u64{2} << kWindowShift;
constexpr u64 kParamWindow = u64{3} << kWindowShift;

// A write that races with an earlier one in global memory, or with another lane's of the same instruction in shared
// memory: a fault unless it leaves the bytes as they were. The caller, who knows the bytes, reports it.
struct RacyWrite {
  GlobalRaces::Other other;
  bool lanes = false;
  explicit operator bool() const { return other || lanes; }
};
void reportRacyWrite(Warp& w, const ptx::Instruction& i, u32 lane, u64 address, u32 bytes, const RacyWrite& racy);

// The addresses of an instruction's lanes, with the base in `slot`.
void addressesOf(Warp& w, u32 slot, i64 offset, bool wide, u64* out);

// Lanes of a generic access by space; `addresses` lose their window. Returns the lanes of one space and removes them
// from `lanes`.
LaneMask takeSpace(u64* addresses, LaneMask& lanes, ptx::Space& space);

// Checked pointers for one lane. Out of bounds, misaligned and freed memory end the launch; memory that was never
// written is reported.
u8* globalForRead(Warp& w, const ptx::Instruction& i, u32 lane, u64 address, u32 bytes);
u8* globalForWrite(Warp& w, const ptx::Instruction& i, u32 lane, u64 address, u32 bytes, RacyWrite& racy,
                   bool reads = false);
// Reports a read that races with an earlier write.
void checkGlobalRead(Warp& w, const ptx::Instruction& i, u32 lane, Allocation& a, u64 address, u32 bytes);
// `raceLane` is the lane the access counts for, or SharedMemory::kManyLanes.
u8* sharedForRead(Warp& w, const ptx::Instruction& i, u32 lane, u64 address, u32 bytes, u32 raceLane);
u8* sharedForWrite(Warp& w, const ptx::Instruction& i, u32 lane, u64 address, u32 bytes, RacyWrite& racy);
u8* localAt(Warp& w, const ptx::Instruction& i, u32 lane, u64 address, u32 bytes);
const u8* parameterAt(Warp& w, const ptx::Instruction& i, u32 lane, u64 address, u32 bytes);

// The allocation that holds the range, through the warp's cache; null without a fault when there is none.
Allocation* tryAllocation(Warp& w, u64 address, u64 bytes);
[[noreturn]] void badGlobal(Warp& w, const ptx::Instruction& i, u32 lane, u64 address, u32 bytes, bool write);

void countGlobal(Warp& w, const u64* addresses, LaneMask lanes, u32 bytes, bool write);
// Wavefronts of one shared-memory request, and what they would be without bank conflicts.
void countShared(Warp& w, const u64* addresses, LaneMask lanes, u32 bytes);

// A fence, and what strong accesses do with it (see SharedMemory and GlobalRaces).
void fence(Warp& w, LaneMask lanes, u8 scope, bool sequential);
void strongRead(Warp& w, const ptx::Instruction& i, u64 address, bool global);
void strongWrite(Warp& w, const ptx::Instruction& i, u32 lane, u64 address, bool global);

}  // namespace softgpu
