// Cases of floating-point arithmetic, comparison and conversion. Values are given as bits where rounding matters.
#include <array>
#include <bit>
#include <cmath>

#include "cases.h"

namespace runner {
namespace {

using Rows = std::vector<std::vector<uint64_t>>;

uint64_t f(float x) { return std::bit_cast<uint32_t>(x); }
uint64_t g(double x) { return std::bit_cast<uint64_t>(x); }
float F(uint64_t x) { return std::bit_cast<float>(static_cast<uint32_t>(x)); }
double G(uint64_t x) { return std::bit_cast<double>(x); }
constexpr uint64_t kNan = 0x7fffffff;
uint64_t canonical(float x) { return x != x ? kNan : f(x); }

Rows floats() {
  const float v[] = {0.0f, -0.0f, 1.0f, -1.0f, 0.1f, 3.5f, -2.5f, 1e30f, 1e-30f, INFINITY, -INFINITY, 7.25f, 1e-40f};
  Rows rows;
  for (size_t l = 0; l < 32; ++l) rows.push_back({f(v[l % 13]), f(v[(l * 5 + 2) % 13]), f(v[(l * 7 + 4) % 13])});
  rows[20][0] = rows[21][1] = 0x7fc00000;
  return rows;
}
Rows doubles() {
  Rows rows;
  for (auto& row : floats()) rows.push_back({g(F(row[0])), g(F(row[1])), g(F(row[2]))});
  return rows;
}
Rows positive() {
  Rows rows;
  for (int l = 0; l < 32; ++l)
    rows.push_back({f(0.01f * static_cast<float>(1 << (l % 16)) + 0.3f), f(0.7f + static_cast<float>(l))});
  return rows;
}

struct Builder {
  std::vector<Case> cases;
  void text(const char* section, const std::string& body, const char* types, Rows rows,
            std::function<uint64_t(Lane, unsigned)> e, double tolerance = 0) {
    cases.push_back({section, body, types, std::move(rows), std::move(e), tolerance});
  }
  void two(const char* section, const std::string& form, float (*e)(float, float)) {
    text(section, form + " %d, %a0, %a1;", "www", floats(),
         [e](Lane a, unsigned) { return canonical(e(F(a[0]), F(a[1]))); });
  }
  void two64(const char* section, const std::string& form, double (*e)(double, double)) {
    text(section, form + " %d, %a0, %a1;", "lll", doubles(), [e](Lane a, unsigned) {
      const double r = e(G(a[0]), G(a[1]));
      return r != r ? g(std::bit_cast<double>(uint64_t{0x7ff8000000000000})) : g(r);
    });
  }
};

void arithmetic(Builder& b) {
  for (const char* rounding : {"", ".rn"}) {
    b.two("9.7.3.2", std::string("add") + rounding + ".f32", [](float x, float y) { return x + y; });
    b.two("9.7.3.3", std::string("sub") + rounding + ".f32", [](float x, float y) { return x - y; });
    b.two("9.7.3.4", std::string("mul") + rounding + ".f32", [](float x, float y) { return x * y; });
    b.two64("9.7.3.2", std::string("add") + rounding + ".f64", [](double x, double y) { return x + y; });
    b.two64("9.7.3.4", std::string("mul") + rounding + ".f64", [](double x, double y) { return x * y; });
  }
  b.two64("9.7.3.3", "sub.f64", [](double x, double y) { return x - y; });
  b.two("9.7.3.7", "div.rn.f32", [](float x, float y) { return x / y; });
  b.two64("9.7.3.7", "div.rn.f64", [](double x, double y) { return x / y; });
  b.two("9.7.3.10", "min.f32", [](float x, float y) {
    return x != x ? y : y != y ? x : x == y ? (std::signbit(x) ? x : y) : x < y ? x : y;
  });
  b.two("9.7.3.11", "max.f32", [](float x, float y) {
    return x != x ? y : y != y ? x : x == y ? (std::signbit(x) ? y : x) : x > y ? x : y;
  });
  b.two("9.7.3.11", "max.NaN.f32", [](float x, float y) {
    return x != x || y != y ? NAN : x == y ? (std::signbit(x) ? y : x) : x > y ? x : y;
  });
  b.text("9.7.3.5", "copysign.f32 %d, %a0, %a1;", "www", floats(),
         [](Lane a, unsigned) { return (a[0] & 0x80000000) | (a[1] & 0x7fffffff); });
  // 1 + 2⁻²⁴ is a tie; 1 + 2⁻²⁴ + 2⁻⁴⁰ is not: one rounding tells them apart.
  const Rows fused = {{f(1 + 0x1p-12f), f(1 + 0x1p-12f), f(-1)},
                      {f(0x1p-24f), f(1), f(1)},
                      {f(0x1p-24f), f(1 + 0x1p-16f), f(1)},
                      {f(3), f(5), f(-15)}};
  for (const char* form : {"fma.rn.f32"}) {
    b.text("9.7.3.6", std::string(form) + " %d, %a0, %a1, %a2;", "wwww", fused, [](Lane, unsigned l) {
      return f(std::array{0x1p-11f + 0x1p-24f, 1.0f, 1 + 0x1p-23f, 0.0f}[l % 4]);
    });
  }
  b.text("9.7.3.6", "fma.rn.f64 %d, %a0, %a1, %a2;", "llll", doubles(), [](Lane a, unsigned) {
    const double r = std::fma(G(a[0]), G(a[1]), G(a[2]));
    return r != r ? uint64_t{0x7ff8000000000000} : g(r);
  });
  // A third of an ulp more than one: each direction.
  const Rows third = {{f(1), f(0x1p-25f), 0}, {f(-1), f(-0x1p-25f), 0}};
  b.text("9.7.3.2", "add.rz.f32 %d, %a0, %a1;", "www", third, [](Lane, unsigned l) { return f(l % 2 ? -1.0f : 1.0f); });
  b.text("9.7.3.2", "add.rp.f32 %d, %a0, %a1;", "www", third,
         [](Lane, unsigned l) { return f(l % 2 ? -1.0f : 1 + 0x1p-23f); });
  b.text("9.7.3.2", "add.rm.f32 %d, %a0, %a1;", "www", third,
         [](Lane, unsigned l) { return f(l % 2 ? -1 - 0x1p-23f : 1.0f); });
  b.text("9.7.3.6", "fma.rm.f32 %d, %a0, %a2, %a1;", "wwww", Rows{{f(1), f(0x1p-25f), f(1)}},
         [](Lane, unsigned) { return f(1); });
  b.text("9.7.3.6", "fma.rz.f32 %d, %a0, %a2, %a1;", "wwww", Rows{{f(-1), f(-0x1p-25f), f(1)}},
         [](Lane, unsigned) { return f(-1); });
  b.text("9.7.3.2", "add.ftz.f32 %d, %a0, %a1;", "www", Rows{{f(1e-40f), f(1e-40f)}, {f(1), f(2)}},
         [](Lane, unsigned l) { return f(l % 2 ? 3.0f : 0.0f); });
  b.text("9.7.3.2", "add.sat.f32 %d, %a0, %a1;", "www",
         Rows{{f(1), f(2)}, {f(-1), f(0)}, {f(0.25f), f(0.25f)}, {kNan, 0}}, [](Lane, unsigned l) {
           return f(std::array{1.0f, 0.0f, 0.5f, 0.0f}[l % 4]);
         });
  b.text("9.7.3.8", "abs.f32 %d, %a0;", "ww", Rows{{f(-3)}, {f(2)}},
         [](Lane a, unsigned) { return a[0] & 0x7fffffff; });
  b.text("9.7.3.9", "neg.f32 %d, %a0;", "ww", Rows{{f(-3)}, {f(2)}},
         [](Lane a, unsigned) { return a[0] ^ 0x80000000; });
  b.text("9.7.3.13", "sqrt.rn.f32 %d, %a0;", "ww", positive(), [](Lane a, unsigned) { return f(std::sqrt(F(a[0]))); });
  b.text("9.7.3.13", "sqrt.rn.f64 %d, %a0;", "ll", Rows{{g(2)}, {g(10)}},
         [](Lane a, unsigned) { return g(std::sqrt(G(a[0]))); });
  b.text("9.7.3.12", "rcp.rn.f32 %d, %a0;", "ww", positive(), [](Lane a, unsigned) { return f(1 / F(a[0])); });
  // The ISA's bounds; most are absolute or in ulps, and a relative 2⁻²⁰ contains them for these inputs.
  struct Approximate {
    const char* form;
    double (*of)(double);
  };
  for (const Approximate& a : {Approximate{"ex2.approx.f32", [](double x) { return std::exp2(x > 100 ? 100 : x); }},
                               Approximate{"ex2.approx.ftz.f32", [](double x) { return std::exp2(x > 100 ? 100 : x); }},
                               Approximate{"rcp.approx.ftz.f32", [](double x) { return 1 / x; }},
                               Approximate{"rsqrt.approx.f32", [](double x) { return 1 / std::sqrt(x); }},
                               Approximate{"sqrt.approx.f32", [](double x) { return std::sqrt(x); }}}) {
    const auto of = a.of;
    Rows rows = positive();
    if (std::string(a.form).starts_with("ex2"))
      for (auto& row : rows) row[0] = f(std::fmod(F(row[0]), 20.0f));
    b.text(
        "9.7.3", std::string(a.form) + " %d, %a0;", "ww", rows,
        [of](Lane l, unsigned) { return f(static_cast<float>(of(F(l[0])))); }, 0x1p-20);
  }
  b.text(
      "9.7.3.20", "lg2.approx.f32 %d, %a0;", "ww", Rows{{f(8)}, {f(100)}, {f(3e5f)}},
      [](Lane a, unsigned) { return f(std::log2(F(a[0]))); }, 0x1p-20);
  b.text(
      "9.7.3.22", "tanh.approx.f32 %d, %a0;", "ww", Rows{{f(0.5f)}, {f(-2)}},
      [](Lane a, unsigned) { return f(std::tanh(F(a[0]))); }, 0x1p-10);
  b.text(
      "9.7.3.18", "sin.approx.f32 %d, %a0;", "ww", Rows{{f(0.5f)}, {f(-1)}},
      [](Lane a, unsigned) { return f(std::sin(F(a[0]))); }, 0x1p-18);
  b.text(
      "9.7.3.19", "cos.approx.f32 %d, %a0;", "ww", Rows{{f(0.5f)}, {f(-1)}},
      [](Lane a, unsigned) { return f(std::cos(F(a[0]))); }, 0x1p-18);
  b.text(
      "9.7.3.7", "div.approx.f32 %d, %a0, %a1;", "www", positive(),
      [](Lane a, unsigned) { return f(F(a[0]) / F(a[1])); }, 0x1p-20);
  b.text(
      "9.7.3.7", "div.full.f32 %d, %a0, %a1;", "www", positive(), [](Lane a, unsigned) { return f(F(a[0]) / F(a[1])); },
      0x1p-20);
  b.text("9.7.3.1", "testp.notanumber.f32 %p, %a0;\nselp.b32 %d, 1, 0, %p;", "ww", floats(),
         [](Lane a, unsigned) { return uint64_t{std::isnan(F(a[0]))}; });
}

void comparisons(Builder& b) {
  struct Comparison {
    const char* name;
    bool (*of)(double, double);
  };
  const Comparison all[] = {{"eq", [](double x, double y) { return x == y; }},
                            {"ne", [](double x, double y) { return x < y || x > y; }},
                            {"lt", [](double x, double y) { return x < y; }},
                            {"le", [](double x, double y) { return x <= y; }},
                            {"gt", [](double x, double y) { return x > y; }},
                            {"ge", [](double x, double y) { return x >= y; }},
                            {"equ", [](double x, double y) { return !(x < y || x > y); }},
                            {"neu", [](double x, double y) { return !(x == y); }},
                            {"ltu", [](double x, double y) { return !(x >= y); }},
                            {"leu", [](double x, double y) { return !(x > y); }},
                            {"gtu", [](double x, double y) { return !(x <= y); }},
                            {"geu", [](double x, double y) { return !(x < y); }},
                            {"num", [](double x, double y) { return x == x && y == y; }},
                            {"nan", [](double x, double y) { return x != x || y != y; }}};
  for (const Comparison& c : all) {
    const auto of = c.of;
    const std::string form = "setp." + std::string(c.name);
    b.text("9.7.6.2", form + ".f32 %p, %a0, %a1;\nselp.b32 %d, 1, 0, %p;", "www", floats(),
           [of](Lane a, unsigned) { return uint64_t{of(F(a[0]), F(a[1]))}; });
    b.text("9.7.6.2", form + ".f64 %p, %a0, %a1;\nselp.b32 %d, 1, 0, %p;", "wll", doubles(),
           [of](Lane a, unsigned) { return uint64_t{of(G(a[0]), G(a[1]))}; });
  }
}

void halves(Builder& b) {
  // 1.5, 2, -0.25 in f16 and bf16.
  const Rows h = {{0x3e00, 0x4000, 0xb400}}, w = {{0x3fc0, 0x4000, 0xbe80}};
  b.text("9.7.4.1", "add.f16 %d, %a0, %a1;", "hhh", h, [](Lane, unsigned) { return uint64_t{0x4300}; });
  b.text("9.7.4.2", "sub.f16 %d, %a0, %a1;", "hhh", h, [](Lane, unsigned) { return uint64_t{0xb800}; });
  b.text("9.7.4.3", "mul.f16 %d, %a0, %a1;", "hhh", h, [](Lane, unsigned) { return uint64_t{0x4200}; });
  b.text("9.7.4.4", "fma.rn.f16 %d, %a0, %a1, %a2;", "hhhh", h, [](Lane, unsigned) { return uint64_t{0x4180}; });
  b.text("9.7.4.4", "fma.rn.bf16 %d, %a0, %a1, %a2;", "hhhh", w, [](Lane, unsigned) { return uint64_t{0x4030}; });
  const Rows pairs = {{0x40003e00, 0x40003e00, 0xb4003e00}}, wide = {{0x40003fc0, 0x40003fc0, 0xbe803fc0}};
  b.text("9.7.4.1", "add.f16x2 %d, %a0, %a1;", "www", pairs, [](Lane, unsigned) { return uint64_t{0x44004200}; });
  b.text("9.7.4.3", "mul.f16x2 %d, %a0, %a1;", "www", pairs, [](Lane, unsigned) { return uint64_t{0x44004080}; });
  b.text("9.7.4.4", "fma.rn.f16x2 %d, %a0, %a1, %a2;", "wwww", pairs,
         [](Lane, unsigned) { return uint64_t{0x43804380}; });
  b.text("9.7.4.4", "fma.rn.bf16x2 %d, %a0, %a1, %a2;", "wwww", wide,
         [](Lane, unsigned) { return uint64_t{0x40704070}; });
  b.text("9.7.4.7", "min.bf16 %d, %a0, %a1;", "hhh", w, [](Lane, unsigned) { return uint64_t{0x3fc0}; });
  b.text("9.7.4.8", "max.bf16 %d, %a0, %a1;", "hhh", w, [](Lane, unsigned) { return uint64_t{0x4000}; });
  b.text("9.7.4.8", "max.bf16x2 %d, %a0, %a2;", "wwww", wide, [](Lane, unsigned) { return uint64_t{0x40003fc0}; });
  b.text("9.7.4.8", "max.f16x2 %d, %a0, %a2;", "wwww", pairs, [](Lane, unsigned) { return uint64_t{0x40003e00}; });
  b.text("9.7.4.5", "neg.bf16x2 %d, %a0;", "ww", wide, [](Lane, unsigned) { return uint64_t{0xc000bfc0}; });
  b.text("9.7.7.1", "set.eq.f16.f16 %d, %a0, %a1;", "hhh", Rows{{0x3c00, 0x3c00}, {0x3c00, 0x4000}},
         [](Lane, unsigned l) { return uint64_t{l % 2 ? 0u : 0x3c00u}; });
}

void conversions(Builder& b) {
  auto one = [&](const char* form, const char* types, std::vector<std::pair<uint64_t, uint64_t>> table) {
    Rows rows;
    for (auto& [in, out] : table) rows.push_back({in, out});
    b.text("9.7.9.21", std::string(form) + " %d, %a0;", types, rows,
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
  b.text("9.7.9.21", "cvt.rn.bf16x2.f32 %d, %a0, %a1;", "www", Rows{{f(1), f(2)}},
         [](Lane, unsigned) { return uint64_t{0x3f804000}; });
  b.text("9.7.9.21", "cvt.rn.relu.bf16x2.f32 %d, %a0, %a1;", "www", Rows{{f(-1), f(2)}},
         [](Lane, unsigned) { return uint64_t{0x4000}; });
  b.text("9.7.9.21", "cvt.rn.f16x2.f32 %d, %a0, %a1;", "www", Rows{{f(1), f(2)}},
         [](Lane, unsigned) { return uint64_t{0x3c004000}; });
}

}  // namespace

std::vector<Case> floatCases() {
  Builder b;
  arithmetic(b);
  comparisons(b);
  halves(b);
  conversions(b);
  return std::move(b.cases);
}

}  // namespace runner
