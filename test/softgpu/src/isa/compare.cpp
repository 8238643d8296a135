// Comparison and selection: PTX ISA 9.7.6 and 9.7.7, and logic on predicates (9.7.8).
#include <utility>

#include "isa/isa.h"
#include "isa/lanes.h"
#include "isa/numbers.h"

namespace softgpu::isa {
namespace {

constexpr int kIntegerComparisons = 6, kAllComparisons = 14;

// The unordered forms (…u) are true when an operand is NaN.
int takeComparison(Decoding& d) {
  int comparison =
      d.takeOneOf({"eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"});
  // lo, ls, hi and hs are lt, le, gt and ge of unsigned integers.
  if (comparison < 0) {
    int alias = d.takeOneOf({"lo", "ls", "hi", "hs"});
    if (alias < 0) d.fail("'" + std::string(d.opcode()) + "' without a comparison");
    comparison = 2 + alias;
  }
  return comparison;
}

template <class T>
bool compare(int comparison, T a, T b) {
  const bool unordered = a != a || b != b;
  switch (comparison) {
    case 0:
      return a == b;
    case 1:
      return a != b && !unordered;
    case 2:
      return a < b;
    case 3:
      return a <= b;
    case 4:
      return a > b;
    case 5:
      return a >= b;
    case 6:
      return unordered || a == b;
    case 7:
      return unordered || a != b;
    case 8:
      return unordered || a < b;
    case 9:
      return unordered || a <= b;
    case 10:
      return unordered || a > b;
    case 11:
      return unordered || a >= b;
    case 12:
      return !unordered;
    default:
      return unordered;
  }
}

// How a stored operand becomes a value to compare.
template <class T>
struct Plain {
  using Stored = T;
  static T load(T x) { return x; }
};
struct Half {
  using Stored = u16;
  static float load(u16 x) { return halfToFloat(x); }
};
struct Bf16 {
  using Stored = u16;
  static float load(u16 x) { return bf16ToFloat(x); }
};
struct Flushed {
  using Stored = float;
  static float load(float x) { return flushSubnormal(x); }
};

template <class Format>
LaneMask compareLanes(Warp& w, const Instruction& i, int comparison) {
  const auto* a = lanesOf<typename Format::Stored>(w, i.slot[2]);
  const auto* b = lanesOf<typename Format::Stored>(w, i.slot[3]);
  u8 yes[kWarpSize];
  for (u32 l = 0; l < kWarpSize; ++l) yes[l] = compare(comparison, Format::load(a[l]), Format::load(b[l]));
  return packLanes(yes);
}

LaneMask combined(Warp& w, const Instruction& i, LaneMask value) {
  const LaneMask c = predicateOf(w, i.slot[4]) ^ i.invert[0];
  switch (i.immediate[0]) {
    case 1:
      return value & c;
    case 2:
      return value | c;
    case 3:
      return value ^ c;
    default:
      return value;
  }
}

// Slots: 0 and 1 the predicates p|q, 2 and 3 the operands, 4 the predicate to combine with.
template <class Format, int kComparison>
void setPredicates(Warp& w, const Instruction& i, LaneMask lanes) {
  const LaneMask yes = compareLanes<Format>(w, i, kComparison);
  const LaneMask p = combined(w, i, yes), q = combined(w, i, ~yes);
  setPredicate(w, i.slot[1], lanes, q);
  setPredicate(w, i.slot[0], lanes, p);
}

template <class Format, int... kAll>
Execute comparisonAt(int comparison, std::integer_sequence<int, kAll...>) {
  constexpr Execute table[] = {&setPredicates<Format, kAll>...};
  return comparison < static_cast<int>(sizeof...(kAll)) ? table[comparison] : nullptr;
}
template <class Format, int kCount>
Execute comparisonOf(int comparison) {
  return comparisonAt<Format>(comparison, std::make_integer_sequence<int, kCount>());
}

void decodeCombination(Decoding& d) {
  const int combine = d.takeOneOf({"and", "or", "xor"});
  if (combine >= 0) d.readPredicate(4, 0, d.operand(3));
  d.out().immediate[0] = static_cast<u32>(combine + 1);
}

void setp(Decoding& d) {
  const int comparison = takeComparison(d);
  decodeCombination(d);
  const bool ftz = d.take("ftz");
  const Type type = d.takeType();
  d.writePredicate(0, d.operand(0).name);
  d.writePredicate(1, d.operand(0).pair);
  d.read(2, 1, type);
  d.read(3, 2, type);
  switch (type) {
    case Type::kF16:
      return execute(d, comparisonOf<Half, kAllComparisons>(comparison));
    case Type::kBf16:
      return execute(d, comparisonOf<Bf16, kAllComparisons>(comparison));
    case Type::kF64:
      return execute(d, comparisonOf<Plain<double>, kAllComparisons>(comparison));
    case Type::kF32:
      return execute(d, ftz ? comparisonOf<Flushed, kAllComparisons>(comparison)
                            : comparisonOf<Plain<float>, kAllComparisons>(comparison));
    default:
      execute(d, ptx::forInteger<Execute>(
                     type, [&]<class T>(T) { return comparisonOf<Plain<T>, kIntegerComparisons>(comparison); }));
  }
}

// set: setp with a result in a register, all ones or 1.0: 9.7.6.1, 9.7.7.1.
template <class Format>
Execute setRegister(u32 bytes) {
  if (bytes == 2) {
    return [](Warp& w, const Instruction& i, LaneMask lanes) {
      const LaneMask yes = combined(w, i, compareLanes<Format>(w, i, static_cast<int>(i.immediate[1])));
      forLanes(lanes,
               [&](u32 l) { lanesOf<u16>(w, i.slot[0])[l] = yes >> l & 1 ? static_cast<u16>(i.immediate[2]) : 0; });
    };
  }
  return [](Warp& w, const Instruction& i, LaneMask lanes) {
    const LaneMask yes = combined(w, i, compareLanes<Format>(w, i, static_cast<int>(i.immediate[1])));
    forLanes(lanes, [&](u32 l) { lanesOf<u32>(w, i.slot[0])[l] = yes >> l & 1 ? i.immediate[2] : 0; });
  };
}

void set(Decoding& d) {
  const int comparison = takeComparison(d);
  decodeCombination(d);
  const bool ftz = d.take("ftz");
  const Type to = d.takeType(), from = d.takeType();
  const u32 bytes = ptx::bytesOf(to);
  d.write(0, 0, bytes);
  d.read(2, 1, from);
  d.read(3, 2, from);
  d.out().immediate[1] = static_cast<u32>(comparison);
  d.out().immediate[2] = to == Type::kF32 ? 0x3f800000 : to == Type::kF16 ? 0x3c00 : to == Type::kBf16 ? 0x3f80 : ~0u;
  switch (from) {
    case Type::kF16:
      return execute(d, setRegister<Half>(bytes));
    case Type::kBf16:
      return execute(d, setRegister<Bf16>(bytes));
    case Type::kF64:
      return execute(d, setRegister<Plain<double>>(bytes));
    case Type::kF32:
      return execute(d, ftz ? setRegister<Flushed>(bytes) : setRegister<Plain<float>>(bytes));
    default:
      execute(d, ptx::forInteger<Execute>(from, [&]<class T>(T) { return setRegister<Plain<T>>(bytes); }));
  }
}

void selp(Decoding& d) {
  const Type type = d.takeType();
  sameType(d, type, 2);
  d.readPredicate(3, 0, d.operand(3));
  execute(d, ptx::forBits<Execute>(type, []<class T>(T) -> Execute {
            return [](Warp& w, const Instruction& i, LaneMask lanes) {
              T* r = lanesOf<T>(w, i.slot[0]);
              const T *a = lanesOf<T>(w, i.slot[1]), *b = lanesOf<T>(w, i.slot[2]);
              const LaneMask p = predicateOf(w, i.slot[3]) ^ i.invert[0];
              forLanes(lanes, [=](u32 l) { r[l] = p & kLaneBits.bit[l] ? a[l] : b[l]; });
            };
          }));
}

// a when c is not negative, else b; -0 counts as zero and NaN as negative: 9.7.6.4.
void slct(Decoding& d) {
  const bool ftz = d.take("ftz");
  const Type type = d.takeType(), chooser = d.takeType();
  sameType(d, type, 2);
  d.read(3, 3, chooser);
  execute(d, ptx::forBits<Execute>(type, [&]<class T>(T) -> Execute {
            if (chooser == Type::kS32) return ternary<T, T, T, i32>([](T a, T b, i32 c) { return c >= 0 ? a : b; });
            if (ftz) return ternary<T, T, T, float>([](T a, T b, float c) { return flushSubnormal(c) >= 0 ? a : b; });
            return ternary<T, T, T, float>([](T a, T b, float c) { return c >= 0 ? a : b; });
          }));
}

// Logic on predicates. Slots: 0 the result, 1 and 2 the sources.
void predicateLogic(Decoding& d) {
  const std::string_view op = d.opcode();
  d.take("pred");
  d.writePredicate(0, d.operand(0).name);
  d.readPredicate(1, 0, d.operand(1));
  if (op == "mov" || op == "not") {
    if (op == "not") d.out().invert[0] = ~d.out().invert[0];
    return execute(d, [](Warp& w, const Instruction& i, LaneMask lanes) {
      setPredicate(w, i.slot[0], lanes, predicateOf(w, i.slot[1]) ^ i.invert[0]);
    });
  }
  d.readPredicate(2, 1, d.operand(2));
  auto form = []<class Op>(Op) -> Execute {
    return [](Warp& w, const Instruction& i, LaneMask lanes) {
      setPredicate(w, i.slot[0], lanes,
                   Op()(predicateOf(w, i.slot[1]) ^ i.invert[0], predicateOf(w, i.slot[2]) ^ i.invert[1]));
    };
  };
  if (op == "and") execute(d, form([](LaneMask a, LaneMask b) { return a & b; }));
  if (op == "or") execute(d, form([](LaneMask a, LaneMask b) { return a | b; }));
  if (op == "xor") execute(d, form([](LaneMask a, LaneMask b) { return a ^ b; }));
}

}  // namespace

bool decodeCompare(Decoding& d) {
  const std::string_view op = d.opcode();
  if (op == "setp" || op == "set") {
    // Pairs are compared where the half formats are.
    if (d.peekType() == Type::kF16x2 || d.peekType() == Type::kBf16x2) return false;
    op == "setp" ? setp(d) : set(d);
  } else if (op == "selp") {
    selp(d);
  } else if (op == "slct") {
    slct(d);
  } else if ((op == "and" || op == "or" || op == "xor" || op == "not" || op == "mov") && d.peekType() == Type::kPred) {
    predicateLogic(d);
  } else {
    return false;
  }
  return true;
}

}  // namespace softgpu::isa
