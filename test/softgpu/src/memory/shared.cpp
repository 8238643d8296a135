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
  for (Clock& clock : known_) clock.fill(0);
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
  const u32 last = (address + bytes - 1) >> shift_;
  for (u32 k = address >> shift_; k <= last; ++k) {
    Cell& cell = cells_[k];
    if (!isOrdered(warp, cell.writeClock, cell.writeWarp) && !(cell.writeWarp == warp && cell.writeLane == lane) &&
        !(strong && cell.writeStrong)) {
      race = true;
      other = cell.writeWarp;
    }
    if (cell.readWarp == warp && cell.readClock == now_[warp] && cell.readLane == lane && !cell.readers &&
        cell.readStrong == strong) {
      continue;
    }
    noteRead(cell, warp, lane, strong);
  }
  return race;
}

void SharedMemory::noteRead(Cell& cell, u32 warp, u8 lane, bool strong) {
  if (cell.readers) {
    Readers& r = readers_[cell.readers - 1];
    const bool first = isOrdered(warp, r.clocks[warp], warp);
    r.lanes[warp] = first || r.lanes[warp] == lane ? lane : kManyLanes;
    r.strong[warp] = strong && (first || r.strong[warp]);
    r.clocks[warp] = now_[warp];
  } else if (isOrdered(warp, cell.readClock, cell.readWarp)) {
    cell.readClock = now_[warp];
    cell.readWarp = static_cast<u8>(warp);
    cell.readLane = lane;
    cell.readStrong = strong;
  } else if (cell.readWarp == warp) {
    if (cell.readLane != lane) cell.readLane = kManyLanes;
    cell.readClock = now_[warp];
    cell.readStrong &= strong;
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
    r.lanes[cell.readWarp] = cell.readLane;
    r.strong[cell.readWarp] = cell.readStrong;
    r.clocks[warp] = now_[warp];
    r.lanes[warp] = lane;
    r.strong[warp] = strong;
  }
}

bool SharedMemory::write(u32 warp, u8 lane, u32 address, u32 bytes, bool strong, u16 serial, u32& other,
                         bool& overwrites) {
  bool race = false;
  const u32 last = (address + bytes - 1) >> shift_;
  for (u32 k = address >> shift_; k <= last; ++k) {
    Cell& cell = cells_[k];
    if (!isOrdered(warp, cell.writeClock, cell.writeWarp) &&
        !(cell.writeWarp == warp && (cell.writeLane == lane || cell.writeSerial == serial)) &&
        !(strong && cell.writeStrong)) {
      race = true;
      other = cell.writeWarp;
    }
    overwrites |=
        cell.writeWarp == warp && cell.writeLane != lane && cell.writeSerial == serial && cell.writeClock == now_[warp];
    if (cell.readers) {
      const Readers& r = readers_[cell.readers - 1];
      for (u32 w = 0; w < warps_; ++w) {
        if (isReadOrdered(warp, lane, r.clocks[w], w, r.lanes[w]) || (strong && r.strong[w])) continue;
        race = true;
        other = w;
      }
      spareReaders_.push_back(cell.readers);
    } else if (!(strong && cell.readStrong) &&
               !isReadOrdered(warp, lane, cell.readClock, cell.readWarp, cell.readLane)) {
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
  known_[warp][warp] = now_[warp];
  ++now_[warp];
}

void SharedMemory::arrive(u32 warp, Clock& barrier) {
  for (u32 w = 0; w < warps_; ++w) barrier[w] = std::max(barrier[w], known_[warp][w]);
  barrier[warp] = std::max(barrier[warp], now_[warp]++);
}

void SharedMemory::leave(u32 warp, const Clock& barrier) {
  for (u32 w = 0; w < warps_; ++w) known_[warp][w] = std::max(known_[warp][w], barrier[w]);
  orderWarp(warp);
}

Clock SharedMemory::fence(u32 warp) {
  Clock clock{};
  arrive(warp, clock);
  return clock;
}

void SharedMemory::release(u64 address, const Clock& clock) {
  Clock& published = released_[address];
  for (u32 w = 0; w < warps_; ++w) published[w] = std::max(published[w], clock[w]);
}

void SharedMemory::acquire(u32 warp, u64 address) {
  if (released_.empty()) return;
  auto it = released_.find(address);
  if (it == released_.end()) return;
  for (u32 w = 0; w < warps_; ++w) {
    if (w != warp) known_[warp][w] = std::max(known_[warp][w], it->second[w]);
  }
}

}  // namespace softgpu
