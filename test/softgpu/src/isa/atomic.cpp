// atom, red and fences: PTX ISA 9.7.13.3 to 9.7.13.7. Lanes take effect in lane order; on a GPU the order is
// unspecified.
#include <bit>
#include <cstring>

#include "isa/isa.h"
#include "isa/lanes.h"
#include "isa/numbers.h"
#include "memory/access.h"

namespace softgpu::isa {
namespace {

enum class Operation : u8 { kAdd, kMin, kMax, kAnd, kOr, kXor, kExchange, kCompareAndSwap, kIncrement, kDecrement };

template <class T>
T integerResult(Operation op, T old, T b, T c) {
  switch (op) {
    case Operation::kAdd:
      return static_cast<T>(static_cast<u64>(old) + static_cast<u64>(b));
    case Operation::kMin:
      return b < old ? b : old;
    case Operation::kMax:
      return b > old ? b : old;
    case Operation::kAnd:
      return static_cast<T>(old & b);
    case Operation::kOr:
      return static_cast<T>(old | b);
    case Operation::kXor:
      return static_cast<T>(old ^ b);
    case Operation::kExchange:
      return b;
    case Operation::kCompareAndSwap:
      return old == b ? c : old;
    case Operation::kIncrement:
      return old >= b ? T{0} : static_cast<T>(old + 1);
    case Operation::kDecrement:
      return old == 0 || old > b ? b : static_cast<T>(old - 1);
  }
  return old;
}

template <class T>
struct Integer {
  using Stored = T;
  static T result(Operation op, T old, T b, T c) { return integerResult(op, old, b, c); }
};
template <class T>
struct Floating {
  using Stored = T;
  static T result(Operation, T old, T b, T) { return old + b; }
};
template <u16 (*kStore)(double, Rounding), float (*kLoad)(u16)>
struct Narrow {
  using Stored = u16;
  static u16 result(Operation, u16 old, u16 b, u16) {
    return kStore(addToOdd(kLoad(old), kLoad(b)), Rounding::kNearestEven);
  }
};
using HalfAdd = Narrow<doubleToHalf, halfToFloat>;
using Bf16Add = Narrow<doubleToBf16, bf16ToFloat>;
template <class One>
struct Pair {
  using Stored = u32;
  static u32 result(Operation op, u32 old, u32 b, u32) {
    u32 low = One::result(op, static_cast<u16>(old), static_cast<u16>(b), 0);
    u32 high = One::result(op, static_cast<u16>(old >> 16), static_cast<u16>(b >> 16), 0);
    return high << 16 | low;
  }
};

// Slots: 0 the old value, 1 the address, 2 and 3 the operands. immediate[0] is the operation.
template <class Form>
void atomic(Warp& w, const Instruction& i, LaneMask lanes) {
  using T = typename Form::Stored;
  u64 addresses[kWarpSize];
  addressesOf(w, i.slot[1], i.offset, i.wideAddress, addresses);
  const Operation op = static_cast<Operation>(i.immediate[0]);
  w.counters->atomics += laneCount(lanes);
  while (lanes) {
    Space space = i.space;
    LaneMask same = lanes;
    if (space == Space::kGeneric) {
      same = takeSpace(addresses, lanes, space);
    } else {
      lanes = 0;
    }
    if (space == Space::kShared) countShared(w, addresses, same, sizeof(T));
    for (LaneMask m = same; m; m &= m - 1) {
      const u32 l = lowestLane(m);
      u8* at;
      if (space == Space::kShared) {
        sharedForRead(w, i, l, addresses[l], sizeof(T), l);
        strongWrite(w, i, addresses[l], false);
        strongRead(w, i, addresses[l], false);
        RacyWrite lanes;  // atomics of several lanes never race
        at = sharedForWrite(w, i, l, addresses[l], sizeof(T), lanes);
      } else if (space == Space::kGlobal) {
        RacyWrite racy;
        at = globalForWrite(w, i, l, addresses[l], sizeof(T), racy, /*reads=*/true);
        if (racy) reportRacyWrite(w, i, l, addresses[l], sizeof(T), racy);
        strongWrite(w, i, addresses[l], true);
        strongRead(w, i, addresses[l], true);
      } else {
        w.abort(i, l, FaultKind::kOutOfBounds, addresses[l], sizeof(T), "atomic on local or parameter memory");
      }
      T old;
      std::memcpy(&old, at, sizeof(T));
      const T result = Form::result(op, old, lanesOf<T>(w, i.slot[2])[l], lanesOf<T>(w, i.slot[3])[l]);
      // A failed compare-and-swap is no change: a loop around it must be seen to spin.
      if (std::memcmp(&result, &old, sizeof(T)) != 0) ++w.launch->memoryVersion;
      std::memcpy(at, &result, sizeof(T));
      lanesOf<T>(w, i.slot[0])[l] = old;
    }
    if (space == Space::kGlobal) countGlobal(w, addresses, same, sizeof(T), true);
  }
}

Execute formOf(Operation op, Type type) {
  if (op == Operation::kAdd) {
    switch (type) {
      case Type::kF32:
        return atomic<Floating<float>>;
      case Type::kF64:
        return atomic<Floating<double>>;
      case Type::kF16:
        return atomic<HalfAdd>;
      case Type::kBf16:
        return atomic<Bf16Add>;
      case Type::kF16x2:
        return atomic<Pair<HalfAdd>>;
      case Type::kBf16x2:
        return atomic<Pair<Bf16Add>>;
      default:
        break;
    }
  }
  return ptx::forInteger<Execute>(type, []<class T>(T) -> Execute {
    if constexpr (sizeof(T) == 1) {
      return nullptr;
    } else {
      return atomic<Integer<T>>;
    }
  });
}

void decodeAtom(Decoding& d) {
  const bool returns = d.opcode() == "atom";
  Instruction& i = d.out();
  d.takeCacheHints();
  i.space = takeSpaceModifier(d);
  const int ordering = d.takeOneOf({"relaxed", "acquire", "release", "acq_rel"});
  const int scope = d.takeOneOf({"cta", "cluster", "gpu", "sys"});
  d.take("noftz");
  const int op = d.takeOneOf({"add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec"});
  if (op < 0) d.fail("atomic without an operation");
  const Type type = d.takeType();
  const u32 bytes = ptx::bytesOf(type);
  u32 next = 0;
  if (returns) {
    d.write(0, next++, bytes);
  } else {
    d.sink(0, bytes);
  }
  d.address(1, next++, i.space);
  d.read(2, next++, type);
  if (static_cast<Operation>(op) == Operation::kCompareAndSwap) {
    d.read(3, next, type);
  } else {
    i.slot[3] = i.slot[2];
  }
  i.strong = scope == 0 ? 1 : 2;
  i.releases = ordering >= 2;
  i.immediate[0] = static_cast<u32>(op);
  if (i.space != Space::kGlobal) d.noteSharedAccess(bytes);
  if (i.space != Space::kShared) d.noteGlobalWrite(bytes);
  execute(d, formOf(static_cast<Operation>(op), type));
}

// Fences order nothing more here, where memory is sequentially consistent; they only make releases of later writes.
void decodeFence(Decoding& d) {
  d.takeOneOf({"sc", "acq_rel", "acquire", "release"});
  d.out().strong = d.takeOneOf({"cta", "gl", "sys", "gpu", "cluster"}) == 0 ? 1 : 2;
  execute(d, [](Warp& w, const Instruction& i, LaneMask) { fence(w, i.strong); });
}

}  // namespace

bool decodeAtomic(Decoding& d) {
  const std::string_view op = d.opcode();
  if (op == "atom" || op == "red") {
    decodeAtom(d);
  } else if (op == "membar" || op == "fence") {
    decodeFence(d);
  } else {
    return false;
  }
  return true;
}

}  // namespace softgpu::isa
