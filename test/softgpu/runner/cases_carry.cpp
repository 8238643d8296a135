// Cases of integers in several words and of several integers in a word: carries, packed pairs, fields.
#include <algorithm>
#include <cstdlib>

#include "builder.h"

namespace runner {
namespace {

const uint64_t kWords[] = {0,          1,     0x7fffffff, 0x80000000, 0xffffffff,
                           0xdeadbeef, 12345, 0xfffffff6, 0x80007fff, 0x1ffff};
const uint64_t kLongs[] = {0,  1,         ~uint64_t{0}, uint64_t{1} << 63, 0x7fffffffffffffff, 0x0123456789abcdef,
                           77, 0xffffffff};

template <size_t kCount>
Rows mixed(const uint64_t (&values)[kCount]) {
  Rows rows;
  for (size_t l = 0; l < 32; ++l) {
    rows.push_back({values[l % kCount], values[(l * 5 + 1) % kCount], values[(l / 3 + 2) % kCount],
                    values[(l * 3 + l / 5) % kCount]});
  }
  return rows;
}

// Numbers of two words, checked against numbers of twice the width.
void carries(Builder& b) {
  using Wide = unsigned __int128;
  for (const char* type : {"u32", "s32"}) {
    const std::string t = type;
    auto wide = [](uint64_t high, uint64_t low) { return high << 32 | low; };
    b.text("9.7.2.2", "add.cc." + t + " %t0, %a0, %a1;\naddc." + t + " %d, %a2, %a3;", "wwwww", mixed(kWords),
           [=](Lane a, unsigned) { return (wide(a[2], a[0]) + wide(a[3], a[1])) >> 32; });
    b.text("9.7.2.4", "sub.cc." + t + " %t0, %a0, %a1;\nsubc." + t + " %d, %a2, %a3;", "wwwww", mixed(kWords),
           [=](Lane a, unsigned) { return (wide(a[2], a[0]) - wide(a[3], a[1])) >> 32; });
    // Three words: the middle one takes a carry and gives one.
    b.text("9.7.2.2", "add.cc." + t + " %t0, %a0, %a1;\naddc.cc." + t + " %t1, %a2, %a3;\naddc." + t + " %d, 0, 0;",
           "wwwww", mixed(kWords),
           [=](Lane a, unsigned) { return static_cast<uint64_t>((Wide{wide(a[2], a[0])} + wide(a[3], a[1])) >> 64); });
    b.text("9.7.2.4", "sub.cc." + t + " %t0, %a0, %a1;\nsubc.cc." + t + " %t1, %a2, %a3;\nsubc." + t + " %d, 0, 0;",
           "wwwww", mixed(kWords),
           [=](Lane a, unsigned) { return wide(a[2], a[0]) < wide(a[3], a[1]) ? ~uint64_t{0} : uint64_t{0}; });
  }
  // Across kinds: no borrow is a carry.
  b.text("9.7.2.3", "sub.cc.u32 %t0, %a0, %a1;\naddc.u32 %d, 0, 0;", "www", mixed(kWords),
         [](Lane a, unsigned) { return uint64_t{a[0] >= a[1]}; });
  b.text("9.7.2.1", "add.cc.u32 %t0, %a0, %a1;\nsubc.u32 %d, 0, 0;", "www", mixed(kWords),
         [](Lane a, unsigned) { return (a[0] + a[1]) >> 32 ? 0 : ~uint64_t{0}; });
  // a · b + c with a, c of two words: the upper word of the low two.
  b.text("9.7.2.6", "mad.lo.cc.u32 %t0, %a0, %a1, %a2;\nmadc.hi.u32 %d, %a0, %a1, %a3;", "wwwww", mixed(kWords),
         [](Lane a, unsigned) { return (a[0] * a[1] + (a[3] << 32 | a[2])) >> 32; });
  b.text("9.7.2.5", "mad.hi.cc.u32 %t0, %a0, %a1, %a2;\naddc.u32 %d, %a3, 0;", "wwwww", mixed(kWords),
         [](Lane a, unsigned) { return a[3] + (((a[0] * a[1] >> 32) + a[2]) >> 32); });
  b.text("9.7.2.6", "mad.lo.cc.u32 %t0, %a0, %a1, %a2;\nmadc.hi.cc.u32 %t1, %a0, %a1, %a3;\naddc.u32 %d, 0, 0;",
         "wwwww", mixed(kWords),
         [](Lane a, unsigned) { return static_cast<uint64_t>((Wide{a[0] * a[1]} + (a[3] << 32 | a[2])) >> 64); });
  b.text("9.7.2.6", "mad.lo.cc.s32 %t0, %a0, %a1, %a2;\nmadc.hi.s32 %d, %a0, %a1, %a3;", "wwwww", mixed(kWords),
         [](Lane a, unsigned) {
           const int64_t product = int64_t{static_cast<int32_t>(a[0])} * static_cast<int32_t>(a[1]);
           return (static_cast<uint64_t>(product) + (a[3] << 32 | a[2])) >> 32;
         });
  for (const char* type : {"u64", "s64"}) {
    const std::string t = type;
    auto wide = [](uint64_t high, uint64_t low) { return Wide{high} << 64 | low; };
    b.text("9.7.2.2", "add.cc." + t + " %x0, %a0, %a1;\naddc." + t + " %d, %a2, %a3;", "lllll", mixed(kLongs),
           [=](Lane a, unsigned) { return static_cast<uint64_t>((wide(a[2], a[0]) + wide(a[3], a[1])) >> 64); });
    b.text("9.7.2.4", "sub.cc." + t + " %x0, %a0, %a1;\nsubc." + t + " %d, %a2, %a3;", "lllll", mixed(kLongs),
           [=](Lane a, unsigned) { return static_cast<uint64_t>((wide(a[2], a[0]) - wide(a[3], a[1])) >> 64); });
  }
  b.text("9.7.2.6", "mad.lo.cc.u64 %x0, %a0, %a1, %a2;\nmadc.hi.u64 %d, %a0, %a1, %a3;", "lllll", mixed(kLongs),
         [](Lane a, unsigned) { return static_cast<uint64_t>((Wide{a[0]} * a[1] + (Wide{a[3]} << 64 | a[2])) >> 64); });
}

void fields(Builder& b) {
  const Rows widths = {{0xdeadbeef, 0},  {0xdeadbeef, 8},  {0x7f, 8},       {0x80, 8},
                       {0xffffffff, 31}, {0xdeadbeef, 32}, {0xdeadbeef, 40}};
  // Bit by bit: above the width the sign, which is the field's last bit.
  auto extended = [](uint64_t a, uint64_t n, bool sign) {
    uint64_t r = 0;
    for (uint64_t k = 0; k < 32; ++k) r |= (k < n ? a >> k & 1 : n && sign ? a >> (n - 1) & 1 : 0) << k;
    return r;
  };
  for (const bool sign : {false, true}) {
    const std::string type = sign ? ".s32" : ".u32";
    b.op("9.7.1.21", "szext.clamp" + type, "www", widths,
         [=](Lane a, unsigned) { return a[1] >= 32 ? a[0] : extended(a[0], a[1], sign); });
    b.op("9.7.1.21", "szext.wrap" + type, "www", widths,
         [=](Lane a, unsigned) { return extended(a[0], a[1] & 31, sign); });
  }
  b.op("9.7.1.22", "bmsk.wrap.b32", "www", {{0, 4}, {8, 8}, {30, 9}, {32, 4}, {33, 34}, {0, 32}}, [](Lane a, unsigned) {
    uint64_t r = 0;
    for (uint64_t k = a[0] % 32; k < a[0] % 32 + a[1] % 32 && k < 32; ++k) r |= uint64_t{1} << k;
    return r;
  });
  // The ISA's own loop.
  const Rows masks = {{0xf0f0, 4, 0},           {0xf0f0, 3, 0},     {0xf0f0, 0, 3},
                      {0xf0f0, 31, 0xfffffffe}, {0x80000001, 0, 2}, {0x80000001, 31, 0xffffffff},
                      {0xffffffff, 5, 28},      {0, 7, 1}};
  b.op("9.7.1.17", "fns.b32", "wwww", masks, [](Lane a, unsigned) {
    const int32_t offset = static_cast<int32_t>(a[2]);
    if (offset == 0) return a[0] >> a[1] & 1 ? a[1] : uint64_t{0xffffffff};
    int64_t position = static_cast<int64_t>(a[1]), left = std::abs(offset) - 1;
    for (; position >= 0 && position<32; position += offset> 0 ? 1 : -1) {
      if (!(a[0] >> position & 1)) continue;
      if (left-- == 0) return static_cast<uint64_t>(position);
    }
    return uint64_t{0xffffffff};
  });
  for (const char* mode : {"f4e", "b4e", "rc8", "ecl", "ecr", "rc16"}) {
    // The ISA's table: for each selector the sources of bytes 3, 2, 1 and 0.
    const std::string name = mode;
    const uint32_t sources[4] = {name == "f4e"   ? 0x3210u
                                 : name == "b4e" ? 0x5670u
                                 : name == "rc8" ? 0x0000u
                                 : name == "ecl" ? 0x3210u
                                 : name == "ecr" ? 0x0000u
                                                 : 0x1010u,
                                 name == "f4e"   ? 0x4321u
                                 : name == "b4e" ? 0x6701u
                                 : name == "rc8" ? 0x1111u
                                 : name == "ecl" ? 0x3211u
                                 : name == "ecr" ? 0x1110u
                                                 : 0x3232u,
                                 name == "f4e"   ? 0x5432u
                                 : name == "b4e" ? 0x7012u
                                 : name == "rc8" ? 0x2222u
                                 : name == "ecl" ? 0x3222u
                                 : name == "ecr" ? 0x2210u
                                                 : 0x1010u,
                                 name == "f4e"   ? 0x6543u
                                 : name == "b4e" ? 0x0123u
                                 : name == "rc8" ? 0x3333u
                                 : name == "ecl" ? 0x3333u
                                 : name == "ecr" ? 0x3210u
                                                 : 0x3232u};
    Rows rows;
    for (uint64_t selector = 0; selector < 4; ++selector) {
      uint64_t expected = 0;
      for (unsigned k = 0; k < 4; ++k) {
        const unsigned source = sources[selector] >> (4 * k) & 15;
        expected |= (uint64_t{0x8796a5b4c3d2e1f0} >> (8 * source) & 255) << (8 * k);
      }
      rows.push_back({0xc3d2e1f0, 0x8796a5b4, selector | 0xf0, expected});
    }
    b.table("9.7.9.7", "prmt.b32." + name, "wwww", rows);
  }
  b.text("9.7.8.6", "setp.lt.u32 %q, %a0, %a1;\nlop3.and.b32 _|%p, %a0, %a1, %a2, 0x80, %q;\nselp.b32 %d, 1, 0, %p;",
         "wwww", mixed(kWords), [](Lane a, unsigned) { return uint64_t{(a[0] & a[1] & a[2]) != 0 && a[0] < a[1]}; });
  b.text("9.7.8.6", "setp.lt.u32 %q, %a0, %a1;\nlop3.or.b32 %d|%p, %a0, %a1, %a2, 0x80, %q;\n@%p xor.b32 %d, %d, 1;",
         "wwww", mixed(kWords), [](Lane a, unsigned) {
           const uint64_t both = a[0] & a[1] & a[2];
           return both ^ uint64_t { both != 0 || a[0] < a[1] };
         });
}

void division(Builder& b) {
  // Unspecified by the ISA; what ptxas folds them to.
  for (const char* type : {"u32", "s32"}) {
    b.table("9.7.1.8", std::string("div.") + type, "www", {{7, 0, 0xffffffff}, {0, 0, 0xffffffff}});
    b.table("9.7.1.9", std::string("rem.") + type, "www", {{7, 0, 0xffffffff}, {0, 0, 0xffffffff}});
  }
  b.table("9.7.1.8", "div.s32", "www", {{0x80000000, 0xffffffff, 0x80000000}, {0xfffffff9, 2, 0xfffffffd}});
  b.table("9.7.1.9", "rem.s32", "www", {{0x80000000, 0xffffffff, 0}, {0xfffffff9, 2, 0xffffffff}, {7, 0xfffffffe, 1}});
}

void packed(Builder& b) {
  auto halves = [](uint64_t a, uint64_t c, bool sign, bool relu, int (*of)(int, int)) {
    uint64_t r = 0;
    for (int shift : {0, 16}) {
      auto part = [&](uint64_t x) {
        return sign ? int{static_cast<int16_t>(x >> shift)} : int{static_cast<uint16_t>(x >> shift)};
      };
      int value = of(part(a), part(c));
      if (relu) value = std::max(value, 0);
      r |= static_cast<uint64_t>(static_cast<uint16_t>(value)) << shift;
    }
    return r;
  };
  struct Form {
    const char* section;
    const char* name;
    bool sign, relu;
    int (*of)(int, int);
  };
  auto add = [](int x, int y) { return x + y; };
  auto least = [](int x, int y) { return std::min(x, y); };
  auto most = [](int x, int y) { return std::max(x, y); };
  b.require(90);
  for (const Form& form : {Form{"9.7.1.1", "add.u16x2", false, false, add},
                           {"9.7.1.1", "add.s16x2", true, false, add},
                           {"9.7.1.12", "min.u16x2", false, false, least},
                           {"9.7.1.12", "min.s16x2", true, false, least},
                           {"9.7.1.12", "min.s16x2.relu", true, true, least},
                           {"9.7.1.13", "max.u16x2", false, false, most},
                           {"9.7.1.13", "max.s16x2", true, false, most},
                           {"9.7.1.13", "max.s16x2.relu", true, true, most}}) {
    b.op(form.section, form.name, "www", mixed(kWords),
         [=](Lane a, unsigned) { return halves(a[0], a[1], form.sign, form.relu, form.of); });
  }
  b.op("9.7.1.12", "min.relu.s32", "www", mixed(kWords), [](Lane a, unsigned) {
    return static_cast<uint64_t>(std::max(0, std::min(static_cast<int32_t>(a[0]), static_cast<int32_t>(a[1]))));
  });
  b.op("9.7.1.13", "max.relu.s32", "www", mixed(kWords), [](Lane a, unsigned) {
    return static_cast<uint64_t>(std::max({0, static_cast<int32_t>(a[0]), static_cast<int32_t>(a[1])}));
  });
  b.require(80);
  auto distance = [](uint64_t a, uint64_t c, int k) {
    return static_cast<uint64_t>(std::abs(static_cast<int>(a >> k & 255) - static_cast<int>(c >> k & 255)));
  };
  b.op("9.7.18.2", "vabsdiff4.u32.u32.u32", "wwww", mixed(kWords), [=](Lane a, unsigned) {
    uint64_t r = 0;
    for (int k = 0; k < 32; k += 8) r |= distance(a[0], a[1], k) << k;
    return r;
  });
  b.op("9.7.18.2", "vabsdiff4.u32.u32.u32.add", "wwww", mixed(kWords), [=](Lane a, unsigned) {
    uint64_t r = a[2];
    for (int k = 0; k < 32; k += 8) r += distance(a[0], a[1], k);
    return r;
  });
  for (const char* part : {"lo", "hi"}) {
    const int first = std::string(part) == "lo" ? 0 : 16;
    b.op("9.7.1.24", std::string("dp2a.") + part + ".s32.u32", "wwww", mixed(kWords), [=](Lane a, unsigned) {
      uint64_t r = a[2];
      for (int k = 0; k < 2; ++k) {
        r += static_cast<uint64_t>(int64_t{static_cast<int16_t>(a[0] >> (16 * k))} *
                                   static_cast<int64_t>(a[1] >> (first + 8 * k) & 255));
      }
      return r;
    });
  }
  b.op("9.7.1.6", "mad24.hi.sat.s32", "wwww", mixed(kWords), [](Lane a, unsigned) {
    auto low = [](uint64_t x) { return int64_t{static_cast<int32_t>(static_cast<uint32_t>(x) << 8) >> 8}; };
    const int64_t sum = (low(a[0]) * low(a[1]) >> 16) + static_cast<int32_t>(a[2]);
    return static_cast<uint64_t>(std::clamp<int64_t>(sum, INT32_MIN, INT32_MAX));
  });
  for (const char* sign : {"s32", "u32"}) {
    const bool isSigned = sign[0] == 's';
    b.op("9.7.1.5", std::string("mul24.hi.") + sign, "www", mixed(kWords), [=](Lane a, unsigned) {
      auto low = [&](uint64_t x) {
        const uint32_t top = static_cast<uint32_t>(x) << 8;
        return isSigned ? int64_t{static_cast<int32_t>(top) >> 8} : int64_t{top >> 8};
      };
      return static_cast<uint64_t>(low(a[0]) * low(a[1]) >> 16);
    });
  }
}

}  // namespace

std::vector<Case> carryCases() {
  Builder b;
  carries(b);
  fields(b);
  division(b);
  packed(b);
  return std::move(b.cases);
}

}  // namespace runner
