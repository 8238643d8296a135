// Cases of f32 and f64 arithmetic and comparison. Values are given as bits where rounding matters.
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
  b.two64("9.7.3.10", "min.f64", [](double x, double y) {
    return x != x ? y : y != y ? x : x == y ? (std::signbit(x) ? x : y) : x < y ? x : y;
  });
  b.two64("9.7.3.11", "max.f64", [](double x, double y) {
    return x != x ? y : y != y ? x : x == y ? (std::signbit(x) ? y : x) : x > y ? x : y;
  });
  b.text("9.7.3.5", "copysign.f64 %d, %a0, %a1;", "lll", doubles(),
         [](Lane a, unsigned) { return (a[0] & uint64_t{1} << 63) | (a[1] & ~(uint64_t{1} << 63)); });
  b.text("9.7.3.8", "abs.f64 %d, %a0;", "ll", Rows{{g(-3)}, {g(2)}},
         [](Lane a, unsigned) { return a[0] & ~(uint64_t{1} << 63); });
  b.text("9.7.3.9", "neg.f64 %d, %a0;", "ll", Rows{{g(-3)}, {g(2)}},
         [](Lane a, unsigned) { return a[0] ^ uint64_t { 1 } << 63; });
  b.text("9.7.3.12", "rcp.rn.f64 %d, %a0;", "ll", Rows{{g(3)}, {g(-0.7)}},
         [](Lane a, unsigned) { return g(1 / G(a[0])); });
  // Only the upper half of the operand and of the result counts: 20 bits of fraction.
  auto upper = [](double (*of)(double)) {
    return [of](Lane a, unsigned) { return uint64_t{f(static_cast<float>(of(G(a[0] & 0xffffffff00000000))))}; };
  };
  for (const char* form : {"rcp.approx.ftz.f64", "rsqrt.approx.ftz.f64", "rsqrt.approx.f64"}) {
    b.text(
        "9.7.3.14", std::string(form) + " %x0, %a0;\ncvt.rn.f32.f64 %d, %x0;", "wl", Rows{{g(3)}, {g(0.7)}, {g(1e5)}},
        upper(form[1] == 'c' ? +[](double x) { return 1 / x; } : +[](double x) { return 1 / std::sqrt(x); }), 0x1p-19);
  }
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
                               Approximate{"rcp.approx.f32", [](double x) { return 1 / x; }},
                               Approximate{"rcp.approx.ftz.f32", [](double x) { return 1 / x; }},
                               Approximate{"rsqrt.approx.f32", [](double x) { return 1 / std::sqrt(x); }},
                               Approximate{"rsqrt.approx.ftz.f32", [](double x) { return 1 / std::sqrt(x); }},
                               Approximate{"sqrt.approx.f32", [](double x) { return std::sqrt(x); }},
                               Approximate{"sqrt.approx.ftz.f32", [](double x) { return std::sqrt(x); }},
                               Approximate{"lg2.approx.ftz.f32", [](double x) { return std::log2(x); }}}) {
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
    b.text("9.7.6.1", "set." + std::string(c.name) + ".f32.f32 %d, %a0, %a1;", "www", floats(),
           [of](Lane a, unsigned) { return of(F(a[0]), F(a[1])) ? f(1) : 0; });
    b.text("9.7.6.1", "set." + std::string(c.name) + ".u32.f32 %d, %a0, %a1;", "www", floats(),
           [of](Lane a, unsigned) { return of(F(a[0]), F(a[1])) ? uint64_t{0xffffffff} : 0; });
    b.text("9.7.6.2", form + ".ftz.f32 %p, %a0, %a1;\nselp.b32 %d, 1, 0, %p;", "www", floats(), [of](Lane a, unsigned) {
      auto flushed = [](float x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0f, x) : x; };
      return uint64_t{of(flushed(F(a[0])), flushed(F(a[1])))};
    });
  }
}

}  // namespace

std::vector<Case> floatCases() {
  Builder b;
  arithmetic(b);
  comparisons(b);
  return std::move(b.cases);
}

}  // namespace runner
