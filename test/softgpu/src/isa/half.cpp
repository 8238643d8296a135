// f16 and bf16 arithmetic, single and packed in pairs: PTX ISA 9.7.4, and the half forms of 9.7.5 and 9.7.8.
// Each result is computed in double and rounded once; addToOdd keeps the one case exact where double is too narrow.
#include <cmath>

#include "isa/isa.h"
#include "isa/lanes.h"
#include "isa/numbers.h"

namespace softgpu::isa {
namespace {

struct HalfFormat {
  static double load(u16 x, bool ftz) {
    // ftz flushes f16 subnormals to zero.
    return ftz && (x & 0x7c00) == 0 ? (x & 0x8000 ? -0.0 : 0.0) : halfToFloat(x);
  }
  static u16 store(double x) { return doubleToHalf(x); }
  static u16 flush(u16 x) { return (x & 0x7c00) == 0 ? x & 0x8000 : x; }
};
struct Bf16Format {
  static double load(u16 x, bool) { return bf16ToFloat(x); }
  static u16 store(double x) { return doubleToBf16(x); }
  static u16 flush(u16 x) { return x; }
};

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

// abs and neg only touch the sign bit.
Execute signForm(std::string_view op, bool packed) {
  if (op == "abs")
    return packed ? unary<u32>([](u32 a) { return a & 0x7fff7fff; })
                  : unary<u16>([](u16 a) { return static_cast<u16>(a & 0x7fff); });
  return packed ? unary<u32>([](u32 a) { return a ^ 0x80008000; })
                : unary<u16>([](u16 a) { return static_cast<u16>(a ^ 0x8000); });
}

// Comparison of pairs: 9.7.7. set gives 1.0 or 0 per half; setp one predicate per half.
template <class Format>
u32 comparePair(int comparison, bool ftz, u32 a, u32 b) {
  u32 result = 0;
  for (u32 k = 0; k < 2; ++k) {
    double x = Format::load(static_cast<u16>(a >> (16 * k)), ftz),
           y = Format::load(static_cast<u16>(b >> (16 * k)), ftz);
    const bool unordered = x != x || y != y;
    const bool ordered[] = {x == y, x != y && !unordered, x<y, x <= y, x> y, x >= y};
    const bool yes = comparison == 12   ? !unordered
                     : comparison == 13 ? unordered
                     : comparison < 6   ? ordered[comparison]
                     : comparison == 7  ? x != y
                                        : unordered || ordered[comparison - 6];
    result |= static_cast<u32>(yes) << k;
  }
  return result;
}

template <class Format>
void comparePairs(Decoding& d, bool toPredicates, u32 one) {
  d.out().immediate[1] = one;
  if (toPredicates) {
    d.writePredicate(0, d.operand(0).name);
    d.writePredicate(3, d.operand(0).pair);
    return execute(d, [](Warp& w, const Instruction& i, LaneMask lanes) {
      const u32 *a = lanesOf<u32>(w, i.slot[1]), *b = lanesOf<u32>(w, i.slot[2]);
      LaneMask low = 0, high = 0;
      for (u32 l = 0; l < kWarpSize; ++l) {
        u32 pair = comparePair<Format>(static_cast<int>(i.immediate[2]), i.immediate[0] & kFtz, a[l], b[l]);
        low |= (pair & 1) << l, high |= (pair >> 1) << l;
      }
      setPredicate(w, i.slot[0], lanes, low);
      setPredicate(w, i.slot[3], lanes, high);
    });
  }
  d.write(0, 0, 4);
  execute(d, [](Warp& w, const Instruction& i, LaneMask lanes) {
    const u32 *a = lanesOf<u32>(w, i.slot[1]), *b = lanesOf<u32>(w, i.slot[2]);
    forLanes(lanes, [&](u32 l) {
      u32 pair = comparePair<Format>(static_cast<int>(i.immediate[2]), i.immediate[0] & kFtz, a[l], b[l]);
      lanesOf<u32>(w, i.slot[0])[l] =
          (pair & 1 ? i.immediate[1] & 0xffff : 0) | (pair & 2 ? i.immediate[1] & 0xffff0000 : 0);
    });
  });
}

bool decodePairComparison(Decoding& d) {
  const bool toPredicates = d.opcode() == "setp";
  const int comparison =
      d.takeOneOf({"eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"});
  if (comparison < 0) d.fail("comparison of pairs without a comparison");
  d.out().immediate[0] = d.take("ftz") ? kFtz : 0;
  d.out().immediate[2] = static_cast<u32>(comparison);
  const Type to = d.takeType();
  const Type from = toPredicates ? to : d.takeType();
  d.read(1, 1, from);
  d.read(2, 2, from);
  const u32 one = to == Type::kF16x2 ? 0x3c003c00 : to == Type::kBf16x2 ? 0x3f803f80 : ~0u;
  if (from == Type::kF16x2) {
    comparePairs<HalfFormat>(d, toPredicates, one);
  } else {
    comparePairs<Bf16Format>(d, toPredicates, one);
  }
  return true;
}

}  // namespace

bool decodeHalf(Decoding& d) {
  const std::string_view op = d.opcode();
  const bool comparison = op == "set" || op == "setp";
  const bool two = op == "add" || op == "sub" || op == "mul" || op == "min" || op == "max";
  const bool one = op == "abs" || op == "neg" || op == "ex2" || op == "tanh";
  if (!comparison && !two && !one && op != "fma") return false;
  const Type type = d.peekType();
  const bool isHalf = type == Type::kF16 || type == Type::kF16x2;
  const bool isBf16 = type == Type::kBf16 || type == Type::kBf16x2;
  const bool packed = type == Type::kF16x2 || type == Type::kBf16x2;
  if (!isHalf && !isBf16) return false;
  if (comparison) return packed && decodePairComparison(d);
  d.takeType();
  d.take("rn");
  d.take("approx");
  u32 mode = 0;
  if (d.take("ftz")) mode |= kFtz;
  if (d.take("sat")) mode |= kSat;
  if (d.take("relu")) mode |= kRelu;
  if (d.take("NaN")) mode |= kNan;
  if (d.take("xorsign")) {
    if (!d.take("abs")) d.fail(".xorsign without .abs");
    mode |= kXorsign;
  }
  d.out().immediate[0] = mode;
  const u32 sources = one ? 1 : op == "fma" ? 3 : 2;
  sameType(d, type, sources);
  for (u32 k = sources + 1; k <= 3; ++k) d.out().slot[k] = d.out().slot[1];
  if (op == "abs" || op == "neg") {
    execute(d, signForm(op, packed));
  } else {
    execute(d, isHalf ? formOf<HalfFormat>(op, packed) : formOf<Bf16Format>(op, packed));
  }
  return true;
}

}  // namespace softgpu::isa
