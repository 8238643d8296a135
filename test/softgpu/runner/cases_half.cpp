// Cases of f16 and bf16 arithmetic and comparison, one value at a time and in pairs. bf16 arithmetic other than fma,
// min and max, and bf16 comparisons, came with sm_90.
#include <bit>
#include <cmath>
#include <string>

#include "cases.h"
#include "formats.h"

namespace runner {
namespace {

using Rows = std::vector<std::vector<uint64_t>>;

struct Kind {
  const char* name;
  Format format;
  bool isHalf;
};
const Kind kKinds[] = {{"f16", kF16, true}, {"bf16", kBf16, false}};

std::vector<Case> cases;

// Pairs of values, with zeros of both signs, infinities, a NaN and subnormals among them. Their products and sums are
// exact in double.
Rows values(const Format& format) {
  const double v[] = {0.0, -0.0, 1.0, -1.5, 0.3, 7.25, -0.001, 300.0, INFINITY, -INFINITY, 0x1.8p-15, 2.0, -33.0};
  Rows rows;
  auto pair = [&](size_t low, size_t high) { return format.encode(v[low % 13]) | format.encode(v[high % 13]) << 16; };
  for (size_t l = 0; l < 32; ++l) rows.push_back({pair(l, l + 1), pair(l * 5 + 2, l + 7), pair(l * 7 + 4, l * 3)});
  rows[20][0] = format.encode(NAN) | format.encode(1) << 16;
  rows[21][1] = format.encode(2) | format.encode(NAN) << 16;
  return rows;
}

// The instruction on single values, then on pairs.
void both(const char* section, const Kind& kind, const std::string& form, unsigned sources, unsigned target,
          std::function<uint64_t(const double*)> of, double tolerance = 0) {
  const Format format = kind.format;
  std::string operands = " %d";
  for (unsigned k = 0; k < sources; ++k) operands += ", %a" + std::to_string(k);
  auto single = [=](Lane a, unsigned part) {
    double x[3];
    for (unsigned k = 0; k < 3; ++k) x[k] = format.decode(a[k] >> (16 * part) & 0xffff);
    return of(x);
  };
  auto add = [&](const char* suffix, char type, std::function<uint64_t(Lane, unsigned)> expected) {
    Case c{section, form + "." + kind.name + suffix + operands + ";", std::string(sources + 1, type), values(format),
           std::move(expected)};
    c.target = target;
    c.tolerance = tolerance;
    cases.push_back(std::move(c));
  };
  add("", 'h', [=](Lane a, unsigned) { return single(a, 0); });
  add("x2", 'w', [=](Lane a, unsigned) { return single(a, 0) | single(a, 1) << 16; });
}

void arithmetic(const Kind& kind) {
  const Format f = kind.format;
  const unsigned newer = kind.isHalf ? 80 : 90;
  for (const char* rounding : {"", ".rn"}) {
    const std::string r = rounding;
    both("9.7.4.1", kind, "add" + r, 2, newer, [f](const double* x) { return f.encode(x[0] + x[1]); });
    both("9.7.4.2", kind, "sub" + r, 2, newer, [f](const double* x) { return f.encode(x[0] - x[1]); });
    both("9.7.4.3", kind, "mul" + r, 2, newer, [f](const double* x) { return f.encode(x[0] * x[1]); });
  }
  auto fused = [](const double* x) { return x[0] * x[1] + x[2]; };
  both("9.7.4.4", kind, "fma.rn", 3, 80, [=](const double* x) { return f.encode(fused(x)); });
  both("9.7.4.4", kind, "fma.rn.relu", 3, 80, [=](const double* x) {
    const double r = fused(x);
    return f.encode(r < 0 || r == 0 ? 0.0 : r);
  });
  if (kind.isHalf) {
    both("9.7.4.4", kind, "fma.rn.sat", 3, 80, [=](const double* x) {
      const double r = fused(x);
      return f.encode(r > 0 ? std::fmin(r, 1) : 0.0);
    });
  }
  auto smaller = [](double x, double y) { return x == y ? (std::signbit(x) ? x : y) : x < y ? x : y; };
  auto larger = [](double x, double y) { return x == y ? (std::signbit(x) ? y : x) : x > y ? x : y; };
  auto numberFirst = [](auto pick) {
    return [=](const double* x) { return x[0] != x[0] ? x[1] : x[1] != x[1] ? x[0] : pick(x[0], x[1]); };
  };
  auto nanFirst = [](auto pick) {
    return [=](const double* x) { return x[0] != x[0] || x[1] != x[1] ? NAN : pick(x[0], x[1]); };
  };
  auto encoded = [f](auto of) { return [f, of](const double* x) { return f.encode(of(x)); }; };
  both("9.7.4.7", kind, "min", 2, 80, encoded(numberFirst(smaller)));
  both("9.7.4.8", kind, "max", 2, 80, encoded(numberFirst(larger)));
  both("9.7.4.7", kind, "min.NaN", 2, 80, encoded(nanFirst(smaller)));
  both("9.7.4.8", kind, "max.NaN", 2, 80, encoded(nanFirst(larger)));
  // The sign is a bit: a NaN keeps its payload.
  auto signOf = [f](uint64_t nan, auto of) {
    return [=](const double* x) { return x[0] != x[0] ? nan : f.encode(of(x[0])); };
  };
  both("9.7.4.5", kind, "neg", 1, 80, signOf(0xffff, [](double x) { return -x; }));
  both("9.7.4.6", kind, "abs", 1, 80, signOf(0x7fff, [](double x) { return std::fabs(x); }));
}

// The ISA bounds the error of these; here it is rounded once.
void approximate() {
  both("9.7.4.9", kKinds[0], "tanh.approx", 1, 80, [](const double* x) { return kF16.encode(std::tanh(x[0])); });
  both("9.7.4.9", kKinds[1], "tanh.approx", 1, 90, [](const double* x) { return kBf16.encode(std::tanh(x[0])); });
  both("9.7.4.10", kKinds[0], "ex2.approx", 1, 80, [](const double* x) { return kF16.encode(std::exp2(x[0])); });
  both("9.7.4.10", kKinds[1], "ex2.approx.ftz", 1, 90, [](const double* x) { return kBf16.encode(std::exp2(x[0])); });
}

void comparisons(const Kind& kind) {
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
  const Format f = kind.format;
  const std::string type = kind.name;
  const unsigned target = kind.isHalf ? 80 : 90;
  auto part = [f](Lane a, unsigned k, unsigned half) { return f.decode(a[k] >> (16 * half) & 0xffff); };
  for (const Comparison& c : all) {
    const auto of = c.of;
    auto add = [&](const std::string& body, const char* types, std::function<uint64_t(Lane, unsigned)> expected) {
      cases.push_back({"9.7.7", body, types, values(f), std::move(expected), 0, target});
    };
    const std::string name = c.name;
    add("setp." + name + "." + type + " %p, %a0, %a1;\nselp.b32 %d, 1, 0, %p;", "whh",
        [=](Lane a, unsigned) { return uint64_t{of(part(a, 0, 0), part(a, 1, 0))}; });
    add("setp." + name + "." + type + "x2 %p|%q, %a0, %a1;\nselp.b32 %d, 1, 0, %p;\n@%q add.u32 %d, %d, 2;", "www",
        [=](Lane a, unsigned) {
          return uint64_t{of(part(a, 0, 0), part(a, 1, 0))} + 2 * uint64_t{of(part(a, 0, 1), part(a, 1, 1))};
        });
    const uint64_t one = f.encode(1);
    add("set." + name + "." + type + "." + type + " %d, %a0, %a1;", "hhh",
        [=](Lane a, unsigned) { return of(part(a, 0, 0), part(a, 1, 0)) ? one : 0; });
    add("set." + name + "." + type + "x2." + type + "x2 %d, %a0, %a1;", "www", [=](Lane a, unsigned) {
      return (of(part(a, 0, 0), part(a, 1, 0)) ? one : 0) | (of(part(a, 0, 1), part(a, 1, 1)) ? one << 16 : 0);
    });
  }
}

}  // namespace

std::vector<Case> halfCases() {
  cases.clear();
  for (const Kind& kind : kKinds) {
    arithmetic(kind);
    comparisons(kind);
  }
  approximate();
  return std::move(cases);
}

}  // namespace runner
