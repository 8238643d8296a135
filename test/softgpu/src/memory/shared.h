// Shared memory of one block: the bytes, whether each was written or is the target of a copy in flight, and the race
// detector: a vector clock per warp, so that named barriers order only what they order.
//
// Two accesses of one cell race when one writes, neither happens before the other, and they are not both strong
// (atomic, volatile, relaxed …). Within a warp only bar.warp.sync, a barrier and a lane's own program order give order.
#pragma once

#include <algorithm>
#include <array>
#include <unordered_map>
#include <vector>

#include "base/types.h"

namespace softgpu {

constexpr u32 kMaxWarps = 32;
using Clock = std::array<u32, kMaxWarps>;
inline void raise(Clock& clock, const Clock& other) {
  for (u32 w = 0; w < kMaxWarps; ++w) clock[w] = std::max(clock[w], other[w]);
}

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
  // Other warps' accesses are ordered up to known_[warp][other]; the warp's own up to its last synchronisation.
  bool isOrdered(u32 warp, u32 clock, u32 by) const { return clock <= known_[warp][by]; }

  // What happened before in this warp now happens before what follows, for all its lanes.
  void orderWarp(u32 warp);
  // A warp gives its knowledge to a barrier, and takes the barrier's. What it does after it arrived is not part of it.
  void arrive(u32 warp, Clock& barrier);
  void leave(u32 warp, const Clock& barrier);
  // What a fence puts before later strong writes; what follows in the warp is after it.
  Clock fence(u32 warp);
  // A strong write publishes such a clock; a strong read of the same address takes it over.
  void release(u64 address, const Clock& clock);
  void acquire(u32 warp, u64 address);

 private:
  struct Cell {
    u32 writeClock, readClock;  // 0: never
    u8 writeWarp, writeLane, readWarp, readLane;
    bool writeStrong, readStrong;
    u16 writeSerial;
    u32 readers;  // index + 1 into readers_, when several warps read concurrently
  };
  // The last reads of a cell by each warp.
  struct Readers {
    Clock clocks;  // 0: never
    std::array<u8, kMaxWarps> lanes;
    std::array<bool, kMaxWarps> strong;
  };
  void noteRead(Cell& cell, u32 warp, u8 lane, bool strong);
  // Whether a read happened before what the lane does now.
  bool isReadOrdered(u32 warp, u8 lane, u32 clock, u32 by, u8 byLane) const {
    return isOrdered(warp, clock, by) || (by == warp && byLane == lane);
  }

  u32 size_ = 0;
  u32 shift_ = 2;
  u32 warps_ = 0;
  std::vector<u8> bytes_;
  std::vector<u8> state_;
  std::vector<Cell> cells_;
  std::vector<Readers> readers_;
  std::vector<u32> spareReaders_;
  std::array<Clock, kMaxWarps> known_{};
  Clock now_{};
  std::unordered_map<u64, Clock> released_;
};

}  // namespace softgpu
