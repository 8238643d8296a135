// The happens-before bookkeeping of shared memory, after FastTrack (Flanagan and Freund, 2009).
#include "memory/shared.h"

#include <algorithm>
#include <cstring>

namespace softgpu {

void SharedMemory::reset(u32 bytes, u32 granularity, u32 warps) {
  size_ = bytes;
  warps_ = warps;
  shift_ = static_cast<u32>(__builtin_ctz(granularity));
  bytes_.assign(bytes + 16, 0xcb);
  state_.assign(bytes + 16, 0);
  cells_.assign((bytes >> shift_) + 16, Cell{});
  readers_.clear();
  spareReaders_.clear();
  released_.clear();
  for (Reach& known : known_) known = {};
  for (auto& clocks : partial_) clocks.reset();
  now_.fill(1);
}

ByteState SharedMemory::stateOf(u32 address, u32 bytes) const {
  constexpr u64 kAllWritten = 0x0101010101010101;
  u64 word = kAllWritten;
  for (u32 at = 0; at < bytes; at += 8) {
    u32 count = std::min(8u, bytes - at);
    std::memcpy(&word, &state_[address + at], count);
    if (word == kAllWritten) continue;
    for (u32 k = 0; k < count; ++k) {
      u8 state = state_[address + at + k];
      if (state != static_cast<u8>(ByteState::kWritten)) return static_cast<ByteState>(state);
    }
  }
  return ByteState::kWritten;
}

void SharedMemory::setState(u32 address, u32 bytes, ByteState state) {
  std::memset(&state_[address], static_cast<int>(state), bytes);
}

bool SharedMemory::read(u32 warp, u8 lane, u32 address, u32 bytes, bool strong, u32& other) {
  bool race = false;
  const LaneMask bit = bitOf(lane);
  const u32 last = (address + bytes - 1) >> shift_;
  for (u32 k = address >> shift_; k <= last; ++k) {
    Cell& cell = cells_[k];
    if (!isOrdered(warp, lane, cell.writeClock, cell.writeWarp, 1u << cell.writeLane) &&
        !(strong && cell.writeStrong)) {
      race = true;
      other = cell.writeWarp;
    }
    if (cell.readWarp == warp && cell.readClock == now_[warp] && (cell.readLanes & bit) == bit && !cell.readers &&
        cell.readStrong == strong) {
      continue;
    }
    noteRead(cell, warp, lane, strong);
  }
  return race;
}

// The lanes among those of warp `by` whose accesses are not ordered before what the lane does now, when all of the
// warp's are not.
LaneMask SharedMemory::unordered(u32 warp, u32 lane, u32 clock, u32 by, LaneMask lanes) const {
  if (by != warp) return known_[warp].covers(by, lanes, clock) ? 0 : lanes;
  if (lane == kManyLanes) return lanes;
  LaneMask left = lanes & ~bitOf(lane);
  if (!partial_[warp]) return left;
  for (LaneMask m = left; m; m &= m - 1) {
    if (clock <= (*partial_[warp])[lane][lowestLane(m)]) left &= ~(1u << lowestLane(m));
  }
  return left;
}

void SharedMemory::noteRead(Cell& cell, u32 warp, u8 lane, bool strong) {
  // Reads by other lanes of the warp stay, unless they happened before this one.
  auto note = [&](u32& clock, LaneMask& lanes, bool& wasStrong) {
    const LaneMask others = clock <= known_[warp].warps[warp] ? 0 : unordered(warp, lane, clock, warp, lanes);
    lanes = others | bitOf(lane);
    wasStrong = strong && (others == 0 || wasStrong);
    clock = now_[warp];
  };
  if (cell.readers) {
    Readers& r = readers_[cell.readers - 1];
    note(r.clocks[warp], r.lanes[warp], r.strong[warp]);
  } else if (cell.readWarp == warp) {
    note(cell.readClock, cell.readLanes, cell.readStrong);
  } else if (isOrdered(warp, lane, cell.readClock, cell.readWarp, cell.readLanes)) {
    cell.readClock = now_[warp];
    cell.readWarp = static_cast<u8>(warp);
    cell.readLanes = bitOf(lane);
    cell.readStrong = strong;
  } else {
    if (spareReaders_.empty()) {
      readers_.emplace_back();
      spareReaders_.push_back(static_cast<u32>(readers_.size()));
    }
    cell.readers = spareReaders_.back();
    spareReaders_.pop_back();
    Readers& r = readers_[cell.readers - 1];
    r.clocks.fill(0);
    r.clocks[cell.readWarp] = cell.readClock;
    r.lanes[cell.readWarp] = cell.readLanes;
    r.strong[cell.readWarp] = cell.readStrong;
    r.clocks[warp] = now_[warp];
    r.lanes[warp] = bitOf(lane);
    r.strong[warp] = strong;
  }
}

bool SharedMemory::write(u32 warp, u8 lane, u32 address, u32 bytes, bool strong, u16 serial, u32& other,
                         bool& overwrites) {
  bool race = false;
  const u32 last = (address + bytes - 1) >> shift_;
  for (u32 k = address >> shift_; k <= last; ++k) {
    Cell& cell = cells_[k];
    if (!isOrdered(warp, lane, cell.writeClock, cell.writeWarp, 1u << cell.writeLane) &&
        !(cell.writeWarp == warp && cell.writeSerial == serial) && !(strong && cell.writeStrong)) {
      race = true;
      other = cell.writeWarp;
    }
    overwrites |=
        cell.writeWarp == warp && cell.writeLane != lane && cell.writeSerial == serial && cell.writeClock == now_[warp];
    if (cell.readers) {
      const Readers& r = readers_[cell.readers - 1];
      for (u32 w = 0; w < warps_; ++w) {
        if (isOrdered(warp, lane, r.clocks[w], w, r.lanes[w]) || (strong && r.strong[w])) continue;
        race = true;
        other = w;
      }
      spareReaders_.push_back(cell.readers);
    } else if (!(strong && cell.readStrong) && !isOrdered(warp, lane, cell.readClock, cell.readWarp, cell.readLanes)) {
      race = true;
      other = cell.readWarp;
    }
    cell.writeClock = now_[warp];
    cell.writeWarp = static_cast<u8>(warp);
    cell.writeLane = lane;
    cell.writeStrong = strong;
    cell.writeSerial = serial;
    cell.readClock = 0;
    cell.readers = 0;
  }
  return race;
}

void SharedMemory::orderWarp(u32 warp) {
  known_[warp].warps[warp] = now_[warp]++;
  known_[warp].forgetCovered();
}

void SharedMemory::orderLanes(u32 warp, LaneMask lanes, LaneMask live) {
  if ((live & ~lanes) == 0) return orderWarp(warp);
  if (!partial_[warp]) partial_[warp] = std::make_unique<LaneClocks>();
  LaneClocks& clocks = *partial_[warp];
  std::array<u32, kWarpSize> known{};
  for (LaneMask m = lanes; m; m &= m - 1) {
    for (u32 l = 0; l < kWarpSize; ++l) known[l] = std::max(known[l], clocks[lowestLane(m)][l]);
  }
  for (LaneMask m = lanes; m; m &= m - 1) known[lowestLane(m)] = now_[warp];
  for (LaneMask m = lanes; m; m &= m - 1) clocks[lowestLane(m)] = known;
  ++now_[warp];
}

void SharedMemory::arrive(u32 warp, Reach& barrier) {
  barrier.raise(known_[warp]);
  barrier.raise(warp, now_[warp]++);
  barrier.forgetCovered();
}

void SharedMemory::leave(u32 warp, const Reach& barrier) {
  known_[warp].raise(barrier);
  orderWarp(warp);
}

Reach SharedMemory::fence(u32 warp, LaneMask lanes, LaneMask all) {
  Reach reach = known_[warp];
  const u32 now = now_[warp]++;
  if ((all & ~lanes) == 0) {
    reach.raise(warp, now);
    reach.forgetCovered();
    return reach;
  }
  for (LaneMask m = lanes; m; m &= m - 1) {
    const u32 lane = lowestLane(m);
    reach.raise(warp, lane, now);
    if (!partial_[warp]) continue;
    for (u32 l = 0; l < kWarpSize; ++l) reach.raise(warp, l, (*partial_[warp])[lane][l]);
  }
  return reach;
}

void SharedMemory::release(u64 address, const Reach& reach) { released_[address].raise(reach); }

void SharedMemory::acquire(u32 warp, u64 address) {
  if (released_.empty()) return;
  auto it = released_.find(address);
  if (it == released_.end()) return;
  Reach& known = known_[warp];
  for (u32 w = 0; w < warps_; ++w) {
    if (w != warp) known.raise(w, it->second.warps[w]);
  }
  for (const Reach::Lane& l : it->second.lanes) {
    if (l.warp != warp) known.raise(l.warp, l.lane, l.clock);
  }
  known.forgetCovered();
}

}  // namespace softgpu
