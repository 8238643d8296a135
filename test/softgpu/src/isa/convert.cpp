// cvt and cvt.pack: PTX ISA 9.7.9.21 and 9.7.9.22. Registers may be wider than the types: results are extended,
// operands cut.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "isa/isa.h"
#include "isa/lanes.h"
#include "isa/numbers.h"

namespace softgpu::isa {
namespace {

enum class IntegerRounding : u8 { kNone, kNearest, kZero, kDown, kUp };

// Everything about one cvt, packed into the instruction's immediates.
struct Conversion {
  Type to, from;
  Rounding rounding;
  IntegerRounding integer;
  bool ftz, sat, relu, satfinite;
  u32 toBytes, fromBytes;  // of the registers

  void pack(Instruction& i) const {
    i.immediate[0] = static_cast<u32>(to) | static_cast<u32>(from) << 8 | static_cast<u32>(rounding) << 16 |
                     static_cast<u32>(integer) << 20 | ftz << 24 | sat << 25 | relu << 26 | satfinite << 27;
    i.immediate[1] = toBytes | fromBytes << 8;
  }
  static Conversion of(const Instruction& i) {
    const u32 m = i.immediate[0];
    return {static_cast<Type>(m & 255),
            static_cast<Type>(m >> 8 & 255),
            static_cast<Rounding>(m >> 16 & 15),
            static_cast<IntegerRounding>(m >> 20 & 15),
            (m >> 24 & 1) != 0,
            (m >> 25 & 1) != 0,
            (m >> 26 & 1) != 0,
            (m >> 27 & 1) != 0,
            i.immediate[1] & 255,
            i.immediate[1] >> 8};
  }
};

double toIntegral(double x, IntegerRounding mode) {
  switch (mode) {
    case IntegerRounding::kNearest:
      return std::nearbyint(x);
    case IntegerRounding::kDown:
      return std::floor(x);
    case IntegerRounding::kUp:
      return std::ceil(x);
    default:
      return std::trunc(x);
  }
}

u64 signExtend(u64 bits, u32 bytes) {
  const u32 shift = 64 - bytes * 8;
  return static_cast<u64>(static_cast<i64>(bits << shift) >> shift);
}
u64 lowBytes(u64 bits, u32 bytes) { return bytes >= 8 ? bits : bits & ((u64{1} << (bytes * 8)) - 1); }

double floatValue(u64 bits, Type type, bool ftz) {
  switch (type) {
    case Type::kF16:
      return halfToFloat(static_cast<u16>(bits));
    case Type::kBf16:
      return bf16ToFloat(static_cast<u16>(bits));
    case Type::kF64:
      return std::bit_cast<double>(bits);
    default: {
      float x = std::bit_cast<float>(static_cast<u32>(bits));
      return ftz ? flushSubnormal(x) : x;
    }
  }
}

u64 floatBits(double x, const Conversion& c) {
  if (c.sat) x = saturate(x);
  if (c.relu && !(x > 0) && x == x) x = 0;
  // .satfinite: an infinity, of the source or by rounding, is the largest number instead.
  auto finite = [&](u32 bits, u32 infinity) { return bits - (c.satfinite && (bits & infinity) == infinity && x == x); };
  switch (c.to) {
    case Type::kF16:
      return finite(doubleToHalf(x, c.rounding), 0x7c00);
    case Type::kBf16:
      return finite(doubleToBf16(x, c.rounding), 0x7f80);
    case Type::kTf32:
      return finite(roundTo<10, 8>(x, c.rounding), 0x3fc00) << 13;
    case Type::kF64:
      return std::bit_cast<u64>(x);
    default: {
      if (x != x) return 0x7fffffff;
      float y = std::bit_cast<float>(roundTo<23, 8>(x, c.rounding));
      return std::bit_cast<u32>(c.ftz ? flushSubnormal(y) : y);
    }
  }
}

u64 floatToInteger(double x, const Conversion& c) {
  const u32 bits = ptx::bytesOf(c.to) * 8;
  if (x != x) return c.from == Type::kF64 || bits == 64 ? u64{1} << (bits - 1) : 0;
  x = toIntegral(x, c.integer);
  const bool isSigned = ptx::isSigned(c.to);
  const double low = isSigned ? -std::ldexp(1.0, static_cast<int>(bits) - 1) : 0;
  const double high = std::ldexp(1.0, static_cast<int>(bits) - (isSigned ? 1 : 0));
  if (x < low) x = low;
  if (x >= high) return isSigned ? (u64{1} << (bits - 1)) - 1 : lowBytes(~u64{0}, bits / 8);
  return isSigned ? static_cast<u64>(static_cast<i64>(x)) : static_cast<u64>(x);
}

u64 integerToInteger(u64 bits, const Conversion& c) {
  if (!c.sat) return bits;
  const u32 width = ptx::bytesOf(c.to) * 8;
  const bool negative = ptx::isSigned(c.from) && static_cast<i64>(bits) < 0;
  if (ptx::isSigned(c.to)) {
    const i64 high = static_cast<i64>((u64{1} << (width - 1)) - 1), low = -high - 1;
    if (negative) return static_cast<u64>(std::max(static_cast<i64>(bits), low));
    return std::min(bits, static_cast<u64>(high));
  }
  return negative ? 0 : std::min(bits, lowBytes(~u64{0}, width / 8));
}

// An integer as a double; what a double cannot hold is rounded to odd, so that the next rounding is right.
double integerValue(u64 bits, bool isSigned) {
  const bool negative = isSigned && static_cast<i64>(bits) < 0;
  u64 magnitude = negative ? 0 - bits : bits;
  if (magnitude >> 53) magnitude = (magnitude & ~u64{0x7ff}) | (magnitude & 0x7ff ? 0x800 : 0);
  const double x = static_cast<double>(magnitude);
  return negative ? -x : x;
}

u64 convert(u64 source, const Conversion& c) {
  const u32 fromBytes = ptx::bytesOf(c.from);
  if (ptx::isFloat(c.from)) {
    double x = floatValue(source, c.from, c.ftz);
    if (!ptx::isFloat(c.to)) return floatToInteger(x, c);
    if (c.integer != IntegerRounding::kNone) x = toIntegral(x, c.integer);
    return floatBits(x, c);
  }
  const bool isSigned = ptx::isSigned(c.from);
  source = isSigned ? signExtend(source, fromBytes) : lowBytes(source, fromBytes);
  if (!ptx::isFloat(c.to)) return integerToInteger(source, c);
  if (c.to == Type::kF64) {
    RoundingScope scope(c.rounding);
    volatile double x = isSigned ? static_cast<double>(static_cast<i64>(source)) : static_cast<double>(source);
    return std::bit_cast<u64>(double{x});
  }
  return floatBits(integerValue(source, isSigned), c);
}

void convertLanes(Warp& w, const Instruction& i, LaneMask lanes) {
  const Conversion c = Conversion::of(i);
  for (; lanes; lanes &= lanes - 1) {
    const u32 l = lowestLane(lanes);
    u64 source = 0;
    std::memcpy(&source, w.registers + i.slot[1] + l * c.fromBytes, c.fromBytes);
    u64 result = convert(source, c);
    const u32 bytes = ptx::bytesOf(c.to);
    result = ptx::isSigned(c.to) ? signExtend(result, bytes) : lowBytes(result, bytes);
    std::memcpy(w.registers + i.slot[0] + l * c.toBytes, &result, c.toBytes);
  }
}

// Two f32 into one packed register: the first operand is the upper half.
void convertPair(Warp& w, const Instruction& i, LaneMask lanes) {
  Conversion c = Conversion::of(i);
  c.to = c.to == Type::kF16x2 ? Type::kF16 : Type::kBf16;
  forLanes(lanes, [&](u32 l) {
    const u64 high = floatBits(floatValue(lanesOf<u32>(w, i.slot[1])[l], Type::kF32, c.ftz), c);
    const u64 low = floatBits(floatValue(lanesOf<u32>(w, i.slot[2])[l], Type::kF32, c.ftz), c);
    lanesOf<u32>(w, i.slot[0])[l] = static_cast<u32>(high << 16 | low);
  });
}

// The conversions that kernels execute most, when registers and types agree and no modifier asks for more.
Execute fastForm(const Conversion& c) {
  if (c.sat || c.ftz || c.relu || c.satfinite || c.toBytes != ptx::bytesOf(c.to) || c.fromBytes != ptx::bytesOf(c.from))
    return nullptr;
  auto is = [&](Type to, Type from) { return c.to == to && c.from == from; };
  if (is(Type::kU64, Type::kU32)) return unary<u64, u32>([](u32 x) { return u64{x}; });
  if (is(Type::kS64, Type::kS32)) return unary<i64, i32>([](i32 x) { return i64{x}; });
  if (is(Type::kU32, Type::kU64)) return unary<u32, u64>([](u64 x) { return static_cast<u32>(x); });
  if (is(Type::kU32, Type::kU16)) return unary<u32, u16>([](u16 x) { return u32{x}; });
  if (is(Type::kU16, Type::kU32)) return unary<u16, u32>([](u32 x) { return static_cast<u16>(x); });
  if (is(Type::kF32, Type::kF16)) return unary<float, u16>([](u16 x) { return halfToFloat(x); });
  if (is(Type::kF32, Type::kBf16)) return unary<float, u16>([](u16 x) { return bf16ToFloat(x); });
  if (c.rounding != Rounding::kNearestEven || c.integer != IntegerRounding::kNone) return nullptr;
  if (is(Type::kF32, Type::kS32)) return unary<float, i32>([](i32 x) { return static_cast<float>(x); });
  if (is(Type::kF64, Type::kF32)) return unary<double, float>([](float x) { return static_cast<double>(x); });
  if (is(Type::kBf16, Type::kF32)) return unary<u16, float>([](float x) { return floatToBf16(x); });
  return nullptr;
}

// What would change nothing here, and so would be passed over in silence.
void checkModifiers(Decoding& d, const Conversion& c) {
  const bool pair = c.to == Type::kF16x2 || c.to == Type::kBf16x2;
  const bool narrow = pair || c.to == Type::kF16 || c.to == Type::kBf16 || c.to == Type::kTf32;
  if ((c.relu || c.satfinite) && (!narrow || !ptx::isFloat(c.from))) d.fail(".relu and .satfinite of a wide result");
  if (c.satfinite && c.from != Type::kF32) d.fail(".satfinite of something else than f32");
  if (c.rounding == Rounding::kNearestAway && c.to != Type::kTf32) d.fail(".rna of something else than tf32");
  if (c.sat && (pair || c.to == Type::kBf16 || c.to == Type::kTf32)) d.fail(".sat of pairs, bf16 or tf32");
  if (c.ftz && c.to != Type::kF32 && c.from != Type::kF32) d.fail(".ftz without f32");
  if (c.integer != IntegerRounding::kNone && !ptx::isFloat(c.from)) d.fail("integer rounding of an integer");
  if (c.integer != IntegerRounding::kNone && ptx::isFloat(c.to) && c.to != c.from) {
    d.fail("integer rounding between two float types");
  }
}

// cvt.pack: two s32 saturated to a narrower type, in the low part; above them the low part of the third operand:
// 9.7.9.22. immediate[0] is the width, immediate[1] the signedness.
void packSaturated(Warp& w, const Instruction& i, LaneMask lanes) {
  const u32 width = i.immediate[0];
  const i32 high = i.immediate[1] ? (1 << (width - 1)) - 1 : (1 << width) - 1, low = i.immediate[1] ? -high - 1 : 0;
  const i32 *a = lanesOf<i32>(w, i.slot[1]), *b = lanesOf<i32>(w, i.slot[2]);
  const u32* c = lanesOf<u32>(w, i.slot[3]);
  const u32 mask = (1u << width) - 1;
  forLanes(lanes, [=, &w, &i](u32 l) {
    const u32 packed = (static_cast<u32>(std::clamp(a[l], low, high)) & mask) << width |
                       (static_cast<u32>(std::clamp(b[l], low, high)) & mask);
    lanesOf<u32>(w, i.slot[0])[l] = width == 16 ? packed : c[l] << (2 * width) | packed;
  });
}

bool decodePack(Decoding& d) {
  if (!d.take("sat")) d.fail("cvt.pack needs .sat");
  constexpr u32 kWidths[] = {16, 16, 8, 8, 4, 4, 2, 2};
  const int to = d.takeOneOf({"u16", "s16", "u8", "s8", "u4", "s4", "u2", "s2"});
  if (to < 0 || d.takeType() != Type::kS32) d.fail("cvt.pack of unknown types");
  d.out().immediate[0] = kWidths[to];
  d.out().immediate[1] = to % 2;
  d.write(0, 0, 4);
  d.read(1, 1, Type::kS32);
  d.read(2, 2, Type::kS32);
  d.out().slot[3] = d.out().slot[2];
  if (kWidths[to] < 16) {
    if (d.takeType() != Type::kB32) d.fail("cvt.pack with a third operand other than .b32");
    d.read(3, 3, Type::kB32);
  }
  execute(d, packSaturated);
  return true;
}

}  // namespace

bool decodeConvert(Decoding& d) {
  if (d.opcode() != "cvt") return false;
  if (d.take("pack")) return decodePack(d);
  Conversion c{};
  const int integer = d.takeOneOf({"rni", "rzi", "rmi", "rpi"});
  c.integer = static_cast<IntegerRounding>(integer + 1);
  c.rounding = d.take("rna") ? Rounding::kNearestAway : takeRounding(d);
  c.ftz = d.take("ftz");
  c.sat = d.take("sat");
  c.relu = d.take("relu");
  c.satfinite = d.take("satfinite");
  c.to = d.takeType();
  c.from = d.takeType();
  checkModifiers(d, c);
  if (c.to == Type::kF16x2 || c.to == Type::kBf16x2) {
    if (c.from != Type::kF32) d.fail("cvt to a pair from something else than f32");
    d.write(0, 0, 4);
    d.read(1, 1, Type::kF32);
    d.read(2, 2, Type::kF32);
    c.toBytes = c.fromBytes = 4;
    c.pack(d.out());
    if (c.to == Type::kBf16x2 && c.rounding == Rounding::kNearestEven && !c.relu && !c.satfinite) {
      execute(d, binary<u32, float>([](float a, float b) { return u32{floatToBf16(a)} << 16 | floatToBf16(b); }));
    } else {
      execute(d, convertPair);
    }
    return true;
  }
  c.toBytes = d.registerBytes(d.operand(0), std::max(2u, ptx::bytesOf(c.to)));
  c.fromBytes = d.registerBytes(d.operand(1), std::max(2u, ptx::bytesOf(c.from)));
  d.write(0, 0, c.toBytes);
  d.read(1, 1, c.from);
  c.pack(d.out());
  const Execute fast = fastForm(c);
  execute(d, fast ? fast : convertLanes);
  return true;
}

}  // namespace softgpu::isa
