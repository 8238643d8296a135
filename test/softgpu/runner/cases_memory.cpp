// Cases of moves, loads and stores in every space, atomics, asynchronous copies and calls.
#include <algorithm>
#include <bit>

#include "cases.h"

namespace runner {
namespace {

using Rows = std::vector<std::vector<uint64_t>>;

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

uint64_t signExtended(uint64_t x, unsigned bytes) {
  const unsigned shift = 64 - 8 * bytes;
  return static_cast<uint64_t>(static_cast<int64_t>(x << shift) >> shift);
}

void moves() {
  text("9.7.9.2", "mov.b16 %d, %a0;", "hh", [](Lane a, unsigned) { return a[0]; });
  text("9.7.9.2", "mov.u16 %d, %a0;", "hh", [](Lane a, unsigned) { return a[0]; });
  for (const char* type : {"b32", "u32", "s32", "f32"})
    text("9.7.9.2", std::string("mov.") + type + " %d, %a0;", "ww", [](Lane a, unsigned) { return a[0]; });
  for (const char* type : {"b64", "u64", "s64", "f64"})
    text("9.7.9.2", std::string("mov.") + type + " %d, %a0;", "ll", [](Lane a, unsigned) { return a[0]; });
  text("9.7.9.2", "mov.b64 %d, {%a0, %a1};", "lww", [](Lane a, unsigned) { return a[1] << 32 | (a[0] & 0xffffffff); });
  text("9.7.9.2", "mov.b64 {%t0, %d}, %a0;", "wl", [](Lane a, unsigned) { return a[0] >> 32; });
  text("9.7.9.2", "{.reg .b16 %h; mov.b16 %h, 7; mov.b32 %d, {%h, 3};}", "ww",
       [](Lane, unsigned) { return uint64_t{0x30007}; });
  text("9.7.9.20", "mov.u64 %x0, tile;\ncvta.shared.u64 %x1, %x0;\ncvta.to.shared.u64 %x2, %x1;\nsub.u64 %d, %x2, %x0;",
       "ll", [](Lane, unsigned) { return uint64_t{0}; });
  text("9.7.9.20",
       "mov.u64 %x0, own;\ncvta.local.u64 %x1, %x0;\nst.u32 [%x1], %a0;\ncvta.to.local.u64 %x2, %x1;\nld.local.u32 %d, "
       "[%x2];",
       "ww", [](Lane a, unsigned) { return a[0]; });
  text("9.7.9.20", "cvta.to.global.u64 %x1, %in;\nld.global.u32 %d, [%x1];\ncvta.global.u64 %x2, %x1;", "ww",
       [](Lane a, unsigned) { return a[0]; });
  text("9.7.9.18",
       "mov.u64 %x0, tile;\ncvta.shared.u64 %x1, %x0;\nisspacep.shared %p, %x1;\nisspacep.global %q, %x1;\nselp.b32 "
       "%d, 1, 0, %p;\nselp.b32 %d, 2, %d, %q;",
       "ww", [](Lane, unsigned) { return uint64_t{1}; });
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
         "{.param .align 8 .b8 x[8];\nst.param." + std::string(type) + " [x+4], %a1;\nld.param." + type +
             " %d, [x+4];\n}",
         "www", [](Lane a, unsigned) { return a[1]; });
    text("9.7.12.5",
         "{.param .align 8 .b8 x[8];\nst.param.v2." + std::string(type) + " [x], {%a0, %a1};\nld.param.v2." + type +
             " {%t0, %d}, [x];\n}",
         "www", [](Lane a, unsigned) { return a[1]; });
    text("9.7.9.8", "ld.const." + std::string(type) + " %d, [table+4];", "ww",
         [](Lane, unsigned) { return uint64_t{22}; });
  }
  for (const char* type : {"b64", "u64", "f64"}) {
    text("9.7.12.5", "{.param .b64 x;\nst.param." + std::string(type) + " [x], %a0;\nld.param." + type + " %d, [x];\n}",
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

void asyncCopies() {
  const std::string address = "mad.lo.u32 %t0, %lane, 16, 0;\n",
                    wait = "cp.async.commit_group;\ncp.async.wait_group 0;\n";
  text("9.7.9.25", address + "cp.async.ca.shared.global [%t0], [%in], 8;\n" + wait + "ld.shared.u64 %d, [%t0];", "ll",
       [](Lane a, unsigned) { return a[0]; });
  text("9.7.9.25",
       address + "cp.async.cg.shared.global [%t0], [%in], 16;\ncp.async.wait_all;\nld.shared.u64 %d, [%t0+8];", "ll",
       [](Lane a, unsigned) { return a[1]; });
  text("9.7.9.25",
       address + "mov.u32 %t1, 4;\ncp.async.cg.shared.global [%t0], [%in], 16, %t1;\n" + wait +
           "ld.shared.u64 %d, [%t0];",
       "ll", [](Lane a, unsigned) { return a[0] & 0xffffffff; });
  text("9.7.9.25",
       address +
           "cp.async.ca.shared.global [%t0], [%in], 4;\ncp.async.commit_group;\ncp.async.ca.shared.global [%t0+4], "
           "[%in], 4;\ncp.async.commit_group;\ncp.async.wait_group 1;\nld.shared.u32 %d, [%t0];\ncp.async.wait_all;",
       "wl", [](Lane a, unsigned) { return a[0]; });
}

}  // namespace

std::vector<Case> memoryCases() {
  cases.clear();
  moves();
  loads();
  atomics();
  asyncCopies();
  return std::move(cases);
}

}  // namespace runner
