// Races in global memory within one launch: who wrote a cell last, and what happened before what.
//
// Warps of one block are ordered as in shared memory. Blocks are ordered by a strong write after a fence (or a release)
// and a strong read of the same address, both of a scope wider than the block: who reads knows what the writer knew. A
// write that races with an earlier one and changes nothing is no fault: many threads may set one flag. Writes after
// reads are looked for only where atomics wrote before: elsewhere another order of blocks or warps turns them into
// reads after writes.
#pragma once

#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include "memory/arena.h"
#include "memory/shared.h"

namespace softgpu {

class Warp;

class GlobalRaces {
 public:
  // Up to where the accesses of other blocks happened before a block's own.
  using Knowledge = std::map<u32, std::shared_ptr<const Reach>>;

  // `granularity`: bytes per cell, no wider than the narrowest write to global memory.
  void start(u64 launch, u32 granularity);

  // Who accessed the memory before, without order; block is ~0 when nobody did.
  struct Other {
    u32 block = ~0u, warp = 0;
    bool sameWarp = false, read = false;
    explicit operator bool() const { return block != ~0u; }
  };
  // `scope` is 0 for a plain access, otherwise how far a strong one reaches (Instruction::strong).
  Other write(Warp& w, u32 lane, Allocation& a, u64 address, u32 bytes, u8 scope);
  Other read(Warp& w, u32 lane, Allocation& a, u64 address, u32 bytes, u8 scope);
  // The same for lane after lane of a full warp, side by side; false when it must be looked at lane by lane.
  bool writeAll(Warp& w, Allocation& a, u64 address, u32 bytesPerLane, u8 scope);
  bool readAll(Warp& w, Allocation& a, u64 address, u32 bytesPerLane);
  // Whether the launch has written any of it.
  bool isWritten(Allocation& a, u64 address, u32 bytes);

  // A strong write that publishes how far its block came, and what the block knows; a strong read that takes it over.
  void release(Warp& w, u64 address, const Reach& reach);
  void acquire(Warp& w, u64 address);

 private:
  static void learn(Knowledge& to, u32 block, const std::shared_ptr<const Reach>& reach);

  u64* cellsAt(Allocation& a, u64 address, bool create);
  u64 cellOf(const Warp& w, u32 lane, u8 scope) const;
  Other conflict(const Warp& w, u32 lane, u64 cell, u8 scope) const;

  // A plain access of a cell that atomics change, as a cell. The cell itself remembers the atomics, which may be the
  // thread's own in every order.
  struct Plain {
    u64 access;
    bool read;
  };
  void notePlainRead(const Warp& w, u32 lane, u64 key, u64 access);
  Other besidesAtomics(const Warp& w, u32 lane, u64 key, u64 before, u8 scope);

  u64 launch_ = 0;
  u32 shift_ = 2;
  std::unordered_map<u64, Knowledge> released_;
  std::unordered_map<u64, std::vector<Plain>> plain_;  // by number of the cell
};

}  // namespace softgpu
