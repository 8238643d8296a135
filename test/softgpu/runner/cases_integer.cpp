// Cases of integer arithmetic, bits, comparison and selection. Expectations are written from the ISA's formulas, with
// other means than the implementation's where there are any.
#include <algorithm>
#include <bit>

#include "cases.h"

namespace runner {
namespace {

using Rows = std::vector<std::vector<uint64_t>>;
using Formula = std::function<uint64_t(Lane, unsigned)>;

const uint64_t kWords[] = {0,          1,          2,          31,         32,    0x7fffffff,
                           0x80000000, 0xffffffff, 0xdeadbeef, 0x00ff00ff, 12345, 0xfffffff6};
const uint64_t kLongs[] = {
    0, 1, 63, 0xffffffff, 0x100000000, 0x7fffffffffffffff, 0x8000000000000000, ~uint64_t{0}, 0x0123456789abcdef, 77};

// Every lane another combination of edge values.
Rows mixed(const uint64_t* values, size_t count) {
  Rows rows;
  for (size_t l = 0; l < 32; ++l) {
    rows.push_back(
        {values[l % count], values[(l * 5 + 1) % count], values[(l * 7 + 3) % count], values[(l * 3 + 2) % count]});
  }
  return rows;
}
Rows words() { return wordRows(); }
Rows longs() { return longRows(); }
// Second operand never zero.
Rows divisors(Rows rows) {
  for (auto& row : rows) row[1] |= 1;
  return rows;
}

int32_t s(uint64_t x) { return static_cast<int32_t>(x); }
uint32_t u(uint64_t x) { return static_cast<uint32_t>(x); }
int64_t sl(uint64_t x) { return static_cast<int64_t>(x); }

std::string operands(size_t count) {
  std::string text = " %d";
  for (size_t k = 0; k < count; ++k) text += ", %a" + std::to_string(k);
  return text + ";";
}

class Builder {
 public:
  Case& op(const char* section, const std::string& form, const char* types, Rows rows, Formula expected) {
    return text(section, form + operands(std::string(types).size() - 1), types, std::move(rows), std::move(expected));
  }
  Case& text(const char* section, const std::string& body, const char* types, Rows rows, Formula expected) {
    cases.push_back({section, body, types, std::move(rows), std::move(expected)});
    return cases.back();
  }
  std::vector<Case> cases;
};

void arithmetic(Builder& b) {
  for (const char* type : {"s32", "u32"}) {
    b.op("9.7.1.1", std::string("add.") + type, "www", words(), [](Lane a, unsigned) { return u(a[0]) + u(a[1]); });
    b.op("9.7.1.2", std::string("sub.") + type, "www", words(), [](Lane a, unsigned) { return u(a[0]) - u(a[1]); });
    b.op("9.7.1.3", std::string("mul.lo.") + type, "www", words(), [](Lane a, unsigned) { return u(a[0]) * u(a[1]); });
    b.op("9.7.1.4", std::string("mad.lo.") + type, "wwww", words(),
         [](Lane a, unsigned) { return u(a[0]) * u(a[1]) + u(a[2]); });
  }
  for (const char* type : {"s64", "u64"}) {
    b.op("9.7.1.1", std::string("add.") + type, "lll", longs(), [](Lane a, unsigned) { return a[0] + a[1]; });
    b.op("9.7.1.2", std::string("sub.") + type, "lll", longs(), [](Lane a, unsigned) { return a[0] - a[1]; });
    b.op("9.7.1.3", std::string("mul.lo.") + type, "lll", longs(), [](Lane a, unsigned) { return a[0] * a[1]; });
    b.op("9.7.1.4", std::string("mad.lo.") + type, "llll", longs(),
         [](Lane a, unsigned) { return a[0] * a[1] + a[2]; });
  }
  for (const char* type : {"s16", "u16"}) {
    b.op("9.7.1.1", std::string("add.") + type, "hhh", words(), [](Lane a, unsigned) { return a[0] + a[1]; });
    b.op("9.7.1.2", std::string("sub.") + type, "hhh", words(), [](Lane a, unsigned) { return a[0] - a[1]; });
    b.op("9.7.1.3", std::string("mul.lo.") + type, "hhh", words(), [](Lane a, unsigned) { return a[0] * a[1]; });
  }
  b.op("9.7.1.1", "add.sat.s32", "www", words(), [](Lane a, unsigned) {
    return u(static_cast<uint64_t>(std::clamp<int64_t>(int64_t{s(a[0])} + s(a[1]), INT32_MIN, INT32_MAX)));
  });
  b.op("9.7.1.3", "mul.hi.s32", "www", words(),
       [](Lane a, unsigned) { return u(static_cast<uint64_t>((int64_t{s(a[0])} * s(a[1])) >> 32)); });
  b.op("9.7.1.3", "mul.hi.u32", "www", words(), [](Lane a, unsigned) { return (a[0] * a[1]) >> 32; });
  b.op("9.7.1.3", "mul.hi.u64", "lll", longs(),
       [](Lane a, unsigned) { return static_cast<uint64_t>((static_cast<unsigned __int128>(a[0]) * a[1]) >> 64); });
  b.op("9.7.1.3", "mul.hi.s64", "lll", longs(),
       [](Lane a, unsigned) { return static_cast<uint64_t>((static_cast<__int128>(sl(a[0])) * sl(a[1])) >> 64); });
  b.op("9.7.1.3", "mul.wide.s32", "lww", words(),
       [](Lane a, unsigned) { return static_cast<uint64_t>(int64_t{s(a[0])} * s(a[1])); });
  b.op("9.7.1.3", "mul.wide.u32", "lww", words(), [](Lane a, unsigned) { return a[0] * a[1]; });
  b.op("9.7.1.3", "mul.wide.u16", "whh", words(), [](Lane a, unsigned) { return (a[0] & 0xffff) * (a[1] & 0xffff); });
  b.op("9.7.1.3", "mul.wide.s16", "whh", words(), [](Lane a, unsigned) {
    return u(static_cast<uint64_t>(int64_t{static_cast<int16_t>(a[0])} * static_cast<int16_t>(a[1])));
  });
  b.op("9.7.1.4", "mad.wide.u32", "lwwl", words(), [](Lane a, unsigned) { return a[0] * a[1] + a[2]; });
  b.op("9.7.1.4", "mad.wide.s32", "lwwl", words(),
       [](Lane a, unsigned) { return static_cast<uint64_t>(int64_t{s(a[0])} * s(a[1])) + a[2]; });
  b.op("9.7.1.4", "mad.hi.u32", "wwww", words(), [](Lane a, unsigned) { return ((a[0] * a[1]) >> 32) + a[2]; });
  b.op("9.7.1.6", "mul24.lo.u32", "www", words(),
       [](Lane a, unsigned) { return (a[0] & 0xffffff) * (a[1] & 0xffffff); });
  b.op("9.7.1.7", "mad24.lo.s32", "wwww", words(), [](Lane a, unsigned) {
    return static_cast<uint64_t>(int64_t{s(a[0] << 8) >> 8} * (s(a[1] << 8) >> 8) + s(a[2]));
  });
  b.op("9.7.1.8", "sad.u32", "wwww", words(),
       [](Lane a, unsigned) { return std::max(a[0], a[1]) - std::min(a[0], a[1]) + a[2]; });
  b.op("9.7.1.8", "sad.s32", "wwww", words(),
       [](Lane a, unsigned) { return static_cast<uint64_t>(std::abs(int64_t{s(a[0])} - s(a[1]))) + a[2]; });
  b.op("9.7.1.9", "div.u32", "www", divisors(words()), [](Lane a, unsigned) { return a[0] / a[1]; });
  b.op("9.7.1.9", "div.s32", "www", divisors(words()),
       [](Lane a, unsigned) { return static_cast<uint64_t>(int64_t{s(a[0])} / s(a[1])); });
  b.op("9.7.1.9", "div.u64", "lll", divisors(longs()), [](Lane a, unsigned) { return a[0] / a[1]; });
  b.op("9.7.1.9", "div.s64", "lll", divisors(longs()),
       [](Lane a, unsigned) { return static_cast<uint64_t>(static_cast<__int128>(sl(a[0])) / sl(a[1])); });
  b.op("9.7.1.10", "rem.u32", "www", divisors(words()), [](Lane a, unsigned) { return a[0] % a[1]; });
  b.op("9.7.1.10", "rem.s32", "www", divisors(words()),
       [](Lane a, unsigned) { return static_cast<uint64_t>(int64_t{s(a[0])} % s(a[1])); });
  b.op("9.7.1.10", "rem.u64", "lll", divisors(longs()), [](Lane a, unsigned) { return a[0] % a[1]; });
  b.op("9.7.1.10", "rem.s64", "lll", divisors(longs()),
       [](Lane a, unsigned) { return static_cast<uint64_t>(static_cast<__int128>(sl(a[0])) % sl(a[1])); });
  b.op("9.7.1.11", "abs.s32", "ww", words(),
       [](Lane a, unsigned) { return static_cast<uint64_t>(std::abs(int64_t{s(a[0])})); });
  b.op("9.7.1.12", "neg.s32", "ww", words(), [](Lane a, unsigned) { return 0 - a[0]; });
  b.op("9.7.1.12", "neg.s64", "ll", longs(), [](Lane a, unsigned) { return 0 - a[0]; });
  b.op("9.7.1.13", "min.s32", "www", words(),
       [](Lane a, unsigned) { return u(static_cast<uint64_t>(std::min(s(a[0]), s(a[1])))); });
  b.op("9.7.1.13", "min.u32", "www", words(), [](Lane a, unsigned) { return std::min(a[0], a[1]); });
  b.op("9.7.1.13", "min.s64", "lll", longs(),
       [](Lane a, unsigned) { return static_cast<uint64_t>(std::min(sl(a[0]), sl(a[1]))); });
  b.op("9.7.1.13", "min.u64", "lll", longs(), [](Lane a, unsigned) { return std::min(a[0], a[1]); });
  b.op("9.7.1.14", "max.s32", "www", words(),
       [](Lane a, unsigned) { return u(static_cast<uint64_t>(std::max(s(a[0]), s(a[1])))); });
  b.op("9.7.1.14", "max.u32", "www", words(), [](Lane a, unsigned) { return std::max(a[0], a[1]); });
  b.op("9.7.1.14", "max.s64", "lll", longs(),
       [](Lane a, unsigned) { return static_cast<uint64_t>(std::max(sl(a[0]), sl(a[1]))); });
  b.op("9.7.1.14", "max.u64", "lll", longs(), [](Lane a, unsigned) { return std::max(a[0], a[1]); });
  b.op("9.7.1.11", "abs.s64", "ll", longs(), [](Lane a, unsigned) { return sl(a[0]) < 0 ? 0 - a[0] : a[0]; });
  // Pairs of 16 bits.
  auto pairs = [](auto of) {
    return [of](Lane a, unsigned) {
      return uint64_t{static_cast<uint16_t>(of(a[0], a[1]))} |
             uint64_t{static_cast<uint16_t>(of(a[0] >> 16, a[1] >> 16))} << 16;
    };
  };
  b.op("9.7.1.1", "add.u16x2", "www", words(), pairs([](uint64_t x, uint64_t y) { return x + y; })).target = 90;
  b.op("9.7.1.13", "min.s16x2", "www", words(),
       pairs([](uint64_t x, uint64_t y) { return std::min(static_cast<int16_t>(x), static_cast<int16_t>(y)); }))
      .target = 90;
  b.op("9.7.1.14", "max.s16x2", "www", words(),
       pairs([](uint64_t x, uint64_t y) { return std::max(static_cast<int16_t>(x), static_cast<int16_t>(y)); }))
      .target = 90;
  b.op("9.7.1.14", "max.u16x2", "www", words(),
       pairs([](uint64_t x, uint64_t y) { return std::max(static_cast<uint16_t>(x), static_cast<uint16_t>(y)); }))
      .target = 90;
  for (int half = 0; half < 2; ++half) {
    b.op("9.7.1.24", half ? "dp2a.hi.s32.s32" : "dp2a.lo.s32.s32", "wwww", words(), [half](Lane a, unsigned) {
      uint64_t sum = a[2];
      for (int k = 0; k < 2; ++k)
        sum += static_cast<uint64_t>(static_cast<int16_t>(a[0] >> (16 * k)) *
                                     static_cast<int8_t>(a[1] >> (8 * (k + 2 * half))));
      return sum;
    });
  }
  b.op("9.7.1.23", "dp4a.s32.s32", "wwww", words(), [](Lane a, unsigned) {
    uint64_t sum = a[2];
    for (int k = 0; k < 32; k += 8)
      sum += static_cast<uint64_t>(static_cast<int8_t>(a[0] >> k) * static_cast<int8_t>(a[1] >> k));
    return sum;
  });
  b.op("9.7.1.23", "dp4a.u32.u32", "wwww", words(), [](Lane a, unsigned) {
    uint64_t sum = a[2];
    for (int k = 0; k < 32; k += 8) sum += (a[0] >> k & 255) * (a[1] >> k & 255);
    return sum;
  });
}

// Sums, differences and products of two words each, against 64-bit and 128-bit arithmetic.
void carries(Builder& b) {
  const std::string split = "mov.b64 {%t0, %t1}, %a0;\nmov.b64 {%t2, %t3}, %a1;\n", join = "mov.b64 %d, {%t0, %t1};";
  for (const char* type : {"u32", "s32"}) {
    const std::string t = type;
    b.text("9.7.2.1", split + "add.cc." + t + " %t0, %t0, %t2;\naddc." + t + " %t1, %t1, %t3;\n" + join, "lll", longs(),
           [](Lane a, unsigned) { return a[0] + a[1]; });
    b.text("9.7.2.3", split + "sub.cc." + t + " %t0, %t0, %t2;\nsubc." + t + " %t1, %t1, %t3;\n" + join, "lll", longs(),
           [](Lane a, unsigned) { return a[0] - a[1]; });
    // The carry out of the second sum, alone.
    b.text("9.7.2.2",
           split + "add.cc." + t + " %t0, %t0, %t2;\naddc.cc." + t + " %t1, %t1, %t3;\nmov.u32 %t0, 0;\naddc." + t +
               " %d, %t0, 0;",
           "wll", longs(), [](Lane a, unsigned) { return uint64_t{a[0] + a[1] < a[0]}; });
    b.text("9.7.2.4",
           split + "sub.cc." + t + " %t0, %t0, %t2;\nsubc.cc." + t + " %t1, %t1, %t3;\nmov.u32 %t0, 0;\nsubc." + t +
               " %d, %t0, 0;",
           "wll", longs(), [](Lane a, unsigned) { return a[0] < a[1] ? uint64_t{0xffffffff} : 0; });
  }
  for (const char* type : {"u64", "s64"}) {
    const std::string t = type;
    b.text("9.7.2.2", "add.cc." + t + " %x0, %a0, %a1;\naddc." + t + " %d, %a2, %a2;", "llll", longs(),
           [](Lane a, unsigned) { return 2 * a[2] + (a[0] + a[1] < a[0]); });
    b.text("9.7.2.4", "sub.cc." + t + " %x0, %a0, %a1;\nsubc." + t + " %d, %a2, %a0;", "llll", longs(),
           [](Lane a, unsigned) { return a[2] - a[0] - (a[0] < a[1]); });
    const bool isSigned = t == "s64";
    b.text("9.7.2.6",
           "mad.lo.cc." + t + " %x0, %a0, %a1, %a2;\nmadc.hi." + t + " %d, %a0, %a1, 0;\nmad.hi.cc." + t +
               " %x1, %a0, %a1, %a2;\nmadc.lo.cc." + t + " %x1, %a0, %a1, %a2;",
           "llll", longs(), [isSigned](Lane a, unsigned) {
             const unsigned __int128 product =
                 isSigned ? static_cast<unsigned __int128>(static_cast<__int128>(sl(a[0])) * sl(a[1]))
                          : static_cast<unsigned __int128>(a[0]) * a[1];
             return static_cast<uint64_t>((product + a[2]) >> 64);
           });
  }
  b.text("9.7.2.6",
         split +
             "mul.lo.u32 %d0, %t0, %t2;\nmul.hi.u32 %d1, %t0, %t2;\nmad.lo.cc.u32 %d1, %t0, %t3, %d1;\nmadc.hi.u32 "
             "%d2, %t0, %t3, 0;\nmad.lo.cc.u32 %d1, %t1, %t2, %d1;\nmadc.hi.cc.u32 %d2, %t1, %t2, %d2;\nmadc.lo.cc.u32 "
             "%d2, %t1, %t3, %d2;\nmov.b64 %d, {%d1, %d2};",
         "lll", longs(), [](Lane a, unsigned) {
           // Bits 32 to 95 of the product, without the carry that the last but one line drops.
           const uint64_t x0 = u(a[0]), x1 = a[0] >> 32, y0 = u(a[1]), y1 = a[1] >> 32;
           uint64_t middle = (x0 * y0 >> 32) + u(x0 * y1), second = x0 * y1 >> 32;
           second = u(second + (middle >> 32));
           middle = u(middle) + u(x1 * y0);
           const uint64_t third = second + (x1 * y0 >> 32) + (middle >> 32);
           return u(middle) | uint64_t{u(third + u(x1 * y1) + (third >> 32))} << 32;
         });
  b.cases.back().body = ".reg .b32 %d0, %d1, %d2;\n" + b.cases.back().body;
}

void bits(Builder& b) {
  b.op("9.7.8.1", "and.b32", "www", words(), [](Lane a, unsigned) { return a[0] & a[1]; });
  b.op("9.7.8.1", "and.b64", "lll", longs(), [](Lane a, unsigned) { return a[0] & a[1]; });
  b.op("9.7.8.1", "and.b16", "hhh", words(), [](Lane a, unsigned) { return a[0] & a[1]; });
  b.op("9.7.8.2", "or.b32", "www", words(), [](Lane a, unsigned) { return a[0] | a[1]; });
  b.op("9.7.8.2", "or.b64", "lll", longs(), [](Lane a, unsigned) { return a[0] | a[1]; });
  b.op("9.7.8.2", "or.b16", "hhh", words(), [](Lane a, unsigned) { return a[0] | a[1]; });
  b.op("9.7.8.3", "xor.b32", "www", words(), [](Lane a, unsigned) { return a[0] ^ a[1]; });
  b.op("9.7.8.3", "xor.b64", "lll", longs(), [](Lane a, unsigned) { return a[0] ^ a[1]; });
  b.op("9.7.8.4", "not.b32", "ww", words(), [](Lane a, unsigned) { return ~a[0]; });
  b.op("9.7.8.4", "not.b64", "ll", longs(), [](Lane a, unsigned) { return ~a[0]; });
  b.op("9.7.8.5", "cnot.b32", "ww", words(), [](Lane a, unsigned) { return uint64_t{a[0] == 0}; });
  b.text("9.7.8.6", "lop3.b32 %d, %a0, %a1, %a2, 0x96;", "wwww", words(),
         [](Lane a, unsigned) { return a[0] ^ a[1] ^ a[2]; });
  b.text("9.7.8.6", "lop3.b32 %d, %a0, %a1, %a2, 0xca;", "wwww", words(),
         [](Lane a, unsigned) { return (a[0] & a[1]) | (~a[0] & a[2]); });
  b.op("9.7.8.8", "shl.b32", "www", words(), [](Lane a, unsigned) { return a[1] > 31 ? 0 : a[0] << a[1]; });
  b.op("9.7.8.8", "shl.b64", "llw", longs(), [](Lane a, unsigned) { return u(a[1]) > 63 ? 0 : a[0] << u(a[1]); });
  b.op("9.7.8.8", "shl.b16", "hhw", words(), [](Lane a, unsigned) { return a[1] > 15 ? 0 : a[0] << a[1]; });
  for (const char* type : {"u32", "b32"}) {
    b.op("9.7.8.9", std::string("shr.") + type, "www", words(),
         [](Lane a, unsigned) { return a[1] > 31 ? 0 : u(a[0]) >> a[1]; });
  }
  for (const char* type : {"u64", "b64"}) {
    b.op("9.7.8.9", std::string("shr.") + type, "llw", longs(),
         [](Lane a, unsigned) { return u(a[1]) > 63 ? 0 : a[0] >> u(a[1]); });
  }
  b.op("9.7.8.9", "shr.s32", "www", words(),
       [](Lane a, unsigned) { return u(static_cast<uint64_t>(s(a[0]) >> std::min<uint64_t>(a[1], 31))); });
  b.op("9.7.8.9", "shr.s64", "llw", longs(),
       [](Lane a, unsigned) { return static_cast<uint64_t>(sl(a[0]) >> std::min(u(a[1]), 63u)); });
  b.op("9.7.8.9", "shr.u16", "hhw", words(), [](Lane a, unsigned) { return a[1] > 15 ? 0 : (a[0] & 0xffff) >> a[1]; });
  b.op("9.7.8.7", "shf.l.wrap.b32", "wwww", words(), [](Lane a, unsigned) {
    unsigned n = a[2] & 31;
    return n ? a[1] << n | a[0] >> (32 - n) : a[1];
  });
  b.op("9.7.8.7", "shf.r.wrap.b32", "wwww", words(),
       [](Lane a, unsigned) { return (a[1] << 32 | a[0]) >> (a[2] & 31); });
  b.op("9.7.8.7", "shf.l.clamp.b32", "wwww", words(), [](Lane a, unsigned) {
    uint64_t n = std::min<uint64_t>(a[2], 32);
    return n == 32 ? a[0] : n ? a[1] << n | a[0] >> (32 - n) : a[1];
  });
  b.op("9.7.8.7", "shf.r.clamp.b32", "wwww", words(),
       [](Lane a, unsigned) { return (a[1] << 32 | a[0]) >> std::min<uint64_t>(a[2], 32); });
  b.op("9.7.1.15", "popc.b32", "ww", words(),
       [](Lane a, unsigned) { return static_cast<uint64_t>(std::popcount(u(a[0]))); });
  b.op("9.7.1.15", "popc.b64", "wl", longs(),
       [](Lane a, unsigned) { return static_cast<uint64_t>(std::popcount(a[0])); });
  b.op("9.7.1.16", "clz.b32", "ww", words(),
       [](Lane a, unsigned) { return static_cast<uint64_t>(std::countl_zero(u(a[0]))); });
  b.op("9.7.1.16", "clz.b64", "wl", longs(),
       [](Lane a, unsigned) { return static_cast<uint64_t>(std::countl_zero(a[0])); });
  auto leading = [](uint32_t x) { return x ? 31u - static_cast<unsigned>(std::countl_zero(x)) : ~0u; };
  b.op("9.7.1.17", "bfind.u32", "ww", words(), [=](Lane a, unsigned) { return uint64_t{leading(u(a[0]))}; });
  b.op("9.7.1.17", "bfind.s32", "ww", words(),
       [=](Lane a, unsigned) { return uint64_t{leading(s(a[0]) < 0 ? ~u(a[0]) : u(a[0]))}; });
  b.op("9.7.1.17", "bfind.shiftamt.u32", "ww", words(),
       [=](Lane a, unsigned) { return uint64_t{a[0] ? 31 - leading(u(a[0])) : ~0u}; });
  b.op("9.7.1.19", "brev.b32", "ww", words(), [](Lane a, unsigned) {
    uint64_t r = 0;
    for (int k = 0; k < 32; ++k) r = r << 1 | (a[0] >> k & 1);
    return r;
  });
  b.op("9.7.1.19", "brev.b64", "ll", longs(), [](Lane a, unsigned) {
    uint64_t r = 0;
    for (int k = 0; k < 64; ++k) r = r << 1 | (a[0] >> k & 1);
    return r;
  });
  const Rows fields = {{0xdeadbeef, 4, 8, 0},  {0xdeadbeef, 0, 32, 0}, {0xdeadbeef, 28, 8, 0},
                       {0x80000000, 31, 1, 0}, {0x12345678, 40, 4, 0}, {0xffffffff, 3, 0, 0}};
  b.op("9.7.1.20", "bfe.u32", "wwww", fields,
       [](Lane a, unsigned) { return a[1] > 31 ? 0 : (a[0] >> a[1]) & ((uint64_t{1} << a[2]) - 1); });
  b.op("9.7.1.20", "bfe.s32", "wwww", fields, [](Lane a, unsigned) {
    // Bit by bit, as the ISA has it: beyond the field the sign, which is the field's or the word's last bit.
    if (a[2] == 0) return uint64_t{0};
    const uint64_t top = std::min<uint64_t>(a[1] + a[2] - 1, 31), sign = a[0] >> top & 1;
    uint64_t r = 0;
    for (uint64_t k = 0; k < 32; ++k) r |= (k < a[2] && a[1] + k <= 31 ? a[0] >> (a[1] + k) & 1 : sign) << k;
    return r;
  });
  const Rows inserts = {
      {0xab, 0xffffffff, 8, 8}, {0xdeadbeef, 0, 0, 32}, {0xf, 0, 30, 8}, {1, 0x55555555, 33, 4}, {3, 7, 5, 0}};
  b.op("9.7.1.21", "bfi.b32", "wwwww", inserts, [](Lane a, unsigned) {
    uint64_t r = a[1];
    for (uint64_t k = 0; k < a[3] && a[2] + k < 32; ++k)
      r = (r & ~(uint64_t{1} << (a[2] + k))) | (a[0] >> k & 1) << (a[2] + k);
    return r;
  });
  b.op("9.7.1.21", "bfi.b64", "lllww", inserts, [](Lane a, unsigned) {
    uint64_t r = a[1];
    for (uint64_t k = 0; k < a[3] && a[2] + k < 64; ++k)
      r = (r & ~(uint64_t{1} << (a[2] + k))) | (a[0] >> k & 1) << (a[2] + k);
    return r;
  });
  b.op("9.7.1.22", "bmsk.clamp.b32", "www", {{0, 4}, {8, 8}, {30, 9}, {32, 4}, {0, 32}}, [](Lane a, unsigned) {
    uint64_t r = 0;
    for (uint64_t k = a[0]; k < a[0] + a[1] && k < 32; ++k) r |= uint64_t{1} << k;
    return r;
  });
  b.op("9.7.9.7", "prmt.b32", "wwww",
       {{0x33221100, 0x77665544, 0x3210}, {0x33221100, 0x77665544, 0x0527}, {0x80ff7f01, 0, 0xba98}},
       [](Lane a, unsigned l) {
         const uint64_t expected[] = {0x33221100, 0x00552277, 0xffff0000};
         return (void)a, expected[l % 3];
       });
}

void comparisons(Builder& b) {
  struct Comparison {
    const char* name;
    bool (*of)(int64_t, int64_t);
  };
  const Comparison all[] = {
      {"eq", [](int64_t x, int64_t y) { return x == y; }}, {"ne", [](int64_t x, int64_t y) { return x != y; }},
      {"lt", [](int64_t x, int64_t y) { return x < y; }},  {"le", [](int64_t x, int64_t y) { return x <= y; }},
      {"gt", [](int64_t x, int64_t y) { return x > y; }},  {"ge", [](int64_t x, int64_t y) { return x >= y; }}};
  for (const Comparison& c : all) {
    auto form = [&](const std::string& type) {
      return "setp." + std::string(c.name) + "." + type + " %p, %a0, %a1;\nselp.b32 %d, 1, 0, %p;";
    };
    b.text("9.7.6.2", form("s32"), "www", words(), [c](Lane a, unsigned) { return uint64_t{c.of(s(a[0]), s(a[1]))}; });
    b.text("9.7.6.2", form("u32"), "www", words(), [c](Lane a, unsigned) { return uint64_t{c.of(u(a[0]), u(a[1]))}; });
    b.text("9.7.6.2", form("s16"), "whh", words(),
           [c](Lane a, unsigned) { return uint64_t{c.of(static_cast<int16_t>(a[0]), static_cast<int16_t>(a[1]))}; });
    b.text("9.7.6.2", form("u16"), "whh", words(),
           [c](Lane a, unsigned) { return uint64_t{c.of(static_cast<uint16_t>(a[0]), static_cast<uint16_t>(a[1]))}; });
    b.text("9.7.6.2", form("s64"), "wll", longs(),
           [c](Lane a, unsigned) { return uint64_t{c.of(sl(a[0]), sl(a[1]))}; });
    // Unsigned order is signed order with the top bit flipped.
    b.text("9.7.6.2", form("u64"), "wll", longs(), [c](Lane a, unsigned) {
      const uint64_t top = uint64_t{1} << 63;
      return uint64_t{c.of(sl(a[0] ^ top), sl(a[1] ^ top))};
    });
  }
  b.text("9.7.6.2", "setp.lt.and.u32 %p|%q, %a0, %a1, %p;\nselp.b32 %d, 1, 0, %q;", "www", words(),
         [](Lane, unsigned) { return uint64_t{0}; });
  for (const char* type : {"b16", "u16", "s16", "b32", "u32", "s32", "f32", "b64", "u64", "s64", "f64"}) {
    const std::string t = type, size = t.substr(1);
    b.text("9.7.6.3", "setp.lt.u32 %p, %lane, 9;\nselp." + t + " %d, %a0, %a1, !%p;",
           size == "16"   ? "hhh"
           : size == "32" ? "www"
                          : "lll",
           size == "64" ? longs() : words(), [](Lane a, unsigned l) { return a[l < 9 ? 1 : 0]; });
  }
  for (const char* type : {"b16", "b32", "b64"}) {
    const std::string t = type;
    const char* types = t == "b16" ? "whh" : t == "b32" ? "www" : "wll";
    const uint64_t mask = t == "b16" ? 0xffff : t == "b32" ? 0xffffffff : ~uint64_t{0};
    b.text("9.7.6.2", "setp.eq." + t + " %p, %a0, %a1;\nselp.b32 %d, 1, 0, %p;", types, longs(),
           [mask](Lane a, unsigned) { return uint64_t{(a[0] & mask) == (a[1] & mask)}; });
    b.text("9.7.6.2", "setp.ne." + t + " %p, %a0, %a1;\nselp.b32 %d, 1, 0, %p;", types, longs(),
           [mask](Lane a, unsigned) { return uint64_t{(a[0] & mask) != (a[1] & mask)}; });
  }
  // The aliases of unsigned comparison.
  b.text("9.7.6.2",
         "setp.lo.u32 %p, %a0, %a1;\nsetp.hs.u32 %q, %a0, %a1;\nselp.b32 %d, 1, 0, %p;\nselp.b32 %d, 2, %d, %q;", "www",
         words(), [](Lane a, unsigned) { return u(a[0]) < u(a[1]) ? uint64_t{1} : 2; });
  b.text("9.7.6.2",
         "setp.ls.u32 %p, %a0, %a1;\nsetp.hi.u32 %q, %a0, %a1;\nselp.b32 %d, 1, 0, %p;\nselp.b32 %d, 2, %d, %q;", "www",
         words(), [](Lane a, unsigned) { return u(a[0]) <= u(a[1]) ? uint64_t{1} : 2; });
  b.text("9.7.6.4", "slct.b32.s32 %d, %a0, %a1, %a2;", "wwww", words(),
         [](Lane a, unsigned) { return s(a[2]) >= 0 ? a[0] : a[1]; });
  auto predicate = [](const char* op) { return std::string(op) + ".pred %p, %p, %q;\nselp.b32 %d, 1, 0, %p;"; };
  auto set = [](const std::string& rest) { return "setp.ne.u32 %p, %a0, 0;\nsetp.ne.u32 %q, %a1, 0;\n" + rest; };
  const Rows truth = {{0, 0}, {0, 1}, {1, 0}, {1, 1}};
  b.text("9.7.8.1", set(predicate("and")), "www", truth, [](Lane a, unsigned) { return a[0] & a[1]; });
  b.text("9.7.8.2", set(predicate("or")), "www", truth, [](Lane a, unsigned) { return a[0] | a[1]; });
  b.text("9.7.8.3", set(predicate("xor")), "www", truth, [](Lane a, unsigned) { return a[0] ^ a[1]; });
  b.text("9.7.8.4", set("not.pred %p, %q;\nselp.b32 %d, 1, 0, %p;"), "www", truth,
         [](Lane a, unsigned) { return a[1] ^ 1; });
  b.text("9.7.9.2", set("mov.pred %p, %q;\nselp.b32 %d, 1, 0, %p;"), "www", truth,
         [](Lane a, unsigned) { return a[1]; });
}

}  // namespace

std::vector<std::vector<uint64_t>> wordRows() { return mixed(kWords, std::size(kWords)); }
std::vector<std::vector<uint64_t>> longRows() { return mixed(kLongs, std::size(kLongs)); }

std::vector<Case> integerCases() {
  Builder b;
  arithmetic(b);
  carries(b);
  bits(b);
  comparisons(b);
  return std::move(b.cases);
}

}  // namespace runner
