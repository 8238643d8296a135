// Cases of f32 and f64 arithmetic and comparison. Values are given as bits where rounding matters.
#include <array>
#include <bit>
#include <cmath>

#include "builder.h"

namespace runner {
namespace {

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

void two(Builder& b, const char* section, const std::string& form, float (*e)(float, float)) {
  b.op(section, form, "www", floats(), [e](Lane a, unsigned) { return canonical(e(F(a[0]), F(a[1]))); });
}
void two64(Builder& b, const char* section, const std::string& form, double (*e)(double, double)) {
  b.op(section, form, "lll", doubles(), [e](Lane a, unsigned) {
    const double r = e(G(a[0]), G(a[1]));
    return r != r ? kDoubleNan : g(r);
  });
}

void arithmetic(Builder& b) {
  for (const char* rounding : {"", ".rn"}) {
    two(b, "9.7.3.3", std::string("add") + rounding + ".f32", [](float x, float y) { return x + y; });
    two(b, "9.7.3.4", std::string("sub") + rounding + ".f32", [](float x, float y) { return x - y; });
    two(b, "9.7.3.5", std::string("mul") + rounding + ".f32", [](float x, float y) { return x * y; });
    two64(b, "9.7.3.3", std::string("add") + rounding + ".f64", [](double x, double y) { return x + y; });
    two64(b, "9.7.3.5", std::string("mul") + rounding + ".f64", [](double x, double y) { return x * y; });
  }
  two64(b, "9.7.3.4", "sub.f64", [](double x, double y) { return x - y; });
  two(b, "9.7.3.8", "div.rn.f32", [](float x, float y) { return x / y; });
  two64(b, "9.7.3.8", "div.rn.f64", [](double x, double y) { return x / y; });
  two(b, "9.7.3.11", "min.f32", [](float x, float y) {
    return x != x ? y : y != y ? x : x == y ? (std::signbit(x) ? x : y) : x < y ? x : y;
  });
  two(b, "9.7.3.12", "max.f32", [](float x, float y) {
    return x != x ? y : y != y ? x : x == y ? (std::signbit(x) ? y : x) : x > y ? x : y;
  });
  two(b, "9.7.3.12", "max.NaN.f32", [](float x, float y) {
    return x != x || y != y ? NAN : x == y ? (std::signbit(x) ? y : x) : x > y ? x : y;
  });
  b.text("9.7.3.2", "copysign.f32 %d, %a0, %a1;", "www", floats(),
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
  b.text("9.7.3.3", "add.rz.f32 %d, %a0, %a1;", "www", third, [](Lane, unsigned l) { return f(l % 2 ? -1.0f : 1.0f); });
  b.text("9.7.3.3", "add.rp.f32 %d, %a0, %a1;", "www", third,
         [](Lane, unsigned l) { return f(l % 2 ? -1.0f : 1 + 0x1p-23f); });
  b.text("9.7.3.3", "add.rm.f32 %d, %a0, %a1;", "www", third,
         [](Lane, unsigned l) { return f(l % 2 ? -1 - 0x1p-23f : 1.0f); });
  b.text("9.7.3.6", "fma.rm.f32 %d, %a0, %a2, %a1;", "wwww", Rows{{f(1), f(0x1p-25f), f(1)}},
         [](Lane, unsigned) { return f(1); });
  b.text("9.7.3.6", "fma.rz.f32 %d, %a0, %a2, %a1;", "wwww", Rows{{f(-1), f(-0x1p-25f), f(1)}},
         [](Lane, unsigned) { return f(-1); });
  b.text("9.7.3.3", "add.ftz.f32 %d, %a0, %a1;", "www", Rows{{f(1e-40f), f(1e-40f)}, {f(1), f(2)}},
         [](Lane, unsigned l) { return f(l % 2 ? 3.0f : 0.0f); });
  b.text("9.7.3.3", "add.sat.f32 %d, %a0, %a1;", "www",
         Rows{{f(1), f(2)}, {f(-1), f(0)}, {f(0.25f), f(0.25f)}, {kNan, 0}}, [](Lane, unsigned l) {
           return f(std::array{1.0f, 0.0f, 0.5f, 0.0f}[l % 4]);
         });
  b.text("9.7.3.9", "abs.f32 %d, %a0;", "ww", Rows{{f(-3)}, {f(2)}},
         [](Lane a, unsigned) { return a[0] & 0x7fffffff; });
  b.text("9.7.3.10", "neg.f32 %d, %a0;", "ww", Rows{{f(-3)}, {f(2)}},
         [](Lane a, unsigned) { return a[0] ^ 0x80000000; });
  b.text("9.7.3.15", "sqrt.rn.f32 %d, %a0;", "ww", positive(), [](Lane a, unsigned) { return f(std::sqrt(F(a[0]))); });
  b.text("9.7.3.15", "sqrt.rn.f64 %d, %a0;", "ll", Rows{{g(2)}, {g(10)}},
         [](Lane a, unsigned) { return g(std::sqrt(G(a[0]))); });
  b.text("9.7.3.13", "rcp.rn.f32 %d, %a0;", "ww", positive(), [](Lane a, unsigned) { return f(1 / F(a[0])); });
  // The ISA's bounds; most are absolute or in ulps, and a relative 2⁻²⁰ contains them for these inputs.
  struct Approximate {
    const char* section;
    const char* form;
    double (*of)(double);
  };
  for (const Approximate& a :
       {Approximate{"9.7.3.21", "ex2.approx.f32", [](double x) { return std::exp2(x > 100 ? 100 : x); }},
        Approximate{"9.7.3.21", "ex2.approx.ftz.f32", [](double x) { return std::exp2(x > 100 ? 100 : x); }},
        Approximate{"9.7.3.13", "rcp.approx.ftz.f32", [](double x) { return 1 / x; }},
        Approximate{"9.7.3.16", "rsqrt.approx.f32", [](double x) { return 1 / std::sqrt(x); }},
        Approximate{"9.7.3.15", "sqrt.approx.f32", [](double x) { return std::sqrt(x); }}}) {
    const auto of = a.of;
    Rows rows = positive();
    if (std::string(a.form).starts_with("ex2"))
      for (auto& row : rows) row[0] = f(std::fmod(F(row[0]), 20.0f));
    b.text(
        a.section, std::string(a.form) + " %d, %a0;", "ww", rows,
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
      "9.7.3.8", "div.approx.f32 %d, %a0, %a1;", "www", positive(),
      [](Lane a, unsigned) { return f(F(a[0]) / F(a[1])); }, 0x1p-20);
  b.text(
      "9.7.3.8", "div.full.f32 %d, %a0, %a1;", "www", positive(), [](Lane a, unsigned) { return f(F(a[0]) / F(a[1])); },
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

// Every operation in every rounding mode, on a result that lies a quarter of an ulp above a number: positive first,
// then negative. The result is the number, or the next one away from zero.
void directions(Builder& b) {
  struct Direction {
    const char* name;
    bool awayPositive, awayNegative;
  };
  constexpr Direction kDirections[] = {
      {"rn", false, false}, {"rz", false, false}, {"rm", false, true}, {"rp", true, false}};
  const float next = 1 + 0x1p-23f;
  const double nextWide = 1 + 0x1p-52;
  for (const Direction& d : kDirections) {
    const std::string mode = std::string(".") + d.name;
    auto one = [&](const char* section, const std::string& form, const char* types, const Rows& rows) {
      b.op(section, form + mode + ".f32", types, rows, [d, next](Lane, unsigned l) {
        return l % 2 ? f(d.awayNegative ? -next : -1.0f) : f(d.awayPositive ? next : 1.0f);
      });
    };
    one("9.7.3.3", "add", "www", {{f(1), f(0x1p-25f)}, {f(-1), f(-0x1p-25f)}});
    one("9.7.3.4", "sub", "www", {{f(1), f(-0x1p-25f)}, {f(-1), f(0x1p-25f)}});
    one("9.7.3.6", "fma", "wwww", {{f(0x1p-12f), f(0x1p-13f), f(1)}, {f(0x1p-12f), f(-0x1p-13f), f(-1)}});
    // (1 + 2⁻¹²)² = 1 + 2⁻¹¹ + 2⁻²⁴ has half an ulp left over.
    b.op("9.7.3.5", "mul" + mode + ".f32", "www",
         {{f(1 + 0x1p-12f), f(1 + 0x1p-12f)}, {f(1 + 0x1p-12f), f(-1 - 0x1p-12f)}}, [d](Lane, unsigned l) {
           const float down = 1 + 0x1p-11f, up = down + 0x1p-23f;
           return l % 2 ? f(d.awayNegative ? -up : -down) : f(d.awayPositive ? up : down);
         });
    // A third is 1.01010…₂ · 2⁻²: 0x2aaaaa.aaa… so that the nearest lies above.
    const float third = std::bit_cast<float>(0x3eaaaaaau), above = std::bit_cast<float>(0x3eaaaaabu);
    const bool nearest = d.name[1] == 'n';
    auto thirds = [=](Lane, unsigned l) {
      return l % 2 ? f(d.awayNegative || nearest ? -above : -third) : f(d.awayPositive || nearest ? above : third);
    };
    b.op("9.7.3.8", "div" + mode + ".f32", "www", {{f(1), f(3)}, {f(-1), f(3)}}, thirds);
    b.op("9.7.3.13", "rcp" + mode + ".f32", "ww", {{f(3)}, {f(-3)}}, thirds);
    // √2 = 1.0110101000001001111 00110|01…: the nearest lies below.
    b.op("9.7.3.15", "sqrt" + mode + ".f32", "ww", {{f(2)}},
         [=](Lane, unsigned) { return uint64_t{d.awayPositive ? 0x3fb504f4u : 0x3fb504f3u}; });
    auto wide = [&](const char* section, const std::string& form, const char* types, const Rows& rows) {
      b.op(section, form + mode + ".f64", types, rows, [d, nextWide](Lane, unsigned l) {
        return l % 2 ? g(d.awayNegative ? -nextWide : -1.0) : g(d.awayPositive ? nextWide : 1.0);
      });
    };
    wide("9.7.3.3", "add", "lll", {{g(1), g(0x1p-54)}, {g(-1), g(-0x1p-54)}});
    wide("9.7.3.4", "sub", "lll", {{g(1), g(-0x1p-54)}, {g(-1), g(0x1p-54)}});
    wide("9.7.3.6", "fma", "llll", {{g(0x1p-30), g(0x1p-30), g(1)}, {g(0x1p-30), g(-0x1p-30), g(-1)}});
    const double thirdWide = std::bit_cast<double>(uint64_t{0x3fd5555555555555});
    b.op("9.7.3.8", "div" + mode + ".f64", "lll", {{g(1), g(3)}},
         [=](Lane, unsigned) { return g(d.awayPositive ? thirdWide + 0x1p-54 : thirdWide); });
    b.op("9.7.3.13", "rcp" + mode + ".f64", "ll", {{g(3)}},
         [=](Lane, unsigned) { return g(d.awayPositive ? thirdWide + 0x1p-54 : thirdWide); });
    b.op("9.7.3.15", "sqrt" + mode + ".f64", "ll", {{g(2)}}, [=](Lane, unsigned) {
      return d.name[1] == 'n' || d.awayPositive ? uint64_t{0x3ff6a09e667f3bcd} : uint64_t{0x3ff6a09e667f3bcc};
    });
    // An exact zero is −0 only when rounding down; what overflows stays finite when rounded towards zero.
    b.op("9.7.3.3", "add" + mode + ".f32", "www", {{f(1), f(-1)}, {0x7f7fffff, 0x7f7fffff}}, [=](Lane, unsigned l) {
      if (l % 2 == 0) return d.awayNegative ? uint64_t{0x80000000} : 0;
      return nearest || d.awayPositive ? f(INFINITY) : uint64_t{0x7f7fffff};
    });
  }
  const uint64_t tiny = 1, negativeTiny = 0x80000001;
  b.table("9.7.3.5", "mul.ftz.f32", "www",
          {{tiny, f(0x1p126f), 0}, {negativeTiny, f(2), 0x80000000}, {0x00800000, f(0.5f), 0}});
  b.table("9.7.3.6", "fma.rn.ftz.f32", "wwww", {{tiny, f(1), f(1), f(1)}, {0x00800000, f(0.5f), 0, 0}});
  b.table("9.7.3.6", "fma.rn.sat.f32", "wwww", {{f(1), f(1), f(1), f(1)}, {f(1), f(-1), 0, 0}, {kNan, 0, 0, 0}});
  b.table("9.7.3.5", "mul.rn.ftz.sat.f32", "www", {{f(0.5f), f(0.5f), f(0.25f)}, {f(-1), f(1), 0}});
  b.table("9.7.3.8", "div.rn.ftz.f32", "www", {{tiny, tiny, kNan}, {0x00800000, f(2), 0}});
  b.table("9.7.3.15", "sqrt.rn.ftz.f32", "ww", {{negativeTiny, 0x80000000}, {f(4), f(2)}});
  b.table("9.7.3.9", "abs.ftz.f32", "ww", {{negativeTiny, 0}, {f(-2), f(2)}});
  b.table("9.7.3.10", "neg.ftz.f32", "ww", {{tiny, 0x80000000}, {f(2), f(-2)}});
  b.table("9.7.3.9", "abs.f64", "ll", {{g(-2), g(2)}, {g(-0.0), 0}});
  b.table("9.7.3.10", "neg.f64", "ll", {{g(-2), g(2)}, {0, g(-0.0)}});
  b.table("9.7.3.2", "copysign.f64", "lll", {{g(-2), g(3), g(-3)}, {g(2), g(-3), g(3)}});
  b.table("9.7.3.7", "mad.rn.f32", "wwww", {{f(1 + 0x1p-12f), f(1 + 0x1p-12f), f(-1), f(0x1p-11f + 0x1p-24f)}});
}

// What the ISA's tables and notes say of special operands.
void special(Builder& b) {
  const uint64_t inf = f(INFINITY), ninf = f(-INFINITY), nan = 0x7fc00000, zero = 0, nzero = 0x80000000, one = f(1);
  const uint64_t sub = 0x00400000, nsub = 0x80400000;
  struct Property {
    const char* name;
    bool zero, subnormal, normal, infinite, nan;
  };
  for (const Property& p : {Property{"finite", 1, 1, 1, 0, 0},
                            {"infinite", 0, 0, 0, 1, 0},
                            {"number", 1, 1, 1, 1, 0},
                            {"notanumber", 0, 0, 0, 0, 1},
                            {"normal", 1, 0, 1, 0, 0},
                            {"subnormal", 0, 1, 0, 0, 0}}) {
    const Rows rows = {{zero, p.zero},  {nzero, p.zero},        {sub, p.subnormal}, {nsub, p.subnormal},
                       {one, p.normal}, {0xff7fffff, p.normal}, {inf, p.infinite},  {ninf, p.infinite},
                       {nan, p.nan},    {0xffc00001, p.nan}};
    Rows wide;
    for (const auto& row : rows) wide.push_back({g(F(row[0])), row[1]});
    wide[2][0] = wide[3][0] = 1;
    auto expected = [rows](Lane, unsigned l) { return rows[l % rows.size()][1]; };
    const std::string name = std::string("testp.") + p.name;
    b.text("9.7.3.1", name + ".f32 %p, %a0;\nselp.b32 %d, 1, 0, %p;", "ww", rows, expected);
    b.text("9.7.3.1", name + ".f64 %p, %a0;\nselp.b32 %d, 1, 0, %p;", "wl", wide, expected);
  }
  b.table("9.7.3.13", "rcp.approx.f32", "ww",
          {{ninf, nzero}, {nzero, ninf}, {zero, inf}, {inf, zero}, {nan, kNan}, {f(4), f(0.25f)}});
  b.table("9.7.3.15", "sqrt.approx.f32", "ww",
          {{ninf, kNan}, {f(-1), kNan}, {nzero, nzero}, {zero, zero}, {inf, inf}, {nan, kNan}});
  b.table("9.7.3.15", "sqrt.approx.ftz.f32", "ww", {{nsub, nzero}, {sub, zero}, {f(4), f(2)}});
  b.table("9.7.3.16", "rsqrt.approx.f32", "ww",
          {{ninf, kNan}, {f(-1), kNan}, {nzero, ninf}, {zero, inf}, {inf, zero}, {f(4), f(0.5f)}});
  b.table("9.7.3.16", "rsqrt.approx.ftz.f32", "ww", {{nsub, ninf}, {sub, inf}, {f(4), f(0.5f)}});
  b.table("9.7.3.18", "sin.approx.f32", "ww", {{ninf, kNan}, {nzero, nzero}, {zero, zero}, {inf, kNan}, {nan, kNan}});
  b.table("9.7.3.18", "sin.approx.ftz.f32", "ww", {{sub, zero}, {nsub, nzero}});
  b.table("9.7.3.19", "cos.approx.f32", "ww", {{ninf, kNan}, {nzero, one}, {zero, one}, {inf, kNan}, {nan, kNan}});
  b.table("9.7.3.19", "cos.approx.ftz.f32", "ww", {{sub, one}, {nsub, one}});
  b.table(
      "9.7.3.20", "lg2.approx.f32", "ww",
      {{ninf, kNan}, {f(-1), kNan}, {nzero, ninf}, {zero, ninf}, {inf, inf}, {nan, kNan}, {f(8), f(3)}, {1, f(-149)}});
  b.table("9.7.3.20", "lg2.approx.ftz.f32", "ww", {{sub, ninf}, {f(8), f(3)}});
  b.table("9.7.3.21", "ex2.approx.f32", "ww",
          {{ninf, zero}, {nzero, one}, {zero, one}, {inf, inf}, {nan, kNan}, {f(-149), 1}, {f(10), f(1024)}});
  b.table("9.7.3.21", "ex2.approx.ftz.f32", "ww", {{f(-149), zero}, {sub, one}, {f(-126), 0x00800000}});
  b.table("9.7.3.22", "tanh.approx.f32", "ww", {{ninf, f(-1)}, {nzero, nzero}, {zero, zero}, {inf, one}, {nan, kNan}});
  // Beyond 2¹²⁶ the reciprocal is flushed.
  const uint64_t big = f(0x1p127f);
  b.table("9.7.3.8", "div.approx.f32", "www",
          {{one, big, zero},
           {f(-1), big, nzero},
           {big, big, zero},
           {inf, big, kNan},
           {one, inf, zero},
           {f(6), f(2), f(3)},
           {one, zero, inf}});
  b.table("9.7.3.8", "div.approx.ftz.f32", "www", {{big, big, zero}, {sub, one, zero}, {f(6), f(2), f(3)}});
  b.table("9.7.3.8", "div.full.ftz.f32", "www", {{big, big, one}, {sub, one, zero}, {f(6), f(2), f(3)}});
  // The upper word alone is seen and written.
  const uint64_t low = 0x00000000ffffffff, wideNan = 0x7fffffff00000000;
  b.table("9.7.3.14", "rcp.approx.ftz.f64", "ll",
          {{g(2) | low, g(0.5)},
           {g(-INFINITY), g(-0.0)},
           {1, g(INFINITY)},
           {g(-0.0) | 1, g(-INFINITY)},
           {kDoubleNan, wideNan},
           {g(0x1p1023), 0}});
  b.table("9.7.3.17", "rsqrt.approx.ftz.f64", "ll",
          {{g(4) | low, g(0.5)},
           {g(-1), wideNan},
           {1, g(INFINITY)},
           {g(-0.0), g(-INFINITY)},
           {g(INFINITY), 0},
           {kDoubleNan, wideNan}});
  b.table("9.7.3.16", "rsqrt.approx.f64", "ll", {{g(4), g(0.5)}, {0, g(INFINITY)}, {g(INFINITY), 0}});
  // Both NaN; equal zeros; flushed operands.
  b.table("9.7.3.11", "min.f32", "www",
          {{nan, nan, kNan}, {zero, nzero, nzero}, {nzero, zero, nzero}, {nan, one, one}, {one, nan, one}});
  b.table("9.7.3.12", "max.f32", "www", {{nan, nan, kNan}, {zero, nzero, zero}, {nzero, zero, zero}});
  b.table("9.7.3.11", "min.ftz.f32", "www", {{sub, one, zero}, {nsub, one, nzero}});
  b.table("9.7.3.12", "max.ftz.f32", "www", {{sub, f(-1), zero}});
  b.table("9.7.3.11", "min.NaN.f32", "www", {{nan, one, kNan}, {one, nan, kNan}, {one, f(2), one}});
  b.table("9.7.3.12", "max.ftz.NaN.f32", "www", {{nan, one, kNan}, {sub, nzero, zero}});
  b.table("9.7.3.11", "min.f64", "lll", {{g(1), g(2), g(1)}, {kDoubleNan, g(2), g(2)}, {0, g(-0.0), g(-0.0)}});
  b.table("9.7.3.12", "max.f64", "lll", {{g(1), g(2), g(2)}, {g(1), kDoubleNan, g(1)}, {g(-0.0), 0, 0}});
  b.require(86);
  b.table("9.7.3.11", "min.xorsign.abs.f32", "www",
          {{f(-1), f(2), f(-1)}, {f(-3), f(-2), f(2)}, {nan, nan, kNan}, {nan, f(-2), f(-2)}});
  b.table("9.7.3.12", "max.NaN.xorsign.abs.f32", "www",
          {{f(-1), f(2), f(-2)}, {f(-3), f(-2), f(3)}, {nan, f(-2), kNan}});
  b.require(80);
}

// p and q of setp, the registers of set, and slct, on numbers and NaN.
void selections(Builder& b) {
  const Rows rows = {{f(1), f(2)}, {f(2), f(1)}, {f(1), f(1)}, {0x7fc00000, f(1)}, {1, 0}};
  for (const char* combination : {"and", "or", "xor"}) {
    const std::string name = combination;
    auto combined = [name](bool yes, bool c) {
      return uint64_t{name == "and" ? yes && c : name == "or" ? yes || c : yes != c};
    };
    b.text("9.7.6.2",
           "and.b32 %t0, %lane, 1;\nsetp.eq.u32 %q, %t0, 0;\nsetp.ltu." + name +
               ".f32 %p|%q, %a0, %a1, !%q;\nselp.b32 %d, 1, 0, %p;\n@%q add.u32 %d, %d, 2;",
           "www", rows, [=](Lane a, unsigned l) {
             const bool yes = !(F(a[0]) >= F(a[1])), c = l % 2 != 0;
             return combined(yes, c) + 2 * combined(!yes, c);
           });
    b.text("9.7.6.1", "and.b32 %t0, %lane, 1;\nsetp.eq.u32 %q, %t0, 1;\nset.lt." + name + ".u32.f32 %d, %a0, %a1, %q;",
           "www", rows,
           [=](Lane a, unsigned l) { return combined(F(a[0]) < F(a[1]), l % 2) ? 0xffffffff : uint64_t{0}; });
  }
  b.op("9.7.6.1", "set.gtu.f32.f32", "www", rows, [](Lane a, unsigned) { return F(a[0]) <= F(a[1]) ? 0 : f(1); });
  b.op("9.7.6.1", "set.eq.ftz.s32.f32", "www", rows,
       [](Lane a, unsigned l) { return l % 5 == 4 || F(a[0]) == F(a[1]) ? 0xffffffff : uint64_t{0}; });
  b.text("9.7.6.2", "setp.eq.ftz.f32 %p, %a0, %a1;\nselp.b32 %d, 1, 0, %p;", "www", {{1, 0x80000002}, {1, 0x00800000}},
         [](Lane, unsigned l) { return uint64_t{l % 2 == 0}; });
  b.op("9.7.6.1", "set.hi.u32.u32", "www", {{0x80000000, 1}, {1, 0x80000000}, {3, 3}},
       [](Lane a, unsigned) { return a[0] > a[1] ? 0xffffffff : uint64_t{0}; });
  for (const char* alias : {"lo", "ls", "hi", "hs"}) {
    const std::string name = alias;
    b.text("9.7.6.2", "setp." + name + ".u32 %p, %a0, %a1;\nselp.b32 %d, 1, 0, %p;", "www",
           {{0x80000000, 1}, {1, 0x80000000}, {3, 3}}, [=](Lane a, unsigned) {
             return uint64_t{name == "lo"   ? a[0] < a[1]
                             : name == "ls" ? a[0] <= a[1]
                             : name == "hi" ? a[0] > a[1]
                                            : a[0] >= a[1]};
           });
  }
  b.table("9.7.6.4", "slct.b32.f32", "wwww",
          {{7, 8, f(-0.0f), 7}, {7, 8, 0x80000001, 8}, {7, 8, 0x7fc00000, 8}, {7, 8, f(3), 7}});
  b.table("9.7.6.4", "slct.ftz.u32.f32", "wwww", {{7, 8, 0x80000001, 7}, {7, 8, f(-3), 8}});
  b.table("9.7.6.4", "slct.f64.s32", "lllw", {{7, 8, 0xffffffff, 8}, {7, 8, 0, 7}});
}

}  // namespace

std::vector<Case> floatCases() {
  Builder b;
  arithmetic(b);
  directions(b);
  special(b);
  comparisons(b);
  selections(b);
  return std::move(b.cases);
}

}  // namespace runner
