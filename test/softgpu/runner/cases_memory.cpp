// Cases of moves, loads and stores in every space, and calls.
#include <algorithm>
#include <bit>

#include "builder.h"

namespace runner {
namespace {

Rows numbered() {
  Rows rows;
  for (uint64_t l = 0; l < 32; ++l) rows.push_back({0x80f1e2d3c4b5a697 + l * 0x0101, 1000 + l, l % 7});
  return rows;
}

std::vector<Case> cases;

void text(const char* section, const std::string& body, const char* types,
          std::function<uint64_t(Lane, unsigned)> expected) {
  cases.push_back({section, body, types, numbered(), std::move(expected)});
}

void moves() {
  text("9.7.9.3", "mov.b16 %d, %a0;", "hh", [](Lane a, unsigned) { return a[0]; });
  text("9.7.9.3", "mov.u16 %d, %a0;", "hh", [](Lane a, unsigned) { return a[0]; });
  for (const char* type : {"b32", "u32", "s32", "f32"})
    text("9.7.9.3", std::string("mov.") + type + " %d, %a0;", "ww", [](Lane a, unsigned) { return a[0]; });
  for (const char* type : {"b64", "u64", "s64", "f64"})
    text("9.7.9.3", std::string("mov.") + type + " %d, %a0;", "ll", [](Lane a, unsigned) { return a[0]; });
  text("9.7.9.4", "mov.b64 %d, {%a0, %a1};", "lww", [](Lane a, unsigned) { return a[1] << 32 | (a[0] & 0xffffffff); });
  text("9.7.9.4", "mov.b64 {%t0, %d}, %a0;", "wl", [](Lane a, unsigned) { return a[0] >> 32; });
  text("9.7.9.4", "{.reg .b16 %h; mov.b16 %h, 7; mov.b32 %d, {%h, 3};}", "ww",
       [](Lane, unsigned) { return uint64_t{0x30007}; });
  text("9.7.9.20", "mov.u64 %x0, tile;\ncvta.shared.u64 %x1, %x0;\ncvta.to.shared.u64 %x2, %x1;\nsub.u64 %d, %x2, %x0;",
       "ll", [](Lane, unsigned) { return uint64_t{0}; });
  text("9.7.9.20",
       "mov.u64 %x0, own;\ncvta.local.u64 %x1, %x0;\nst.u32 [%x1], %a0;\ncvta.to.local.u64 %x2, %x1;\nld.local.u32 %d, "
       "[%x2];",
       "ww", [](Lane a, unsigned) { return a[0]; });
  text("9.7.9.20", "cvta.to.global.u64 %x1, %in;\nld.global.u32 %d, [%x1];\ncvta.global.u64 %x2, %x1;", "ww",
       [](Lane a, unsigned) { return a[0]; });
  text("9.7.9.19",
       "mov.u64 %x0, tile;\ncvta.shared.u64 %x1, %x0;\nisspacep.shared %p, %x1;\nisspacep.global %q, %x1;\nselp.b32 "
       "%d, 1, 0, %p;\nselp.b32 %d, 2, %d, %q;",
       "ww", [](Lane, unsigned) { return uint64_t{1}; });
}

void otherMoves() {
  struct Literal {
    const char* move;
    const char* shape;
    uint64_t bits;
  };
  for (const Literal& l : {Literal{"mov.b32 %d, 0b1011;", "ww", 11},
                           {"mov.b32 %d, 017;", "ww", 15},
                           {"mov.u32 %d, 0xFFFFFFFFU;", "ww", 0xffffffff},
                           {"mov.s32 %d, -5;", "ww", 0xfffffffb},
                           {"mov.f32 %d, 1.5e3;", "ww", f(1500)},
                           {"mov.f32 %d, 0d3FF8000000000000;", "ww", f(1.5f)},
                           {"mov.f64 %d, -2.5e-3;", "ll", g(-2.5e-3)},
                           {"mov.f64 %d, 0dBFF0000000000000;", "ll", g(-1)}}) {
    text("9.7.9.3", l.move, l.shape, [l](Lane, unsigned) { return l.bits; });
  }
  text("9.7.9.4", "mov.b64 {%h0, %h1, %h2, %h3}, %a0;\nmov.b32 %d, {%h3, %h1};", "wl",
       [](Lane a, unsigned) { return a[0] >> 48 | (a[0] >> 16 & 0xffff) << 16; });
  cases.back().body = ".reg .b16 %h0, %h1, %h2, %h3;\n" + cases.back().body;
  text(
      "9.7.9.4",
      ".reg .b8 %b0, %b1, %b2, %b3;\ncvt.u32.u64 %t0, %a0;\nmov.b32 {%b0, %b1, %b2, %b3}, %t0;\nmov.b32 %d, {%b3, %b2, "
      "%b1, %b0};",
      "wl", [](Lane a, unsigned) { return uint64_t{__builtin_bswap32(static_cast<uint32_t>(a[0]))}; });
  text("9.7.9.4", "mov.b64 {%t0, _}, %a0;\nmov.b32 %d, %t0;", "wl", [](Lane a, unsigned) { return a[0]; });
  text("9.7.9.4", ".reg .b128 %w;\nmov.b128 %w, {%a0, %a1};\nmov.b128 {%x0, %d}, %w;", "lll",
       [](Lane a, unsigned) { return a[1]; });
  // Which spaces an address lies in, one bit each; kernel parameters lie in the global window.
  const std::string look =
      "mov.u32 %d, 0;\nisspacep.global %p, %x1;\n@%p or.b32 %d, %d, 1;\nisspacep.shared %p, %x1;\n@%p or.b32 %d, %d, "
      "2;\nisspacep.local %p, %x1;\n@%p or.b32 %d, %d, 4;\nisspacep.const %p, %x1;\n@%p or.b32 %d, %d, "
      "8;\nisspacep.param %p, %x1;\n@%p or.b32 %d, %d, 16;";
  struct Place {
    const char* setup;
    uint64_t expected;
  };
  for (const Place& place : {Place{"mov.u64 %x1, %in;\n", 1},
                             {"mov.u64 %x0, tile;\ncvta.shared.u64 %x1, %x0;\n", 2},
                             {"mov.u64 %x0, own;\ncvta.local.u64 %x1, %x0;\n", 4},
                             {"mov.u64 %x0, table;\ncvta.const.u64 %x1, %x0;\n", 8},
                             {"mov.b64 %x0, in;\ncvta.param.u64 %x1, %x0;\n", 17}}) {
    text("9.7.9.19", place.setup + look, "wl", [place](Lane, unsigned) { return place.expected; });
  }
}

// Cache operators steer caches alone, and .nc reads memory that nobody writes.
void cacheOperators() {
  for (const char* type : {"u8", "s8", "u16", "s16", "b32", "u32", "s32", "f32", "b64", "u64", "s64", "f64"}) {
    const std::string bits = std::string(type).substr(1);
    const std::string width = bits == "8" ? "16" : bits;
    for (const unsigned elements : {1u, 2u, 4u}) {
      if (elements * std::stoul(bits) > 128) continue;
      const std::string vector = elements == 1 ? "." : elements == 2 ? ".v2." : ".v4.";
      std::string registers = "%r0";
      for (unsigned k = 1; k < elements; ++k) registers += ", %r" + std::to_string(k);
      if (elements > 1) registers = "{" + registers + "}";
      const std::string last = "%r" + std::to_string(elements - 1);
      std::string body = ".reg .b" + width + " %r<4>;\nmov.b64 %x1, 0;\n";
      for (const char* form : {"ld.global.ca", "ld.global.cg", "ld.global.cs", "ld.global.lu", "ld.global.cv",
                               "ld.global.nc", "ld.global.ca.nc", "ld.global.cg.nc", "ld.global.cs.nc"}) {
        body += form + vector + type + " " + registers + ", [%in];\n" +
                (width == "64" ? "mov.b64 %x0, " : "cvt.u64.u" + width + " %x0, ") + last +
                ";\nadd.u64 %x1, %x1, %x0;\n";
      }
      const unsigned bytes = static_cast<unsigned>(std::stoul(bits) / 8), at = bytes * (elements - 1);
      const bool isSigned = type[0] == 's' && bytes == 1;
      text("9.7.9.8", body + "mov.b64 %d, %x1;", "lll", [=](Lane a, unsigned) {
        uint64_t element = a[at / 8] >> (8 * (at % 8));
        if (bytes < 8) element &= (uint64_t{1} << (8 * bytes)) - 1;
        return 9 * (isSigned ? signExtended(element, 1) & 0xffff : element);
      });
      // Each store is read back, so that none of them hides behind another.
      body = ".reg .b" + width + " %r<4>;\nmov.b64 %x1, 0;\n";
      unsigned number = 0;
      for (const char* form : {"st.global.wb", "st.global.cg", "st.global.cs", "st.global.wt"}) {
        body += "add.u64 %x0, %a0, " + std::to_string(++number) + ";\n";
        for (unsigned k = 0; k < elements; ++k) {
          body += (width == "64" ? "mov.b64 %r" : "cvt.u" + width + ".u64 %r") + std::to_string(k) + ", %x0;\n";
        }
        body += form + vector + type + " [%in], " + registers + ";\nld.global" + vector + type + " " + registers +
                ", [%in];\n" + (width == "64" ? "mov.b64 %x0, " : "cvt.u64.u" + width + " %x0, ") + last +
                ";\nadd.u64 %x1, %x1, %x0;\n";
      }
      text("9.7.9.11", body + "mov.b64 %d, %x1;", "ll", [=](Lane a, unsigned) {
        uint64_t sum = 0;
        for (unsigned n = 1; n <= 4; ++n) {
          uint64_t element = a[0] + n;
          if (bytes < 8) element &= (uint64_t{1} << (8 * bytes)) - 1;
          sum += isSigned ? signExtended(element, 1) & 0xffff : element;
        }
        return sum;
      });
    }
  }
}

// Hints and orders that change nothing in what is read and written.
void qualifiers() {
  for (const char* how : {"ca", "cg", "cs", "lu", "cv", "L1::evict_last", "L1::no_allocate.L2::128B", "L2::64B"}) {
    text("9.7.9.8", std::string("ld.global.") + how + ".u32 %d, [%in];", "wl", [](Lane a, unsigned) { return a[0]; });
  }
  for (const char* how : {"wb", "cg", "cs", "wt", "L1::evict_first"}) {
    text("9.7.9.11", std::string("st.global.") + how + ".u32 [%in], %a1;\nld.global.u32 %d, [%in];", "www",
         [](Lane a, unsigned) { return a[1]; });
  }
  text("9.7.9.8", "createpolicy.fractional.L2::evict_first.b64 %x0, 0.5;\nld.global.L2::cache_hint.u64 %d, [%in], %x0;",
       "ll", [](Lane a, unsigned) { return a[0]; });
  text("9.7.9.18",
       "createpolicy.fractional.L2::evict_last.L2::evict_unchanged.b64 %x0, 0.5;\nst.global.L2::cache_hint.u64 [%in], "
       "%a1, "
       "%x0;\nld.global.u64 %d, [%in];",
       "lll", [](Lane a, unsigned) { return a[1]; });
  text("9.7.9.8", "ld.mmio.relaxed.sys.global.u32 %d, [%in];", "wl", [](Lane a, unsigned) { return a[0]; });
  text("9.7.9.11", "st.mmio.relaxed.sys.global.u32 [%in], %a1;\nld.global.u32 %d, [%in];", "www",
       [](Lane a, unsigned) { return a[1]; });
  for (const char* scope : {"cta", "gpu", "sys"}) {
    text("9.7.9.8",
         std::string("st.release.") + scope + ".global.u32 [%in], %a1;\nld.acquire." + scope + ".global.u32 %d, [%in];",
         "www", [](Lane a, unsigned) { return a[1]; });
  }
  text("9.7.9.8", "ld.weak.global.u32 %d, [%in];", "wl", [](Lane a, unsigned) { return a[0]; });
  text("9.7.9.10", "ldu.global.v2.u32 {%t0, %d}, [%in];", "wl", [](Lane a, unsigned) { return a[0] >> 32; });
  text("9.7.9.8",
       ".reg .b128 %w;\nld.global.b128 %w, [%in];\nst.global.b128 [%in+16], %w;\nld.global.u64 %d, [%in+24];", "lll",
       [](Lane a, unsigned) { return a[1]; });
  // Widening: into a register twice and four times as wide.
  text("9.7.9.8", "ld.global.s8 %d, [%in];", "wl", [](Lane a, unsigned) { return signExtended(a[0], 1); });
  text("9.7.9.8", "ld.global.s16 %d, [%in];", "ll", [](Lane a, unsigned) { return signExtended(a[0], 2); });
  text("9.7.9.8", "ld.global.s32 %d, [%in];", "ll", [](Lane a, unsigned) { return signExtended(a[0], 4); });
  text("9.7.9.8", "ld.global.u8 %d, [%in];", "ll", [](Lane a, unsigned) { return a[0] & 255; });
  text("9.7.9.8", "ld.global.v4.s8 {%t0, %t1, %t2, %d}, [%in];", "wl",
       [](Lane a, unsigned) { return signExtended(a[0] >> 24, 1); });
  text("9.7.9.11", "st.global.u8 [%in], %a1;\nld.global.u64 %d, [%in];", "lll",
       [](Lane a, unsigned) { return (a[0] & ~uint64_t{255}) | (a[1] & 255); });
  for (const char* form : {"prefetch.global.L1", "prefetch.L2", "prefetchu.L1", "prefetch.global.L2::evict_last"}) {
    text("9.7.9.15", std::string(form) + " [%in];\nmov.u32 %d, 5;", "wl", [](Lane, unsigned) { return uint64_t{5}; });
  }
  text("9.7.9.16",
       "and.b64 %x0, %in, -128;\napplypriority.global.L2::evict_normal [%x0], 128;\nld.global.u64 %d, [%in];", "ll",
       [](Lane a, unsigned) { return a[0]; });
  // What was discarded is written again before it is read.
  text("9.7.9.17",
       "and.b32 %t0, %lane, 3;\nsetp.eq.u32 %p, %t0, 0;\n@%p discard.global.L2 [%in], 128;\nbar.warp.sync "
       "-1;\nst.global.u64 "
       "[%in], %a0;\nld.global.u64 %d, [%in];",
       "ll", [](Lane a, unsigned) { return a[0]; });
}

void loads() {
  struct Type {
    const char* name;
    const char* result;
    unsigned bytes;
    bool isSigned;
  };
  for (const Type& t : {Type{"u8", "h", 1, false},
                        {"s8", "h", 1, true},
                        {"b8", "h", 1, false},
                        {"u16", "h", 2, false},
                        {"s16", "h", 2, true},
                        {"b16", "h", 2, false},
                        {"u32", "w", 4, false},
                        {"s32", "w", 4, true},
                        {"b32", "w", 4, false},
                        {"f32", "w", 4, false},
                        {"u64", "l", 8, false},
                        {"b64", "l", 8, false},
                        {"f64", "l", 8, false},
                        {"s64", "l", 8, true}}) {
    const std::string name = t.name;
    auto expected = [t](Lane a, unsigned) {
      return t.isSigned     ? signExtended(a[0], t.bytes)
             : t.bytes == 8 ? a[0]
                            : a[0] & ((uint64_t{1} << (8 * t.bytes)) - 1);
    };
    const std::string types = std::string(t.result) + "l";
    for (const char* how : {"global", "global.nc", "volatile.global", "relaxed.gpu.global"}) {
      if (std::string(how).starts_with("relaxed") && t.bytes == 1) continue;
      text("9.7.9.8", "ld." + std::string(how) + "." + name + " %d, [%in];", types.c_str(), expected);
    }
    text("9.7.9.8", "mad.lo.u32 %t0, %lane, 8, 0;\nst.shared.u64 [%t0], %a0;\nld.shared." + name + " %d, [%t0];",
         types.c_str(), expected);
    text("9.7.9.8", "st.local.u64 [own+8], %a0;\nld.local." + name + " %d, [own+8];", types.c_str(), expected);
    text("9.7.9.11",
         "cvt.u32.u64 %t1, %a0;\nst.global." + name + " [%in+24], " +
             (t.bytes == 8   ? "%a0"
              : t.bytes == 4 ? "%t1"
                             : "%d") +
             ";\nld.global.u8 %d, [%in];",
         types.c_str(), [](Lane a, unsigned) { return a[0] & 255; });
    cases.back().body = (t.bytes < 4 ? "ld.global.u16 %d, [%in];\n" : "") + cases.back().body;
  }
  for (const char* how : {"ld.global", "ld.global.nc", "ld.relaxed.gpu"}) {
    text("9.7.9.8", std::string(how) + ".v2.u32 {%t0, %d}, [%in];", "wl", [](Lane a, unsigned) { return a[0] >> 32; });
    if (std::string(how) == "ld.relaxed.gpu") continue;
    text("9.7.9.8", std::string(how) + ".v4.u32 {%t0, %t1, %d, %t2}, [%in];", "wl",
         [](Lane a, unsigned) { return a[1]; });
    text("9.7.9.8", std::string(how) + ".v2.u64 {%x0, %d}, [%in];", "ll", [](Lane a, unsigned) { return a[1]; });
    text("9.7.9.8", std::string(how) + ".v2.u16 {%h, %d}, [%in];", "hl", [](Lane a, unsigned) { return a[0] >> 16; });
    cases.back().body = ".reg .b16 %h;\n" + cases.back().body;
  }
  text("9.7.9.8", "ld.acquire.gpu.u32 %d, [%in];", "wl", [](Lane a, unsigned) { return a[0]; });
  text("9.7.9.8", "ld.const.u32 %d, [table+8];", "wl", [](Lane, unsigned) { return uint64_t{33}; });
  text("9.7.9.11", "st.global.v2.u32 [%in], {%a2, %a1};\nld.global.u64 %d, [%in];", "lwww",
       [](Lane a, unsigned) { return a[1] << 32 | a[2]; });
  text("9.7.9.11", "st.global.v4.u32 [%in], {%a2, %a1, %a1, %a2};\nld.global.u64 %d, [%in+8];", "lwww",
       [](Lane a, unsigned) { return a[2] << 32 | a[1]; });
  text("9.7.9.11", "st.relaxed.gpu.v2.u32 [%in], {%a2, %a1};\nld.global.u64 %d, [%in];", "lwww",
       [](Lane a, unsigned) { return a[1] << 32 | a[2]; });
  text("9.7.9.11", "st.volatile.global.u32 [%in], %a1;\nld.volatile.global.u32 %d, [%in];", "www",
       [](Lane a, unsigned) { return a[1]; });
  text("9.7.9.11",
       "mad.lo.u32 %t0, %lane, 16, 0;\nst.shared.v4.u32 [%t0], {%a0, %a1, %a1, %a0};\nld.shared.v4.u32 {%t1, %d, %t2, "
       "%t3}, [%t0];",
       "www", [](Lane a, unsigned) { return a[1]; });
  text("9.7.9.11",
       "mad.lo.u32 %t0, %lane, 16, 0;\nst.shared.v2.u32 [%t0], {%a0, %a1};\nld.shared.v2.u32 {%t1, %d}, [%t0];", "www",
       [](Lane a, unsigned) { return a[1]; });
  text("9.7.9.11",
       "mad.lo.u32 %t0, %lane, 4, 0;\nst.volatile.shared.u32 [%t0], %a1;\nld.volatile.shared.u32 %d, [%t0];", "www",
       [](Lane a, unsigned) { return a[1]; });
  text("9.7.9.11",
       "cvt.u16.u32 %h, %a1;\nst.shared.u16 [%t0], %h;\nst.shared.u8 [%t0+2], %h;\nld.shared.u16 %h, "
       "[%t0];\ncvt.u32.u16 %d, %h;",
       "www", [](Lane a, unsigned) { return a[1]; });
  cases.back().body = ".reg .b16 %h;\nshl.b32 %t0, %lane, 2;\n" + cases.back().body;
  text("9.7.9.11",
       "st.shared.v4.u8 [%t0], {%h, %h, %h, %h};\nld.shared.v4.u8 {%h, %h, %h, %g}, [%t0];\ncvt.u32.u16 %d, %g;", "www",
       [](Lane a, unsigned) { return a[1] & 255; });
  cases.back().body = ".reg .b16 %h, %g;\nshl.b32 %t0, %lane, 2;\ncvt.u16.u32 %h, %a1;\n" + cases.back().body;
  for (const char* type : {"u32", "s32", "f32", "b32"}) {
    text("9.7.9.11", std::string("st.shared.") + type + " [%t0], %a1;\nld.shared.u32 %d, [%t0];", "www",
         [](Lane a, unsigned) { return a[1]; });
    cases.back().body = "shl.b32 %t0, %lane, 2;\n" + cases.back().body;
    text("9.7.9.11", std::string("st.local.") + type + " [own], %a1;\nld.local.u32 %d, [own];", "www",
         [](Lane a, unsigned) { return a[1]; });
    text("9.7.9.11",
         std::string("st.local.v2.") + type + " [own], {%a0, %a1};\nld.local.v2." + type + " {%t0, %d}, [own];", "www",
         [](Lane a, unsigned) { return a[1]; });
    text("9.7.9.8",
         std::string("ld.param.") + type +
             " %t0, [in];\nld.param.u64 %x0, [in];\ncvt.u32.u64 %t1, %x0;\nsub.u32 %d, %t0, %t1;",
         "ww", [](Lane, unsigned) { return uint64_t{0}; });
  }
  for (const char* type : {"b32", "u32", "f32"}) {
    text("9.7.12.5",
         "{.param .align 16 .b8 x[16];\n.param .align 16 .b8 r[16];\nst.param." + std::string(type) +
             " [x+4], %a1;\ncall.uni (r), same, (x);\nld.param." + type + " %d, [r+4];\n}",
         "www", [](Lane a, unsigned) { return a[1]; });
    text("9.7.12.5",
         "{.param .align 16 .b8 x[16];\n.param .align 16 .b8 r[16];\nst.param.v2." + std::string(type) +
             " [x], {%a0, %a1};\ncall.uni (r), same, (x);\nld.param.v2." + type + " {%t0, %d}, [r];\n}",
         "www", [](Lane a, unsigned) { return a[1]; });
    text("9.7.9.8", "ld.const." + std::string(type) + " %d, [table+4];", "ww",
         [](Lane, unsigned) { return uint64_t{22}; });
  }
  for (const char* type : {"b64", "u64", "f64"}) {
    text("9.7.12.5",
         "{.param .b64 x;\n.param .b64 r;\nst.param." + std::string(type) +
             " [x], %a0;\ncall.uni (r), same64, (x);\nld.param." + type + " %d, [r];\n}",
         "ll", [](Lane a, unsigned) { return a[0]; });
    text("9.7.9.11", "st.local." + std::string(type) + " [own], %a0;\nld.local." + type + " %d, [own];", "ll",
         [](Lane a, unsigned) { return a[0]; });
    text("9.7.9.11",
         "shl.b32 %t0, %lane, 3;\nst.shared." + std::string(type) + " [%t0], %a0;\nld.shared." + type + " %d, [%t0];",
         "ll", [](Lane a, unsigned) { return a[0]; });
  }
  text("9.7.9.8",
       "ld.param.v4.u8 {%h, %g, %h, %h}, [in];\ncvt.u32.u16 %t0, %g;\nld.param.u32 %t1, [in];\nbfe.u32 %t1, %t1, 8, "
       "8;\nsub.u32 %d, %t0, %t1;",
       "ww", [](Lane, unsigned) { return uint64_t{0}; });
  cases.back().body = ".reg .b16 %h, %g;\n" + cases.back().body;
  text("9.7.9.15", "prefetch.global.L2 [%in];\nmov.u32 %d, 5;", "wl", [](Lane, unsigned) { return uint64_t{5}; });
  // A call, with its parameters.
  text("9.7.12.5",
       "{.param .b32 x;\n.param .b32 r;\nst.param.b32 [x], %a1;\ncall.uni (r), twice, (x);\nld.param.b32 %d, [r];\n}",
       "www", [](Lane a, unsigned) { return 2 * a[1]; });
}

}  // namespace

std::vector<Case> memoryCases() {
  cases.clear();
  moves();
  otherMoves();
  qualifiers();
  cacheOperators();
  loads();
  return std::move(cases);
}

}  // namespace runner
