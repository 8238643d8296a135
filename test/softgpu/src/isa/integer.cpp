// Integer arithmetic: PTX ISA 9.7.1.
#include <algorithm>
#include <limits>
#include <type_traits>

#include "isa/isa.h"
#include "isa/lanes.h"

namespace softgpu::isa {
namespace {

template <class T>
using Unsigned = std::make_unsigned_t<T>;

template <class T>
T wrapAdd(T a, T b) {
  return static_cast<T>(static_cast<Unsigned<T>>(a) + static_cast<Unsigned<T>>(b));
}
template <class T>
T wrapMul(T a, T b) {
  // Through 64 bits, because a product of two u16 is a signed int in C++.
  return static_cast<T>(static_cast<u64>(a) * static_cast<u64>(b));
}
template <class T>
T highMul(T a, T b) {
  using Wide = std::conditional_t<std::is_signed_v<T>, __int128, u128>;
  using Half = std::conditional_t<std::is_signed_v<T>, i64, u64>;
  if constexpr (sizeof(T) == 8) {
    return static_cast<T>((static_cast<Wide>(a) * static_cast<Wide>(b)) >> 64);
  } else {
    return static_cast<T>((static_cast<Half>(a) * static_cast<Half>(b)) >> (sizeof(T) * 8));
  }
}
template <class T>
T clampTo32(i64 value) {
  return static_cast<T>(
      std::min<i64>(std::max<i64>(value, std::numeric_limits<T>::min()), std::numeric_limits<T>::max()));
}

template <class T>
struct WiderOf;
template <>
struct WiderOf<u16> {
  using type = u32;
};
template <>
struct WiderOf<i16> {
  using type = i32;
};
template <>
struct WiderOf<u32> {
  using type = u64;
};
template <>
struct WiderOf<i32> {
  using type = i64;
};

// Division by zero is unspecified, and so is INT_MIN / -1; quotient and remainder of the former are all ones, as
// ptxas folds them.
template <class T>
T divide(T a, T b) {
  if (b == 0) return static_cast<T>(-1);
  if constexpr (std::is_signed_v<T>) {
    if (b == -1) return static_cast<T>(0 - static_cast<Unsigned<T>>(a));
  }
  return static_cast<T>(a / b);
}
template <class T>
T remainder(T a, T b) {
  if (b == 0) return static_cast<T>(-1);
  if constexpr (std::is_signed_v<T>) {
    if (b == -1) return 0;
  }
  return static_cast<T>(a % b);
}

template <class T>
Execute simple(std::string_view op) {
  if (op == "add") return binary<T>([](T a, T b) { return wrapAdd(a, b); });
  if (op == "sub") return binary<T>([](T a, T b) { return wrapAdd(a, wrapAdd<T>(static_cast<T>(~b), 1)); });
  if (op == "div") return binary<T>([](T a, T b) { return divide(a, b); });
  if (op == "rem") return binary<T>([](T a, T b) { return remainder(a, b); });
  if (op == "min") return binary<T>([](T a, T b) { return a < b ? a : b; });
  if (op == "max") return binary<T>([](T a, T b) { return a > b ? a : b; });
  if (op == "neg") return unary<T>([](T a) { return wrapAdd<T>(static_cast<T>(~a), 1); });
  if (op == "abs") return unary<T>([](T a) { return a < 0 ? wrapAdd<T>(static_cast<T>(~a), 1) : a; });
  if (op == "sad") {
    return ternary<T>([](T a, T b, T c) {
      using U = Unsigned<T>;
      U distance = a < b ? static_cast<U>(static_cast<U>(b) - static_cast<U>(a))
                         : static_cast<U>(static_cast<U>(a) - static_cast<U>(b));
      return wrapAdd(c, static_cast<T>(distance));
    });
  }
  return nullptr;
}

// The relu form of min and max, s32 only: 9.7.1.12 and 9.7.1.13.
Execute relu(std::string_view op) {
  if (op == "min") return binary<i32>([](i32 a, i32 b) { return std::max(0, a < b ? a : b); });
  return binary<i32>([](i32 a, i32 b) { return std::max(0, a > b ? a : b); });
}

void multiply(Decoding& d, Type type, bool add) {
  int part = d.takeOneOf({"lo", "hi", "wide"});
  bool saturate = d.take("sat");
  if (part < 0) d.fail("mul and mad of integers need .lo, .hi or .wide");
  if (part == 2) {
    Type wide = type == Type::kU16   ? Type::kU32
                : type == Type::kS16 ? Type::kS32
                : type == Type::kU32 ? Type::kU64
                                     : Type::kS64;
    d.write(0, 0, ptx::bytesOf(wide));
    d.read(1, 1, type);
    d.read(2, 2, type);
    if (add) d.read(3, 3, wide);
  } else {
    sameType(d, type, add ? 3 : 2);
  }
  execute(d, ptx::forInteger<Execute>(type, [&]<class T>(T) -> Execute {
            if constexpr (sizeof(T) == 1) {
              return nullptr;
            } else {
              if (part == 2) {
                if constexpr (sizeof(T) < 8) {
                  using W = typename WiderOf<T>::type;
                  if (add) return ternary<W, T>([](T a, T b, W c) { return wrapAdd<W>(wrapMul<W>(a, b), c); });
                  return binary<W, T>([](T a, T b) { return wrapMul<W>(a, b); });
                }
                return nullptr;
              }
              if (part == 0) {
                if (saturate) return nullptr;
                if (add) return ternary<T>([](T a, T b, T c) { return wrapAdd(wrapMul(a, b), c); });
                return binary<T>([](T a, T b) { return wrapMul(a, b); });
              }
              if (saturate) {
                if constexpr (std::is_same_v<T, i32>) {
                  if (add)
                    return ternary<i32>([](i32 a, i32 b, i32 c) { return clampTo32<i32>(i64{highMul(a, b)} + c); });
                }
                return nullptr;
              }
              if (add) return ternary<T>([](T a, T b, T c) { return wrapAdd(highMul(a, b), c); });
              return binary<T>([](T a, T b) { return highMul(a, b); });
            }
          }));
}

template <class T>
auto product24(T a, T b) {
  using Wide = std::conditional_t<std::is_signed_v<T>, i64, u64>;
  auto low24 = [](T x) { return static_cast<Wide>(static_cast<T>(static_cast<u32>(x) << 8) >> 8); };
  return low24(a) * low24(b);
}

// The product of the low 24 bits: 9.7.1.5 and 9.7.1.6.
void multiply24(Decoding& d, Type type, bool add) {
  int part = d.takeOneOf({"lo", "hi"});
  sameType(d, type, add ? 3 : 2);
  if (d.take("sat")) {
    if (!add || part != 1 || type != Type::kS32) d.fail(".sat needs mad24.hi.s32");
    return execute(d, ternary<i32>([](i32 a, i32 b, i32 c) { return clampTo32<i32>((product24(a, b) >> 16) + c); }));
  }
  auto form = [&]<class T>(T) -> Execute {
    if (part == 0 && add) return ternary<T>([](T a, T b, T c) { return wrapAdd(static_cast<T>(product24(a, b)), c); });
    if (part == 0) return binary<T>([](T a, T b) { return static_cast<T>(product24(a, b)); });
    if (part == 1 && add) {
      return ternary<T>([](T a, T b, T c) { return wrapAdd(static_cast<T>(product24(a, b) >> 16), c); });
    }
    if (part == 1) return binary<T>([](T a, T b) { return static_cast<T>(product24(a, b) >> 16); });
    return nullptr;
  };
  execute(d, type == Type::kU32 ? form(u32()) : type == Type::kS32 ? form(i32()) : nullptr);
}

// Part `index` of a word cut into parts of `bits` bits.
i64 partOf(u32 word, u32 index, u32 bits, bool isSigned) {
  const u32 top = word << (32 - bits * (index + 1));
  return isSigned ? i64{static_cast<i32>(top) >> (32 - bits)} : i64{top >> (32 - bits)};
}

// dp4a and dp2a: 9.7.1.23 and 9.7.1.24. Signedness of each side is a type of its own.
void dotProduct(Decoding& d) {
  const bool four = d.opcode() == "dp4a";
  int half = four ? 0 : d.takeOneOf({"lo", "hi"});
  if (half < 0) d.fail("dp2a needs .lo or .hi");
  Type a = d.takeType(), b = d.takeType();
  d.write(0, 0, 4);
  d.read(1, 1, a);
  d.read(2, 2, b);
  d.read(3, 3, a);
  d.out().immediate[0] = ptx::isSigned(a);
  d.out().immediate[1] = ptx::isSigned(b);
  d.out().immediate[2] = static_cast<u32>(half);
  if (four) {
    d.out().execute = [](Warp& w, const Instruction& i, LaneMask lanes) {
      const u32 *a = lanesOf<u32>(w, i.slot[1]), *b = lanesOf<u32>(w, i.slot[2]), *c = lanesOf<u32>(w, i.slot[3]);
      forLanes(lanes, [&](u32 l) {
        i64 sum = c[l];
        for (u32 k = 0; k < 4; ++k) sum += partOf(a[l], k, 8, i.immediate[0]) * partOf(b[l], k, 8, i.immediate[1]);
        lanesOf<u32>(w, i.slot[0])[l] = static_cast<u32>(sum);
      });
    };
  } else {
    d.out().execute = [](Warp& w, const Instruction& i, LaneMask lanes) {
      const u32 *a = lanesOf<u32>(w, i.slot[1]), *b = lanesOf<u32>(w, i.slot[2]), *c = lanesOf<u32>(w, i.slot[3]);
      forLanes(lanes, [&](u32 l) {
        i64 sum = c[l];
        for (u32 k = 0; k < 2; ++k) {
          sum += partOf(a[l], k, 16, i.immediate[0]) * partOf(b[l], k + 2 * i.immediate[2], 8, i.immediate[1]);
        }
        lanesOf<u32>(w, i.slot[0])[l] = static_cast<u32>(sum);
      });
    };
  }
}

}  // namespace

bool decodeInteger(Decoding& d) {
  const std::string_view op = d.opcode();
  if (op == "dp4a" || op == "dp2a") {
    dotProduct(d);
    return true;
  }
  const bool twoOperands = op == "add" || op == "sub" || op == "div" || op == "rem" || op == "min" || op == "max";
  const bool oneOperand = op == "neg" || op == "abs";
  const bool product = op == "mul" || op == "mad" || op == "mul24" || op == "mad24";
  if (!twoOperands && !oneOperand && !product && op != "sad") return false;
  const Type type = d.peekType();
  if (ptx::isFloat(type)) return false;
  d.takeType();
  if (op == "mul" || op == "mad") {
    multiply(d, type, op == "mad");
    return true;
  }
  if (product) {
    multiply24(d, type, op == "mad24");
    return true;
  }
  if (d.take("sat")) {
    if (type != Type::kS32 || (op != "add" && op != "sub")) d.fail(".sat needs add or sub with .s32");
    sameType(d, type, 2);
    execute(d, op == "add" ? binary<i32>([](i32 a, i32 b) { return clampTo32<i32>(i64{a} + b); })
                           : binary<i32>([](i32 a, i32 b) { return clampTo32<i32>(i64{a} - b); }));
    return true;
  }
  if (d.take("relu")) {
    if (type != Type::kS32 || (op != "min" && op != "max")) d.fail(".relu needs min or max with .s32");
    sameType(d, type, 2);
    execute(d, relu(op));
    return true;
  }
  sameType(d, type, oneOperand ? 1 : op == "sad" ? 3 : 2);
  execute(d, ptx::forInteger<Execute>(type, [&]<class T>(T) { return simple<T>(op); }));
  return true;
}

}  // namespace softgpu::isa
