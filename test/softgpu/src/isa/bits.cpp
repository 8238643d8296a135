// Logic, shifts and bit fields: PTX ISA 9.7.8 and the bit instructions of 9.7.1.
#include <algorithm>
#include <cstdlib>
#include <type_traits>

#include "isa/isa.h"
#include "isa/lanes.h"

namespace softgpu::isa {
namespace {

template <class T>
constexpr u32 kBits = sizeof(T) * 8;

template <class T>
T bitMask(u32 bits) {
  return bits >= kBits<T> ? static_cast<T>(~T{0}) : static_cast<T>((T{1} << bits) - 1);
}

void logic(Decoding& d) {
  const std::string_view op = d.opcode();
  const Type type = d.takeType();
  sameType(d, type, op == "not" || op == "cnot" ? 1 : 2);
  execute(d, ptx::forBits<Execute>(type, [&]<class T>(T) -> Execute {
            if (op == "and") return binary<T>([](T a, T b) { return static_cast<T>(a & b); });
            if (op == "or") return binary<T>([](T a, T b) { return static_cast<T>(a | b); });
            if (op == "xor") return binary<T>([](T a, T b) { return static_cast<T>(a ^ b); });
            if (op == "not") return unary<T>([](T a) { return static_cast<T>(~a); });
            return unary<T>([](T a) { return static_cast<T>(a == 0); });
          }));
}

void tableLogic(Warp& w, const Instruction& i, LaneMask lanes) {
  u32* r = lanesOf<u32>(w, i.slot[0]);
  const u32 *a = lanesOf<u32>(w, i.slot[1]), *b = lanesOf<u32>(w, i.slot[2]), *c = lanesOf<u32>(w, i.slot[3]);
  const u32 table = i.immediate[0];
  forLanes(lanes, [=](u32 l) {
    u32 result = 0;
    for (u32 k = 0; k < 8; ++k) {
      u32 chosen = (k & 4 ? a[l] : ~a[l]) & (k & 2 ? b[l] : ~b[l]) & (k & 1 ? c[l] : ~c[l]);
      result |= table >> k & 1 ? chosen : 0;
    }
    r[l] = result;
  });
}

// The same, and a predicate: whether the result has a bit, combined with slot 5.
void tableLogicWithPredicate(Warp& w, const Instruction& i, LaneMask lanes) {
  tableLogic(w, i, lanes);
  LaneMask any = 0;
  for (u32 l = 0; l < kWarpSize; ++l) any |= static_cast<LaneMask>(lanesOf<u32>(w, i.slot[0])[l] != 0) << l;
  const LaneMask q = predicateOf(w, i.slot[5]) ^ i.invert[0];
  setPredicate(w, i.slot[4], lanes, i.immediate[1] ? any & q : any | q);
}

// Any function of three bits, given by its truth table: 9.7.8.6.
void logic3(Decoding& d) {
  const int combine = d.takeOneOf({"or", "and"});
  if (d.takeType() != Type::kB32) d.fail("lop3 of a type other than .b32");
  sameType(d, Type::kB32, 3);
  d.out().immediate[0] = static_cast<u32>(d.immediate(4));
  if (combine < 0) return execute(d, tableLogic);
  d.writePredicate(4, d.operand(0).pair);
  d.readPredicate(5, 0, d.operand(5));
  d.out().immediate[1] = static_cast<u32>(combine);
  execute(d, tableLogicWithPredicate);
}

// Shifts by more than the width give 0, or copies of the sign: 9.7.8.8 and 9.7.8.9.
void shift(Decoding& d) {
  const bool left = d.opcode() == "shl";
  const Type type = d.takeType();
  d.write(0, 0, ptx::bytesOf(type));
  d.read(1, 1, type);
  d.read(2, 2, Type::kU32);
  execute(d, ptx::forInteger<Execute>(type, [&]<class T>(T) -> Execute {
            if (left)
              return binary<T, T, u32>(
                  [](T a, u32 by) { return static_cast<T>(by >= kBits<T> ? T{0} : static_cast<T>(a << by)); });
            return binary<T, T, u32>([](T a, u32 by) {
              return static_cast<T>(by >= kBits<T> ? (a < 0 ? T(-1) : T{0}) : static_cast<T>(a >> by));
            });
          }));
}

u32 funnelLeft(u32 low, u32 high, u32 by) { return static_cast<u32>(((u64{high} << 32 | low) << by) >> 32); }
u32 funnelRight(u32 low, u32 high, u32 by) { return static_cast<u32>((u64{high} << 32 | low) >> by); }

// Funnel shift: 9.7.8.7.
void funnelShift(Decoding& d) {
  const int direction = d.takeOneOf({"l", "r"});
  const int mode = d.takeOneOf({"clamp", "wrap"});
  d.takeType();
  if (direction < 0 || mode < 0) d.fail("shf needs .l or .r, and .clamp or .wrap");
  sameType(d, Type::kB32, 3);
  if (direction == 0 && mode == 0)
    execute(d, ternary<u32>([](u32 a, u32 b, u32 c) { return funnelLeft(a, b, std::min(c, 32u)); }));
  if (direction == 0 && mode == 1)
    execute(d, ternary<u32>([](u32 a, u32 b, u32 c) { return funnelLeft(a, b, c & 31); }));
  if (direction == 1 && mode == 0)
    execute(d, ternary<u32>([](u32 a, u32 b, u32 c) { return funnelRight(a, b, std::min(c, 32u)); }));
  if (direction == 1 && mode == 1)
    execute(d, ternary<u32>([](u32 a, u32 b, u32 c) { return funnelRight(a, b, c & 31); }));
}

void countOrReverse(Decoding& d) {
  const std::string_view op = d.opcode();
  const Type type = d.takeType();
  d.write(0, 0, op == "brev" ? ptx::bytesOf(type) : 4);
  d.read(1, 1, type);
  auto form = [&]<class T>(T) -> Execute {
    if (op == "popc") return unary<u32, T>([](T a) { return static_cast<u32>(__builtin_popcountll(a)); });
    if (op == "clz") {
      return unary<u32, T>([](T a) { return a ? static_cast<u32>(__builtin_clzll(a)) - (64 - kBits<T>) : kBits<T>; });
    }
    return unary<T>([](T a) {
      T r = 0;
      for (u32 k = 0; k < kBits<T>; ++k) r |= (a >> k & 1) << (kBits<T> - 1 - k);
      return r;
    });
  };
  execute(d, type == Type::kB32 ? form(u32()) : type == Type::kB64 ? form(u64()) : nullptr);
}

template <class T>
u32 leadingBit(T a) {
  if (a < 0) a = static_cast<T>(~a);
  return a ? 63 - static_cast<u32>(__builtin_clzll(static_cast<u64>(a))) : ~0u;
}

// The most significant bit that differs from the sign, as a position or as a shift: 9.7.1.16.
void findBit(Decoding& d) {
  const bool shiftAmount = d.take("shiftamt");
  const Type type = d.takeType();
  d.write(0, 0, 4);
  d.read(1, 1, type);
  execute(d, ptx::forInteger<Execute>(type, [&]<class T>(T) -> Execute {
            if constexpr (sizeof(T) < 4) {
              return nullptr;
            } else {
              if (!shiftAmount) return unary<u32, T>([](T a) { return leadingBit(a); });
              return unary<u32, T>([](T a) {
                u32 p = leadingBit(a);
                return p == ~0u ? p : kBits<T> - 1 - p;
              });
            }
          }));
}

// bfe and bfi: positions and lengths are bytes; what lies outside the word reads as sign or zero.
void extract(Decoding& d) {
  const Type type = d.takeType();
  d.write(0, 0, ptx::bytesOf(type));
  d.read(1, 1, type);
  d.read(2, 2, Type::kU32);
  d.read(3, 3, Type::kU32);
  execute(d, ptx::forInteger<Execute>(type, [&]<class T>(T) -> Execute {
            return ternary<T, T, u32, u32>([](T a, u32 position, u32 length) {
              position &= 255, length &= 255;
              const u32 width = kBits<T>;
              using U = std::make_unsigned_t<T>;
              if (length == 0) return T{0};
              const u32 top = std::min(position + length - 1, width - 1);
              const bool sign = std::is_signed_v<T> && (static_cast<U>(a) >> top & 1);
              U field = position >= width ? U{0} : static_cast<U>(static_cast<U>(a) >> position);
              const u32 valid = position >= width ? 0 : std::min(length, width - position);
              field &= bitMask<U>(valid);
              return static_cast<T>(sign ? field | static_cast<U>(~bitMask<U>(valid)) : field);
            });
          }));
}

void insert(Decoding& d) {
  d.out().copies = true;
  const Type type = d.takeType();
  d.write(0, 0, ptx::bytesOf(type));
  d.read(1, 1, type);
  d.read(2, 2, type);
  d.read(3, 3, Type::kU32);
  d.read(4, 4, Type::kU32);
  auto form = [&]<class T>(T) -> Execute {
    return [](Warp& w, const Instruction& i, LaneMask lanes) {
      T* r = lanesOf<T>(w, i.slot[0]);
      const T *a = lanesOf<T>(w, i.slot[1]), *b = lanesOf<T>(w, i.slot[2]);
      const u32 *position = lanesOf<u32>(w, i.slot[3]), *length = lanesOf<u32>(w, i.slot[4]);
      forLanes(lanes, [=](u32 l) {
        const u32 p = position[l] & 255;
        const T mask = p >= kBits<T> ? T{0} : static_cast<T>(bitMask<T>(length[l] & 255) << p);
        r[l] = static_cast<T>((b[l] & ~mask) | (p >= kBits<T> ? T{0} : static_cast<T>(a[l] << p) & mask));
      });
    };
  };
  execute(d, type == Type::kB32 ? form(u32()) : type == Type::kB64 ? form(u64()) : nullptr);
}

u32 onesFrom(u32 position, u32 length) { return position >= 32 ? 0u : bitMask<u32>(length) << position; }

// A mask of `length` ones from a position on: 9.7.1.22.
void makeMask(Decoding& d) {
  const int mode = d.takeOneOf({"clamp", "wrap"});
  if (mode < 0) d.fail("bmsk needs .clamp or .wrap");
  d.takeType();
  sameType(d, Type::kU32, 2);
  execute(d, mode == 0 ? binary<u32>([](u32 p, u32 n) { return onesFrom(p, n); })
                       : binary<u32>([](u32 p, u32 n) { return onesFrom(p & 31, n & 31); }));
}

// Extends the low n bits of a word by sign or zero: 9.7.1.21.
template <bool kSigned>
u32 extended(u32 a, u32 n) {
  if (n == 0) return 0;
  if (n >= 32) return a;
  const u32 top = a << (32 - n);
  return kSigned ? static_cast<u32>(static_cast<i32>(top) >> (32 - n)) : top >> (32 - n);
}

void extend(Decoding& d) {
  const int mode = d.takeOneOf({"clamp", "wrap"});
  if (mode < 0) d.fail("szext needs .clamp or .wrap");
  const Type type = d.takeType();
  sameType(d, Type::kU32, 2);
  auto form = [&]<bool kSigned>() -> Execute {
    if (mode == 0) return binary<u32>([](u32 a, u32 n) { return extended<kSigned>(a, n); });
    return binary<u32>([](u32 a, u32 n) { return extended<kSigned>(a, n & 31); });
  };
  execute(d, type == Type::kS32   ? form.template operator()<true>()
             : type == Type::kU32 ? form.template operator()<false>()
                                  : nullptr);
}

// Find the n-th set bit: 9.7.1.17.
void findNth(Decoding& d) {
  d.takeType();
  d.write(0, 0, 4);
  d.read(1, 1, Type::kB32);
  d.read(2, 2, Type::kU32);
  d.read(3, 3, Type::kS32);
  execute(d, ternary<u32, u32, u32, i32>([](u32 mask, u32 base, i32 offset) -> u32 {
            if (offset == 0) return mask >> (base & 31) & 1 ? base : ~0u;
            const i32 step = offset > 0 ? 1 : -1;
            i64 left = std::abs(i64{offset});
            for (i32 at = static_cast<i32>(base); at >= 0 && at < 32; at += step) {
              if ((mask >> at & 1) && --left == 0) return static_cast<u32>(at);
            }
            return ~0u;
          }));
}

// Byte permutation: 9.7.9.7.
void permute(Decoding& d) {
  d.out().copies = true;
  const int mode = d.takeOneOf({"f4e", "b4e", "rc8", "ecl", "ecr", "rc16"});
  d.takeType();
  sameType(d, Type::kB32, 3);
  d.out().immediate[0] = static_cast<u32>(mode + 1);
  d.out().execute = [](Warp& w, const Instruction& i, LaneMask lanes) {
    u32* r = lanesOf<u32>(w, i.slot[0]);
    const u32 *a = lanesOf<u32>(w, i.slot[1]), *b = lanesOf<u32>(w, i.slot[2]), *c = lanesOf<u32>(w, i.slot[3]);
    const u32 mode = i.immediate[0];
    forLanes(lanes, [=](u32 l) {
      const u64 bytes = u64{b[l]} << 32 | a[l];
      const u32 s = c[l] & 3;
      u32 result = 0;
      for (u32 k = 0; k < 4; ++k) {
        u32 select = c[l] >> (4 * k) & 15;
        if (mode == 1) select = (s + k) & 7;
        if (mode == 2) select = (s - k) & 7;
        if (mode == 3) select = s;
        if (mode == 4) select = std::max(k, s);
        if (mode == 5) select = std::min(k, s);
        if (mode == 6) select = (s & 1) * 2 + (k & 1);
        u32 byte = static_cast<u32>(bytes >> ((select & 7) * 8)) & 255;
        if (select & 8) byte = byte & 128 ? 255 : 0;
        result |= byte << (8 * k);
      }
      r[l] = result;
    });
  };
}

}  // namespace

bool decodeBits(Decoding& d) {
  const std::string_view op = d.opcode();
  if (op == "and" || op == "or" || op == "xor" || op == "not" || op == "cnot") {
    if (d.peekType() == Type::kPred) return false;
    logic(d);
  } else if (op == "lop3") {
    logic3(d);
  } else if (op == "shl" || op == "shr") {
    shift(d);
  } else if (op == "shf") {
    funnelShift(d);
  } else if (op == "popc" || op == "clz" || op == "brev") {
    countOrReverse(d);
  } else if (op == "bfind") {
    findBit(d);
  } else if (op == "bfe") {
    extract(d);
  } else if (op == "bfi") {
    insert(d);
  } else if (op == "bmsk") {
    makeMask(d);
  } else if (op == "szext") {
    extend(d);
  } else if (op == "fns") {
    findNth(d);
  } else if (op == "prmt") {
    permute(d);
  } else {
    return false;
  }
  return true;
}

}  // namespace softgpu::isa
