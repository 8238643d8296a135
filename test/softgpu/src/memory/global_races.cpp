// A cell is one word: block, warp, lane, scope and clock of its last write; 0 when the launch has not written it.
#include "memory/global_races.h"

#include <algorithm>

#include "exec/launch.h"

namespace softgpu {
namespace {

constexpr u32 kChunkShift = 12;
constexpr u32 kClockBits = 28, kScopeBits = 2, kLaneFieldBits = 5, kWarpBits = 5;
constexpr u32 kScopeAt = kClockBits, kLaneAt = kScopeAt + kScopeBits, kWarpAt = kLaneAt + kLaneFieldBits,
              kBlockAt = kWarpAt + kWarpBits;
constexpr u64 kMaxBlock = (u64{1} << (64 - kBlockAt)) - 2, kMaxClock = (u64{1} << kClockBits) - 1;
// What says who a cell belongs to.
constexpr u64 kOwner = ~u64{0} << kLaneAt;

u64 field(u64 cell, u32 at, u32 bits) { return cell >> at & ((u64{1} << bits) - 1); }

}  // namespace

void GlobalRaces::start(u64 launch, u32 granularity) {
  launch_ = launch;
  shift_ = static_cast<u32>(__builtin_ctz(granularity));
}

u64* GlobalRaces::cellsAt(Allocation& a, u64 address, bool create) {
  if (a.writtenBy != launch_) {
    if (!create) return nullptr;
    a.writtenBy = launch_;
    if (a.chunks.empty()) a.chunks.resize((a.size >> kChunkShift) + 1);
  }
  const u64 offset = address - a.base;
  WriteChunk& chunk = a.chunks[offset >> kChunkShift];
  if (chunk.launch != launch_) {
    if (!create) return nullptr;
    chunk.launch = launch_;
    chunk.cells.assign(u64{1} << (kChunkShift - shift_), 0);
  }
  return chunk.cells.data() + ((offset & ((u64{1} << kChunkShift) - 1)) >> shift_);
}

// The block is counted from 1, so that no cell is 0.
u64 GlobalRaces::cellOf(const Warp& w, u32 lane, u8 scope) const {
  return u64{w.block->number + 1} << kBlockAt | u64{w.index} << kWarpAt | u64{lane} << kLaneAt |
         u64{scope} << kScopeAt | std::min<u64>(w.block->shared.now(w.index), kMaxClock);
}

GlobalRaces::Other GlobalRaces::conflict(const Warp& w, u32 lane, u64 cell, u8 scope) const {
  const u32 block = static_cast<u32>(cell >> kBlockAt) - 1, warp = static_cast<u32>(field(cell, kWarpAt, kWarpBits));
  const u32 clock = static_cast<u32>(cell & kMaxClock), other = static_cast<u32>(field(cell, kScopeAt, kScopeBits));
  if (block == w.block->number) {
    if (scope && other) return {};
    if (w.block->shared.isOrdered(w.index, clock, warp)) return {};
    if (warp == w.index && lane == field(cell, kLaneAt, kLaneFieldBits)) return {};
    return {block, warp, warp == w.index};
  }
  // Strong accesses of different blocks never race, if both reach further than their blocks.
  if (scope >= 2 && other >= 2) return {};
  auto known = w.block->known.find(block);
  if (known != w.block->known.end() && clock <= (*known->second)[warp]) return {};
  return {block, warp, false};
}

GlobalRaces::Other GlobalRaces::write(Warp& w, u32 lane, Allocation& a, u64 address, u32 bytes, u8 scope) {
  if (w.block->number > kMaxBlock) return {};
  u64* cells = cellsAt(a, address, true);
  const u64 mine = cellOf(w, lane, scope);
  const u32 count = std::max(1u, bytes >> shift_);
  Other found;
  for (u32 k = 0; k < count; ++k) {
    if (cells[k] && (cells[k] & kOwner) != (mine & kOwner) && !found) found = conflict(w, lane, cells[k], scope);
    cells[k] = mine;
  }
  return found;
}

GlobalRaces::Other GlobalRaces::read(Warp& w, u32 lane, Allocation& a, u64 address, u32 bytes, u8 scope) {
  const u64* cells = cellsAt(a, address, false);
  if (!cells || w.block->number > kMaxBlock) return {};
  const u64 mine = cellOf(w, lane, scope);
  const u32 count = std::max(1u, bytes >> shift_);
  for (u32 k = 0; k < count; ++k) {
    if (!cells[k] || (cells[k] & kOwner) == (mine & kOwner)) continue;
    if (Other found = conflict(w, lane, cells[k], scope)) return found;
  }
  return {};
}

bool GlobalRaces::writeAll(Warp& w, Allocation& a, u64 address, u32 bytesPerLane, u8 scope) {
  if (w.block->number > kMaxBlock) return true;
  const u64 offset = address - a.base;
  // Lane addresses are aligned to cells and do not cross a chunk, but the whole warp may.
  if (offset >> kChunkShift != (offset + u64{bytesPerLane} * kWarpSize - 1) >> kChunkShift) return false;
  u64* cells = cellsAt(a, address, true);
  const u32 perLane = bytesPerLane >> shift_;
  const u64 first = cellOf(w, 0, scope);
  u64 foreign = 0;
  for (u32 l = 0; l < kWarpSize; ++l) {
    const u64 mine = first + (u64{l} << kLaneAt);
    for (u32 k = 0; k < perLane; ++k) {
      const u64 cell = cells[l * perLane + k];
      foreign |= cell ? (cell ^ mine) & kOwner : 0;
    }
  }
  if (foreign) return false;
  for (u32 l = 0; l < kWarpSize; ++l) {
    for (u32 k = 0; k < perLane; ++k) cells[l * perLane + k] = first + (u64{l} << kLaneAt);
  }
  return true;
}

bool GlobalRaces::readAll(Warp& w, Allocation& a, u64 address, u32 bytesPerLane) {
  if (a.writtenBy != launch_) return true;
  const u64 offset = address - a.base;
  if (offset >> kChunkShift != (offset + u64{bytesPerLane} * kWarpSize - 1) >> kChunkShift) return false;
  const u64* cells = cellsAt(a, address, false);
  if (!cells || w.block->number > kMaxBlock) return true;
  const u64 first = cellOf(w, 0, 0);
  const u32 count = std::max(1u, bytesPerLane * kWarpSize >> shift_),
            cellsOfLane = std::max(1u, bytesPerLane >> shift_);
  u64 foreign = 0;
  for (u32 k = 0; k < count; ++k) {
    const u64 mine = first + (u64{k / cellsOfLane} << kLaneAt);
    foreign |= cells[k] ? (cells[k] ^ mine) & kOwner : 0;
  }
  return foreign == 0;
}

bool GlobalRaces::isWritten(Allocation& a, u64 address, u32 bytes) {
  const u64* cells = cellsAt(a, address, false);
  return cells && std::any_of(cells, cells + std::max(1u, bytes >> shift_), [](u64 cell) { return cell != 0; });
}

void GlobalRaces::learn(Knowledge& to, u32 block, const std::shared_ptr<const Clock>& clock) {
  std::shared_ptr<const Clock>& known = to[block];
  if (!known) known = clock;
  if (known == clock) return;
  Clock merged = *known;
  bool newer = false, older = false;
  for (u32 k = 0; k < kMaxWarps; ++k) {
    newer |= (*clock)[k] > merged[k];
    older |= (*clock)[k] < merged[k];
    merged[k] = std::max(merged[k], (*clock)[k]);
  }
  if (newer) known = older ? std::make_shared<const Clock>(merged) : clock;
}

void GlobalRaces::release(Warp& w, u64 address, const Clock& clock) {
  Knowledge& published = released_[address];
  learn(published, w.block->number, std::make_shared<const Clock>(clock));
  for (const auto& [block, known] : w.block->known) learn(published, block, known);
}

void GlobalRaces::acquire(Warp& w, u64 address) {
  if (released_.empty()) return;
  auto it = released_.find(address);
  if (it == released_.end()) return;
  for (const auto& [block, clock] : it->second) {
    if (block != w.block->number) learn(w.block->known, block, clock);
  }
}

}  // namespace softgpu
