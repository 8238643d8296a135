// Cases of f16 and bf16 arithmetic and comparison, single and in pairs. Tables list operands, then the result.
#include <cmath>

#include "builder.h"

namespace runner {
namespace {

constexpr uint64_t kHalfInfinity = 0x7c00, kBf16Infinity = 0x7f80;

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

// One f16 or bf16 as a pair: the other half holds the operands of another row.
Rows paired(const Rows& rows) {
  Rows pairs;
  for (size_t k = 0; k < rows.size(); ++k) {
    pairs.push_back(rows[k]);
    const auto& upper = rows[(k + 1) % rows.size()];
    for (size_t c = 0; c < upper.size(); ++c) pairs[k][c] |= upper[c] << 16;
  }
  return pairs;
}

void both(Builder& b, const char* section, const std::string& form, const std::string& type, const Rows& rows) {
  const size_t columns = rows[0].size();
  b.table(section, form + "." + type, std::string(columns, 'h').c_str(), rows);
  b.table(section, form + "." + type + "x2", std::string(columns, 'w').c_str(), paired(rows));
}

void rounding(Builder& b) {
  // 2048 + 1 is a tie in f16; 65504 is the largest, and half a step more is infinite.
  both(b, "9.7.4.1", "add.rn", "f16",
       {{0x6800, 0x3c00, 0x6800},
        {0x6801, 0x3c00, 0x6802},
        {0x7bff, 0x4c00, kHalfInfinity},
        {0x7bff, 0x4bff, 0x7bff},
        {0x8000, 0x0000, 0x0000},
        {0x8000, 0x8000, 0x8000},
        {kHalfInfinity, 0xfc00, kHalfNan},
        {0x0001, 0x0001, 0x0002},
        {0x7e00, 0x3c00, kHalfNan}});
  both(b, "9.7.4.1", "add.ftz", "f16", {{0x0001, 0x3c00, 0x3c00}, {0x8001, 0x8001, 0x8000}, {0x0400, 0x83ff, 0x0400}});
  both(b, "9.7.4.1", "add.sat", "f16",
       {{0x3c00, 0x3c00, 0x3c00}, {0xbc00, 0x3800, 0}, {0x7e00, 0x3c00, 0}, {0x3400, 0x3400, 0x3800}});
  both(b, "9.7.4.2", "sub", "f16", {{0x6800, 0x3c00, 0x67ff}, {0x3c00, 0x3c00, 0x0000}});
  both(b, "9.7.4.3", "mul.rn", "f16",
       {{0x3c01, 0x3c01, 0x3c02},
        {0x0400, 0x3800, 0x0200},
        {0x0001, 0x3800, 0},
        {0x0003, 0x3800, 2},
        {0, kHalfInfinity, kHalfNan}});
  both(b, "9.7.4.3", "mul.ftz", "f16", {{0x0400, 0x3800, 0}, {0x3ff, 0x7bff, 0}});
  // (1 + 2⁻¹⁰)² − (1 + 2⁻⁹) is 2⁻²⁰ with one rounding and 0 with two; 2⁻¹¹ decides a tie.
  both(b, "9.7.4.4", "fma.rn", "f16",
       {{0x3c01, 0x3c01, 0xbc02, 0x0010},
        {0x0c00, 0x0c00, 0x3c00, 0x3c00},
        {0x3c00, 0x1000, 0x3c00, 0x3c00},
        {0x3c01, 0x1000, 0x3c00, 0x3c01},
        {0, kHalfInfinity, 0x3c00, kHalfNan}});
  both(b, "9.7.4.4", "fma.rn.relu", "f16",
       {{0x3c00, 0xc000, 0x3c00, 0}, {0x3c00, 0x4000, 0x3c00, 0x4200}, {0x7e00, 0x4000, 0x3c00, kHalfNan}});
  both(b, "9.7.4.4", "fma.rn.sat", "f16",
       {{0x3c00, 0xc000, 0x3c00, 0}, {0x3c00, 0x4000, 0x3c00, 0x3c00}, {0x7e00, 0x4000, 0x3c00, 0}});
  both(b, "9.7.4.4", "fma.rn.ftz", "f16", {{0x0001, 0x3c00, 0x3c00, 0x3c00}, {0x0400, 0x3800, 0x0000, 0}});
  // bf16 has 8 bits: 256 + 1 is a tie, and 1 + 2⁻⁸ · (1 + 2⁻⁷) is just above one.
  both(b, "9.7.4.4", "fma.rn", "bf16",
       {{0x3f80, 0x4380, 0x3f80, 0x4380},
        {0x3f80, 0x4381, 0x3f80, 0x4382},
        {0x3b80, 0x3f81, 0x3f80, 0x3f81},
        {0x7f7f, 0x4000, 0, kBf16Infinity},
        {0x7fc0, 0, 0, kHalfNan}});
  both(b, "9.7.4.4", "fma.rn.relu", "bf16",
       {{0x3f80, 0xc000, 0x3f80, 0}, {0x3f80, 0x4000, 0x3f80, 0x4040}, {0x7fc0, 0x4000, 0, kHalfNan}});
  both(b, "9.7.4.5", "neg", "f16", {{0x3c00, 0xbc00}, {0x8001, 0x0001}});
  both(b, "9.7.4.5", "neg.ftz", "f16", {{0x3c00, 0xbc00}, {0x8001, 0x0000}, {0x03ff, 0x8000}});
  both(b, "9.7.4.6", "abs", "f16", {{0xbc00, 0x3c00}, {0x8001, 0x0001}});
  both(b, "9.7.4.6", "abs.ftz", "f16", {{0xbc00, 0x3c00}, {0x8001, 0x0000}});
  both(b, "9.7.4.6", "abs", "bf16", {{0xbf80, 0x3f80}, {0x8001, 0x0001}});
  both(b, "9.7.4.5", "neg", "bf16", {{0xbf80, 0x3f80}, {0x8001, 0x0001}});
  b.require(90);
  both(b, "9.7.4.1", "add", "bf16",
       {{0x4380, 0x3f80, 0x4380}, {0x4381, 0x3f80, 0x4382}, {0x3f80, 0x3b80, 0x3f80}, {0x7f80, 0xff80, kHalfNan}});
  both(b, "9.7.4.2", "sub.rn", "bf16", {{0x4380, 0x3f80, 0x437f}, {0x3f80, 0x3f80, 0}});
  both(b, "9.7.4.3", "mul", "bf16",
       {{0x3f81, 0x3f81, 0x3f82}, {0x7f00, 0x4080, kBf16Infinity}, {0x0080, 0x3f00, 0x0040}});
  b.require(80);
}

void extrema(Builder& b) {
  // -0 < +0; a NaN loses, or with .NaN wins.
  const uint64_t n = 0x7e00, m = 0x7fc0;
  both(b, "9.7.4.7", "min", "f16",
       {{0x3c00, 0x4000, 0x3c00},
        {0x8000, 0, 0x8000},
        {0, 0x8000, 0x8000},
        {n, 0x3c00, 0x3c00},
        {0x3c00, n, 0x3c00},
        {n, n, kHalfNan}});
  both(b, "9.7.4.8", "max", "f16",
       {{0x3c00, 0x4000, 0x4000}, {0x8000, 0, 0}, {0, 0x8000, 0}, {n, 0xbc00, 0xbc00}, {n, n, kHalfNan}});
  both(b, "9.7.4.7", "min.NaN", "f16", {{0x3c00, 0x4000, 0x3c00}, {n, 0x3c00, kHalfNan}, {0x3c00, n, kHalfNan}});
  both(b, "9.7.4.8", "max.NaN", "f16", {{0x3c00, 0x4000, 0x4000}, {n, 0x3c00, kHalfNan}});
  both(b, "9.7.4.7", "min.ftz", "f16", {{0x0001, 0x3c00, 0}, {0x8001, 0x0001, 0x8000}});
  both(b, "9.7.4.7", "min.NaN", "bf16", {{0x3f80, 0x4000, 0x3f80}, {m, 0x3f80, kHalfNan}});
  both(b, "9.7.4.8", "max.NaN", "bf16", {{0x3f80, 0x4000, 0x4000}, {m, 0x3f80, kHalfNan}, {0x8000, 0, 0}});
  both(b, "9.7.4.7", "min", "bf16", {{0x3f80, 0x4000, 0x3f80}, {m, 0x3f80, 0x3f80}, {0, 0x8000, 0x8000}});
  b.require(86);
  both(b, "9.7.4.7", "min.xorsign.abs", "f16",
       {{0xbc00, 0x4000, 0xbc00}, {0xbc00, 0xc000, 0x3c00}, {n, 0xbc00, 0xbc00}});
  both(b, "9.7.4.8", "max.xorsign.abs", "bf16", {{0xbf80, 0x4000, 0xc000}, {0xbf80, 0xc000, 0x4000}});
  b.require(80);
}

void approximations(Builder& b) {
  // Exact where the function is: the ISA's tables of special inputs, and powers of two.
  both(b, "9.7.4.10", "ex2.approx", "f16",
       {{0x0000, 0x3c00}, {0x4000, 0x4400}, {0xfc00, 0}, {0x7c00, 0x7c00}, {0x7e00, kHalfNan}, {0xcd00, 0x0010}});
  both(b, "9.7.4.9", "tanh.approx", "f16",
       {{0x0000, 0}, {0x8000, 0x8000}, {0x7c00, 0x3c00}, {0xfc00, 0xbc00}, {0x7e00, kHalfNan}});
  b.require(90);
  // 2⁻¹²⁷ is subnormal and flushed, and so is a subnormal input.
  both(b, "9.7.4.10", "ex2.approx.ftz", "bf16",
       {{0, 0x3f80}, {0xc2fc, 0x0080}, {0xc2fe, 0}, {0x0001, 0x3f80}, {0xff80, 0}, {0x7f80, 0x7f80}});
  both(b, "9.7.4.9", "tanh.approx", "bf16", {{0, 0}, {0x7f80, 0x3f80}, {0xff80, 0xbf80}, {0x8000, 0x8000}});
  b.require(80);
}

// What the ISA says of each comparison for less, equal, greater and unordered operands.
struct Comparison {
  const char* name;
  bool less, equal, greater, unordered;
};
constexpr Comparison kComparisons[] = {
    {"eq", 0, 1, 0, 0},  {"ne", 1, 0, 1, 0},  {"lt", 1, 0, 0, 0},  {"le", 1, 1, 0, 0},  {"gt", 0, 0, 1, 0},
    {"ge", 0, 1, 1, 0},  {"equ", 0, 1, 0, 1}, {"neu", 1, 0, 1, 1}, {"ltu", 1, 0, 0, 1}, {"leu", 1, 1, 0, 1},
    {"gtu", 0, 0, 1, 1}, {"geu", 0, 1, 1, 1}, {"num", 1, 1, 1, 0}, {"nan", 0, 0, 0, 1}};

void comparisons(Builder& b, const std::string& type, uint64_t one, uint64_t two, uint64_t nan, unsigned capability) {
  const std::string pair = type + "x2";
  for (const Comparison& c : kComparisons) {
    const std::string name = c.name;
    const Rows rows = {
        {one, two, c.less}, {two, two, c.equal}, {two, one, c.greater}, {nan, one, c.unordered}, {0, 0x8000, c.equal}};
    const Rows pairs = paired(rows);
    auto expected = [rows](Lane, unsigned l) { return rows[l % rows.size()][2]; };
    auto expectedPair = [pairs](unsigned l, uint64_t yes) {
      const uint64_t both = pairs[l % pairs.size()][2];
      return (both & 1 ? yes & 0xffff : 0) | (both >> 16 & 1 ? yes & 0xffff0000 : 0);
    };
    b.require(capability);
    b.text("9.7.7.2", "setp." + name + "." + type + " %p, %a0, %a1;\nselp.b32 %d, 1, 0, %p;", "whh", rows, expected);
    b.text("9.7.7.2",
           "setp." + name + "." + pair + " %p|%q, %a0, %a1;\nselp.b32 %d, 1, 0, %p;\n@%q or.b32 %d, %d, 0x10000;",
           "www", pairs, [=](Lane, unsigned l) { return expectedPair(l, 0x10001); });
    b.op("9.7.7.1", "set." + name + "." + pair + "." + pair, "www", pairs,
         [=](Lane, unsigned l) { return expectedPair(l, one << 16 | one); });
    b.op("9.7.7.1", "set." + name + ".u32." + pair, "www", pairs,
         [=](Lane, unsigned l) { return expectedPair(l, 0xffffffff); });
    b.op("9.7.7.1", "set." + name + "." + type + "." + type, "hhh", rows,
         [=](Lane a, unsigned l) { return expected(a, l) ? one : 0; });
    b.op("9.7.7.1", "set." + name + ".u16." + type, "hhh", rows,
         [=](Lane a, unsigned l) { return expected(a, l) ? 0xffff : 0; });
    b.op("9.7.7.1", "set." + name + ".s32." + type, "whh", rows,
         [=](Lane a, unsigned l) { return expected(a, l) ? 0xffffffff : 0; });
    b.require(80);
  }
  for (const char* combination : {"and", "or", "xor"}) {
    const std::string name = combination;
    const Rows rows = paired({{one, two, 1}, {two, one, 0}, {one, one, 0}, {one, two, 1}});
    auto combined = [=](uint64_t yes, uint64_t c) {
      return name == "and" ? yes & c : name == "or" ? yes | c : yes ^ c;
    };
    b.require(capability);
    b.text("9.7.7.2",
           "setp.eq.u32 %q, %a0, %a0;\nand.b32 %t0, %lane, 1;\nsetp.eq.u32 %q, %t0, 1;\nsetp.lt." + name + "." + pair +
               " %p|%q, %a0, %a1, !%q;\nselp.b32 %d, 1, 0, %p;\n@%q or.b32 %d, %d, 0x10000;",
           "www", rows, [=](Lane, unsigned l) {
             const uint64_t yes = rows[l % rows.size()][2], c = l % 2 == 0;
             return combined(yes & 1, c) | combined(yes >> 16, c) << 16;
           });
    b.require(80);
  }
}

void flushed(Builder& b) {
  b.text("9.7.7.2", "setp.eq.ftz.f16 %p, %a0, %a1;\nselp.b32 %d, 1, 0, %p;", "whh",
         {{1, 0, 1}, {0x8001, 1, 1}, {0x400, 1, 0}}, [](Lane a, unsigned) { return a[2]; });
  b.text("9.7.7.2", "setp.eq.ftz.f16x2 %p|%q, %a0, %a1;\nselp.b32 %d, 1, 0, %p;", "www",
         {{1, 0, 1}, {0x8001, 1, 1}, {0x400, 1, 0}}, [](Lane a, unsigned) { return a[2]; });
  b.table("9.7.7.1", "set.lt.ftz.f16.f16", "hhh", {{0, 1, 0}, {0, 0x400, 0x3c00}});
}

}  // namespace

std::vector<Case> halfCases() {
  Builder b;
  halves(b);
  rounding(b);
  extrema(b);
  approximations(b);
  comparisons(b, "f16", 0x3c00, 0x4000, 0x7e00, 80);
  comparisons(b, "bf16", 0x3f80, 0x4000, 0x7fc0, 90);
  flushed(b);
  return std::move(b.cases);
}

}  // namespace runner
