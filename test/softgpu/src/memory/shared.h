// Shared memory of one block: the bytes, whether each was written or is the target of a copy in flight, and the race
// detector: a vector clock per warp, so that named barriers order only what they order.
//
// Two accesses of one cell race when one writes, neither happens before the other, and they are not both strong
// (atomic, volatile, relaxed …). Within a warp only bar.warp.sync, a barrier and a lane's own program order give order.
#pragma once

#include <array>
#include <memory>
#include <unordered_map>
#include <vector>

#include "base/types.h"
#include "memory/reach.h"

namespace softgpu {

enum class ByteState : u8 { kNever = 0, kWritten = 1, kInFlight = 2 };

class SharedMemory {
 public:
  // `granularity`: bytes per cell of the race detector, no wider than the narrowest access.
  void reset(u32 bytes, u32 granularity, u32 warps);

  u32 size() const { return size_; }
  u8* data() { return bytes_.data(); }

  // The state of the first byte in the range that is not plainly written; kWritten if there is none.
  ByteState stateOf(u32 address, u32 bytes) const;
  void setState(u32 address, u32 bytes, ByteState state);

  // `lane` may be kManyLanes for a read on behalf of the whole warp. True when the access races with an earlier one;
  // `other` then says which warp that was.
  static constexpr u8 kManyLanes = 32;
  bool read(u32 warp, u8 lane, u32 address, u32 bytes, bool strong, u32& other);
  // Lanes that write the same cell in one instruction (the same `serial`) do not race: one of them wins.
  // Then the last one's value stands, and `overwrites` says so.
  bool write(u32 warp, u8 lane, u32 address, u32 bytes, bool strong, u16 serial, u32& other, bool& overwrites);

  u32 now(u32 warp) const { return now_[warp]; }
  // Whether what some lanes of warp `by` did up to a clock happened before what a lane does now. Other warps' accesses
  // are ordered as far as known_[warp] says; the warp's own up to its last synchronisation.
  bool isOrdered(u32 warp, u32 lane, u32 clock, u32 by, LaneMask lanes) const {
    return clock <= known_[warp].warps[by] || (by == warp && lanes == bitOf(lane)) ||
           unordered(warp, lane, clock, by, lanes) == 0;
  }

  // What some lanes of this warp did now happens before what they do next. All of them are all that are `live`.
  void orderLanes(u32 warp, LaneMask lanes, LaneMask live);
  // A warp gives its knowledge to a barrier, and takes the barrier's. What it does after it arrived is not part of it.
  void arrive(u32 warp, Reach& barrier);
  void leave(u32 warp, const Reach& barrier);
  // What a fence of some lanes puts before later strong writes; what follows in the warp is after it. `all` are the
  // lanes that the warp began with.
  Reach fence(u32 warp, LaneMask lanes, LaneMask all);
  // A strong write publishes such a reach; a strong read of the same address takes it over.
  void release(u64 address, const Reach& reach);
  void acquire(u32 warp, u64 address);

 private:
  struct Cell {
    u32 writeClock, readClock;  // 0: never
    LaneMask readLanes;
    u8 writeWarp, writeLane, readWarp;
    bool writeStrong, readStrong;
    u16 writeSerial;
    u32 readers;  // index + 1 into readers_, when several warps read concurrently
  };
  // The last reads of a cell by each warp.
  struct Readers {
    Clock clocks;  // 0: never
    std::array<LaneMask, kMaxWarps> lanes;
    std::array<bool, kMaxWarps> strong;
  };
  void noteRead(Cell& cell, u32 warp, u8 lane, bool strong);
  // How far each lane knows the others of its warp.
  using LaneClocks = std::array<std::array<u32, kWarpSize>, kWarpSize>;
  static LaneMask bitOf(u32 lane) { return lane == kManyLanes ? kAllLanes : 1u << lane; }
  LaneMask unordered(u32 warp, u32 lane, u32 clock, u32 by, LaneMask lanes) const;
  void orderWarp(u32 warp);

  u32 size_ = 0;
  u32 shift_ = 2;
  u32 warps_ = 0;
  std::vector<u8> bytes_;
  std::vector<u8> state_;
  std::vector<Cell> cells_;
  std::vector<Readers> readers_;
  std::vector<u32> spareReaders_;
  std::array<Reach, kMaxWarps> known_{};
  std::array<std::unique_ptr<LaneClocks>, kMaxWarps> partial_;  // of warps where a part of the lanes met
  Clock now_{};
  std::unordered_map<u64, Reach> released_;
};

}  // namespace softgpu
