// Cases of atomics, fences and asynchronous copies.
#include <algorithm>
#include <cmath>

#include "builder.h"

namespace runner {
namespace {

Rows numbered() {
  Rows rows;
  for (uint64_t l = 0; l < 32; ++l) rows.push_back({0x80f1e2d3c4b5a697 + l * 0x0101, 1000 + l, l % 7});
  return rows;
}

Builder cases;

void text(const char* section, const std::string& body, const char* types, Formula expected) {
  cases.text(section, body, types, numbered(), std::move(expected));
}

// All lanes on one word, in lane order: the sum and the like are what every lane reads afterwards.
void atomics() {
  const std::string shared = "mov.u32 %t0, 0;\nst.volatile.shared.u32 [tile], %t0;\nbar.warp.sync -1;\n",
                    after = "\nbar.warp.sync -1;\nld.volatile.shared.u32 %d, [tile];";
  auto sum = [](Lane, unsigned) {
    uint64_t s = 0;
    for (uint64_t l = 0; l < 32; ++l) s += 1000 + l;
    return s;
  };
  text("9.7.13.5", shared + "atom.shared.add.u32 %t1, [tile], %a1;" + after, "www", sum);
  text("9.7.13.6", shared + "red.shared.add.u32 [tile], %a1;" + after, "www", sum);
  text("9.7.13.5", shared + "atom.shared.max.u32 %t1, [tile], %a1;" + after, "www",
       [](Lane, unsigned) { return uint64_t{1031}; });
  text("9.7.13.5", shared + "atom.shared.or.b32 %t1, [tile], %a1;" + after, "www", [](Lane, unsigned) {
    uint64_t r = 0;
    for (uint64_t l = 0; l < 32; ++l) r |= 1000 + l;
    return r;
  });
  text("9.7.13.5", shared + "atom.shared.inc.u32 %t1, [tile], 20;" + after, "www",
       [](Lane, unsigned) { return uint64_t{32 % 21}; });
  text("9.7.13.5", shared + "atom.shared.exch.b32 %t1, [tile], 9;" + after, "www",
       [](Lane, unsigned) { return uint64_t{9}; });
  text("9.7.13.5", shared + "atom.shared.cas.b32 %t1, [tile], 0, 77;" + after, "www",
       [](Lane, unsigned) { return uint64_t{77}; });
  text("9.7.13.5", "atom.global.add.u32 %t1, [%in], 3;\nld.global.u32 %d, [%in];", "wl",
       [](Lane a, unsigned) { return a[0] + 3; });
  text("9.7.13.5", "atom.global.add.u64 %d, [%in], 3;", "ll", [](Lane a, unsigned) { return a[0]; });
  text("9.7.13.5", "atom.global.min.s32 %t1, [%in], -2000000000;\nld.global.u32 %d, [%in];", "wl",
       [](Lane a, unsigned) { return static_cast<uint32_t>(std::min(static_cast<int32_t>(a[0]), -2000000000)); });
  text("9.7.13.5", "atom.global.cas.b32 %d, [%in], 0, 1;", "wl", [](Lane a, unsigned) { return a[0]; });
  text("9.7.13.5", "atom.add.release.gpu.u32 %d, [%in], 1;", "wl", [](Lane a, unsigned) { return a[0]; });
  text("9.7.13.5",
       "st.global.u32 [%in], 0x3f800000;\natom.global.add.f32 %t1, [%in], 0f40000000;\nld.global.u32 %d, [%in];", "wl",
       [](Lane, unsigned) { return uint64_t{0x40400000}; });
  text("9.7.13.5",
       "st.global.u64 [%in], 0x3ff0000000000000;\natom.global.add.f64 %x0, [%in], 0d4000000000000000;\nld.global.u64 "
       "%d, [%in];",
       "ll", [](Lane, unsigned) { return uint64_t{0x4008000000000000}; });
  text("9.7.13.5",
       ".reg .b16 %o, %i;\nst.global.u16 [%in], 0x3c00;\nmov.b16 %i, 0x4000;\natom.add.noftz.f16 %o, [%in], "
       "%i;\nld.global.u16 %d, [%in];",
       "hl", [](Lane, unsigned) { return uint64_t{0x4200}; });
  text("9.7.13.5",
       "st.global.u32 [%in], 0x3c003c00;\nmov.b32 %t2, 0x40004000;\natom.global.add.noftz.f16x2 %t1, [%in], "
       "%t2;\nld.global.u32 %d, [%in];",
       "wl", [](Lane, unsigned) { return uint64_t{0x42004200}; });
  text("9.7.13.5",
       ".reg .b16 %o, %i;\nld.global.u16 %i, [%in];\natom.global.cas.b16 %o, [%in], %i, %i;\nmov.b16 %d, %o;", "hl",
       [](Lane a, unsigned) { return a[0]; });
  text("9.7.13.6", "red.global.add.u32 [%in], 4;\nld.global.u32 %d, [%in];", "wl",
       [](Lane a, unsigned) { return a[0] + 4; });
  for (const char* fence : {"membar.cta", "membar.gl", "fence.acq_rel.gpu", "fence.sc.cta"})
    text("9.7.13.4", std::string(fence) + ";\nmov.u32 %d, 1;", "wl", [](Lane, unsigned) { return uint64_t{1}; });
}

// Each operation on a word of the lane's own: what it returns, xor what it leaves.
struct Operation {
  const char* name;
  const char* types;  // of the operation
  uint64_t (*of)(uint64_t old, uint64_t b, unsigned bits, bool isSigned);
};

uint64_t extended(uint64_t x, unsigned bits) {
  return static_cast<uint64_t>(static_cast<int64_t>(x << (64 - bits)) >> (64 - bits));
}
bool isLess(uint64_t a, uint64_t b, unsigned bits, bool isSigned) {
  if (!isSigned) return a < b;
  return static_cast<int64_t>(extended(a, bits)) < static_cast<int64_t>(extended(b, bits));
}

constexpr Operation kOperations[] = {
    {"add", "u32 s32 u64", [](uint64_t a, uint64_t b, unsigned, bool) { return a + b; }},
    {"min", "u32 s32 u64 s64", [](uint64_t a, uint64_t b, unsigned n, bool s) { return isLess(b, a, n, s) ? b : a; }},
    {"max", "u32 s32 u64 s64", [](uint64_t a, uint64_t b, unsigned n, bool s) { return isLess(a, b, n, s) ? b : a; }},
    {"and", "b32 b64", [](uint64_t a, uint64_t b, unsigned, bool) { return a & b; }},
    {"or", "b32 b64", [](uint64_t a, uint64_t b, unsigned, bool) { return a | b; }},
    {"xor", "b32 b64", [](uint64_t a, uint64_t b, unsigned, bool) { return a ^ b; }},
    {"exch", "b32 b64", [](uint64_t, uint64_t b, unsigned, bool) { return b; }},
    {"inc", "u32", [](uint64_t a, uint64_t b, unsigned, bool) { return a >= b ? 0 : a + 1; }},
    {"dec", "u32", [](uint64_t a, uint64_t b, unsigned, bool) { return a == 0 || a > b ? b : a - 1; }}};

void everyOperation() {
  const uint64_t values[] = {
      0, 1, 5, 0x7fffffff, 0x80000000, 0xffffffff, 0x7fffffffffffffff, uint64_t{1} << 63, ~uint64_t{0}, 77};
  Rows rows;
  for (size_t l = 0; l < 32; ++l) rows.push_back({values[l % 10], values[(l * 3 + l / 10) % 10]});
  for (const Operation& operation : kOperations) {
    std::string rest = operation.types;
    while (!rest.empty()) {
      const std::string type = rest.substr(0, rest.find(' '));
      rest = rest.find(' ') == std::string::npos ? "" : rest.substr(rest.find(' ') + 1);
      const unsigned bits = type.ends_with("64") ? 64 : 32;
      const char* shape = bits == 64 ? "lll" : "www";
      const std::string width = bits == 64 ? "u64" : "u32", scratch = bits == 64 ? "%x0" : "%t0";
      for (const std::string space : {".global", ".shared", ""}) {
        const bool shared = space == ".shared";
        const std::string place = shared ? "[%t1]" : "[%in]",
                          setup = shared ? "shl.b32 %t1, %lane, 3;\nst.shared." + width + " [%t1], %a0;\n" : "",
                          load = "ld" + space + "." + width + " " + scratch + ", " + place + ";\n";
        auto result = [=](Lane a) {
          const uint64_t mask = bits == 64 ? ~uint64_t{0} : 0xffffffff;
          return operation.of(a[0] & mask, a[1] & mask, bits, type[0] == 's');
        };
        cases.text("9.7.13.5",
                   setup + "atom" + space + "." + operation.name + "." + type + " %d, " + place + ", %a1;\n" + load +
                       "xor.b" + std::to_string(bits) + " %d, %d, " + scratch + ";",
                   shape, rows, [=](Lane a, unsigned) { return a[0] ^ result(a); });
        if (std::string(operation.name) == "exch") continue;
        cases.text("9.7.13.6",
                   setup + "red" + space + "." + operation.name + "." + type + " " + place + ", %a1;\n" + load +
                       "mov." + width + " %d, " + scratch + ";",
                   shape, rows, [=](Lane a, unsigned) { return result(a); });
      }
    }
  }
  for (const char* bits : {"b32", "b64"}) {
    const char* shape = bits[1] == '3' ? "wwww" : "llll";
    const std::string scratch = bits[1] == '3' ? "%t0" : "%x0";
    Rows swaps = {{5, 5, 9}, {6, 5, 9}, {0xffffffff, 0xffffffff, 1}};
    cases.text("9.7.13.5",
               std::string("atom.global.cas.") + bits + " " + scratch + ", [%in], %a1, %a2;\nld.global." + bits +
                   " %d, [%in];\nadd.u" + (bits + 1) + " %d, %d, " + scratch + ";",
               shape, swaps, [](Lane a, unsigned) { return a[0] + (a[0] == a[1] ? a[2] : a[0]); });
  }
  for (const char* order : {"relaxed", "acquire", "release", "acq_rel"}) {
    for (const char* scope : {"cta", "gpu", "sys"}) {
      text("9.7.13.5", std::string("atom.") + order + "." + scope + ".global.add.u32 %d, [%in], 1;", "wl",
           [](Lane a, unsigned) { return a[0]; });
    }
  }
}

void floatingAtomics() {
  // Global memory flushes subnormals of f32, shared memory does not.
  const std::string share = "shl.b32 %t1, %lane, 2;\nst.shared.u32 [%t1], %a0;\n";
  const Rows tiny = {{1, 1}, {f(1), f(2)}, {0x00800000, 0x80000001}, {f(INFINITY), f(1)}};
  cases.text("9.7.13.6", "red.global.add.f32 [%in], %a1;\nld.global.u32 %d, [%in];", "www", tiny, [](Lane, unsigned l) {
    return std::vector<uint64_t>{0, f(3), 0x00800000, f(INFINITY)}[l % 4];
  });
  cases.text("9.7.13.6", share + "red.shared.add.f32 [%t1], %a1;\nld.shared.u32 %d, [%t1];", "www", tiny,
             [](Lane, unsigned l) {
               return std::vector<uint64_t>{2, f(3), 0x007fffff, f(INFINITY)}[l % 4];
             });
  cases.text("9.7.13.5", share + "atom.shared.add.f32 %t0, [%t1], %a1;\nmov.b32 %d, %t0;", "www", tiny,
             [](Lane a, unsigned) { return a[0]; });
  cases.text("9.7.13.6", "red.global.add.f64 [%in], %a1;\nld.global.u64 %d, [%in];", "lll",
             {{g(1), g(0x1p-60)}, {1, 1}}, [](Lane, unsigned l) { return l % 2 ? 2 : g(1); });
  cases.text("9.7.13.6", "red.global.add.noftz.f16x2 [%in], %a1;\nld.global.u32 %d, [%in];", "www",
             {{0x3c000001, 0x68000001}}, [](Lane, unsigned) { return uint64_t{0x68000002}; });
  cases.require(90);
  cases.text("9.7.13.5", "atom.global.add.noftz.bf16x2 %t0, [%in], %a1;\nld.global.u32 %d, [%in];", "www",
             {{0x3f804380, 0x40003f80}}, [](Lane, unsigned) { return uint64_t{0x40404380}; });
  cases.text("9.7.13.5", ".reg .b16 %o;\natom.global.add.noftz.bf16 %o, [%in], %a1;\nld.global.u16 %d, [%in];", "hhh",
             {{0x3f80, 0x4000}}, [](Lane, unsigned) { return uint64_t{0x4040}; });
  // Vectors: element by element.
  cases.text("9.7.13.6", "red.global.add.v2.f32 [%in], {%a2, %a2};\nld.global.u64 %d, [%in];", "llww",
             {{f(1) | f(2) << 32, 0, f(0.5f)}}, [](Lane, unsigned) { return f(1.5f) | f(2.5f) << 32; });
  cases.text("9.7.13.5",
             "atom.global.add.v4.f32 {%t0, %t1, %t2, %t3}, [%in], {%a2, %a2, %a2, %a2};\nld.global.u64 %x0, "
             "[%in+8];\nmov.b64 %x1, {%t2, %t3};\nxor.b64 %d, %x0, %x1;",
             "lllw", {{f(1) | f(2) << 32, f(3) | f(4) << 32, f(0.5f)}},
             [](Lane a, unsigned) { return (f(3.5f) | f(4.5f) << 32) ^ a[1]; });
  cases.text("9.7.13.6", "red.global.max.noftz.v2.bf16x2 [%in], {%a2, %a2};\nld.global.u64 %d, [%in];", "llww",
             {{0x40003f8040003f80, 0, 0x3fc03fc0}}, [](Lane, unsigned) { return uint64_t{0x40003fc040003fc0}; });
  cases.text("9.7.13.6",
             ".reg .b16 %h;\nmov.b16 %h, 0x3c00;\nred.global.add.noftz.v8.f16 [%in], {%h, %h, %h, %h, %h, %h, %h, "
             "%h};\nld.global.u64 %d, [%in+8];",
             "lll", {{0, 0x7bff400000003c00}}, [](Lane, unsigned) { return uint64_t{0x7bff42003c004000}; });
  cases.text("9.7.13.5",
             ".reg .b128 %w, %v;\nmov.b128 %w, {%a0, %a1};\nmov.b128 %v, {%a1, %a0};\natom.global.cas.b128 %w, [%in], "
             "%w, %v;\nld.global.u64 %d, [%in];",
             "lll", {{0x1234, 0x5678}}, [](Lane a, unsigned) { return a[1]; });
  cases.require(80);
}

void asyncCopies() {
  const std::string address = "mad.lo.u32 %t0, %lane, 16, 0;\n",
                    wait = "cp.async.commit_group;\ncp.async.wait_group 0;\n";
  text("9.7.9.25.3.1", address + "cp.async.ca.shared.global [%t0], [%in], 8;\n" + wait + "ld.shared.u64 %d, [%t0];",
       "ll", [](Lane a, unsigned) { return a[0]; });
  text("9.7.9.25.3.1",
       address + "cp.async.cg.shared.global [%t0], [%in], 16;\ncp.async.wait_all;\nld.shared.u64 %d, [%t0+8];", "ll",
       [](Lane a, unsigned) { return a[1]; });
  text("9.7.9.25.3.1",
       address + "mov.u32 %t1, 4;\ncp.async.cg.shared.global [%t0], [%in], 16, %t1;\n" + wait +
           "ld.shared.u64 %d, [%t0];",
       "ll", [](Lane a, unsigned) { return a[0] & 0xffffffff; });
  text("9.7.9.25.3.1",
       address +
           "cp.async.ca.shared.global [%t0], [%in], 4;\ncp.async.commit_group;\ncp.async.ca.shared.global [%t0+4], "
           "[%in], 4;\ncp.async.commit_group;\ncp.async.wait_group 1;\nld.shared.u32 %d, [%t0];\ncp.async.wait_all;",
       "wl", [](Lane a, unsigned) { return a[0]; });
  // Source bytes that are not there, and a source that is ignored, are zero; the policy of a cache hint is no size.
  text("9.7.9.25.3.1",
       address + "mov.u32 %t1, 0;\ncp.async.ca.shared.global [%t0], [%in], 8, %t1;\n" + wait +
           "ld.shared.u64 %d, [%t0];",
       "ll", [](Lane, unsigned) { return uint64_t{0}; });
  text("9.7.9.25.3.1",
       address + "and.b32 %t1, %lane, 1;\nsetp.eq.u32 %p, %t1, 1;\ncp.async.cg.shared.global [%t0], [%in], 16, %p;\n" +
           wait + "ld.shared.u64 %d, [%t0+8];",
       "ll", [](Lane a, unsigned l) { return l % 2 ? 0 : a[1]; });
  text("9.7.9.25.3.1",
       address +
           "createpolicy.fractional.L2::evict_last.b64 %x0, 1.0;\ncp.async.cg.shared.global.L2::cache_hint [%t0], "
           "[%in], "
           "16, %x0;\n" +
           wait + "ld.shared.u64 %d, [%t0+8];",
       "ll", [](Lane a, unsigned) { return a[1]; });
  text("9.7.9.25.3.1",
       address +
           "createpolicy.fractional.L2::evict_first.b64 %x0;\ncp.async.ca.shared.global.L2::cache_hint.L2::128B [%t0], "
           "[%in], 8, 4, %x0;\n" +
           wait + "ld.shared.u64 %d, [%t0];",
       "ll", [](Lane a, unsigned) { return a[0] & 0xffffffff; });
  text("9.7.9.25.3.2", "cp.async.commit_group;\ncp.async.wait_group 0;\nmov.u32 %d, 1;", "wl",
       [](Lane, unsigned) { return uint64_t{1}; });
  text("9.7.9.25.3.3", "cp.async.wait_all;\nmov.u32 %d, 1;", "wl", [](Lane, unsigned) { return uint64_t{1}; });
}

}  // namespace

std::vector<Case> atomicCases() {
  cases = {};
  atomics();
  everyOperation();
  floatingAtomics();
  asyncCopies();
  return std::move(cases.cases);
}

}  // namespace runner
