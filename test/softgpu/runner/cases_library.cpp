// Cases of forms that nvcc makes of CUDA's own headers: wide integers, halves, ordered atomics, and wmma as a whole
// product, since the layout of its fragments is nobody's business.
#include <cmath>

#include "builder.h"
#include "formats.h"

namespace runner {
namespace {

const Rows kWide = {{~uint64_t{0}, 1, ~uint64_t{0}, 0},
                    {5, 6, 7, 8},
                    {~uint64_t{0}, 1, ~uint64_t{0}, ~uint64_t{0}},
                    {0, 1, 0, 0},
                    {3, 4, 4, 4},
                    {1, 0, 0, 1}};

void integers(Builder& b) {
  // Three words: the middle one takes a carry and gives one.
  b.text("9.7.2.2", "add.cc.s64 %x0, %a0, %a1;\naddc.cc.s64 %x1, %a2, %a3;\naddc.s64 %d, 0, 0;", "lllll", kWide,
         [](Lane a, unsigned) {
           const uint64_t carry = a[0] + a[1] < a[0], sum = a[2] + a[3];
           return uint64_t{sum < a[2] || sum + carry < sum};
         });
  b.text("9.7.2.4", "sub.cc.s64 %x0, %a0, %a1;\nsubc.cc.s64 %x1, %a2, %a3;\nsubc.s64 %d, 0, 0;", "lllll", kWide,
         [](Lane a, unsigned) {
           const uint64_t borrow = a[0] < a[1];
           return a[2] < a[3] || a[2] - a[3] < borrow ? ~uint64_t{0} : uint64_t{0};
         });
  b.text("9.7.2.6", "mad.lo.cc.u32 %t0, %a0, %a1, %a2;\nmadc.lo.cc.u32 %t1, %a1, %a2, %a3;\naddc.u32 %d, %t1, 0;",
         "wwwww",
         {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {1, 2, 0xfffffffe, 3}, {3, 1, 0xffffffff, 0xffffffff}},
         [](Lane a, unsigned) {
           const uint64_t carry = ((a[0] * a[1] & 0xffffffff) + a[2]) >> 32;
           const uint64_t sum = (a[1] * a[2] & 0xffffffff) + a[3] + carry;
           return (sum + (sum >> 32)) & 0xffffffff;
         });
}

void floats(Builder& b) {
  b.table("9.7.9.21", "cvt.rmi.f64.f64", "ll", {{g(2.5), g(2)}, {g(-2.5), g(-3)}, {g(-0.5), g(-1)}, {g(7), g(7)}});
  b.table("9.7.9.21", "cvt.rzi.f64.f64", "ll", {{g(2.5), g(2)}, {g(-2.5), g(-2)}, {g(-0.5), g(-0.0)}});
  const Rows pairs = {{f(1), f(2)}, {f(2), f(2)}, {f(2), f(1)}, {kNan, f(1)}};
  auto set = [&](const std::string& name, std::vector<bool> holds) {
    b.op("9.7.6.1", "set." + name + ".f32.f32", "www", pairs,
         [holds](Lane, unsigned l) { return holds[l % holds.size()] ? f(1) : uint64_t{0}; });
  };
  set("lt", {true, false, false, false});
  set("ne", {true, false, true, false});
  set("neu", {true, false, true, true});
  set("geu", {false, true, true, true});
}

void halves(Builder& b) {
  b.table("9.7.9.21", "cvt.rni.f16.f16", "hh", {{0x4100, 0x4000}, {0x4300, 0x4400}, {0xb800, 0x8000}});
  b.table("9.7.9.21", "cvt.rzi.s32.f16", "wh", {{0xc1cd, 0xfffffffe}, {0x7bff, 65504}, {0x7c00, 0x7fffffff}, {1, 0}});
  b.text("9.7.13.5",
         "st.global.u32 [%in], 0x3c003c00;\nmov.b32 %t2, 0x40004400;\natom.add.noftz.f16x2 %t1, [%in], "
         "%t2;\nld.global.u32 %d, [%in];\nxor.b32 %d, %d, %t1;",
         "wl", {{0}}, [](Lane, unsigned) { return uint64_t{0x42004500 ^ 0x3c003c00}; });
  b.require(90);
  b.table("9.7.9.21", "cvt.rmi.bf16.bf16", "hh", {{0xc020, 0xc040}, {0x4020, 0x4000}, {0xbf00, 0xbf80}});
  b.table("9.7.9.21", "cvt.rni.bf16.bf16", "hh", {{0x4020, 0x4000}, {0x4060, 0x4080}, {0xbf00, 0x8000}});
  b.table("9.7.4.2", "sub.bf16", "hhh", {{0x4380, 0x3f80, 0x437f}, {0x3f80, 0x3f80, 0}, {0x3f80, 0x4040, 0xc000}});
  b.table("9.7.4.2", "sub.bf16x2", "www", {{0x3f804380, 0x40403f80, 0xc000437f}, {0x40403f80, 0x3f803f80, 0x40000000}});
  b.text("9.7.13.5",
         ".reg .b16 %o, %i;\nst.global.u16 [%in], 0x3f80;\nmov.b16 %i, 0x4000;\natom.add.noftz.bf16 %o, [%in], "
         "%i;\nld.global.u16 %d, [%in];\nxor.b16 %d, %d, %o;",
         "hl", {{0}}, [](Lane, unsigned) { return uint64_t{0x4040 ^ 0x3f80}; });
  b.text("9.7.13.5",
         "st.global.u32 [%in], 0x3f803f80;\nmov.b32 %t2, 0x40003f80;\natom.add.noftz.bf16x2 %t1, [%in], "
         "%t2;\nld.global.u32 %d, [%in];\nxor.b32 %d, %d, %t1;",
         "wl", {{0}}, [](Lane, unsigned) { return uint64_t{0x40404000 ^ 0x3f803f80}; });
  b.require(80);
}

// On a word of the lane's own: what the operation returns, xor what it leaves.
void orderedAtomics(Builder& b) {
  Rows rows;
  for (uint64_t l = 0; l < 32; ++l) rows.push_back({1000 + l, l % 3 ? 1000 + l : 7, 50 + 3 * l});
  auto on32 = [&](const std::string& operation, Formula left) {
    b.text("9.7.13.5", "atom." + operation + ";\nld.global.u32 %t0, [%in];\nxor.b32 %d, %d, %t0;", "wwww", rows,
           [left](Lane a, unsigned l) { return a[0] ^ left(a, l); });
  };
  auto sum = [](Lane a, unsigned) { return a[0] + a[2]; };
  for (const char* order : {"relaxed", "acquire", "release", "acq_rel"})
    on32(std::string("add.") + order + ".gpu.s32 %d, [%in], %a2", sum);
  on32("exch.acquire.gpu.b32 %d, [%in], %a2", [](Lane a, unsigned) { return a[2]; });
  on32("cas.acquire.gpu.b32 %d, [%in], %a1, %a2", [](Lane a, unsigned) { return a[0] == a[1] ? a[2] : a[0]; });
  b.text("9.7.13.5", "atom.cas.acq_rel.sys.b64 %d, [%in], %a1, %a2;\nld.global.u64 %x0, [%in];\nxor.b64 %d, %d, %x0;",
         "llll", rows, [](Lane a, unsigned) { return a[0] ^ (a[0] == a[1] ? a[2] : a[0]); });
  b.text("9.7.13.5", "atom.add.relaxed.gpu.f32 %t0, [%in], %a1;\nld.global.u32 %d, [%in];\nxor.b32 %d, %d, %t0;", "www",
         {{f(1.5f), f(2)}, {f(-1), f(0.25f)}}, [](Lane a, unsigned) { return a[0] ^ f(F(a[0]) + F(a[1])); });
  b.text("9.7.13.5",
         "shl.b32 %t1, %lane, 2;\nst.shared.u32 [%t1], %a0;\natom.shared.cta.add.u32 %d, [%t1], %a1;\nld.shared.u32 "
         "%t0, [%t1];\nxor.b32 %d, %d, %t0;",
         "www", rows, [](Lane a, unsigned) { return a[0] ^ (a[0] + a[1]); });
  for (const char* scope : {"gpu", "sys"})
    b.text("9.7.13.4", std::string("st.global.u32 [%in], 9;\nfence.sc.") + scope + ";\nld.global.u32 %d, [%in];", "wl",
           {{1}}, [](Lane, unsigned) { return uint64_t{9}; });
  b.text("9.7.9.8", "ld.acquire.sys.b64 %d, [%in];", "ll", rows, [](Lane a, unsigned) { return a[0]; });
  b.text("9.7.9.8", "ld.relaxed.gpu.b32 %d, [%in];", "ww", rows, [](Lane a, unsigned) { return a[0]; });
  b.text("9.7.9.11", "st.release.gpu.b32 [%in], %a1;\nld.global.u32 %d, [%in];", "www", rows,
         [](Lane a, unsigned) { return a[1]; });
}

// ---- D = A · B + C by wmma

struct WarpProduct {
  unsigned m, n, k;
  const char *layoutA, *layoutB, *layoutC, *typeA, *typeC;
  const char* types;            // as wmma.mma names them
  const char *spaceA, *spaceC;  // "" is generic
};

constexpr WarpProduct kWarpProducts[] = {
    {16, 16, 16, "row", "col", "row", "f16", "f32", "f32.f32", ".global", ".global"},
    {16, 16, 16, "row", "col", "row", "f16", "f32", "f32.f32", ".shared", ".shared"},
    {32, 8, 16, "col", "row", "col", "f16", "f32", "f32.f32", ".global", ".global"},
    {8, 32, 16, "row", "row", "row", "f16", "f16", "f16.f16", ".global", ".global"},
    {16, 16, 16, "col", "col", "row", "bf16", "f32", "f32.bf16.bf16.f32", "", ".global"},
    {16, 16, 8, "row", "col", "col", "tf32", "f32", "f32.tf32.tf32.f32", "", ""},
    {16, 16, 16, "row", "row", "row", "s8", "s32", "s32.s8.s8.s32", ".global", ".global"},
    {8, 8, 4, "row", "col", "row", "f64", "f64", "f64.f64.f64.f64.rn", "", ""}};

// Where A, B and C lie in the memory of a case.
constexpr unsigned kPlaces[] = {0, 1024, 2048};

unsigned valueAt(unsigned index) { return (index * 7 + index / 16) % 5; }

unsigned bytesOf(const std::string& type) {
  return type == "s8" ? 1 : type == "f16" || type == "bf16" ? 2 : type == "f64" ? 8 : 4;
}

// Element `index` of a matrix is valueAt(index): each lane writes every 32nd.
std::string filled(unsigned place, unsigned count, const std::string& type, bool shared) {
  std::string text;
  for (unsigned first = 0; first < count; first += 32) {
    text += "add.u32 %t0, %lane, " + std::to_string(first) +
            ";\nshr.u32 %t1, %t0, 4;\nmad.lo.u32 %t1, %t0, 7, %t1;\nrem.u32 %t1, %t1, 5;\nmul.lo.u32 %t0, %t0, " +
            std::to_string(bytesOf(type)) + ";\n";
    if (!shared) text += "cvt.u64.u32 %x1, %t0;\nadd.u64 %x1, %x1, %base;\n";
    if (shared) text += "mov.u32 %t2, area;\nadd.u32 %t0, %t0, %t2;\n";
    std::string value = "%t1", width = "u32";
    if (type == "f16") {
      text += "cvt.rn.f16.u32 %half, %t1;\n", value = "%half", width = "b16";
    } else if (type == "bf16") {
      text += "cvt.rn.f32.u32 %t1, %t1;\ncvt.rn.bf16.f32 %half, %t1;\n", value = "%half", width = "b16";
    } else if (type == "f64") {
      text += "cvt.rn.f64.u32 %x2, %t1;\n", value = "%x2", width = "b64";
    } else if (type == "s8") {
      width = "u8";
    } else if (type != "s32") {
      text += "cvt.rn.f32.u32 %t1, %t1;\n";
    }
    const std::string at = "[" + std::string(shared ? "%t0" : "%x1") + "+" + std::to_string(place) + "]";
    text += std::string("st.") + (shared ? "shared." : "global.") + width + " " + at + ", " + value + ";\n";
  }
  return text;
}

std::string registersOf(const char* name, unsigned count) {
  std::string text = "{";
  for (unsigned r = 0; r < count; ++r) text += (r ? ", %" : "%") + std::string(name) + std::to_string(r);
  return text + "}";
}

uint64_t encoded(const std::string& type, unsigned value) {
  if (type == "f16") return kF16.encode(value);
  if (type == "f64") return g(value);
  return type == "f32" ? f(static_cast<float>(value)) : value;
}

void warpProduct(Builder& b, const WarpProduct& p) {
  const std::string typeA = p.typeA, typeC = p.typeC, spaceA = p.spaceA, spaceC = p.spaceC;
  const bool shared = spaceA == ".shared";
  const std::string shape = "m" + std::to_string(p.m) + "n" + std::to_string(p.n) + "k" + std::to_string(p.k);
  const unsigned inputs = typeA == "f16" ? 8 : typeA == "s8" ? 2 : typeA == "f64" ? 1 : 4;
  const unsigned sums = typeC == "f16" ? 4 : typeC == "f64" ? 2 : 8;
  const std::string bits = typeA == "f64" ? ".b64" : ".b32";
  std::string body = ".reg .b64 %base, %generic;\n.reg .b16 %half;\n.reg " + bits + " %u<8>, %v<8>, %w<8>;\n";
  body += shared ? ".shared .align 32 .b8 area[4096];\n" : "mov.u64 %base, heap;\ncvta.global.u64 %generic, %base;\n";
  body += filled(kPlaces[0], p.m * p.k, typeA, shared) + filled(kPlaces[1], p.k * p.n, typeA, shared) +
          filled(kPlaces[2], p.m * p.n, typeC, shared) + "bar.warp.sync -1;\n";
  auto at = [&](const std::string& space, unsigned place) {
    return "[" +
           std::string(shared          ? "area"
                       : space.empty() ? "%generic"
                                       : "%base") +
           "+" + std::to_string(place) + "]";
  };
  const std::string a = registersOf("u", inputs), c = registersOf("w", sums), fragmentB = registersOf("v", inputs);
  body += std::string("wmma.load.a.sync.aligned.") + p.layoutA + "." + shape + spaceA + "." + typeA + " " + a + ", " +
          at(spaceA, kPlaces[0]) + ";\n";
  body += std::string("wmma.load.b.sync.aligned.") + p.layoutB + "." + shape + spaceA + "." + typeA + " " + fragmentB +
          ", " + at(spaceA, kPlaces[1]) + ";\n";
  body += std::string("wmma.load.c.sync.aligned.") + p.layoutC + "." + shape + spaceC + "." + typeC + " " + c + ", " +
          at(spaceC, kPlaces[2]) + ";\n";
  body += std::string("wmma.mma.sync.aligned.") + p.layoutA + "." + p.layoutB + "." + shape + "." + p.types + " " + c +
          ", " + a + ", " + fragmentB + ", " + c + ";\nbar.warp.sync -1;\n";
  body += std::string("wmma.store.d.sync.aligned.") + p.layoutC + "." + shape + spaceC + "." + typeC + " " +
          at(spaceC, kPlaces[2]) + ", " + c + ";\nbar.warp.sync -1;\n";
  // Every lane looks at one element of D.
  const unsigned count = p.m * p.n, step = count / 32 + 1;
  body += "mul.lo.u32 %t0, %lane, " + std::to_string(step) + ";\nrem.u32 %t0, %t0, " + std::to_string(count) +
          ";\nmul.lo.u32 %t0, %t0, " + std::to_string(bytesOf(typeC)) + ";\n";
  const std::string result = bytesOf(typeC) == 8 ? "b64" : bytesOf(typeC) == 2 ? "b16" : "b32";
  const std::string place = std::to_string(kPlaces[2]);
  body += shared ? "mov.u32 %t2, area;\nadd.u32 %t0, %t0, %t2;\nld.shared." + result + " %d, [%t0+" + place + "];"
                 : "cvt.u64.u32 %x1, %t0;\nadd.u64 %x1, %x1, %base;\nld.global." + result + " %d, [%x1+" + place + "];";
  const char* types = bytesOf(typeC) == 8 ? "ll" : bytesOf(typeC) == 2 ? "hl" : "wl";
  b.text("9.7.14.4.5", body, types, {{0}}, [p, typeC, count, step](Lane, unsigned l) {
    const unsigned index = l * step % count;
    const bool byRow = p.layoutC[0] == 'r';
    const unsigned row = byRow ? index / p.n : index % p.m, column = byRow ? index % p.n : index / p.m;
    unsigned sum = valueAt(index);
    for (unsigned k = 0; k < p.k; ++k)
      sum += valueAt(p.layoutA[0] == 'r' ? row * p.k + k : k * p.m + row) *
             valueAt(p.layoutB[0] == 'r' ? k * p.n + column : column * p.k + k);
    return encoded(typeC, sum);
  });
}

}  // namespace

std::vector<Case> libraryCases() {
  Builder b;
  integers(b);
  floats(b);
  halves(b);
  orderedAtomics(b);
  for (const WarpProduct& p : kWarpProducts) warpProduct(b, p);
  return std::move(b.cases);
}

}  // namespace runner
