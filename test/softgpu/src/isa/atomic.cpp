// atom, red and fences: PTX ISA 9.7.13.4 to 9.7.13.6. Lanes take effect in lane order; on a GPU the order is
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

// Each form: how an element is stored, and the new value, of memory in the given space.
template <class T>
struct Integer {
  using Stored = T;
  static T result(Operation op, Space, T old, T b, T c) { return integerResult(op, old, b, c); }
};
struct DoubleAdd {
  using Stored = double;
  static double result(Operation, Space, double old, double b, double) { return old + b; }
};
// In global memory subnormals are flushed, in shared memory they are not: 9.7.13.5.
struct FloatAdd {
  using Stored = float;
  static float result(Operation, Space space, float old, float b, float) {
    if (space == Space::kShared) return old + b;
    return flushSubnormal(flushSubnormal(old) + flushSubnormal(b));
  }
};
struct Word128 {
  using Stored = u128;
  static u128 result(Operation op, Space, u128 old, u128 b, u128 c) {
    return op == Operation::kExchange ? b : old == b ? c : old;
  }
};
template <u16 (*kStore)(double, Rounding), float (*kLoad)(u16)>
struct Narrow {
  using Stored = u16;
  static u16 result(Operation op, Space, u16 old, u16 b, u16) {
    const float x = kLoad(old), y = kLoad(b);
    return kStore(op == Operation::kMin   ? minimum(x, y, false)
                  : op == Operation::kMax ? maximum(x, y, false)
                                          : addToOdd(x, y),
                  Rounding::kNearestEven);
  }
};
using Half = Narrow<doubleToHalf, halfToFloat>;
using Bf16 = Narrow<doubleToBf16, bf16ToFloat>;
template <class One>
struct Pair {
  using Stored = u32;
  static u32 result(Operation op, Space space, u32 old, u32 b, u32) {
    u32 low = One::result(op, space, static_cast<u16>(old), static_cast<u16>(b), 0);
    u32 high = One::result(op, space, static_cast<u16>(old >> 16), static_cast<u16>(b >> 16), 0);
    return high << 16 | low;
  }
};

// Slots: 0 the old value, 1 the address, 2 and 3 the operands. immediate[0] is the operation.
template <class Form>
void atomic(Warp& w, const Instruction& i, LaneMask lanes) {
  using T = typename Form::Stored;
  u64 addresses[kWarpSize];
  addressesOf(w, i.slot[kAtomicAddressSlot], i.offset, i.wideAddress, addresses);
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
        strongWrite(w, i, l, addresses[l], false);
        strongRead(w, i, addresses[l], false);
        RacyWrite lanes;  // atomics of several lanes never race
        at = sharedForWrite(w, i, l, addresses[l], sizeof(T), lanes);
      } else if (space == Space::kGlobal) {
        RacyWrite racy;
        at = globalForWrite(w, i, l, addresses[l], sizeof(T), racy, /*reads=*/true);
        if (racy) reportRacyWrite(w, i, l, addresses[l], sizeof(T), racy);
        strongWrite(w, i, l, addresses[l], true);
        strongRead(w, i, addresses[l], true);
      } else {
        w.abort(i, l, FaultKind::kOutOfBounds, addresses[l], sizeof(T), "atomic on local or parameter memory");
      }
      T old;
      std::memcpy(&old, at, sizeof(T));
      const T result = Form::result(op, space, old, lanesOf<T>(w, i.slot[2])[l], lanesOf<T>(w, i.slot[3])[l]);
      // A failed compare-and-swap is no change: a loop around it must be seen to spin.
      if (std::memcmp(&result, &old, sizeof(T)) != 0) ++w.launch->memoryVersion;
      std::memcpy(at, &result, sizeof(T));
      lanesOf<T>(w, i.slot[0])[l] = old;
    }
    if (space == Space::kGlobal) countGlobal(w, addresses, same, sizeof(T), true);
  }
}

// Adjacent elements in global memory, each of them atomic. Slots: the old values, the address, the operands.
template <class Form>
void atomicVector(Warp& w, const Instruction& i, LaneMask lanes) {
  using T = typename Form::Stored;
  const u32 count = i.elements, bytes = count * sizeof(T);
  const Operation op = static_cast<Operation>(i.immediate[0]);
  u64 addresses[kWarpSize];
  addressesOf(w, i.slot[count], i.offset, i.wideAddress, addresses);
  w.counters->atomics += laneCount(lanes) * count;
  ++w.launch->memoryVersion;
  for (LaneMask m = lanes; m; m &= m - 1) {
    const u32 l = lowestLane(m);
    RacyWrite racy;
    u8* at = globalForWrite(w, i, l, addresses[l], bytes, racy, /*reads=*/true);
    if (racy) reportRacyWrite(w, i, l, addresses[l], bytes, racy);
    strongWrite(w, i, l, addresses[l], true);
    strongRead(w, i, addresses[l], true);
    for (u32 k = 0; k < count; ++k) {
      T old;
      std::memcpy(&old, at + k * sizeof(T), sizeof(T));
      const T result = Form::result(op, Space::kGlobal, old, lanesOf<T>(w, i.slot[count + 1 + k])[l], T{});
      std::memcpy(at + k * sizeof(T), &result, sizeof(T));
      lanesOf<T>(w, i.slot[k])[l] = old;
    }
  }
  countGlobal(w, addresses, lanes, bytes, true);
}

template <class Form>
Execute scalarOrVector(u32 elements) {
  return elements == 1 ? atomic<Form> : atomicVector<Form>;
}

Execute formOf(Operation op, Type type, u32 elements) {
  const bool sum = op == Operation::kAdd, extremum = op == Operation::kMin || op == Operation::kMax;
  // Minima and maxima of 16-bit numbers come as vectors only, and vectors of 32 bytes do not exist.
  if (elements * ptx::bytesOf(type) > 16) return nullptr;
  const bool narrow = sum || (extremum && elements > 1);
  const bool swap = op == Operation::kExchange || op == Operation::kCompareAndSwap;
  switch (type) {
    case Type::kF32:
      return sum ? scalarOrVector<FloatAdd>(elements) : nullptr;
    case Type::kF64:
      return sum && elements == 1 ? atomic<DoubleAdd> : nullptr;
    case Type::kF16:
      return narrow ? scalarOrVector<Half>(elements) : nullptr;
    case Type::kBf16:
      return narrow ? scalarOrVector<Bf16>(elements) : nullptr;
    case Type::kF16x2:
      return narrow ? scalarOrVector<Pair<Half>>(elements) : nullptr;
    case Type::kBf16x2:
      return narrow ? scalarOrVector<Pair<Bf16>>(elements) : nullptr;
    case Type::kB128:
      return swap && elements == 1 ? atomic<Word128> : nullptr;
    default:
      return ptx::forInteger<Execute>(type, [&]<class T>(T) -> Execute {
        if constexpr (sizeof(T) == 1) {
          return nullptr;
        } else {
          const bool allowed = sizeof(T) > 2 || op == Operation::kCompareAndSwap;
          return elements == 1 && allowed ? atomic<Integer<T>> : nullptr;
        }
      });
  }
}

void decodeAtom(Decoding& d) {
  const bool returns = d.opcode() == "atom";
  Instruction& i = d.out();
  d.takeCacheHints();
  i.space = takeSpaceModifier(d);
  const int ordering = d.takeOneOf({"relaxed", "acquire", "release", "acq_rel"});
  const int scope = d.takeOneOf({"cta", "cluster", "gpu", "sys"});
  const int op = d.takeOneOf({"add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec"});
  if (op < 0) d.fail("atomic without an operation");
  const int vector = d.takeOneOf({"v2", "v4", "v8"});
  const u32 elements = vector < 0 ? 1 : 2u << vector;
  const Type type = d.takeType();
  const u32 bytes = ptx::bytesOf(type);
  const bool narrow = type == Type::kF16 || type == Type::kBf16 || type == Type::kF16x2 || type == Type::kBf16x2;
  if (narrow && !d.take("noftz")) d.fail("atomics of 16-bit numbers need .noftz");
  i.elements = static_cast<u8>(elements);
  auto elementOf = [&](const ptx::Operand& o, u32 k) -> const ptx::Operand& {
    if (vector >= 0 && o.elements.size() != elements) d.fail("vector of the wrong size");
    return vector < 0 ? o : o.elements[k];
  };
  for (u32 k = 0; k < elements; ++k) {
    if (returns) {
      d.write(k, elementOf(d.operand(0), k), bytes);
    } else {
      d.sink(k, bytes);
    }
  }
  if (vector >= 0) {
    if (i.space == Space::kShared) d.fail("vector atomics on shared memory");
    i.space = Space::kGlobal;
  }
  const size_t address = returns;
  d.address(elements, address, i.space);
  for (u32 k = 0; k < elements; ++k) d.read(elements + 1 + k, elementOf(d.operand(address + 1), k), type);
  if (static_cast<Operation>(op) == Operation::kCompareAndSwap) {
    d.read(3, address + 2, type);
  } else if (vector < 0) {
    i.slot[3] = i.slot[2];
  }
  i.strong = scope == 0 ? 1 : 2;
  i.releases = ordering >= 2;
  i.swaps = static_cast<Operation>(op) == Operation::kCompareAndSwap;
  i.immediate[0] = static_cast<u32>(op);
  if (i.space != Space::kGlobal) d.noteSharedAccess(bytes);
  if (i.space != Space::kShared) d.noteGlobalWrite(bytes * elements);
  execute(d, formOf(static_cast<Operation>(op), type, elements));
}

// Fences order nothing more here, where memory is sequentially consistent; they only make releases of later writes.
void decodeFence(Decoding& d) {
  const int semantics = d.takeOneOf({"sc", "acq_rel", "acquire", "release"});
  const int scope = d.takeOneOf({"cta", "gl", "sys", "gpu", "cluster"});
  if (scope < 0) d.fail("'" + std::string(d.opcode()) + "' without a scope");
  d.out().strong = scope == 0 ? 1 : 2;
  // membar is fence.sc: 9.7.13.5.
  d.out().immediate[0] = semantics == 0 || d.opcode() == "membar";
  execute(d, [](Warp& w, const Instruction& i, LaneMask lanes) { fence(w, lanes, i.strong, i.immediate[0]); });
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
