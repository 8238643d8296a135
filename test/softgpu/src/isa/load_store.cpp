// ld, st, ldu, prefetch and discard: PTX ISA 9.7.9.8 to 9.7.9.18. Cache operators have no effect on results.
#include <algorithm>
#include <cstring>

#include "isa/isa.h"
#include "isa/lanes.h"
#include "memory/access.h"

namespace softgpu::isa {
namespace {

// From memory of kMemory bytes to a register lane of kRegister bytes, extended by sign or zero.
template <u32 kMemory, u32 kRegister, bool kSigned>
void toRegister(u8* to, const u8* from) {
  if constexpr (kMemory >= kRegister) {
    std::memcpy(to, from, kRegister);
  } else {
    u64 value = 0;
    std::memcpy(&value, from, kMemory);
    if constexpr (kSigned)
      value = static_cast<u64>(static_cast<i64>(value << (64 - kMemory * 8)) >> (64 - kMemory * 8));
    std::memcpy(to, &value, kRegister);
  }
}

// Lane addresses that follow each other without gaps.
bool isContiguous(const u64* addresses, u32 bytes) {
  u64 wrong = 0;
  for (u32 l = 0; l < kWarpSize; ++l) wrong |= addresses[l] ^ (addresses[0] + u64{l} * bytes);
  return wrong == 0 && (addresses[0] & (bytes - 1)) == 0;
}

// A full warp that accesses one piece of one allocation: checked, counted and copied at once.
u8* wholeWarp(Warp& w, const Instruction& i, const u64* addresses, u32 bytes, bool write) {
  const u64 total = u64{bytes} * kWarpSize;
  Allocation* a = tryAllocation(w, addresses[0], total);
  if (!a || i.strong || (i.nonCoherent && a->writtenBy == w.launch->config.id)) return nullptr;
  if (write) {
    if (!w.launch->races.writeAll(w, *a, addresses[0], bytes, 0)) return nullptr;
    a->setRangeInitialised(addresses[0], total);
  } else if (!a->isRangeInitialised(addresses[0], total) || !w.launch->races.readAll(w, *a, addresses[0], bytes)) {
    return nullptr;
  }
  const u64 first = (addresses[0] - a->base) / kSectorBytes;
  const u64 sectors = (addresses[0] - a->base + total - 1) / kSectorBytes - first + 1;
  Counters& c = *w.counters;
  (write ? c.globalStoreRequests : c.globalLoadRequests) += 1;
  (write ? c.globalStoreSectors : c.globalLoadSectors) += sectors;
  (write ? c.globalStoreBytes : c.globalLoadBytes) += total;
  w.launch->noteSectors(*a, first, sectors, write);
  return reinterpret_cast<u8*>(addresses[0]);
}

// Slots: 0…3 the elements, 4 the address.

template <u32 kMemory, u32 kRegister, bool kSigned>
struct Load {
  static void run(Warp& w, const Instruction& i, LaneMask lanes) {
    u64 addresses[kWarpSize];
    addressesOf(w, i.slot[kLoadAddressSlot], i.offset, i.wideAddress, addresses);
    if (i.space != Space::kGeneric) return inSpace(w, i, lanes, addresses, i.space);
    while (lanes) {
      Space space;
      LaneMask same = takeSpace(addresses, lanes, space);
      inSpace(w, i, same, addresses, space);
    }
  }

  static void inSpace(Warp& w, const Instruction& i, LaneMask lanes, const u64* addresses, Space space) {
    const u32 elements = i.elements, bytes = kMemory * elements;
    const bool global = space == Space::kGlobal || space == Space::kConst;
    if (global) {
      if constexpr (kMemory == kRegister) {
        if (elements == 1 && lanes == kAllLanes && isContiguous(addresses, kMemory)) {
          if (const u8* from = wholeWarp(w, i, addresses, kMemory, false)) {
            std::memcpy(w.registers + i.slot[0], from, kMemory * kWarpSize);
            return;
          }
        }
      }
    } else if (space == Space::kShared) {
      countShared(w, addresses, lanes, bytes);
    }
    for (LaneMask m = lanes; m; m &= m - 1) {
      const u32 l = lowestLane(m);
      const u8* from = at(w, i, l, addresses[l], bytes, space);
      if (i.strong) strongRead(w, i, addresses[l], global);
      for (u32 k = 0; k < elements; ++k) {
        toRegister<kMemory, kRegister, kSigned>(w.registers + i.slot[k] + l * kRegister, from + k * kMemory);
      }
    }
    // After the checks, so that only allocations that exist are looked up.
    if (global) countGlobal(w, addresses, lanes, bytes, false);
  }

  static const u8* at(Warp& w, const Instruction& i, u32 lane, u64 address, u32 bytes, Space space) {
    switch (space) {
      case Space::kShared:
        return sharedForRead(w, i, lane, address, bytes, lane);
      case Space::kLocal:
        return localAt(w, i, lane, address, bytes);
      case Space::kParam:
        return parameterAt(w, i, lane, address, bytes);
      default:
        return globalForRead(w, i, lane, address, bytes);
    }
  }
};

template <u32 kMemory, u32 kRegister, bool>
struct Store {
  static void run(Warp& w, const Instruction& i, LaneMask lanes) {
    u64 addresses[kWarpSize];
    addressesOf(w, i.slot[kLoadAddressSlot], i.offset, i.wideAddress, addresses);
    ++w.launch->memoryVersion;
    if (i.space != Space::kGeneric) return inSpace(w, i, lanes, addresses, i.space);
    while (lanes) {
      Space space;
      LaneMask same = takeSpace(addresses, lanes, space);
      inSpace(w, i, same, addresses, space);
    }
  }

  static void inSpace(Warp& w, const Instruction& i, LaneMask lanes, const u64* addresses, Space space) {
    const u32 elements = i.elements, bytes = kMemory * elements;
    if (space == Space::kGlobal) {
      if constexpr (kMemory == kRegister) {
        if (elements == 1 && lanes == kAllLanes && isContiguous(addresses, kMemory)) {
          if (u8* to = wholeWarp(w, i, addresses, kMemory, true)) {
            std::memcpy(to, w.registers + i.slot[0], kMemory * kWarpSize);
            return;
          }
        }
      }
    } else if (space == Space::kShared) {
      countShared(w, addresses, lanes, bytes);
    } else if (space != Space::kLocal) {
      w.abort(i, lowestLane(lanes), FaultKind::kOutOfBounds, addresses[lowestLane(lanes)], bytes, "read-only memory");
    }
    for (LaneMask m = lanes; m; m &= m - 1) {
      const u32 l = lowestLane(m);
      RacyWrite racy;
      u8* to = space == Space::kShared  ? sharedForWrite(w, i, l, addresses[l], bytes, racy)
               : space == Space::kLocal ? localAt(w, i, l, addresses[l], bytes)
                                        : globalForWrite(w, i, l, addresses[l], bytes, racy);
      bool changes = false;
      for (u32 k = 0; k < elements; ++k) {
        const u8* from = w.registers + i.slot[k] + l * kRegister;
        if (racy) changes |= std::memcmp(to + k * kMemory, from, std::min(kMemory, kRegister)) != 0;
        std::memcpy(to + k * kMemory, from, std::min(kMemory, kRegister));
      }
      if (changes) reportRacyWrite(w, i, l, addresses[l], bytes, racy);
    }
    if (i.strong) {
      for (LaneMask m = lanes; m; m &= m - 1) {
        strongWrite(w, i, lowestLane(m), addresses[lowestLane(m)], space == Space::kGlobal);
      }
    }
    if (space == Space::kGlobal) countGlobal(w, addresses, lanes, bytes, true);
  }
};

template <template <u32, u32, bool> class Form, u32 kMemory, bool kSigned>
Execute forRegister(u32 bytes) {
  switch (bytes) {
    case 2:
      return Form<kMemory, 2, kSigned>::run;
    case 4:
      return Form<kMemory, 4, kSigned>::run;
    case 8:
      return Form<kMemory, 8, kSigned>::run;
    default:
      return nullptr;
  }
}
template <template <u32, u32, bool> class Form>
Execute forMemory(u32 memory, u32 registers, bool isSigned) {
  switch (memory) {
    case 1:
      return isSigned ? forRegister<Form, 1, true>(registers) : forRegister<Form, 1, false>(registers);
    case 2:
      return isSigned ? forRegister<Form, 2, true>(registers) : forRegister<Form, 2, false>(registers);
    case 4:
      return isSigned ? forRegister<Form, 4, true>(registers) : forRegister<Form, 4, false>(registers);
    case 8:
      return forRegister<Form, 8, false>(registers);
    case 16:
      return registers == 16 ? Form<16, 16, false>::run : nullptr;
    default:
      return nullptr;
  }
}

void decodeAccess(Decoding& d, bool store) {
  Instruction& i = d.out();
  i.nonCoherent = d.take("nc");
  d.takeCacheHints();
  const Space space = takeSpaceModifier(d);
  const int ordering = d.takeOneOf({"volatile", "relaxed", "acquire", "release", "weak"});
  // Memory of the device has no side effects: mmio.relaxed is relaxed.
  if (ordering == 1) d.take("mmio");
  const int scope = d.takeOneOf({"cta", "cluster", "gpu", "sys"});
  i.strong = ordering < 0 || ordering == 4 ? 0 : scope == 0 ? 1 : 2;
  i.releases = ordering == 3;
  i.loads = !store;
  const int vector = d.takeOneOf({"v2", "v4"});
  i.elements = vector < 0 ? 1 : vector == 0 ? 2 : 4;
  const Type type = d.takeType();
  d.finish();
  const u32 bytes = ptx::bytesOf(type);
  const ptx::Operand& data = d.operand(store ? 1 : 0);
  i.space = space;
  d.address(kLoadAddressSlot, store ? 0 : 1, i.space);
  // The thread's own memory is a copy too: structures are stored there with their padding.
  i.copies = store && i.space == Space::kLocal;
  if (vector >= 0 && data.elements.size() != i.elements) d.fail("vector of the wrong size");
  u32 registerBytes = std::max(2u, bytes);
  for (u32 k = 0; k < i.elements; ++k) {
    const ptx::Operand& element = vector < 0 ? data : data.elements[k];
    registerBytes = d.registerBytes(element, registerBytes);
  }
  for (u32 k = 0; k < i.elements; ++k) {
    const ptx::Operand& element = vector < 0 ? data : data.elements[k];
    if (!store) {
      d.write(k, element, registerBytes);
    } else if (element.kind == ptx::Operand::Kind::kNumber) {
      d.constant(k, d.immediateBits(element, type), registerBytes);
    } else {
      d.read(k, element, type);
    }
  }
  if (i.space == Space::kShared || i.space == Space::kGeneric) d.noteSharedAccess(bytes * i.elements);
  if (store && (i.space == Space::kGlobal || i.space == Space::kGeneric)) d.noteGlobalWrite(bytes * i.elements);
  execute(d, store ? forMemory<Store>(bytes, registerBytes, false)
                   : forMemory<Load>(bytes, registerBytes, ptx::isSigned(type)));
}

// A weak write of indeterminate values: what is read before the next write was never written: 9.7.9.17.
constexpr u32 kDiscardBytes = 128;
void discard(Warp& w, const Instruction& i, LaneMask lanes) {
  u64 addresses[kWarpSize];
  addressesOf(w, i.slot[kLoadAddressSlot], i.offset, i.wideAddress, addresses);
  for (LaneMask m = lanes; m; m &= m - 1) {
    const u32 l = lowestLane(m);
    Allocation* a = tryAllocation(w, addresses[l], kDiscardBytes);
    if (!a) badGlobal(w, i, l, addresses[l], kDiscardBytes, true);
    if (addresses[l] % kDiscardBytes) w.abort(i, l, FaultKind::kMisaligned, addresses[l], kDiscardBytes, "discard");
    a->clearRangeInitialised(addresses[l], kDiscardBytes);
  }
  ++w.launch->memoryVersion;
}

}  // namespace

Space takeSpaceModifier(Decoding& d) {
  if (d.take("param") || d.take("param::entry") || d.take("param::func")) return Space::kParam;
  switch (d.takeOneOf({"global", "shared", "shared::cta", "local", "const"})) {
    case 0:
      return Space::kGlobal;
    case 1:
    case 2:
      return Space::kShared;
    case 3:
      return Space::kLocal;
    case 4:
      return Space::kConst;
    default:
      return Space::kGeneric;
  }
}

bool decodeLoadStore(Decoding& d) {
  const std::string_view op = d.opcode();
  if (op == "ld" || op == "ldu") {
    decodeAccess(d, false);
  } else if (op == "st") {
    decodeAccess(d, true);
  } else if (op == "prefetch" || op == "prefetchu" || op == "applypriority") {
    // Hints to the caches: nothing to see.
    d.takeCacheHints();
    d.takeOneOf({"L1", "L2"});
    takeSpaceModifier(d);
    execute(d, [](Warp&, const Instruction&, LaneMask) {});
  } else if (op == "discard") {
    d.out().space = takeSpaceModifier(d);
    if (!d.take("L2") || d.immediate(1) != kDiscardBytes) d.fail("discard needs .L2 and a size of 128");
    d.address(kLoadAddressSlot, 0, d.out().space);
    execute(d, discard);
  } else if (op == "createpolicy") {
    // A policy is opaque, and steers caches only.
    d.takeCacheHints();
    if (d.takeOneOf({"fractional", "range"}) < 0 && !(d.take("cvt") && d.take("L2"))) d.fail("unknown createpolicy");
    takeSpaceModifier(d);
    d.takeType();
    d.write(0, 0, 8);
    execute(d, [](Warp& w, const Instruction& i, LaneMask lanes) {
      forLanes(lanes, [&](u32 l) { lanesOf<u64>(w, i.slot[0])[l] = 0; });
    });
  } else {
    return false;
  }
  return true;
}

}  // namespace softgpu::isa
