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
constexpr u64 kScope = ((u64{1} << kScopeBits) - 1) << kScopeAt;
// Plain accesses that are remembered per cell; the oldest are forgotten.
constexpr size_t kMaxPlain = 64;

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
  const LaneMask by = 1u << field(cell, kLaneAt, kLaneFieldBits);
  if (block == w.block->number) {
    if (scope && other) return {};
    if (w.block->shared.isOrdered(w.index, lane, clock, warp, by)) return {};
    return {block, warp, warp == w.index};
  }
  // Strong accesses of different blocks never race, if both reach further than their blocks.
  if (scope >= 2 && other >= 2) return {};
  auto known = w.block->known.find(block);
  if (known != w.block->known.end() && known->second->covers(warp, by, clock)) return {};
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
    if ((cells[k] | mine) & kScope) {
      const Other plain = besidesAtomics(w, lane, (address >> shift_) + k, cells[k], scope);
      if (!found) found = plain;
    }
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
    if (!scope && cells[k] & kScope) notePlainRead(w, lane, (address >> shift_) + k, mine);
    if (!cells[k] || (cells[k] & kOwner) == (mine & kOwner)) continue;
    if (Other found = conflict(w, lane, cells[k], scope)) return found;
  }
  return {};
}

void GlobalRaces::notePlainRead(const Warp& w, u32 lane, u64 key, u64 access) {
  std::vector<Plain>& known = plain_[key];
  // Who is not ordered behind what happened before this read is not ordered behind the read either.
  std::erase_if(known, [&](const Plain& p) { return !conflict(w, lane, p.access, 0); });
  if (known.size() == kMaxPlain) known.erase(known.begin());
  known.push_back({access, true});
}

// A write of what atomics change, or that begins to: `before` is what the cell held.
GlobalRaces::Other GlobalRaces::besidesAtomics(const Warp& w, u32 lane, u64 key, u64 before, u8 scope) {
  Other found;
  if (!(before & kScope)) {
    if (before) plain_[key] = {{before, false}};
    return found;
  }
  auto it = plain_.find(key);
  if (it == plain_.end()) return found;
  for (const Plain& p : it->second) {
    if (!(found = conflict(w, lane, p.access, scope))) continue;
    found.read = p.read;
    break;
  }
  if (!scope) plain_.erase(it);
  return found;
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
      foreign |= cell ? (cell ^ mine) & (kOwner | kScope) : 0;
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
    foreign |= cells[k] ? (cells[k] ^ mine) & (kOwner | kScope) : 0;
  }
  return foreign == 0;
}

bool GlobalRaces::isWritten(Allocation& a, u64 address, u32 bytes) {
  const u64* cells = cellsAt(a, address, false);
  return cells && std::any_of(cells, cells + std::max(1u, bytes >> shift_), [](u64 cell) { return cell != 0; });
}

void GlobalRaces::learn(Knowledge& to, u32 block, const std::shared_ptr<const Reach>& reach) {
  std::shared_ptr<const Reach>& known = to[block];
  if (!known) known = reach;
  if (known == reach) return;
  Reach merged = *known;
  merged.raise(*reach);
  if (merged == *known) return;
  known = merged == *reach ? reach : std::make_shared<const Reach>(std::move(merged));
}

void GlobalRaces::release(Warp& w, u64 address, const Reach& reach) {
  Knowledge& published = released_[address];
  learn(published, w.block->number, std::make_shared<const Reach>(reach));
  for (const auto& [block, known] : w.block->known) learn(published, block, known);
}

void GlobalRaces::acquire(Warp& w, u64 address) {
  if (released_.empty()) return;
  auto it = released_.find(address);
  if (it == released_.end()) return;
  for (const auto& [block, reach] : it->second) {
    if (block != w.block->number) learn(w.block->known, block, reach);
  }
}

}  // namespace softgpu
