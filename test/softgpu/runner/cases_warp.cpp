// Cases across lanes and of control flow; the fragment layouts of ldmatrix and mma.sync, checked lane by lane with
// small integers against the figures of the ISA.
#include <array>
#include <bit>

#include "cases.h"

namespace runner {
namespace {

using Rows = std::vector<std::vector<uint64_t>>;
std::vector<Case> cases;

Rows numbered() {
  Rows rows;
  for (uint64_t l = 0; l < 32; ++l) rows.push_back({1000 + l, l % 5, l});
  return rows;
}
void text(const char* section, const std::string& body, std::function<uint64_t(Lane, unsigned)> expected,
          const char* types = "www") {
  cases.push_back({section, body, types, numbered(), std::move(expected)});
}

void acrossLanes() {
  text("9.7.9.6", "shfl.sync.up.b32 %d|%p, %a0, 3, 0, -1;",
       [](Lane, unsigned l) { return uint64_t{1000} + (l < 3 ? l : l - 3); });
  text("9.7.9.6", "shfl.sync.down.b32 %d, %a0, 3, 31, -1;",
       [](Lane, unsigned l) { return uint64_t{1000} + (l > 28 ? l : l + 3); });
  text("9.7.9.6", "shfl.sync.bfly.b32 %d, %a0, 5, 31, -1;", [](Lane, unsigned l) { return uint64_t{1000} + (l ^ 5); });
  text("9.7.9.6", "shfl.sync.idx.b32 %d, %a0, %a1, 31, -1;", [](Lane, unsigned l) { return uint64_t{1000} + l % 5; });
  // Segments of eight lanes, and what is out of range.
  text("9.7.9.6", "shfl.sync.down.b32 %t0|%p, %a0, 2, 0x1807, -1;\nselp.b32 %d, %t0, 0, %p;",
       [](Lane, unsigned l) { return uint64_t{l % 8 < 6 ? 1002 + l : 0}; });
  text("9.7.13.8", "setp.gt.u32 %p, %lane, 20;\nvote.sync.ballot.b32 %d, %p, -1;",
       [](Lane, unsigned) { return uint64_t{0xffe00000}; });
  text("9.7.13.8", "setp.gt.u32 %p, %lane, 20;\nvote.ballot.sync.b32 %d, %p, -1;",
       [](Lane, unsigned) { return uint64_t{0xffe00000}; });
  text("9.7.13.8", "setp.gt.u32 %p, %lane, 20;\nvote.sync.any.pred %q, %p, -1;\nselp.b32 %d, 1, 0, %q;",
       [](Lane, unsigned) { return uint64_t{1}; });
  text("9.7.13.8", "setp.gt.u32 %p, %lane, 20;\nvote.sync.all.pred %q, %p, -1;\nselp.b32 %d, 1, 0, %q;",
       [](Lane, unsigned) { return uint64_t{0}; });
  text("9.7.13.8", "setp.gt.u32 %p, %lane, 40;\nvote.sync.uni.pred %q, %p, -1;\nselp.b32 %d, 1, 0, %q;",
       [](Lane, unsigned) { return uint64_t{1}; });
  text("9.7.13.9", "match.any.sync.b32 %d, %a1, -1;", [](Lane, unsigned l) {
    uint64_t m = 0;
    for (unsigned k = 0; k < 32; ++k) m |= uint64_t{k % 5 == l % 5} << k;
    return m;
  });
  text("9.7.13.9", "match.all.sync.b32 %d|%p, %a1, -1;", [](Lane, unsigned) { return uint64_t{0}; });
  text("9.7.13.10", "activemask.b32 %d;", [](Lane, unsigned) { return uint64_t{0xffffffff}; });
  text(
      "9.7.13.9", "mov.b64 %x0, {%a2, %a1};\nmatch.any.sync.b64 %d, %x0, -1;",
      [](Lane, unsigned l) { return uint64_t{1} << l; }, "wwww");
  text("9.7.13.9", "mov.b64 %x0, {%t0, %a1};\nmatch.any.sync.b64 %d, %x0, -1;", [](Lane, unsigned l) {
    uint64_t m = 0;
    for (unsigned k = 0; k < 32; ++k) m |= uint64_t{k % 5 == l % 5} << k;
    return m;
  });
  cases.back().body = "mov.u32 %t0, 9;\n" + cases.back().body;
  text("9.7.13.9", "mov.u64 %x0, 5;\nmatch.all.sync.b64 %t0|%p, %x0, -1;\nselp.b32 %d, %t0, 0, %p;",
       [](Lane, unsigned) { return uint64_t{0xffffffff}; });
  struct Reduction {
    const char* form;
    uint64_t (*of)(uint64_t, uint64_t);
  };
  for (const Reduction& r :
       {Reduction{"add.s32", [](uint64_t a, uint64_t b) { return a + b; }},
        Reduction{"add.u32", [](uint64_t a, uint64_t b) { return a + b; }},
        Reduction{"min.s32",
                  [](uint64_t a, uint64_t b) { return static_cast<int32_t>(a) < static_cast<int32_t>(b) ? a : b; }},
        Reduction{"max.s32",
                  [](uint64_t a, uint64_t b) { return static_cast<int32_t>(a) > static_cast<int32_t>(b) ? a : b; }},
        Reduction{"min.u32", [](uint64_t a, uint64_t b) { return a < b ? a : b; }},
        Reduction{"max.u32", [](uint64_t a, uint64_t b) { return a > b ? a : b; }},
        Reduction{"and.b32", [](uint64_t a, uint64_t b) { return a & b; }},
        Reduction{"or.b32", [](uint64_t a, uint64_t b) { return a | b; }},
        Reduction{"xor.b32", [](uint64_t a, uint64_t b) { return a ^ b; }}}) {
    const auto of = r.of;
    // Half of the values negative; and the lanes in two groups, each with a mask of its own.
    auto input = [](unsigned l) { return uint64_t{l % 2 ? 0u - l : 0xff00 + 3 * l} & 0xffffffff; };
    const std::string fill =
        "and.b32 %t0, %lane, 1;\nsetp.ne.u32 %p, %t0, 0;\nmad.lo.u32 %t1, %lane, 3, 0xff00;\n@%p neg.s32 %t1, %lane;\n";
    text("9.7.13.11", fill + "redux.sync." + r.form + " %d, %t1, -1;", [=](Lane, unsigned) {
      uint64_t sum = input(0);
      for (unsigned k = 1; k < 32; ++k) sum = of(sum, input(k)) & 0xffffffff;
      return sum;
    });
    text("9.7.13.11",
         fill + "setp.lt.u32 %q, %lane, 10;\nselp.b32 %t2, 0x3ff, 0xfffffc00, %q;\nredux.sync." + r.form +
             " %d, %t1, %t2;",
         [=](Lane, unsigned l) {
           uint64_t sum = input(l < 10 ? 0 : 10);
           for (unsigned k = l < 10 ? 1 : 11; k < (l < 10 ? 10u : 32u); ++k) sum = of(sum, input(k)) & 0xffffffff;
           return sum;
         });
  }
}

void control() {
  // Each lane runs its own number of rounds.
  text("9.7.12.3",
       "mov.u32 %d, 0;\nmov.u32 %t0, 0;\nLOOP:\nsetp.ge.u32 %p, %t0, %a1;\n@%p bra DONE;\nadd.u32 %d, %d, "
       "%a0;\nadd.u32 %t0, %t0, 1;\nbra.uni LOOP;\nDONE:",
       [](Lane a, unsigned) { return a[0] * a[1]; });
  text(
      "9.7.12.4",
      "rem.u32 %t0, %a2, 3;\nTABLE: .branchtargets ZERO, ONE, TWO;\nbrx.idx %t0, TABLE;\nZERO: mov.u32 %d, 10;\nbra "
      "END;\nONE: mov.u32 %d, 11;\nbra END;\nTWO: mov.u32 %d, 12;\nEND:",
      [](Lane, unsigned l) { return uint64_t{10 + l % 3}; }, "wwww");
  text("9.7.13.1", "st.shared.u32 [%t0], %a0;\nbar.sync 0;\nld.shared.u32 %d, [%t1];",
       [](Lane, unsigned l) { return uint64_t{1000 + 31 - l}; });
  cases.back().body = "shl.b32 %t0, %lane, 2;\nsub.u32 %t1, 124, %t0;\n" + cases.back().body;
  for (const char* form : {"bar.sync 1, 32;", "barrier.sync 1, 32;", "barrier.sync.aligned 1;", "barrier.cta.sync 2;",
                           "barrier.cta.sync.aligned 1, 32;", "bar.cta.sync 3;", "bar.arrive 4, 64;\nbar.sync 4, 64;",
                           "barrier.arrive 5, 64;\nbarrier.sync 5, 64;", "bar.cta.arrive 6, 64;\nbar.cta.sync 6, 64;",
                           "barrier.cta.arrive.aligned 7, 64;\nbarrier.cta.sync.aligned 7, 64;"}) {
    text("9.7.13.1", std::string("st.shared.u32 [%t0], %a0;\n") + form + "\nld.shared.u32 %d, [%t1];",
         [](Lane, unsigned l) { return uint64_t{1000 + 31 - l}; });
    cases.back().body = "shl.b32 %t0, %lane, 2;\nsub.u32 %t1, 124, %t0;\n" + cases.back().body;
  }
  text("9.7.13.1", "setp.gt.u32 %p, %lane, 20;\nbar.red.popc.u32 %d, 0, %p;",
       [](Lane, unsigned) { return uint64_t{11}; });
  text("9.7.13.1", "setp.gt.u32 %p, %lane, 20;\nbar.red.or.pred %q, 0, %p;\nselp.b32 %d, 1, 0, %q;",
       [](Lane, unsigned) { return uint64_t{1}; });
  text("9.7.13.1", "setp.gt.u32 %p, %lane, 20;\nbar.red.and.pred %q, 0, %p;\nselp.b32 %d, 1, 0, %q;",
       [](Lane, unsigned) { return uint64_t{0}; });
  text("9.7.19", "nanosleep.u32 20;\nmov.u32 %d, %ntid.x;", [](Lane, unsigned) { return uint64_t{32}; });
  text("9.7.12.7", "mov.u32 %d, 3;\nst.global.u32 [%out], %d;\nexit;", [](Lane, unsigned) { return uint64_t{3}; });
  text("9.7.19", "setp.gt.u32 %p, %lane, 40;\n@%p trap;\nmov.u32 %d, 2;", [](Lane, unsigned) { return uint64_t{2}; });
}

// Row r, column c of matrix m holds 100·m + 8·r + c. Lane l fills row l of the four matrices, 16 bytes each.
void matrices() {
  std::string fill =
      "mul.lo.u32 %t0, %lane, 16;\nshr.u32 %t1, %lane, 3;\nmul.lo.u32 %t1, %t1, 100;\nand.b32 %t2, %lane, "
      "7;\nmad.lo.u32 %t1, %t2, 8, %t1;\nmul.lo.u32 %t1, %t1, 0x10001;\nadd.u32 %t1, %t1, 0x10000;\n";
  for (int k = 0; k < 4; ++k)
    fill += "st.shared.u32 [%t0+" + std::to_string(4 * k) + "], %t1;\nadd.u32 %t1, %t1, 0x20002;\n";
  fill += "bar.warp.sync -1;\n";
  auto element = [](unsigned matrix, unsigned row, unsigned column) {
    return uint64_t{100 * matrix + 8 * row + column};
  };
  auto plain = [=](unsigned m) {
    return [=](Lane, unsigned l) { return element(m, l / 4, l % 4 * 2) | element(m, l / 4, l % 4 * 2 + 1) << 16; };
  };
  auto transposed = [=](unsigned m) {
    return [=](Lane, unsigned l) { return element(m, l % 4 * 2, l / 4) | element(m, l % 4 * 2 + 1, l / 4) << 16; };
  };
  const std::string form = "ldmatrix.sync.aligned.m8n8.";
  text("9.7.15.5.15", fill + form + "x1.shared.b16 {%d}, [%t0];", plain(0));
  text("9.7.15.5.15", fill + form + "x1.trans.shared.b16 {%d}, [%t0];", transposed(0));
  text("9.7.15.5.15", fill + form + "x2.shared.b16 {%t1, %d}, [%t0];", plain(1));
  text("9.7.15.5.15", fill + form + "x2.trans.shared.b16 {%t1, %d}, [%t0];", transposed(1));
  text("9.7.15.5.15", fill + form + "x4.shared.b16 {%t1, %t2, %d, %t3}, [%t0];", plain(2));
  text("9.7.15.5.15", fill + form + "x4.trans.shared.b16 {%t1, %t2, %t3, %d}, [%t0];", transposed(3));
}

// A[r][k] = r + k, B[k][n] = (k == probe) · (n + 1), C = 0: then D[r][n] = (r + probe)(n + 1), so that every element of
// A and B that the layout misplaces shows. One case per column of A and per register of D.
void products() {
  struct Kind {
    const char* shape;
    const char* type;
    unsigned k, perRegister;
    uint64_t (*encode)(unsigned value);
  };
  auto bf16 = [](unsigned v) { return uint64_t{std::bit_cast<uint32_t>(static_cast<float>(v)) >> 16}; };
  auto f32 = [](unsigned v) { return uint64_t{std::bit_cast<uint32_t>(static_cast<float>(v))}; };
  auto f16 = [](unsigned v) {
    if (v == 0) return uint64_t{0};
    const unsigned exponent = 31 - static_cast<unsigned>(std::countl_zero(v));
    return uint64_t{(exponent + 15) << 10 | ((v << 10 >> exponent) & 0x3ff)};
  };
  const Kind kinds[] = {{"m16n8k16", "bf16", 16, 2, bf16}, {"m16n8k8", "bf16", 8, 2, bf16},
                        {"m16n8k16", "f16", 16, 2, f16},   {"m16n8k8", "f16", 8, 2, f16},
                        {"m16n8k8", "tf32", 8, 1, f32},    {"m16n8k4", "tf32", 4, 1, f32}};
  for (const Kind& kind : kinds) {
    const unsigned per = kind.perRegister, registersA = 16 * kind.k / 32 / per, registersB = kind.k * 8 / 32 / per;
    for (unsigned probe = 0; probe < kind.k; ++probe) {
      for (unsigned output = 0; output < 4; ++output) {
        // Fragments as immediates are the same in every lane, so they come from memory: element by element, per lane.
        Rows rows;
        for (unsigned l = 0; l < 32; ++l) {
          std::array<uint64_t, 6> words{};
          // The ISA's figures: groupID = l/4, threadID_in_group = l%4; rows groupID and groupID + 8 alternate in A.
          for (unsigned r = 0; r < registersA; ++r) {
            for (unsigned e = 0; e < per; ++e) {
              const unsigned row = r % 2 == 0 ? l / 4 : l / 4 + 8;
              const unsigned column = (l % 4) * per + e + (r >= 2 ? kind.k / 2 : 0);
              words[r] |= kind.encode(row + column) << (16 * e);
            }
          }
          for (unsigned r = 0; r < registersB; ++r) {
            for (unsigned e = 0; e < per; ++e) {
              const unsigned row = (l % 4) * per + e + (r == 1 ? kind.k / 2 : 0);
              words[4 + r] |= (row == probe ? kind.encode(l / 4 + 1) : 0) << (16 * e);
            }
          }
          rows.push_back({words[0] | words[1] << 32, words[2] | words[3] << 32, words[4] | words[5] << 32});
        }
        std::string body =
            "mov.b32 %t0, 0;\n.reg .b32 %m<6>, %r<4>;\nmov.b64 {%m0, %m1}, %a0;\nmov.b64 {%m2, %m3}, %a1;\nmov.b64 "
            "{%m4, %m5}, %a2;\n";
        const std::string a[] = {"", "", "{%m0, %m1}", "", "{%m0, %m1, %m2, %m3}"}, b[] = {"", "{%m4}", "{%m4, %m5}"};
        body += std::string("mma.sync.aligned.") + kind.shape + ".row.col.f32." + kind.type + "." + kind.type +
                ".f32 {%r0, %r1, %r2, %r3}, " + a[registersA] + ", " + b[registersB] +
                ", {%t0, %t0, %t0, %t0};\nmov.b32 %d, %r" + std::to_string(output) + ";";
        cases.push_back({"9.7.15.5", body, "wlll", rows, [=](Lane, unsigned l) {
                           const unsigned row = l / 4 + (output >= 2 ? 8 : 0), column = (l % 4) * 2 + output % 2;
                           return uint64_t{std::bit_cast<uint32_t>(static_cast<float>((row + probe) * (column + 1)))};
                         }});
      }
    }
  }
}

}  // namespace

std::vector<Case> warpCases() {
  cases.clear();
  acrossLanes();
  control();
  matrices();
  products();
  return std::move(cases);
}

}  // namespace runner
