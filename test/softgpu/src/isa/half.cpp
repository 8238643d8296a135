// f16 and bf16 arithmetic, single and packed in pairs: PTX ISA 9.7.4, and comparison of pairs: 9.7.7.
// Each result is computed in double and rounded once; addToOdd keeps the one case exact where double is too narrow.
#include <cmath>

#include "isa/comparison.h"
#include "isa/isa.h"
#include "isa/lanes.h"
#include "isa/numbers.h"

namespace softgpu::isa {
namespace {

// .ftz makes subnormals of the format zero.
template <u32 kExponentBits, float (*kLoad)(u16), u16 (*kStore)(double, Rounding)>
struct Format16 {
  static u16 flush(u16 x) { return (x & kExponentBits) == 0 ? x & 0x8000 : x; }
  static double load(u16 x, bool ftz) { return kLoad(ftz ? flush(x) : x); }
  static u16 store(double x) { return kStore(x, Rounding::kNearestEven); }
};
using HalfFormat = Format16<0x7c00, halfToFloat, doubleToHalf>;
using Bf16Format = Format16<0x7f80, bf16ToFloat, doubleToBf16>;

constexpr u32 kFtz = 1, kSat = 2, kRelu = 4, kNan = 8, kXorsign = 16;

template <class Format, class Op>
u16 apply(const Instruction& i, u16 a, u16 b, u16 c) {
  const u32 mode = i.immediate[0];
  const bool ftz = mode & kFtz;
  double r = Op()(Format::load(a, ftz), Format::load(b, ftz), Format::load(c, ftz), mode);
  if (mode & kSat) r = saturate(r);
  u16 bits = Format::store(r);
  if ((mode & kRelu) && (bits & 0x8000) && r == r) bits = 0;
  return ftz ? Format::flush(bits) : bits;
}

// Absent operands read slot 1 again.
template <class Format, class Op>
Execute halfForm(Op, bool packed) {
  if (!packed) {
    return [](Warp& w, const Instruction& i, LaneMask lanes) {
      const u16 *a = lanesOf<u16>(w, i.slot[1]), *b = lanesOf<u16>(w, i.slot[2]), *c = lanesOf<u16>(w, i.slot[3]);
      forLanes(lanes, [&](u32 l) { lanesOf<u16>(w, i.slot[0])[l] = apply<Format, Op>(i, a[l], b[l], c[l]); });
    };
  }
  return [](Warp& w, const Instruction& i, LaneMask lanes) {
    const u32 *a = lanesOf<u32>(w, i.slot[1]), *b = lanesOf<u32>(w, i.slot[2]), *c = lanesOf<u32>(w, i.slot[3]);
    forLanes(lanes, [&](u32 l) {
      auto low = [](u32 x) { return static_cast<u16>(x); };
      auto high = [](u32 x) { return static_cast<u16>(x >> 16); };
      u32 r = apply<Format, Op>(i, low(a[l]), low(b[l]), low(c[l]));
      r |= static_cast<u32>(apply<Format, Op>(i, high(a[l]), high(b[l]), high(c[l]))) << 16;
      lanesOf<u32>(w, i.slot[0])[l] = r;
    });
  };
}

template <class Format>
Execute formOf(std::string_view op, bool packed) {
  if (op == "add") return halfForm<Format>([](double a, double b, double, u32) { return addToOdd(a, b); }, packed);
  if (op == "sub") return halfForm<Format>([](double a, double b, double, u32) { return addToOdd(a, -b); }, packed);
  if (op == "mul") return halfForm<Format>([](double a, double b, double, u32) { return a * b; }, packed);
  if (op == "fma")
    return halfForm<Format>([](double a, double b, double c, u32) { return addToOdd(a * b, c); }, packed);
  if (op == "ex2") return halfForm<Format>([](double a, double, double, u32) { return std::exp2(a); }, packed);
  if (op == "tanh") return halfForm<Format>([](double a, double, double, u32) { return std::tanh(a); }, packed);
  if (op == "min") {
    return halfForm<Format>(
        [](double a, double b, double, u32 mode) {
          if (!(mode & kXorsign)) return minimum(a, b, (mode & kNan) != 0);
          return std::copysign(minimum(std::fabs(a), std::fabs(b), (mode & kNan) != 0),
                               std::signbit(a) != std::signbit(b) ? -1.0 : 1.0);
        },
        packed);
  }
  if (op == "max") {
    return halfForm<Format>(
        [](double a, double b, double, u32 mode) {
          if (!(mode & kXorsign)) return maximum(a, b, (mode & kNan) != 0);
          return std::copysign(maximum(std::fabs(a), std::fabs(b), (mode & kNan) != 0),
                               std::signbit(a) != std::signbit(b) ? -1.0 : 1.0);
        },
        packed);
  }
  return nullptr;
}

// abs and neg only touch the sign bit, unless they flush.
template <class Format>
Execute signForm(std::string_view op, bool packed, bool ftz) {
  if (ftz) {
    if (op == "abs") return halfForm<Format>([](double a, double, double, u32) { return std::fabs(a); }, packed);
    return halfForm<Format>([](double a, double, double, u32) { return -a; }, packed);
  }
  if (op == "abs")
    return packed ? unary<u32>([](u32 a) { return a & 0x7fff7fff; })
                  : unary<u16>([](u16 a) { return static_cast<u16>(a & 0x7fff); });
  return packed ? unary<u32>([](u32 a) { return a ^ 0x80008000; })
                : unary<u16>([](u16 a) { return static_cast<u16>(a ^ 0x8000); });
}

// Comparison of pairs: 9.7.7. set gives 1.0 or 0, or all ones or 0, per half; setp one predicate per half. Slots: 0 the
// result or p, 1 and 2 the operands, 3 q, 4 the predicate to combine with. Immediates: ftz, what is true, the
// comparison with the combination above it.
constexpr u32 kCombinationShift = 8;

template <class Format>
void comparePairLanes(Warp& w, const Instruction& i, LaneMask& low, LaneMask& high) {
  const u32 *a = lanesOf<u32>(w, i.slot[1]), *b = lanesOf<u32>(w, i.slot[2]);
  const int comparison = static_cast<int>(i.immediate[2] & 255);
  const bool ftz = i.immediate[0];
  low = high = 0;
  for (u32 l = 0; l < kWarpSize; ++l) {
    auto half = [&](u32 k) {
      return compare(comparison, Format::load(static_cast<u16>(a[l] >> k), ftz),
                     Format::load(static_cast<u16>(b[l] >> k), ftz));
    };
    low |= static_cast<LaneMask>(half(0)) << l;
    high |= static_cast<LaneMask>(half(16)) << l;
  }
  const LaneMask c = predicateOf(w, i.slot[4]) ^ i.invert[0];
  low = combine(i.immediate[2] >> kCombinationShift, low, c);
  high = combine(i.immediate[2] >> kCombinationShift, high, c);
}

template <class Format>
void comparePairs(Decoding& d, bool toPredicates) {
  if (toPredicates) {
    d.writePredicate(0, d.operand(0).name);
    d.writePredicate(3, d.operand(0).pair);
    return execute(d, [](Warp& w, const Instruction& i, LaneMask lanes) {
      LaneMask low, high;
      comparePairLanes<Format>(w, i, low, high);
      setPredicate(w, i.slot[0], lanes, low);
      setPredicate(w, i.slot[3], lanes, high);
    });
  }
  d.write(0, 0, 4);
  execute(d, [](Warp& w, const Instruction& i, LaneMask lanes) {
    LaneMask low, high;
    comparePairLanes<Format>(w, i, low, high);
    forLanes(lanes, [&](u32 l) {
      lanesOf<u32>(w, i.slot[0])[l] = i.immediate[1] & ((low >> l & 1 ? 0xffff : 0) | (high >> l & 1 ? 0xffff0000 : 0));
    });
  });
}

bool decodePairComparison(Decoding& d) {
  const bool toPredicates = d.opcode() == "setp";
  const int comparison = takeComparison(d);
  const u32 combination = takeCombination(d, 4);
  const bool ftz = d.take("ftz");
  const Type to = d.takeType(), from = toPredicates ? to : d.takeType();
  if (to != from && to != Type::kU32 && to != Type::kS32) d.fail("comparison of pairs into another type");
  if (ftz && from != Type::kF16x2) d.fail(".ftz of bf16x2");
  d.read(1, 1, from);
  d.read(2, 2, from);
  d.out().immediate[0] = ftz;
  d.out().immediate[1] = to == Type::kF16x2 ? 0x3c003c00 : to == Type::kBf16x2 ? 0x3f803f80 : ~0u;
  d.out().immediate[2] = static_cast<u32>(comparison) | combination << kCombinationShift;
  if (from == Type::kF16x2) {
    comparePairs<HalfFormat>(d, toPredicates);
  } else {
    comparePairs<Bf16Format>(d, toPredicates);
  }
  return true;
}

}  // namespace

bool decodeHalf(Decoding& d) {
  const std::string_view op = d.opcode();
  const bool two = op == "add" || op == "sub" || op == "mul" || op == "min" || op == "max";
  const bool sign = op == "abs" || op == "neg", approximate = op == "ex2" || op == "tanh";
  const bool comparison = op == "set" || op == "setp";
  if (!comparison && !two && !sign && !approximate && op != "fma") return false;
  if (comparison) return d.hasType(Type::kF16x2, Type::kBf16x2) && decodePairComparison(d);
  const Type type = d.peekType();
  const bool isHalf = type == Type::kF16 || type == Type::kF16x2;
  const bool isBf16 = type == Type::kBf16 || type == Type::kBf16x2;
  const bool packed = type == Type::kF16x2 || type == Type::kBf16x2;
  if (!isHalf && !isBf16) return false;
  d.takeType();
  // Each operation takes the modifiers that it has; another one stays, and is an error.
  const bool extremum = op == "min" || op == "max", sum = !sign && !approximate && !extremum;
  u32 mode = 0;
  if (sum) d.take("rn");
  if (approximate && !d.take("approx")) d.fail("'" + std::string(op) + "' needs .approx");
  if (op != "tanh" && (op == "ex2" ? isBf16 : isHalf) && d.take("ftz")) mode |= kFtz;
  if (op == "ex2" && isBf16 && mode != kFtz) d.fail("ex2 of bf16 needs .ftz");
  if (sum && isHalf && d.take("sat")) mode |= kSat;
  if (op == "fma" && d.take("relu")) mode |= kRelu;
  if (extremum && d.take("NaN")) mode |= kNan;
  if (extremum && d.take("xorsign")) {
    if (!d.take("abs")) d.fail(".xorsign without .abs");
    mode |= kXorsign;
  }
  d.out().immediate[0] = mode;
  const u32 sources = sign || approximate ? 1 : op == "fma" ? 3 : 2;
  sameType(d, type, sources);
  for (u32 k = sources + 1; k <= 3; ++k) d.out().slot[k] = d.out().slot[1];
  if (sign) {
    execute(d, isHalf ? signForm<HalfFormat>(op, packed, mode & kFtz) : signForm<Bf16Format>(op, packed, false));
  } else {
    execute(d, isHalf ? formOf<HalfFormat>(op, packed) : formOf<Bf16Format>(op, packed));
  }
  return true;
}

}  // namespace softgpu::isa
