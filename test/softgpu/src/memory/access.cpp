// Checks, race detection and counting for single accesses.
#include "memory/access.h"

#include <algorithm>
#include <cstring>

namespace softgpu {

using ptx::Instruction;
using ptx::Space;

void addressesOf(Warp& w, u32 slot, i64 offset, bool wide, u64* out) {
  if (wide) {
    const u64* base = lanesOf<u64>(w, slot);
    for (u32 l = 0; l < kWarpSize; ++l) out[l] = base[l] + static_cast<u64>(offset);
  } else {
    const u32* base = lanesOf<u32>(w, slot);
    for (u32 l = 0; l < kWarpSize; ++l) out[l] = base[l] + static_cast<u32>(offset);
  }
}

LaneMask takeSpace(u64* addresses, LaneMask& lanes, Space& space) {
  const u64 window = addresses[lowestLane(lanes)] >> kWindowShift;
  LaneMask same = 0;
  for (LaneMask m = lanes; m; m &= m - 1) {
    const u32 l = lowestLane(m);
    if (addresses[l] >> kWindowShift != window) continue;
    same |= 1u << l;
    addresses[l] -= window << kWindowShift;
  }
  lanes &= ~same;
  space = window == 1 ? Space::kShared : window == 2 ? Space::kLocal : window == 3 ? Space::kParam : Space::kGlobal;
  return same;
}

Allocation* tryAllocation(Warp& w, u64 address, u64 bytes) {
  Allocation* a = w.recent;
  if (a && a->live && a->contains(address, bytes)) return a;
  a = arena().find(address);
  if (!a || !a->live || !a->contains(address, bytes)) return nullptr;
  return w.recent = a;
}

void badGlobal(Warp& w, const Instruction& i, u32 lane, u64 address, u32 bytes, bool write) {
  const Allocation* a = arena().find(address);
  if (a && !a->live) {
    w.abort(i, lane, FaultKind::kUseAfterFree, address, bytes,
            std::to_string(address - a->base) + " bytes into a freed allocation of " + std::to_string(a->size));
  }
  std::string what = write ? "global write" : "global read";
  if (a) {
    what += " beyond the end of an allocation of " + std::to_string(a->size) + " bytes";
  } else {
    // The nearest allocation below, within its red zone, is the likely culprit.
    for (u64 back = 1; back <= 1024 && back <= address; back += 8) {
      if ((a = arena().find(address - back))) {
        what += ", " + std::to_string(address - a->base - a->size) + " bytes after an allocation of " +
                std::to_string(a->size);
        break;
      }
    }
  }
  w.abort(i, lane, FaultKind::kOutOfBounds, address, bytes, what);
}

namespace {

Allocation* checkedAllocation(Warp& w, const Instruction& i, u32 lane, u64 address, u32 bytes, bool write) {
  Allocation* a = tryAllocation(w, address, bytes);
  if (!a) badGlobal(w, i, lane, address, bytes, write);
  if (address & (bytes - 1)) w.abort(i, lane, FaultKind::kMisaligned, address, bytes, "global access");
  return a;
}

void checkShared(Warp& w, const Instruction& i, u32 lane, u64 address, u32 bytes) {
  const u32 size = w.block->shared.size();
  if (address > size || bytes > size - address) {
    w.abort(i, lane, FaultKind::kOutOfBounds, address, bytes, "shared memory of " + std::to_string(size) + " bytes");
  }
  if (address < w.kernel->dynamicSharedOffset && address + bytes > w.kernel->staticShared) {
    w.abort(i, lane, FaultKind::kOutOfBounds, address, bytes,
            "between the " + std::to_string(w.kernel->staticShared) +
                " bytes of static shared memory and the dynamic part");
  }
  if (address & (bytes - 1)) w.abort(i, lane, FaultKind::kMisaligned, address, bytes, "shared access");
}

void reportRace(Warp& w, const Instruction& i, u32 lane, u64 address, u32 bytes, bool write, u32 other) {
  std::string what = write ? "writes" : "reads";
  what += other == w.index ? " what another lane of the warp accessed, without a bar.warp.sync between"
                           : " what warp " + std::to_string(other) + " accessed, without a barrier between";
  w.report(i, lane, FaultKind::kSharedRace, address, bytes, what);
}

void reportInFlight(Warp& w, const Instruction& i, u32 lane, u64 address, u32 bytes, bool write) {
  w.report(
      i, lane, FaultKind::kAsyncCopyNotWaited, address, bytes,
      write ? "writes where an asynchronous copy is in flight" : "reads the target of an asynchronous copy in flight");
}

std::string describe(const Warp& w, const GlobalRaces::Other& other) {
  if (other.sameWarp) return "another lane of the warp";
  const std::string warp = "warp " + std::to_string(other.warp);
  return other.block == w.block->number ? warp : warp + " of block " + std::to_string(other.block);
}

u8 scopeOf(const Instruction& i) { return i.beginsSwap ? 2 : i.strong; }

}  // namespace

void checkGlobalRead(Warp& w, const Instruction& i, u32 lane, Allocation& a, u64 address, u32 bytes) {
  if (a.writtenBy != w.launch->config.id) return;
  GlobalRaces& races = w.launch->races;
  if (i.nonCoherent && races.isWritten(a, address, bytes)) {
    w.report(i, lane, FaultKind::kGlobalRace, address, bytes, "reads by ld.global.nc what this launch writes");
  } else if (const GlobalRaces::Other other = races.read(w, lane, a, address, bytes, scopeOf(i))) {
    w.report(i, lane, FaultKind::kGlobalRace, address, bytes,
             "reads what " + describe(w, other) + " wrote, without order");
  }
}

void reportRacyWrite(Warp& w, const Instruction& i, u32 lane, u64 address, u32 bytes, const RacyWrite& racy) {
  if (racy.lanes) {
    w.report(i, lane, FaultKind::kSharedRace, address, bytes,
             "writes something else than another lane in the same instruction: either may stay");
  } else {
    w.report(
        i, lane, FaultKind::kGlobalRace, address, bytes,
        "writes over what " + describe(w, racy.other) + (racy.other.read ? " read" : " wrote") + ", without order");
  }
}

u8* globalForRead(Warp& w, const Instruction& i, u32 lane, u64 address, u32 bytes) {
  Allocation* a = checkedAllocation(w, i, lane, address, bytes, false);
  if (!a->isInitialised(address, bytes)) {
    w.report(i, lane, FaultKind::kUninitialisedGlobal, address, bytes, "");
  }
  checkGlobalRead(w, i, lane, *a, address, bytes);
  return reinterpret_cast<u8*>(address);
}

u8* globalForWrite(Warp& w, const Instruction& i, u32 lane, u64 address, u32 bytes, RacyWrite& racy, bool reads) {
  Allocation* a = checkedAllocation(w, i, lane, address, bytes, true);
  if (reads && !a->isInitialised(address, bytes)) {
    w.report(i, lane, FaultKind::kUninitialisedGlobal, address, bytes, "");
  }
  a->setInitialised(address, bytes);
  racy.other = w.launch->races.write(w, lane, *a, address, bytes, i.strong);
  return reinterpret_cast<u8*>(address);
}

u8* sharedForRead(Warp& w, const Instruction& i, u32 lane, u64 address, u32 bytes, u32 raceLane) {
  checkShared(w, i, lane, address, bytes);
  SharedMemory& shared = w.block->shared;
  const u32 at = static_cast<u32>(address);
  const ByteState state = shared.stateOf(at, bytes);
  if (state != ByteState::kWritten) {
    if (state == ByteState::kInFlight) {
      reportInFlight(w, i, lane, address, bytes, false);
    } else {
      w.report(i, lane, FaultKind::kUninitialisedShared, address, bytes, "");
    }
  }
  u32 other = 0;
  if (shared.read(w.index, static_cast<u8>(raceLane), at, bytes, scopeOf(i) != 0, other)) {
    reportRace(w, i, lane, address, bytes, false, other);
  }
  return shared.data() + at;
}

u8* sharedForWrite(Warp& w, const Instruction& i, u32 lane, u64 address, u32 bytes, RacyWrite& racy) {
  checkShared(w, i, lane, address, bytes);
  SharedMemory& shared = w.block->shared;
  const u32 at = static_cast<u32>(address);
  if (shared.stateOf(at, bytes) == ByteState::kInFlight) reportInFlight(w, i, lane, address, bytes, true);
  shared.setState(at, bytes, ByteState::kWritten);
  u32 other = 0;
  const u16 serial = static_cast<u16>(w.counters->warpInstructions);
  if (shared.write(w.index, static_cast<u8>(lane), at, bytes, i.strong != 0, serial, other, racy.lanes)) {
    reportRace(w, i, lane, address, bytes, true, other);
  }
  return shared.data() + at;
}

u8* localAt(Warp& w, const Instruction& i, u32 lane, u64 address, u32 bytes) {
  const u32 size = w.kernel->localBytes;
  if (address > size || bytes > size - address) {
    w.abort(i, lane, FaultKind::kOutOfBounds, address, bytes, "local memory of " + std::to_string(size) + " bytes");
  }
  if (address & (bytes - 1)) w.abort(i, lane, FaultKind::kMisaligned, address, bytes, "local access");
  return w.local + u64{lane} * size + address;
}

const u8* parameterAt(Warp& w, const Instruction& i, u32 lane, u64 address, u32 bytes) {
  const u32 size = w.kernel->parameterBytes;
  if (address > size || bytes > size - address) {
    w.abort(i, lane, FaultKind::kOutOfBounds, address, bytes, "parameters of " + std::to_string(size) + " bytes");
  }
  if (address & (bytes - 1)) w.abort(i, lane, FaultKind::kMisaligned, address, bytes, "parameter access");
  return w.launch->config.parameters.data() + address;
}

void countGlobal(Warp& w, const u64* addresses, LaneMask lanes, u32 bytes, bool write) {
  u64 begins[kWarpSize];
  u32 lanesCounted = 0;
  for (LaneMask m = lanes; m; m &= m - 1) begins[lanesCounted++] = addresses[lowestLane(m)];
  if (!std::is_sorted(begins, begins + lanesCounted)) std::sort(begins, begins + lanesCounted);
  // Lanes that share an address fetch its bytes once. An access is aligned, so it lies in one sector.
  u64 sectors[kWarpSize];
  u64 distinctBytes = 0, end = 0;
  u32 count = 0;
  for (u32 k = 0; k < lanesCounted; ++k) {
    const u64 next = begins[k] + bytes;
    if (next > end) distinctBytes += next - std::max(begins[k], end);
    end = std::max(end, next);
    const u64 sector = begins[k] / kSectorBytes;
    if (count == 0 || sectors[count - 1] != sector) sectors[count++] = sector;
  }
  Counters& c = *w.counters;
  (write ? c.globalStoreRequests : c.globalLoadRequests) += 1;
  (write ? c.globalStoreSectors : c.globalLoadSectors) += count;
  (write ? c.globalStoreBytes : c.globalLoadBytes) += distinctBytes;
  if (bytes == 16 && !write) {
    c.wideLoadSectors += count;
    c.wideLoadBytes += distinctBytes;
  }
  for (u32 k = 0; k < count; ++k) {
    Allocation* a = tryAllocation(w, sectors[k] * kSectorBytes, 1);
    if (a) w.launch->noteSectors(*a, (sectors[k] * kSectorBytes - a->base) / kSectorBytes, 1, write);
  }
}

void countShared(Warp& w, const u64* addresses, LaneMask lanes, u32 bytes) {
  ++w.counters->sharedRequests;
  // A request of 8 or 16 bytes per lane is served in halves or quarters of the warp.
  const u32 perPhase = bytes <= 4 ? 32 : bytes == 8 ? 16 : 8;
  const u32 words = std::max(1u, bytes / 4);
  for (u32 first = 0; first < kWarpSize; first += perPhase) {
    const LaneMask phase = lanes & (perPhase == 32 ? kAllLanes : ((1u << perPhase) - 1) << first);
    if (!phase) continue;
    u64 seen[kWarpSize][kWarpSize];  // distinct words per bank
    u8 counts[kWarpSize] = {};
    u32 distinct = 0, most = 0;
    for (LaneMask m = phase; m; m &= m - 1) {
      for (u32 k = 0; k < words; ++k) {
        const u64 word = addresses[lowestLane(m)] / 4 + k;
        const u32 bank = word % kWarpSize;
        u32 at = 0;
        while (at < counts[bank] && seen[bank][at] != word) ++at;
        if (at < counts[bank]) continue;
        seen[bank][counts[bank]++] = word;
        ++distinct;
        most = std::max<u32>(most, counts[bank]);
      }
    }
    w.counters->sharedWavefronts += most;
    w.counters->sharedIdealWavefronts += (distinct + kWarpSize - 1) / kWarpSize;
  }
}

void fence(Warp& w, LaneMask lanes, u8 scope, bool sequential) {
  w.fences.scope = std::max(w.fences.scope, scope);
  const Reach reach = w.block->shared.fence(w.index, lanes, w.all);
  w.fences.any.raise(reach);
  if (scope < 2) return;
  w.fences.device.raise(reach);
  if (!sequential) return;
  w.block->sequentialFences = true;
  w.fences.sequential.raise(reach);
}

void strongRead(Warp& w, const Instruction& i, u64 address, bool global) {
  w.block->shared.acquire(w.index, address);
  if (global && i.strong >= 2) w.launch->races.acquire(w, address);
}

void strongWrite(Warp& w, const Instruction& i, u32 lane, u64 address, bool global) {
  const bool ofDevice = global && i.strong >= 2;
  if (ofDevice && w.block->sequentialFences) w.launch->races.release(w, address, w.fences.sequential);
  if (i.releases) {
    const Reach reach = w.block->shared.fence(w.index, 1u << lane, w.all);
    w.block->shared.release(address, reach);
    if (ofDevice) w.launch->races.release(w, address, reach);
    return;
  }
  if (w.fences.scope == 0) return;
  w.block->shared.release(address, w.fences.any);
  if (ofDevice && w.fences.scope >= 2) w.launch->races.release(w, address, w.fences.device);
}

}  // namespace softgpu
