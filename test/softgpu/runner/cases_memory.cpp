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

// Of one block of one warp; checkDriver looks at grids and blocks of three dimensions.
void specialRegisters() {
  auto is = [](const char* name, std::function<uint64_t(Lane, unsigned)> expected) {
    text("10", std::string("mov.u32 %d, ") + name + ";", "ww", std::move(expected));
  };
  for (const char* zero : {"%tid.y", "%tid.z", "%ctaid.x", "%ctaid.y", "%ctaid.z", "%warpid", "%dynamic_smem_size"})
    is(zero, [](Lane, unsigned) { return uint64_t{0}; });
  for (const char* one : {"%ntid.y", "%ntid.z", "%nctaid.x", "%nctaid.y", "%nctaid.z", "%nwarpid"})
    is(one, [](Lane, unsigned) { return uint64_t{1}; });
  is("%tid.x", [](Lane, unsigned l) { return uint64_t{l}; });
  is("%laneid", [](Lane, unsigned l) { return uint64_t{l}; });
  is("%ntid.x", [](Lane, unsigned) { return uint64_t{32}; });
  is("%total_smem_size", [](Lane, unsigned) { return uint64_t{1024}; });
  is("%lanemask_eq", [](Lane, unsigned l) { return uint64_t{1} << l; });
  is("%lanemask_lt", [](Lane, unsigned l) { return (uint64_t{1} << l) - 1; });
  is("%lanemask_le", [](Lane, unsigned l) { return (uint64_t{2} << l) - 1; });
  is("%lanemask_gt", [](Lane, unsigned l) { return ~((uint64_t{2} << l) - 1); });
  is("%lanemask_ge", [](Lane, unsigned l) { return ~((uint64_t{1} << l) - 1); });
  text("10.22", "mov.u32 %t0, %smid;\nmov.u32 %t1, %nsmid;\nsetp.lt.u32 %p, %t0, %t1;\nselp.b32 %d, 1, 0, %p;", "ww",
       [](Lane, unsigned) { return uint64_t{1}; });
  text("10.24", "mov.u64 %x0, %gridid;\nmov.u32 %d, %gridid;\ncvt.u32.u64 %t0, %x0;\nsub.u32 %d, %d, %t0;", "ww",
       [](Lane, unsigned) { return uint64_t{0}; });
  // Clocks never go back.
  for (const char* clock : {"%clock64", "%globaltimer"})
    text("10",
         std::string("mov.u64 %x0, ") + clock + ";\nmov.u64 %x1, " + clock +
             ";\nsetp.le.u64 %p, %x0, %x1;\nselp.b32 %d, 1, 0, %p;",
         "ww", [](Lane, unsigned) { return uint64_t{1}; });
  for (const char* clock : {"%clock", "%clock_hi", "%globaltimer_lo", "%globaltimer_hi"})
    text("10",
         std::string("mov.u32 %t0, ") + clock + ";\nmov.u32 %t1, " + clock +
             ";\nsetp.le.u32 %p, %t0, %t1;\nselp.b32 %d, 1, 0, %p;",
         "ww", [](Lane, unsigned) { return uint64_t{1}; });
  // The address of a grid's workspace: none in an ordinary launch.
  text("10", "mov.u32 %t0, %envreg1;\nmov.u32 %d, %envreg2;\nor.b32 %d, %d, %t0;", "ww",
       [](Lane, unsigned) { return uint64_t{0}; });
}

// What is odd about loads and stores: registers wider than the type, vectors of bytes, literals as elements, the sink.
void loads() {
  text("9.7.9.8", ".reg .b64 %wide;\nld.global.s16 %wide, [%in];\nmov.u64 %d, %wide;", "ll",
       [](Lane a, unsigned) { return static_cast<uint64_t>(static_cast<int64_t>(static_cast<int16_t>(a[0]))); });
  text("9.7.9.8", "ld.global.u8 %d, [%in+1];", "wl", [](Lane a, unsigned) { return a[0] >> 8 & 255; });
  text("9.7.9.11", "st.global.u8 [%in+1], %a1;\nld.global.u16 %d, [%in];", "hlh",
       [](Lane a, unsigned) { return (a[0] & 255) | (a[1] & 255) << 8; });
  text("9.7.9.8", "ld.global.v2.u32 {_, %d}, [%in];", "wl", [](Lane a, unsigned) { return a[0] >> 32; });
  text("9.7.9.11", "st.global.v2.u32 [%in], {7, %a1};\nld.global.u64 %d, [%in];", "llw",
       [](Lane a, unsigned) { return a[1] << 32 | 7; });
  for (const char* type : {"b8", "u8", "b16", "u16", "b32", "u32", "s32", "f32", "b64", "u64", "s64", "f64"}) {
    const std::string t = type;
    const unsigned bits = static_cast<unsigned>(std::stoul(t.substr(1)));
    // The low bytes of the address that is the parameter.
    text("9.7.9.8",
         ".reg .b" + std::to_string(std::max(16u, bits)) + " %v;\nld.param." + t +
             " %v, [in];\nld.param.u64 %x0, [in];\n" +
             (bits == 64 ? "mov.u64" : "cvt.u64.u" + std::to_string(std::max(16u, bits))) +
             " %x1, %v;\nxor.b64 %x0, %x0, %x1;\n" +
             (bits == 64 ? "mov.u64 %d, %x0;" : "shl.b64 %d, %x0, " + std::to_string(64 - bits) + ";"),
         "ll", [](Lane, unsigned) { return uint64_t{0}; });
    for (int elements : {2, 4}) {
      if (bits * static_cast<unsigned>(elements) > 64) continue;
      const std::string list = elements == 2 ? "{%v0, %v1}" : "{%v0, %v1, %v1, %v1}";
      // The second element, against the parameter's bits.
      text("9.7.9.8",
           ".reg .b" + std::to_string(std::max(16u, bits)) + " %v<2>;\nld.param.v" + std::to_string(elements) + "." +
               t + " " + (elements == 2 ? list : "{%v0, %v1, _, _}") + ", [in];\nld.param.u64 %x0, [in];\ncvt.u64.u" +
               std::to_string(std::max(16u, bits)) + " %x1, %v1;\nshr.u64 %x0, %x0, " + std::to_string(bits) +
               ";\nxor.b64 %x0, %x0, %x1;\nshl.b64 %d, %x0, " + std::to_string(64 - bits) + ";",
           "ll", [](Lane, unsigned) { return uint64_t{0}; });
    }
  }
  for (const char* hint : {"prefetch.global.L1", "prefetch.global.L2", "prefetch.L1", "prefetch.L2",
                           "prefetch.global.L2::evict_last", "prefetch.global.L2::evict_normal"})
    text("9.7.9.15", std::string(hint) + " [%in];\nmov.u32 %d, 5;", "wl", [](Lane, unsigned) { return uint64_t{5}; });
  for (const char* policy : {"createpolicy.fractional.L2::evict_last.b64 %x0, 1.0;",
                             "createpolicy.fractional.L2::evict_first.b64 %x0, 0.5;"})
    text("9.7.9.19", std::string(policy) + "\nld.global.L2::cache_hint.u32 %d, [%in], %x0;", "wl",
         [](Lane a, unsigned) { return a[0]; });
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
  for (const char* fence : {"membar.cta", "membar.gl", "membar.sys", "fence.acq_rel.cta", "fence.acq_rel.gpu",
                            "fence.acq_rel.sys", "fence.sc.cta", "fence.sc.gpu", "fence.sc.sys"})
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
  specialRegisters();
  loads();
  atomics();
  asyncCopies();
  return std::move(cases);
}

}  // namespace runner
