// Cases of cvt. Tables list the operand, then the result.
#include <cmath>

#include "builder.h"

namespace runner {
namespace {

void conversions(Builder& b) {
  auto one = [&](const char* form, const char* types, std::vector<std::pair<uint64_t, uint64_t>> table) {
    Rows rows;
    for (auto& [in, out] : table) rows.push_back({in, out});
    b.table("9.7.9.21", form, types, rows);
  };
  one("cvt.u64.u32", "lw", {{0xffffffff, 0xffffffff}, {5, 5}});
  one("cvt.s64.s32", "lw", {{0xffffffff, ~uint64_t{0}}, {5, 5}});
  one("cvt.u32.u64", "wl", {{0x1234567890, 0x34567890}});
  one("cvt.u32.u16", "wh", {{0xffff, 0xffff}});
  one("cvt.s32.s16", "wh", {{0xffff, 0xffffffff}});
  one("cvt.u32.u8", "wh", {{0xffab, 0xab}});
  one("cvt.s32.s8", "wh", {{0x00ab, 0xffffffab}});
  one("cvt.u16.u32", "hw", {{0x12345, 0x2345}});
  one("cvt.s64.s16", "lh", {{0x8000, 0xffffffffffff8000}});
  one("cvt.u16.u8", "hh", {{0xff80, 0x80}});
  one("cvt.s16.s8", "hh", {{0xff80, 0xff80}});
  one("cvt.sat.u8.s32", "hw", {{300, 255}, {0xffffffff, 0}, {7, 7}});
  one("cvt.rn.f32.s32", "ww", {{0xffffffff, f(-1)}, {16777217, f(16777216)}});
  one("cvt.rn.f32.u32", "ww", {{0xffffffff, f(4294967296.0f)}, {3, f(3)}});
  one("cvt.rn.f32.u16", "wh", {{0xffff, f(65535)}});
  one("cvt.rn.f32.u64", "wl", {{0x8000008000000001, f(0x1.000002p63f)}, {3, f(3)}});
  one("cvt.rn.f64.s64", "ll", {{~uint64_t{0}, g(-1)}});
  one("cvt.rn.f64.s32", "lw", {{0xffffffff, g(-1)}});
  one("cvt.rn.f64.u32", "lw", {{0xffffffff, g(4294967295.0)}});
  one("cvt.rn.f32.f64", "wl", {{g(1 + 0x1p-24), f(1)}, {g(1 + 0x1.8p-24), f(1 + 0x1p-23f)}});
  one("cvt.f64.f32", "lw", {{f(0.5f), g(0.5)}});
  one("cvt.rni.s32.f32", "ww", {{f(2.5f), 2}, {f(3.5f), 4}, {f(-1.5f), 0xfffffffe}, {f(1e20f), 0x7fffffff}, {kNan, 0}});
  one("cvt.rzi.s32.f32", "ww", {{f(-2.9f), 0xfffffffe}, {f(2.9f), 2}, {f(-1e20f), 0x80000000}});
  one("cvt.rzi.u32.f32", "ww", {{f(-2.9f), 0}, {f(3e9f), 3000000000u}, {f(1e20f), 0xffffffff}});
  one("cvt.rmi.s32.f32", "ww", {{f(-2.1f), 0xfffffffd}});
  one("cvt.rpi.s32.f32", "ww", {{f(2.1f), 3}});
  one("cvt.rzi.s64.f32", "lw", {{f(-2.9f), ~uint64_t{1}}, {kNan, 0x8000000000000000}});
  one("cvt.rmi.s64.f64", "ll", {{g(-2.1), ~uint64_t{2}}});
  one("cvt.rni.f32.f32", "ww", {{f(2.5f), f(2)}, {f(-0.2f), f(-0.0f)}});
  one("cvt.rzi.f32.f32", "ww", {{f(2.9f), f(2)}});
  one("cvt.rmi.f32.f32", "ww", {{f(-2.1f), f(-3)}});
  one("cvt.rpi.f32.f32", "ww", {{f(2.1f), f(3)}});
  one("cvt.sat.f32.f32", "ww", {{f(2.9f), f(1)}, {f(-1), f(0)}, {f(0.25f), f(0.25f)}});
  one("cvt.f32.f16", "wh", {{0x3c01, f(1 + 0x1p-10f)}, {0x0001, f(0x1p-24f)}, {0xfc00, f(-INFINITY)}});
  one("cvt.rn.f16.f32", "hw",
      {{f(1 + 0x1p-11f), 0x3c00},
       {f(1 + 0x1.8p-11f), 0x3c01},
       {f(65520), 0x7c00},
       {f(0x1p-25f), 0},
       {f(0x1.8p-25f), 1},
       {f(0x1p-24f), 1}});
  one("cvt.rz.f16.f32", "hw", {{f(65520), 0x7bff}, {f(1 + 0x1.8p-11f), 0x3c00}});
  one("cvt.rn.bf16.f32", "hw", {{0x3f808000, 0x3f80}, {0x3f818000, 0x3f82}, {0x3f808001, 0x3f81}, {kNan, 0x7fff}});
  one("cvt.rna.tf32.f32", "ww", {{0x3f801000, 0x3f802000}, {0x3f800fff, 0x3f800000}});
  b.text("9.7.9.21", "cvt.rn.bf16x2.f32 %d, %a0, %a1;", "www", Rows{{f(1), f(2)}},
         [](Lane, unsigned) { return uint64_t{0x3f804000}; });
  b.text("9.7.9.21", "cvt.rn.relu.bf16x2.f32 %d, %a0, %a1;", "www", Rows{{f(-1), f(2)}},
         [](Lane, unsigned) { return uint64_t{0x4000}; });
  b.text("9.7.9.21", "cvt.rn.f16x2.f32 %d, %a0, %a1;", "www", Rows{{f(1), f(2)}},
         [](Lane, unsigned) { return uint64_t{0x3c004000}; });
}

// Integers: each type's ends, from below and above, for every pair of types.
struct IntegerType {
  const char* name;
  int bits;
  bool isSigned;
  char shape() const { return bits <= 16 ? 'h' : bits == 32 ? 'w' : 'l'; }
  __int128 lowest() const { return isSigned ? -(__int128{1} << (bits - 1)) : 0; }
  __int128 highest() const { return (__int128{1} << (isSigned ? bits - 1 : bits)) - 1; }
  __int128 value(uint64_t raw) const {
    const __int128 x = raw & static_cast<uint64_t>((static_cast<unsigned __int128>(1) << bits) - 1);
    return isSigned && x > highest() ? x - (__int128{1} << bits) : x;
  }
  // As it lies in a register: 8 bits are extended to 16.
  uint64_t raw(__int128 x) const { return static_cast<uint64_t>(value(static_cast<uint64_t>(x))); }
};
constexpr IntegerType kIntegers[] = {{"u8", 8, false},   {"s8", 8, true},   {"u16", 16, false}, {"s16", 16, true},
                                     {"u32", 32, false}, {"s32", 32, true}, {"u64", 64, false}, {"s64", 64, true}};

void integers(Builder& b) {
  for (const IntegerType& from : kIntegers) {
    Rows rows;
    for (int bit : {0, 6, 7, 8, 14, 15, 16, 30, 31, 32, 62, 63}) {
      if (bit >= from.bits) continue;
      for (uint64_t offset : {~uint64_t{0}, uint64_t{0}, uint64_t{1}}) rows.push_back({(uint64_t{1} << bit) + offset});
    }
    if (rows.size() > 32) rows.resize(32);
    for (const IntegerType& to : kIntegers) {
      const std::string types = {to.shape(), from.shape()};
      b.op("9.7.9.21", std::string("cvt.") + to.name + "." + from.name, types.c_str(), rows,
           [=](Lane a, unsigned) { return to.raw(from.value(a[0])); });
      if (to.lowest() <= from.lowest() && to.highest() >= from.highest()) continue;
      b.op("9.7.9.21", std::string("cvt.sat.") + to.name + "." + from.name, types.c_str(), rows, [=](Lane a, unsigned) {
        const __int128 x = from.value(a[0]);
        return to.raw(x < to.lowest() ? to.lowest() : x > to.highest() ? to.highest() : x);
      });
    }
  }
}

// Float to integer: halves in each direction, what is out of range on both sides, infinities and NaN.
void floatsToIntegers(Builder& b) {
  for (const IntegerType& to : kIntegers) {
    const float top = std::ldexp(1.0f, to.bits - to.isSigned);
    const float values[] = {0,    0.5f,    1.5f,     2.5f,     -0.5f,     -1.5f, -2.5f,  0.999f,  100.75f, top,
                            -top, 2 * top, -2 * top, INFINITY, -INFINITY, 1e30f, 1e-40f, -1e-40f, top / 2};
    Rows rows, wide;
    for (float v : values) rows.push_back({f(v)}), wide.push_back({g(v)});
    rows.push_back({0x7fc00000}), wide.push_back({0x7ff8000000000000});
    struct Mode {
      const char* name;
      double (*of)(double);
    };
    for (const Mode& mode :
         {Mode{"rni", std::nearbyint}, {"rzi", std::trunc}, {"rmi", std::floor}, {"rpi", std::ceil}}) {
      const std::string form = std::string("cvt.") + mode.name;
      auto expected = [=](double x, bool isDouble) {
        // The ISA's rule for NaN.
        if (x != x) return isDouble || to.bits == 64 ? to.raw(__int128{1} << (to.bits - 1)) : 0;
        const double y = mode.of(x);
        if (y >= top) return to.raw(to.highest());
        return y <= static_cast<double>(to.lowest()) ? to.raw(to.lowest()) : to.raw(static_cast<__int128>(y));
      };
      b.op("9.7.9.21", form + "." + to.name + ".f32", std::string({to.shape(), 'w'}).c_str(), rows,
           [=](Lane a, unsigned) { return expected(F(a[0]), false); });
      b.op("9.7.9.21", form + ".ftz." + to.name + ".f32", std::string({to.shape(), 'w'}).c_str(), rows,
           [=](Lane a, unsigned) { return expected(std::fabs(F(a[0])) < 1e-38f ? 0 : F(a[0]), false); });
      b.op("9.7.9.21", form + "." + to.name + ".f64", std::string({to.shape(), 'l'}).c_str(), wide,
           [=](Lane a, unsigned) { return expected(G(a[0]), true); });
    }
  }
}

// Integer to float: what lies between two floats, and exactly between.
void integersToFloats(Builder& b) {
  auto one = [&](const char* form, const char* types, const Rows& rows) { b.table("9.7.9.21", form, types, rows); };
  for (const char* type : {"s32", "u32"}) {
    const std::string t = type;
    one(("cvt.rn.f32." + t).c_str(), "ww", {{16777217, f(16777216)}, {16777219, f(16777220)}, {5, f(5)}});
    one(("cvt.rz.f32." + t).c_str(), "ww", {{16777217, f(16777216)}, {16777219, f(16777218)}, {0, f(0)}});
    one(("cvt.rm.f32." + t).c_str(), "ww", {{16777217, f(16777216)}, {16777219, f(16777218)}});
    one(("cvt.rp.f32." + t).c_str(), "ww", {{16777217, f(16777218)}, {16777219, f(16777220)}});
  }
  one("cvt.rm.f32.s32", "ww", {{0xfeffffff, f(-16777218)}});
  one("cvt.rp.f32.s32", "ww", {{0xfeffffff, f(-16777216)}});
  one("cvt.rn.f32.s64", "wl", {{0x7fffffffffffffff, f(0x1p63f)}, {~uint64_t{0}, f(-1)}, {(1 << 25) + 3, f(33554436)}});
  one("cvt.rz.f32.u64", "wl", {{~uint64_t{0}, f(0x1.fffffep63f)}});
  one("cvt.rn.f64.u64", "ll",
      {{~uint64_t{0}, g(0x1p64)}, {(uint64_t{1} << 53) + 1, g(0x1p53)}, {(uint64_t{1} << 53) + 3, g(0x1p53 + 4)}});
  one("cvt.rp.f64.s64", "ll", {{(uint64_t{1} << 53) + 1, g(0x1p53 + 2)}, {0 - ((uint64_t{1} << 53) + 1), g(-0x1p53)}});
  one("cvt.rm.f64.u64", "ll", {{~uint64_t{0}, g(0x1.fffffffffffffp63)}});
  for (const char* type : {"s8", "s16"})
    one((std::string("cvt.rn.f32.") + type).c_str(), "wh", {{0xffff, f(-1)}, {0x0002, f(2)}});
  one("cvt.rn.f32.u8", "wh", {{0x01ff, f(255)}});
  one("cvt.rn.f16.s32", "hw", {{2049, 0x6800}, {2051, 0x6802}, {65520, 0x7c00}, {65519, 0x7bff}, {0xffffffff, 0xbc00}});
  one("cvt.rz.f16.u32", "hw", {{2049, 0x6800}, {65520, 0x7bff}});
  one("cvt.rp.f16.u16", "hh", {{2049, 0x6801}, {1, 0x3c00}});
  one("cvt.rn.f16.s64", "hl", {{uint64_t{1} << 40, 0x7c00}, {~uint64_t{1}, 0xc000}});
}

void betweenFloats(Builder& b) {
  auto one = [&](const char* form, const char* types, const Rows& rows) { b.table("9.7.9.21", form, types, rows); };
  const double above = 1 + 0x1p-24 + 0x1p-40, tie = 1 + 0x1p-24, tiny = 0x1p-150;
  one("cvt.rn.f32.f64", "wl",
      {{g(tie), f(1)},
       {g(above), f(1 + 0x1p-23f)},
       {g(tiny), 0},
       {g(tiny * 1.5), 1},
       {g(1e300), f(INFINITY)},
       {g(-0.0), f(-0.0f)}});
  one("cvt.rz.f32.f64", "wl", {{g(above), f(1)}, {g(-above), f(-1)}, {g(1e300), 0x7f7fffff}});
  one("cvt.rm.f32.f64", "wl", {{g(above), f(1)}, {g(-above), f(-1 - 0x1p-23f)}, {g(-tiny), 0x80000001}});
  one("cvt.rp.f32.f64", "wl", {{g(above), f(1 + 0x1p-23f)}, {g(-above), f(-1)}, {g(tiny), 1}, {g(-1e300), 0xff7fffff}});
  one("cvt.rn.ftz.f32.f64", "wl", {{g(0x1p-130), 0}, {g(-0x1p-130), 0x80000000}, {g(0x1p-126), 0x00800000}});
  one("cvt.rn.sat.f32.f64", "wl", {{g(2), f(1)}, {g(-2), 0}, {g(0.5), f(0.5f)}, {kDoubleNan, 0}});
  one("cvt.sat.f64.f64", "ll", {{g(2), g(1)}, {g(-2), 0}, {g(0.25), g(0.25)}});
  one("cvt.ftz.f64.f32", "lw", {{1, 0}, {0x80000001, g(-0.0)}, {f(1), g(1)}});
  one("cvt.ftz.f32.f32", "ww", {{1, 0}, {0x80000001, 0x80000000}, {f(1), f(1)}});
  one("cvt.rni.f64.f64", "ll", {{g(2.5), g(2)}, {g(-0.5), g(-0.0)}});
  one("cvt.rpi.f64.f64", "ll", {{g(2.5), g(3)}, {g(-0.5), g(-0.0)}});
  one("cvt.rmi.f16.f16", "hh", {{0xbe00, 0xc000}, {0x3e00, 0x3c00}});
  one("cvt.rzi.f16.f16", "hh", {{0xbe00, 0xbc00}});
  one("cvt.f64.f16", "lh", {{0x3c01, g(1 + 0x1p-10)}, {0x0001, g(0x1p-24)}, {0x7c00, g(INFINITY)}});
  one("cvt.rn.f16.f64", "hl", {{g(1 + 0x1p-11), 0x3c00}, {g(1 + 0x1p-11 + 0x1p-50), 0x3c01}});
  one("cvt.rm.f16.f32", "hw", {{f(-1 - 0x1p-20f), 0xbc01}, {f(1 + 0x1p-20f), 0x3c00}, {f(1e9f), 0x7bff}});
  one("cvt.rp.f16.f32", "hw", {{f(-1 - 0x1p-20f), 0xbc00}, {f(1 + 0x1p-20f), 0x3c01}, {f(1e-20f), 1}});
  one("cvt.rn.sat.f16.f32", "hw", {{f(2), 0x3c00}, {f(-1), 0}, {kNan, 0}});
  one("cvt.rn.relu.f16.f32", "hw", {{f(-1), 0}, {f(2), 0x4000}, {kNan, kHalfNan}});
  one("cvt.rn.satfinite.f16.f32", "hw", {{f(1e9f), 0x7bff}, {f(-INFINITY), 0xfbff}, {f(2), 0x4000}, {kNan, kHalfNan}});
  one("cvt.rz.bf16.f32", "hw", {{0x3f80ffff, 0x3f80}, {0xbf80ffff, 0xbf80}});
  one("cvt.rn.relu.bf16.f32", "hw", {{f(-1), 0}, {0x3f818000, 0x3f82}});
  one("cvt.rn.satfinite.bf16.f32", "hw", {{0x7f7fffff, 0x7f7f}, {f(INFINITY), 0x7f7f}, {f(-INFINITY), 0xff7f}});
  one("cvt.f32.bf16", "wh", {{0x3f81, 0x3f810000}, {0x0001, 0x00010000}, {0xff80, f(-INFINITY)}});
  b.table("9.7.9.21", "cvt.rz.f16x2.f32", "www", {{f(65520), f(1 + 0x1.8p-11f), 0x7bff3c00}});
  b.table("9.7.9.21", "cvt.rn.relu.f16x2.f32", "www", {{f(-1), f(2), 0x4000}});
  b.table("9.7.9.21", "cvt.rz.bf16x2.f32", "www", {{0x3f80ffff, 0xbf80ffff, 0x3f80bf80}});
  b.table("9.7.9.21", "cvt.rn.satfinite.bf16x2.f32", "www", {{f(INFINITY), 0xff7fffff, 0x7f7fff7f}});
  one("cvt.rna.tf32.f32", "ww",
      {{0x3f801000, 0x3f802000}, {0xbf801000, 0xbf802000}, {0x3f800fff, 0x3f800000}, {0x7f7fffff, f(INFINITY)}});
  b.require(90);
  one("cvt.rn.tf32.f32", "ww", {{0x3f801000, 0x3f800000}, {0x3f803000, 0x3f804000}, {0x3f801001, 0x3f802000}});
  one("cvt.rz.relu.tf32.f32", "ww", {{0x3f801fff, 0x3f800000}, {f(-2), 0}});
  one("cvt.rn.bf16.s32", "hw", {{257, 0x4380}, {259, 0x4382}, {0xffffffff, 0xbf80}});
  one("cvt.rp.bf16.u64", "hl", {{257, 0x4381}});
  one("cvt.rn.bf16.f16", "hh", {{0x3c01, 0x3f80}, {0x3c0c, 0x3f82}});
  one("cvt.rzi.s32.bf16", "wh", {{0xc2f7, 0xffffff85}, {0x7fc0, 0}});
  one("cvt.rn.f16.bf16", "hh", {{0x3f81, 0x3c08}, {0x4780, 0x7c00}});
  one("cvt.ftz.f32.bf16", "wh", {{0x0001, 0}, {0x3f81, 0x3f810000}});
  b.require(80);
}

void packed(Builder& b) {
  const char* s = "9.7.9.22";
  b.table(s, "cvt.pack.sat.s16.s32", "www", {{40000, 0xffff0000, 0x7fff8000}, {1, 2, 0x00010002}});
  b.table(s, "cvt.pack.sat.u16.s32", "www", {{70000, 0xffffffff, 0xffff0000}});
  b.table(s, "cvt.pack.sat.u8.s32.b32", "wwww", {{300, 0xffffffff, 0x1234, 0x1234ff00}, {7, 8, 0, 0x0708}});
  b.table(s, "cvt.pack.sat.s8.s32.b32", "wwww", {{300, 0xffffff00, 0x1234, 0x12347f80}});
  b.table(s, "cvt.pack.sat.u4.s32.b32", "wwww", {{20, 3, 0xabcdef, 0xabcdeff3}});
  b.table(s, "cvt.pack.sat.s2.s32.b32", "wwww", {{5, 0xfffffffb, 0x1, 0x16}});
}

}  // namespace

std::vector<Case> convertCases() {
  Builder b;
  conversions(b);
  integers(b);
  floatsToIntegers(b);
  integersToFloats(b);
  betweenFloats(b);
  packed(b);
  return std::move(b.cases);
}

}  // namespace runner
