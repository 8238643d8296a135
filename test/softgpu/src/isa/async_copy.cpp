// cp.async and its groups: PTX ISA 9.7.9.25.3. A copy lands at the latest legal moment (the wait), at once, or
// somewhere between, as SOFTGPU_ORDER says; its target counts as in flight until the thread has waited, whatever the
// order.
#include <algorithm>
#include <cstring>

#include "isa/isa.h"
#include "isa/lanes.h"
#include "memory/access.h"

namespace softgpu::isa {
namespace {

// Writes the bytes; what the source does not fill is zero.
void land(Warp& w, PendingCopy& copy) {
  copy.landed = true;
  for (LaneMask m = copy.lanes; m; m &= m - 1) {
    const u32 l = lowestLane(m);
    u8* to = w.block->shared.data() + copy.to[l];
    const u32 given = copy.sourceBytes[l];
    if (given) {
      // Checked again: the source may have been freed since.
      if (!tryAllocation(w, copy.from[l], given)) badGlobal(w, *copy.instruction, l, copy.from[l], given, false);
      std::memcpy(to, reinterpret_cast<const u8*>(copy.from[l]), given);
    }
    std::memset(to + given, 0, copy.bytes - given);
  }
  ++w.launch->memoryVersion;
}

// The lanes of `copy` for which the thread now knows that it is complete.
void complete(Warp& w, PendingCopy& copy, LaneMask lanes) {
  if (!copy.landed) land(w, copy);
  SharedMemory& shared = w.block->shared;
  const u16 serial = static_cast<u16>(w.counters->warpInstructions);
  for (LaneMask m = copy.lanes & lanes; m; m &= m - 1) {
    const u32 l = lowestLane(m);
    shared.setState(copy.to[l], copy.bytes, ByteState::kWritten);
    // The bytes are the waiting thread's own write from here on. A race was found at the issue already.
    u32 other = 0;
    bool overwrites = false;
    shared.write(w.index, static_cast<u8>(l), copy.to[l], copy.bytes, false, serial, other, overwrites);
  }
  copy.lanes &= ~lanes;
}

// Slots: 0 the target, 1 the source, 2 the number of source bytes or the predicate that ignores the source.
void copyAsync(Warp& w, const Instruction& i, LaneMask lanes) {
  u64 to[kWarpSize], from[kWarpSize];
  addressesOf(w, i.slot[0], static_cast<i32>(i.immediate[1]), i.wideAddress, to);
  addressesOf(w, i.slot[1], i.offset, true, from);
  const u32 bytes = i.immediate[0];
  const bool byPredicate = i.immediate[2] == 2, bySize = i.immediate[2] == 1;
  countShared(w, to, lanes, bytes);
  LaneMask reading = 0;
  PendingCopy copy{};
  copy.instruction = &i;
  copy.bytes = bytes;
  for (LaneMask m = lanes; m; m &= m - 1) {
    const u32 l = lowestLane(m);
    u32 given = bytes;
    if (bySize) given = lanesOf<u32>(w, i.slot[2])[l];
    if (given > bytes) {
      w.abort(i, l, FaultKind::kOutOfBounds, from[l], given,
              "source size of a copy of " + std::to_string(bytes) + " bytes");
    }
    if (byPredicate && ((predicateOf(w, i.slot[2]) ^ i.invert[0]) >> l & 1)) given = 0;
    if (from[l] & (bytes - 1)) w.abort(i, l, FaultKind::kMisaligned, from[l], bytes, "source of cp.async");
    if (given) {
      Allocation* a = tryAllocation(w, from[l], given);
      if (!a) badGlobal(w, i, l, from[l], given, false);
      if (!a->isRangeInitialised(from[l], given)) {
        w.report(i, l, FaultKind::kUninitialisedGlobal, from[l], given, "source of cp.async");
      }
      checkGlobalRead(w, i, l, *a, from[l], given);
      reading |= 1u << l;
    }
    RacyWrite lanes;  // the bytes are not there yet: two copies to one place are a copy in flight twice
    sharedForWrite(w, i, l, to[l], bytes, lanes);
    w.block->shared.setState(static_cast<u32>(to[l]), bytes, ByteState::kInFlight);
    copy.to[l] = static_cast<u32>(to[l]);
    copy.from[l] = from[l];
    copy.sourceBytes[l] = static_cast<u8>(given);
    w.counters->asyncCopyBytes += bytes;
  }
  if (reading) countGlobal(w, from, reading, bytes, false);
  // Lanes that have closed different numbers of groups are different copies.
  while (lanes) {
    copy.group = w.commits[lowestLane(lanes)];
    copy.lanes = 0;
    for (LaneMask m = lanes; m; m &= m - 1) {
      if (w.commits[lowestLane(m)] == copy.group) copy.lanes |= 1u << lowestLane(m);
    }
    lanes &= ~copy.lanes;
    w.pending.push_back(copy);
    const Order order = options().order;
    if (order == Order::kEarliest) land(w, w.pending.back());
    if (order == Order::kRandom) {
      for (PendingCopy& p : w.pending) {
        if (!p.landed && w.launch->random() % 4 == 0) land(w, p);
      }
    }
  }
}

void commit(Warp& w, const Instruction&, LaneMask lanes) {
  for (; lanes; lanes &= lanes - 1) ++w.commits[lowestLane(lanes)];
}

// immediate[0] groups may stay in flight; immediate[1]: wait for everything, closed or not.
void wait(Warp& w, const Instruction& i, LaneMask lanes) {
  for (PendingCopy& copy : w.pending) {
    if (copy.lanes == 0) continue;
    LaneMask done = 0;
    for (LaneMask m = copy.lanes & lanes; m; m &= m - 1) {
      const u32 l = lowestLane(m);
      if (i.immediate[1] || copy.group + i.immediate[0] < w.commits[l]) done |= 1u << l;
    }
    if (done) complete(w, copy, done);
  }
  // Groups complete in order, so that hardly anything is ever done behind what is not.
  while (!w.pending.empty() && w.pending.front().lanes == 0) w.pending.pop_front();
}

void decodeCopy(Decoding& d) {
  Instruction& i = d.out();
  const bool allLevels = d.take("ca"), globalLevel = !allLevels && d.take("cg");
  if (!allLevels && !globalLevel) d.fail("cp.async needs .ca or .cg");
  // With a cache hint the last operand is the policy.
  const size_t operands = d.operandCount() - d.take("L2::cache_hint");
  d.takeCacheHints();
  if (!d.take("shared") && !d.take("shared::cta")) d.fail("cp.async writes to .shared");
  if (!d.take("global")) d.fail("cp.async reads from .global");
  Space space = Space::kShared;
  d.address(0, 0, space);
  const bool wide = i.wideAddress;
  i.immediate[1] = static_cast<u32>(i.offset);
  d.address(1, 1, space);
  if (!i.wideAddress) d.fail("cp.async from a 32-bit address");
  i.wideAddress = wide;
  i.immediate[0] = static_cast<u32>(d.immediate(2));
  if (i.immediate[0] != 4 && i.immediate[0] != 8 && i.immediate[0] != 16)
    d.fail("cp.async of a size other than 4, 8, 16");
  if (globalLevel && i.immediate[0] != 16) d.fail("cp.async.cg of a size other than 16");
  d.noteSharedAccess(i.immediate[0]);
  if (operands > 3) {
    if (d.isPredicate(d.operand(3))) {
      i.immediate[2] = 2;
      d.readPredicate(2, 0, d.operand(3));
    } else {
      i.immediate[2] = 1;
      d.read(2, 3, Type::kU32);
    }
  }
  execute(d, copyAsync);
}

}  // namespace

bool decodeAsyncCopy(Decoding& d) {
  if (d.opcode() != "cp") return false;
  if (!d.take("async")) d.fail("cp without .async");
  if (d.take("commit_group")) {
    execute(d, commit);
  } else if (d.take("wait_group")) {
    d.out().immediate[0] = static_cast<u32>(d.immediate(0));
    execute(d, wait);
  } else if (d.take("wait_all")) {
    d.out().immediate[1] = 1;
    execute(d, wait);
  } else {
    decodeCopy(d);
  }
  return true;
}

}  // namespace softgpu::isa
