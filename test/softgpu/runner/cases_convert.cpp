// Cases of cvt: integers, floats and the narrow formats, with every rounding, saturation and extension.
#include <algorithm>
#include <bit>
#include <cmath>
#include <string>

#include "cases.h"
#include "formats.h"

namespace runner {
namespace {

using Rows = std::vector<std::vector<uint64_t>>;

uint64_t f(float x) { return std::bit_cast<uint32_t>(x); }
uint64_t g(double x) { return std::bit_cast<uint64_t>(x); }
constexpr uint64_t kNan = 0x7fffffff;

std::vector<Case> cases;

void text(const char* section, const std::string& body, const char* types, Rows rows,
          std::function<uint64_t(Lane, unsigned)> expected, unsigned target = 80) {
  cases.push_back({section, body, types, std::move(rows), std::move(expected), 0, target});
}

void fixedPoints() {
  auto one = [&](const char* form, const char* types, std::vector<std::pair<uint64_t, uint64_t>> table) {
    Rows rows;
    for (auto& [in, out] : table) rows.push_back({in, out});
    text("9.7.9.21", std::string(form) + " %d, %a0;", types, rows,
         [table](Lane, unsigned l) { return table[l % table.size()].second; });
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
  text("9.7.9.21", "cvt.rn.bf16x2.f32 %d, %a0, %a1;", "www", Rows{{f(1), f(2)}},
       [](Lane, unsigned) { return uint64_t{0x3f804000}; });
  text("9.7.9.21", "cvt.rn.relu.bf16x2.f32 %d, %a0, %a1;", "www", Rows{{f(-1), f(2)}},
       [](Lane, unsigned) { return uint64_t{0x4000}; });
  text("9.7.9.21", "cvt.rn.f16x2.f32 %d, %a0, %a1;", "www", Rows{{f(1), f(2)}},
       [](Lane, unsigned) { return uint64_t{0x3c004000}; });
}

// ---- Every pair of an integer and a float type, against formulas.

struct IntegerType {
  const char* name;
  unsigned bits;
  bool isSigned;
  char registers;
};
constexpr IntegerType kIntegers[] = {{"s8", 8, true, 'h'},    {"u8", 8, false, 'h'},  {"s16", 16, true, 'h'},
                                     {"u16", 16, false, 'h'}, {"s32", 32, true, 'w'}, {"u32", 32, false, 'w'},
                                     {"s64", 64, true, 'l'},  {"u64", 64, false, 'l'}};
struct FloatType {
  const char* name;
  char registers;
  double (*decode)(uint64_t);
  uint64_t (*encode)(double, To);
};

To kRoundings[] = {To::kNearestEven, To::kZero, To::kDown, To::kUp};
const char* const kFloatRoundings[] = {".rn", ".rz", ".rm", ".rp"};
const char* const kIntegerRoundings[] = {".rni", ".rzi", ".rmi", ".rpi"};

uint64_t encodeF32(double x, To to) {
  if (x != x) return kNan;
  const float nearest = static_cast<float>(x);
  // One step back from the nearest when it lies on the wrong side.
  auto step = [&](float towards) { return f(std::nextafter(nearest, towards)); };
  if (to == To::kUp && nearest < x) return step(INFINITY);
  if (to == To::kDown && nearest > x) return step(-INFINITY);
  if (to == To::kZero && std::fabs(nearest) > std::fabs(x)) return step(0);
  return f(nearest);
}
const FloatType kFloats[] = {
    {"f16", 'h', [](uint64_t b) { return kF16.decode(b & 0xffff); },
     [](double x, To to) { return kF16.encode(x, to); }},
    {"bf16", 'h', [](uint64_t b) { return kBf16.decode(b & 0xffff); },
     [](double x, To to) { return kBf16.encode(x, to); }},
    {"f32", 'w', [](uint64_t b) { return double{std::bit_cast<float>(static_cast<uint32_t>(b))}; }, encodeF32},
    {"f64", 'l', [](uint64_t b) { return std::bit_cast<double>(b); }, [](double x, To) { return g(x); }}};

double integral(double x, To to) {
  return to == To::kZero   ? std::trunc(x)
         : to == To::kDown ? std::floor(x)
         : to == To::kUp   ? std::ceil(x)
                           : std::nearbyint(x);
}

// The value that the register holds, extended; exact in long double.
long double valueOf(uint64_t bits, const IntegerType& type) {
  const unsigned shift = 64 - type.bits;
  return type.isSigned ? static_cast<long double>(static_cast<int64_t>(bits << shift) >> shift)
                       : static_cast<long double>(bits << shift >> shift);
}
// Of the result's register, which is never narrower than 16 bits.
uint64_t extended(uint64_t bits, const IntegerType& type) {
  const unsigned shift = 64 - type.bits;
  return type.isSigned ? static_cast<uint64_t>(static_cast<int64_t>(bits << shift) >> shift) : bits << shift >> shift;
}

// bf16 conversions other than from f32 came with sm_90.
unsigned targetOf(const FloatType& type) { return std::string(type.name) == "bf16" ? 90 : 80; }

void floatToInteger() {
  const double values[] = {0.0,     -0.5, 2.5,  3.5,      -1.5,      100.75, -200.25,
                           70000.0, -3e9, 1e19, INFINITY, -INFINITY, NAN,    0.3};
  for (const FloatType& from : kFloats) {
    for (const IntegerType& to : kIntegers) {
      if (targetOf(from) == 90 && to.bits == 8) continue;  // there is no such instruction
      for (int r = 0; r < 4; ++r) {
        Rows rows;
        for (double v : values) rows.push_back({from.encode(v, To::kNearestEven)});
        const std::string types{to.registers, from.registers};
        text(
            "9.7.9.21", std::string("cvt") + kIntegerRoundings[r] + "." + to.name + "." + from.name + " %d, %a0;",
            types.c_str(), rows,
            [=](Lane a, unsigned) {
              const double x = from.decode(a[0]);
              const bool wide = from.registers == 'l' || to.bits == 64;
              if (x != x) return wide ? extended(uint64_t{1} << (to.bits - 1), to) : 0;
              const double whole = integral(x, kRoundings[r]);
              const double low = to.isSigned ? -std::ldexp(1.0, static_cast<int>(to.bits) - 1) : 0;
              const double high = std::ldexp(1.0, static_cast<int>(to.bits) - to.isSigned);
              if (whole < low) return extended(to.isSigned ? uint64_t{1} << (to.bits - 1) : 0, to);
              if (whole >= high) return extended((to.isSigned ? uint64_t{1} << (to.bits - 1) : 0) - 1, to);
              return to.isSigned ? static_cast<uint64_t>(static_cast<int64_t>(whole)) : static_cast<uint64_t>(whole);
            },
            targetOf(from));
      }
    }
  }
}

void integerToFloat() {
  for (const IntegerType& from : kIntegers) {
    for (const FloatType& to : kFloats) {
      if (targetOf(to) == 90 && from.bits == 8) continue;  // nor this
      for (int r = 0; r < 4; ++r) {
        // The other roundings of f64 are checked where a double holds the value.
        if (to.registers == 'l' && from.bits == 64 && r > 0) continue;
        const std::string types{to.registers, from.registers};
        text(
            "9.7.9.21", std::string("cvt") + kFloatRoundings[r] + "." + to.name + "." + from.name + " %d, %a0;",
            types.c_str(), longRows(),
            [=](Lane a, unsigned) {
              const long double value = valueOf(a[0], from);
              // What double cannot hold is nudged off the tie: a later rounding is then right.
              double near = static_cast<double>(value);
              if (near != value && to.registers != 'l') {
                near = std::nextafter(near, near < value ? INFINITY : -INFINITY);
                if (std::fabs(static_cast<long double>(near)) > std::fabs(value)) near = std::nextafter(near, 0.0);
                if (!(std::bit_cast<uint64_t>(near) & 1))
                  near = std::nextafter(near, value > near ? INFINITY : -INFINITY);
              }
              return to.encode(near, kRoundings[r]);
            },
            targetOf(to));
      }
    }
  }
}

void floatToFloat() {
  const double values[] = {0.0,  -0.0, 1.0 / 3, -2.0 / 3, 65519.0,  65520.0, -1e6,
                           1e-7, 3e38, 1e300,   -1e-300,  INFINITY, NAN,     -1.0009765625};
  auto rowsOf = [&](const FloatType& from) {
    Rows rows;
    for (double v : values) rows.push_back({from.encode(v, To::kNearestEven)});
    return rows;
  };
  auto add = [&](const std::string& form, const FloatType& to, const FloatType& from, unsigned target, To rounding,
                 bool whole = false) {
    const std::string types{to.registers, from.registers};
    text(
        "9.7.9.21", form + "." + to.name + "." + from.name + " %d, %a0;", types.c_str(), rowsOf(from),
        [=](Lane a, unsigned) {
          const double x = from.decode(a[0]);
          return to.encode(whole ? integral(x, rounding) : x, rounding);
        },
        target);
  };
  const FloatType &f16 = kFloats[0], &bf16 = kFloats[1], &f32 = kFloats[2], &f64 = kFloats[3];
  for (int r = 0; r < 4; ++r) {
    const std::string form = std::string("cvt") + kFloatRoundings[r];
    add(form, f16, f64, 80, kRoundings[r]);
    add(form, f32, f64, 80, kRoundings[r]);
    add(form, bf16, f64, 90, kRoundings[r]);
  }
  for (int r : {0, 1}) {
    const std::string form = std::string("cvt") + kFloatRoundings[r];
    add(form, f16, f32, 80, kRoundings[r]);
    add(form, bf16, f32, 80, kRoundings[r]);
  }
  for (int r : {2, 3}) add(std::string("cvt") + kFloatRoundings[r], bf16, f32, 90, kRoundings[r]);
  for (const FloatType* type : {&f16, &bf16, &f32, &f64}) {
    for (int r = 0; r < 4; ++r)
      add(std::string("cvt") + kIntegerRoundings[r], *type, *type, targetOf(*type), kRoundings[r], true);
  }
  // To a wider format: what a NaN carries is not specified, only that it is one.
  for (const FloatType* from : {&f16, &bf16}) {
    for (const FloatType* to : {&f32, &f64}) {
      add("cvt", *to, *from, targetOf(*from), To::kNearestEven);
      std::erase_if(cases.back().inputs, [&](const auto& row) { return std::isnan(from->decode(row[0])); });
      text(
          "9.7.9.21",
          std::string(".reg .b64 %wide;\n.reg .b32 %word;\n.reg .b16 %nan;\nmov.b16 %nan, 0x7fff;\ncvt.") + to->name +
              "." + from->name + (to->registers == 'w' ? " %word" : " %wide") + ", %nan;\ntestp.notanumber." +
              to->name + " %p, " + (to->registers == 'w' ? "%word" : "%wide") + ";\nselp.b32 %d, 1, 0, %p;",
          "ww", longRows(), [](Lane, unsigned) { return uint64_t{1}; }, targetOf(*from));
    }
  }
}

}  // namespace

std::vector<Case> conversionCases() {
  cases.clear();
  fixedPoints();
  floatToInteger();
  integerToFloat();
  floatToFloat();
  return std::move(cases);
}

}  // namespace runner
