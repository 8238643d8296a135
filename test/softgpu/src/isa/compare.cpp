// Comparison and selection: PTX ISA 9.7.6 and, but for pairs, 9.7.7; and logic on predicates (9.7.8).
#include <utility>

#include "isa/comparison.h"
#include "isa/isa.h"
#include "isa/lanes.h"
#include "isa/numbers.h"

namespace softgpu::isa {
namespace {

constexpr int kIntegerComparisons = 6, kAllComparisons = 14;

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
struct FlushedHalf {
  using Stored = u16;
  static float load(u16 x) { return halfToFloat(x & 0x7c00 ? x : x & 0x8000); }
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
  return combine(i.immediate[0], value, predicateOf(w, i.slot[4]) ^ i.invert[0]);
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

void setp(Decoding& d) {
  const int comparison = takeComparison(d);
  d.out().immediate[0] = takeCombination(d, 4);
  const bool ftz = d.take("ftz");
  const Type type = d.takeType();
  if (ftz && type != Type::kF32 && type != Type::kF16) d.fail(".ftz without f32 or f16");
  d.writePredicate(0, d.operand(0).name);
  d.writePredicate(1, d.operand(0).pair);
  d.read(2, 1, type);
  d.read(3, 2, type);
  switch (type) {
    case Type::kF16:
      return execute(d, ftz ? comparisonOf<FlushedHalf, kAllComparisons>(comparison)
                            : comparisonOf<Half, kAllComparisons>(comparison));
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
  d.out().immediate[0] = takeCombination(d, 4);
  const bool ftz = d.take("ftz");
  const Type to = d.takeType(), from = d.takeType();
  const u32 bytes = ptx::bytesOf(to);
  if (ftz && from != Type::kF32 && from != Type::kF16) d.fail(".ftz without f32 or f16");
  d.write(0, 0, bytes);
  d.read(2, 1, from);
  d.read(3, 2, from);
  d.out().immediate[1] = static_cast<u32>(comparison);
  d.out().immediate[2] = to == Type::kF32 ? 0x3f800000 : to == Type::kF16 ? 0x3c00 : to == Type::kBf16 ? 0x3f80 : ~0u;
  switch (from) {
    case Type::kF16:
      return execute(d, ftz ? setRegister<FlushedHalf>(bytes) : setRegister<Half>(bytes));
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
  if (chooser != Type::kS32 && chooser != Type::kF32) d.fail("slct by something else than .s32 or .f32");
  if (ftz && chooser != Type::kF32) d.fail(".ftz without f32");
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
  if ((op == "setp" || op == "set") && d.hasType(Type::kF16x2, Type::kBf16x2)) return false;
  if (op == "setp") {
    setp(d);
  } else if (op == "set") {
    set(d);
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
