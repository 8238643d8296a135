// wmma.load, wmma.store and wmma.mma: PTX ISA 9.7.14.4. Where an element lies in a fragment is unspecified; here
// elements follow each other through the registers of one lane after the other, in the order of the layout, and again
// from the start when there is more room than elements. No GPU does so: code that relies on an order fails.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "isa/isa.h"
#include "isa/lanes.h"
#include "isa/numbers.h"
#include "memory/access.h"

namespace softgpu::isa {
namespace {

struct Shape {
  std::string_view name;
  u32 m, n, k;
};
constexpr Shape kShapes[] = {{"m16n16k16", 16, 16, 16},
                             {"m8n32k16", 8, 32, 16},
                             {"m32n8k16", 32, 8, 16},
                             {"m16n16k8", 16, 16, 8},
                             {"m8n8k4", 8, 8, 4}};
constexpr u32 kMostCells = 32 * 16;

enum class Role : u32 { kA, kB, kAccumulator };

// The part of one matrix that the lanes of a warp hold.
struct Fragment {
  Type type;
  u32 rows, columns;
  bool byColumn;  // which way elements follow each other
  u32 elementBytes, perRegister, registers;

  Fragment(Role role, const Shape& shape, Type elementType, bool columns_) : type(elementType), byColumn(columns_) {
    rows = role == Role::kB ? shape.k : shape.m;
    columns = role == Role::kA ? shape.k : shape.n;
    elementBytes = ptx::bytesOf(type);
    perRegister = elementBytes < 4 ? 4 / elementBytes : 1;
    registers = type == Type::kF16 && role != Role::kAccumulator ? 8 : rows * columns / kWarpSize / perRegister;
  }
  u32 registerBytes() const { return elementBytes * perRegister; }
  u32 bytes() const { return registers * registerBytes(); }
  u32 elements() const { return registers * perRegister; }
  // Row and column of a lane's element.
  void locate(u32 lane, u32 element, u32& row, u32& column) const {
    const u32 index = (lane * elements() + element) % (rows * columns);
    row = byColumn ? index % rows : index / columns;
    column = byColumn ? index / rows : index % columns;
  }
  u8* at(Warp& w, const u32* slots, u32 lane, u32 element) const {
    return w.registers + slots[element / perRegister] + lane * registerBytes() + element % perRegister * elementBytes;
  }
};

double valueOf(Type type, const u8* at) {
  u64 bits = 0;
  std::memcpy(&bits, at, ptx::bytesOf(type));
  switch (type) {
    case Type::kF16:
      return halfToFloat(static_cast<u16>(bits));
    case Type::kBf16:
      return bf16ToFloat(static_cast<u16>(bits));
    case Type::kTf32:
      return std::bit_cast<float>(static_cast<u32>(bits) & 0xffffe000);
    case Type::kF32:
      return std::bit_cast<float>(static_cast<u32>(bits));
    case Type::kF64:
      return std::bit_cast<double>(bits);
    case Type::kS8:
      return static_cast<i8>(bits);
    case Type::kU8:
      return static_cast<double>(bits);
    default:
      return static_cast<i32>(bits);
  }
}

void putResult(Type type, double x, bool saturates, u8* at) {
  if (type == Type::kF64) {
    std::memcpy(at, &x, sizeof x);
  } else if (type == Type::kF16) {
    const u16 bits = doubleToHalf(x);
    std::memcpy(at, &bits, sizeof bits);
  } else if (type == Type::kF32) {
    const float bits = truncateToFloat(x);
    std::memcpy(at, &bits, sizeof bits);
  } else {
    const double sum = saturates ? std::min(std::max(x, -0x1p31), 0x1p31 - 1) : x;
    const u32 bits = static_cast<u32>(static_cast<i64>(sum));
    std::memcpy(at, &bits, sizeof bits);
  }
}

// ---- wmma.load and wmma.store. Slots: the fragment, 8 the address, 9 the stride. immediate[0] is the shape,
// immediate[1] the role, immediate[2] the type and, above it, whether the matrix is stored by columns.
constexpr u32 kAddressSlot = 8, kStrideSlot = 9, kLayoutShift = 8;

Fragment fragmentOf(const Instruction& i) {
  const Role role = static_cast<Role>(i.immediate[1]);
  const bool byColumn = i.immediate[2] >> kLayoutShift;
  // Loads of an accumulator and wmma.mma must agree, and wmma.mma does not know how memory is laid out.
  return Fragment(role, kShapes[i.immediate[0]], static_cast<Type>(i.immediate[2] & 255),
                  byColumn && role != Role::kAccumulator);
}

template <bool kStore>
void moveFragment(Warp& w, const Instruction& i, LaneMask lanes) {
  const Fragment fragment = fragmentOf(i);
  const bool byColumn = i.immediate[2] >> kLayoutShift;
  u64 base[kWarpSize];
  addressesOf(w, i.slot[kAddressSlot], i.offset, i.wideAddress, base);
  const u32* strides = lanesOf<u32>(w, i.slot[kStrideSlot]);
  for (u32 l = 1; l < kWarpSize; ++l) {
    if (base[l] != base[0] || strides[l] != strides[0]) {
      w.abort(i, l, FaultKind::kDivergedAligned, base[l], 0, "address and stride must be those of lane 0");
    }
  }
  Space space = i.space;
  LaneMask rest = lanes;
  if (space == Space::kGeneric) takeSpace(base, rest, space);
  // Each row is as aligned as the fragment is long, up to 32 bytes for the first and 16 for the others.
  const u32 first = std::min(32u, fragment.bytes()), step = std::min(16u, fragment.bytes());
  const u64 stride = u64{strides[0]} * fragment.elementBytes;
  if (base[0] % first || stride % step) {
    w.abort(i, 0, FaultKind::kMisaligned, base[0], first,
            "rows of a matrix " + std::to_string(stride) + " bytes apart");
  }
  for (u32 e = 0; e < fragment.elements(); ++e) {
    u64 addresses[kWarpSize];
    for (u32 l = 0; l < kWarpSize; ++l) {
      u32 row, column;
      fragment.locate(l, e, row, column);
      addresses[l] = base[0] + (byColumn ? column : row) * stride + (byColumn ? row : column) * fragment.elementBytes;
      u8* held = fragment.at(w, i.slot.data(), l, e);
      const u32 bytes = fragment.elementBytes;
      if (kStore) {
        RacyWrite racy;
        u8* to = space == Space::kShared ? sharedForWrite(w, i, l, addresses[l], bytes, racy)
                                         : globalForWrite(w, i, l, addresses[l], bytes, racy);
        if (racy && std::memcmp(to, held, bytes) != 0) reportRacyWrite(w, i, l, addresses[l], bytes, racy);
        std::memcpy(to, held, bytes);
      } else {
        const u8* from = space == Space::kShared ? sharedForRead(w, i, l, addresses[l], bytes, SharedMemory::kManyLanes)
                                                 : globalForRead(w, i, l, addresses[l], bytes);
        std::memcpy(held, from, bytes);
      }
    }
    if (space == Space::kShared) {
      countShared(w, addresses, lanes, fragment.elementBytes);
    } else {
      countGlobal(w, addresses, lanes, fragment.elementBytes, kStore);
    }
  }
  if (kStore) ++w.launch->memoryVersion;
}

u32 takeShape(Decoding& d) {
  for (u32 k = 0; k < std::size(kShapes); ++k) {
    if (d.take(kShapes[k].name)) return k;
  }
  d.fail("wmma of an unknown shape");
}

bool takeByColumn(Decoding& d) {
  const int layout = d.takeFirstOf({"row", "col"});
  if (layout < 0) d.fail("wmma without a layout");
  return layout == 1;
}

// Whether the shape goes with the type of the multiplicands, or with that of the accumulators.
bool fits(u32 shape, Type type, Role role) {
  const bool accumulator = role == Role::kAccumulator;
  if (shape == 4) return type == Type::kF64;
  if (shape == 3) return type == (accumulator ? Type::kF32 : Type::kTf32);
  if (accumulator) return type == Type::kF16 || type == Type::kF32 || type == Type::kS32;
  return type == Type::kF16 || type == Type::kBf16 || type == Type::kS8 || type == Type::kU8;
}

void takeRegisters(Decoding& d, u32 slot, size_t operand, const Fragment& fragment, bool write) {
  const auto& elements = d.operand(operand).elements;
  if (elements.size() != fragment.registers) d.fail("wmma with a fragment of the wrong size");
  for (u32 k = 0; k < fragment.registers; ++k) {
    if (write) {
      d.write(slot + k, elements[k], fragment.registerBytes());
    } else {
      d.read(slot + k, elements[k], fragment.registerBytes() == 8 ? Type::kB64 : Type::kB32);
    }
  }
}

void decodeMove(Decoding& d, bool store) {
  Instruction& i = d.out();
  const int role = store ? (d.take("d") ? 2 : -1) : d.takeOneOf({"a", "b", "c"});
  if (role < 0) d.fail("wmma of an unknown matrix");
  const bool byColumn = takeByColumn(d);
  i.immediate[0] = takeShape(d);
  i.immediate[1] = static_cast<u32>(role);
  i.space = takeSpaceModifier(d);
  const Type type = d.takeType();
  if (!fits(i.immediate[0], type, static_cast<Role>(role))) d.fail("wmma of an unknown type");
  i.immediate[2] = static_cast<u32>(type) | static_cast<u32>(byColumn) << kLayoutShift;
  const Fragment fragment = fragmentOf(i);
  takeRegisters(d, 0, store ? 1 : 0, fragment, !store);
  d.address(kAddressSlot, store ? 0 : 1, i.space);
  if (d.operandCount() > 2) {
    d.read(kStrideSlot, 2, Type::kU32);
  } else {
    d.constant(kStrideSlot, byColumn ? fragment.rows : fragment.columns, 4);
  }
  if (i.space != Space::kGlobal) d.noteSharedAccess(fragment.elementBytes);
  if (store && i.space != Space::kShared) d.noteGlobalWrite(fragment.elementBytes);
  execute(d, store ? moveFragment<true> : moveFragment<false>);
}

// ---- wmma.mma. Slots: D at 0, A at 8, B at 16, C at 24. Immediates: the types of D, A, B and C; the shape and whether
// A and B lie by columns; saturation and the rounding of f64.
constexpr u32 kFragmentSlots = 8;

void gather(Warp& w, const Fragment& fragment, const u32* slots, double* cells) {
  for (u32 l = 0; l < kWarpSize; ++l) {
    for (u32 e = 0; e < fragment.elements(); ++e) {
      u32 row, column;
      fragment.locate(l, e, row, column);
      cells[row * fragment.columns + column] = valueOf(fragment.type, fragment.at(w, slots, l, e));
    }
  }
}

void multiply(Warp& w, const Instruction& i, LaneMask) {
  auto type = [&](u32 k) { return static_cast<Type>(i.immediate[0] >> (8 * k) & 255); };
  const Shape& shape = kShapes[i.immediate[1] & 255];
  const Fragment d(Role::kAccumulator, shape, type(0), false), a(Role::kA, shape, type(1), i.immediate[1] >> 8 & 1),
      b(Role::kB, shape, type(2), i.immediate[1] >> 9 & 1), c(Role::kAccumulator, shape, type(3), false);
  double left[kMostCells], right[kMostCells], sums[kMostCells];
  gather(w, a, &i.slot[kFragmentSlots], left);
  gather(w, b, &i.slot[2 * kFragmentSlots], right);
  gather(w, c, &i.slot[3 * kFragmentSlots], sums);
  RoundingScope scope(static_cast<Rounding>(i.immediate[2] >> 8));
  for (u32 row = 0; row < shape.m; ++row) {
    for (u32 column = 0; column < shape.n; ++column) {
      double& sum = sums[row * shape.n + column];
      for (u32 k = 0; k < shape.k; ++k) sum = std::fma(left[row * shape.k + k], right[k * shape.n + column], sum);
    }
  }
  for (u32 l = 0; l < kWarpSize; ++l) {
    for (u32 e = 0; e < d.elements(); ++e) {
      u32 row, column;
      d.locate(l, e, row, column);
      putResult(d.type, sums[row * shape.n + column], i.immediate[2] & 1, d.at(w, &i.slot[0], l, e));
    }
  }
  ++w.counters->tensorOps;
  w.counters->tensorFlops += 2 * shape.m * shape.n * shape.k;
}

void decodeMultiply(Decoding& d) {
  Instruction& i = d.out();
  const bool columnsA = takeByColumn(d), columnsB = takeByColumn(d);
  const u32 shape = takeShape(d);
  const Type typeD = d.takeType(), second = d.takeType();
  // Without types of A and B they are f16.
  const std::optional<Type> third = d.takeTypeIfAny();
  const Type typeA = third ? second : Type::kF16, typeB = third ? *third : Type::kF16;
  const Type typeC = third ? d.takeType() : second;
  const bool half = typeA == Type::kF16, bytes = ptx::bytesOf(typeA) == 1;
  const Type accumulator = bytes ? Type::kS32 : typeA == Type::kF64 ? Type::kF64 : Type::kF32;
  auto accumulates = [&](Type t) { return t == accumulator || (half && t == Type::kF16); };
  if (typeA != typeB || !accumulates(typeD) || !accumulates(typeC) || !fits(shape, typeA, Role::kA)) {
    d.fail("wmma.mma of unknown types");
  }
  const bool saturates = bytes && d.take("satfinite");
  const Rounding rounding = typeA == Type::kF64 ? takeRounding(d) : Rounding::kNearestEven;
  i.immediate[0] = static_cast<u32>(typeD) | static_cast<u32>(typeA) << 8 | static_cast<u32>(typeB) << 16 |
                   static_cast<u32>(typeC) << 24;
  i.immediate[1] = shape | static_cast<u32>(columnsA) << 8 | static_cast<u32>(columnsB) << 9;
  i.immediate[2] = saturates | static_cast<u32>(rounding) << 8;
  takeRegisters(d, 0, 0, Fragment(Role::kAccumulator, kShapes[shape], typeD, false), true);
  takeRegisters(d, kFragmentSlots, 1, Fragment(Role::kA, kShapes[shape], typeA, columnsA), false);
  takeRegisters(d, 2 * kFragmentSlots, 2, Fragment(Role::kB, kShapes[shape], typeB, columnsB), false);
  takeRegisters(d, 3 * kFragmentSlots, 3, Fragment(Role::kAccumulator, kShapes[shape], typeC, false), false);
  execute(d, multiply);
}

}  // namespace

bool decodeWmma(Decoding& d) {
  if (d.opcode() != "wmma") return false;
  const int form = d.takeOneOf({"load", "store", "mma"});
  if (!d.take("sync") || !d.take("aligned")) d.fail("wmma needs .sync.aligned");
  d.out().flow = Flow::kConverge;
  d.out().aligned = true;
  if (form == 2) {
    decodeMultiply(d);
  } else if (form >= 0) {
    decodeMove(d, form == 1);
  } else {
    d.fail("unknown form of 'wmma'");
  }
  return true;
}

}  // namespace softgpu::isa
