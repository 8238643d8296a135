// The arena: a bump allocator over reserved address space. Freed pages go back to the system, their addresses do not.
#include "memory/arena.h"

#include <sys/mman.h>

#include <algorithm>

namespace softgpu {

bool Allocation::isRangeInitialised(u64 address, u64 bytes) const {
  u64 at = address - base, end = at + bytes;
  for (; at < end && (at & 7); ++at) {
    if (!(initialised[at >> 3] >> (at & 7) & 1)) return false;
  }
  for (; at + 8 <= end; at += 8) {
    if (initialised[at >> 3] != 0xff) return false;
  }
  for (; at < end; ++at) {
    if (!(initialised[at >> 3] >> (at & 7) & 1)) return false;
  }
  return true;
}

u64 Allocation::firstUninitialised(u64 address, u64 bytes) const {
  const u64 end = address + bytes;
  while (address < end && isRangeInitialised(address, 1)) ++address;
  return address;
}

void Allocation::setRangeInitialised(u64 address, u64 bytes) {
  u64 at = address - base, end = at + bytes;
  for (; at < end && (at & 7); ++at) initialised[at >> 3] |= static_cast<u8>(1u << (at & 7));
  if (end >= at + 8) {
    std::fill(&initialised[at >> 3], &initialised[end >> 3], u8{0xff});
    at = end & ~u64{7};
  }
  for (; at < end; ++at) initialised[at >> 3] |= static_cast<u8>(1u << (at & 7));
}

void Allocation::clearRangeInitialised(u64 address, u64 bytes) {
  const u64 at = address - base;
  std::fill(&initialised[at >> 3], &initialised[(at + bytes) >> 3], u8{0});
}

void Allocation::copyInitialised(u64 address, const Allocation& from, u64 fromAddress, u64 bytes) {
  if (from.isRangeInitialised(fromAddress, bytes)) return setRangeInitialised(address, bytes);
  for (u64 k = 0; k < bytes; ++k) {
    u64 to = address - base + k;
    u8 bit = static_cast<u8>(1u << (to & 7));
    bool set = from.isRangeInitialised(fromAddress + k, 1);
    initialised[to >> 3] = static_cast<u8>(set ? initialised[to >> 3] | bit : initialised[to >> 3] & ~bit);
  }
}

Allocation* Arena::insert(u64 address, u64 bytes, MemoryKind kind) {
  auto allocation = std::make_unique<Allocation>();
  allocation->base = address;
  allocation->size = bytes;
  allocation->kind = kind;
  // calloc gives untouched pages for large sizes, so an allocation costs nothing until it is used.
  auto zeros = [](u64 size) { return Allocation::Bits(static_cast<u8*>(std::calloc(size, 1))); };
  allocation->initialised = zeros(bytes / 8 + 3);
  allocation->sectorsRead = zeros(bytes / kSectorBytes / 8 + 2);
  allocation->sectorsWritten = zeros(bytes / kSectorBytes / 8 + 2);
  std::unique_ptr<Allocation>& place = allocations_[address];
  // Warps remember allocations by their address, so what was there before must stay.
  if (place) gone_.push_back(std::move(place));
  return (place = std::move(allocation)).get();
}

Allocation* Arena::allocate(u64 bytes, MemoryKind kind) {
  std::lock_guard lock(mutex_);
  if (start_ == 0) {
    void* range = mmap(nullptr, kReserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (range == MAP_FAILED) return nullptr;
    start_ = top_ = alignUp(reinterpret_cast<u64>(range), kAlignment);
  }
  // The gap after each allocation is at least one alignment unit: the red zone.
  u64 room = alignUp(bytes, kAlignment) + kAlignment;
  // Pinned memory is the host's.
  const bool onDevice = kind != MemoryKind::kHost;
  if (bytes > totalBytes() - (onDevice ? used_ : 0) || room > start_ + kReserved - kAlignment - top_) return nullptr;
  Allocation* allocation = insert(top_, bytes, kind);
  top_ += room;
  if (onDevice) used_ += bytes;
  return allocation;
}

Allocation* Arena::adopt(u64 address, u64 bytes) {
  std::lock_guard lock(mutex_);
  for (const auto& [base, a] : allocations_) {
    if (a->live && base < address + bytes && base + a->size > address) return nullptr;
  }
  return insert(address, bytes, MemoryKind::kRegistered);
}

bool Arena::free(u64 address) {
  std::lock_guard lock(mutex_);
  auto it = allocations_.find(address);
  if (it == allocations_.end() || !it->second->live) return false;
  Allocation& a = *it->second;
  a.live = false;
  if (a.kind == MemoryKind::kRegistered) return true;
  if (a.kind != MemoryKind::kHost) used_ -= a.size;
  u64 page = 4096, from = alignUp(address, page), to = (address + a.size) & ~(page - 1);
  if (to > from) madvise(reinterpret_cast<void*>(from), to - from, MADV_DONTNEED);
  return true;
}

Allocation* Arena::find(u64 address) {
  std::lock_guard lock(mutex_);
  auto it = allocations_.upper_bound(address);
  if (it == allocations_.begin()) return nullptr;
  Allocation* allocation = std::prev(it)->second.get();
  return allocation->contains(address, 0) ? allocation : nullptr;
}

bool Arena::owns(u64 address) {
  std::lock_guard lock(mutex_);
  return address >= start_ && address < top_;
}

Allocation* Arena::findRange(u64 address, u64 bytes) {
  Allocation* allocation = find(address);
  return allocation && allocation->live && allocation->contains(address, bytes) ? allocation : nullptr;
}

u64 Arena::freeBytes() {
  std::lock_guard lock(mutex_);
  return totalBytes() - used_;
}

std::vector<const Allocation*> Arena::liveAllocations() {
  std::lock_guard lock(mutex_);
  std::vector<const Allocation*> live;
  for (const auto& [address, allocation] : allocations_) {
    if (allocation->live) live.push_back(allocation.get());
  }
  return live;
}

Arena& arena() {
  static Arena* instance = new Arena;  // outlives every static destructor
  return *instance;
}

}  // namespace softgpu
