// Cases across lanes and of control flow.

#include "builder.h"

namespace runner {
namespace {

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
  text("9.7.13.9", "setp.gt.u32 %p, %lane, 20;\nvote.sync.ballot.b32 %d, %p, -1;",
       [](Lane, unsigned) { return uint64_t{0xffe00000}; });
  text("9.7.13.9", "setp.gt.u32 %p, %lane, 20;\nvote.ballot.sync.b32 %d, %p, -1;",
       [](Lane, unsigned) { return uint64_t{0xffe00000}; });
  text("9.7.13.9", "setp.gt.u32 %p, %lane, 20;\nvote.sync.any.pred %q, %p, -1;\nselp.b32 %d, 1, 0, %q;",
       [](Lane, unsigned) { return uint64_t{1}; });
  text("9.7.13.9", "setp.gt.u32 %p, %lane, 20;\nvote.sync.all.pred %q, %p, -1;\nselp.b32 %d, 1, 0, %q;",
       [](Lane, unsigned) { return uint64_t{0}; });
  text("9.7.13.9", "setp.gt.u32 %p, %lane, 40;\nvote.sync.uni.pred %q, %p, -1;\nselp.b32 %d, 1, 0, %q;",
       [](Lane, unsigned) { return uint64_t{1}; });
  text("9.7.13.10", "match.any.sync.b32 %d, %a1, -1;", [](Lane, unsigned l) {
    uint64_t m = 0;
    for (unsigned k = 0; k < 32; ++k) m |= uint64_t{k % 5 == l % 5} << k;
    return m;
  });
  text("9.7.13.10", "match.all.sync.b32 %d|%p, %a1, -1;", [](Lane, unsigned) { return uint64_t{0}; });
  text("9.7.13.11", "activemask.b32 %d;", [](Lane, unsigned) { return uint64_t{0xffffffff}; });
  text(
      "9.7.13.12", "redux.sync.add.s32 %d, %a2, -1;", [](Lane, unsigned) { return uint64_t{496}; }, "wwww");
  text(
      "9.7.13.12", "redux.sync.max.u32 %d, %a2, -1;", [](Lane, unsigned) { return uint64_t{31}; }, "wwww");
  text("9.7.13.12", "redux.sync.min.s32 %d, %a0, -1;", [](Lane, unsigned) { return uint64_t{1000}; });
  text("9.7.13.12", "redux.sync.xor.b32 %d, %a0, -1;", [](Lane, unsigned) {
    uint64_t r = 0;
    for (uint64_t l = 0; l < 32; ++l) r ^= 1000 + l;
    return r;
  });
}

// Every mode in segments of 1 to 32 lanes: the formula of the ISA, lane by lane.
void shuffles() {
  for (const char* mode : {"up", "down", "bfly", "idx"}) {
    const std::string name = mode;
    for (unsigned width : {1u, 2u, 8u, 16u, 32u}) {
      const unsigned segments = 32 - width, clamp = name == "up" ? 0 : 31, c = segments << 8 | clamp;
      for (unsigned distance : {1u, 3u, 7u, 33u}) {
        text("9.7.9.6",
             "shfl.sync." + name + ".b32 %d|%p, %a0, " + std::to_string(distance) + ", " + std::to_string(c) +
                 ", -1;\n@!%p add.u32 %d, %d, 10000;",
             [=](Lane, unsigned l) {
               const int by = static_cast<int>(distance % 32), lane = static_cast<int>(l);
               const int first = static_cast<int>(l - l % width), last = first + static_cast<int>(width) - 1;
               int j = name == "up"     ? lane - by
                       : name == "down" ? lane + by
                       : name == "bfly" ? lane ^ by
                                        : first + by % static_cast<int>(width);
               // bfly may reach into a lower segment, up is bounded below only, the others above only.
               const bool inRange = name == "up" ? j >= first : j <= last;
               if (!inRange) j = lane;
               return 1000 + static_cast<uint64_t>(j) + (inRange ? 0 : 10000);
             });
      }
    }
  }
  // Part of a warp, in two groups with masks of their own.
  text("9.7.9.6",
       "and.b32 %t0, %lane, 1;\nsetp.eq.u32 %p, %t0, 1;\n@%p bra ODD;\nshfl.sync.bfly.b32 %d, %a0, 2, 31, "
       "0x55555555;\nbra DONE;\nODD: shfl.sync.bfly.b32 %d, %a0, 4, 31, 0xaaaaaaaa;\nDONE:",
       [](Lane, unsigned l) { return uint64_t{1000} + (l % 2 ? l ^ 4 : l ^ 2); });
}

// Votes, matches and reductions of the odd lanes alone.
void partialCollectives() {
  const std::string odd = "and.b32 %t0, %lane, 1;\nsetp.eq.u32 %p, %t0, 1;\nmov.u32 %d, 0;\n@!%p bra DONE;\n";
  auto onOdd = [](Formula of) { return [of](Lane a, unsigned l) { return l % 2 ? of(a, l) : 0; }; };
  text("9.7.13.9", odd + "setp.gt.u32 %q, %lane, 20;\nvote.sync.ballot.b32 %d, %q, 0xaaaaaaaa;\nDONE:",
       onOdd([](Lane, unsigned) { return uint64_t{0xaaa00000}; }));
  text("9.7.13.9",
       odd + "setp.gt.u32 %q, %lane, 0;\nvote.sync.all.pred %q, %q, 0xaaaaaaaa;\nselp.b32 %d, 1, 2, %q;\nDONE:",
       onOdd([](Lane, unsigned) { return uint64_t{1}; }));
  text("9.7.13.9",
       odd + "setp.gt.u32 %q, %lane, 9;\nvote.sync.uni.pred %q, !%q, 0xaaaaaaaa;\nselp.b32 %d, 1, 2, %q;\nDONE:",
       onOdd([](Lane, unsigned) { return uint64_t{2}; }));
  text("9.7.13.10", odd + "match.any.sync.b32 %d, %a1, 0xaaaaaaaa;\nDONE:", onOdd([](Lane, unsigned l) {
         uint64_t m = 0;
         for (unsigned k = 1; k < 32; k += 2) m |= uint64_t{k % 5 == l % 5} << k;
         return m;
       }));
  text("9.7.13.10", odd + "match.all.sync.b32 %d|%q, 5, 0xaaaaaaaa;\n@%q add.u32 %d, %d, 1;\nDONE:",
       onOdd([](Lane, unsigned) { return uint64_t{0xaaaaaaab}; }));
  cases.push_back({"9.7.13.10",
                   "match.any.sync.b64 %d, %a0, -1;",
                   "wl",
                   {{1}, {uint64_t{1} << 40}, {1}, {0}},
                   [](Lane, unsigned l) {
                     const uint64_t m[] = {0x55555555, 0x22222222, 0x55555555, 0x88888888};
                     return m[l % 4];
                   }});
  text("9.7.13.11", odd + "activemask.b32 %d;\nDONE:", onOdd([](Lane, unsigned) { return uint64_t{0xaaaaaaaa}; }));
  struct Reduction {
    const char* name;
    const char* type;
    uint64_t expected;
  };
  // Of the odd lanes' numbers l − 16, as words.
  for (const Reduction& r : {Reduction{"add", "u32", 0},
                             {"add", "s32", 0},
                             {"min", "s32", 0xfffffff1},
                             {"max", "s32", 15},
                             {"min", "u32", 1},
                             {"max", "u32", 0xffffffff},
                             {"and", "b32", 1},
                             {"or", "b32", 0xffffffff},
                             {"xor", "b32", 0}}) {
    text("9.7.13.12",
         odd + "sub.u32 %t1, %lane, 16;\nredux.sync." + r.name + "." + r.type + " %d, %t1, 0xaaaaaaaa;\nDONE:",
         onOdd([r](Lane, unsigned) { return r.expected; }));
  }
  cases.push_back({"9.7.13.14", odd + "elect.sync %d|%q, 0xaaaaaaaa;\n@%q add.u32 %d, %d, 100;\nDONE:", "www",
                   numbered(), onOdd([](Lane, unsigned l) { return uint64_t{l == 1 ? 101u : 1u}; }), 0, 90});
}

void control() {
  // Each lane runs its own number of rounds.
  text("9.7.12.3",
       "mov.u32 %d, 0;\nmov.u32 %t0, 0;\nLOOP:\nsetp.ge.u32 %p, %t0, %a1;\n@%p bra DONE;\nadd.u32 %d, %d, "
       "%a0;\nadd.u32 %t0, %t0, 1;\nbra.uni LOOP;\nDONE:",
       [](Lane a, unsigned) { return a[0] * a[1]; });
  // Lanes that jump back to a shuffle at which the others wait already.
  text("9.7.9.6",
       "setp.gt.u32 %p, %a1, 2;\nbra.uni START;\nMEET: shfl.sync.bfly.b32 %d, %a0, 1, 31, -1;\nbra.uni "
       "DONE;\nSTART: @%p bra MEET;\nadd.u32 %a0, %a0, 100;\nbra.uni MEET;\nDONE:",
       [](Lane, unsigned l) { return uint64_t{1000} + (l ^ 1) + ((l ^ 1) % 5 > 2 ? 0 : 100); });
  text(
      "9.7.12.4",
      "rem.u32 %t0, %a2, 3;\nTABLE: .branchtargets ZERO, ONE, TWO;\nbrx.idx %t0, TABLE;\nZERO: mov.u32 %d, 10;\nbra "
      "END;\nONE: mov.u32 %d, 11;\nbra END;\nTWO: mov.u32 %d, 12;\nEND:",
      [](Lane, unsigned l) { return uint64_t{10 + l % 3}; }, "wwww");
  text("9.7.13.1", "st.shared.u32 [%t0], %a0;\nbar.sync 0;\nld.shared.u32 %d, [%t1];",
       [](Lane, unsigned l) { return uint64_t{1000 + 31 - l}; });
  cases.back().body = "shl.b32 %t0, %lane, 2;\nsub.u32 %t1, 124, %t0;\n" + cases.back().body;
  text("9.7.12.6", "mov.u32 %d, 3;\nst.global.u32 [%out], %d;\nsetp.gt.u32 %p, %lane, 3;\n@%p ret;\nmov.u32 %d, 4;",
       [](Lane, unsigned l) { return uint64_t{l > 3 ? 3u : 4u}; });
  text("9.7.13.4", "fence.acq_rel.cta;\nmembar.sys;\nmov.u32 %d, 1;", [](Lane, unsigned) { return uint64_t{1}; });
  text("9.7.13.1", "barrier.cta.sync.aligned 2;\nbar.cta.sync 3;\nmov.u32 %d, 1;",
       [](Lane, unsigned) { return uint64_t{1}; });
  text("9.7.13.1", "setp.gt.u32 %p, %lane, 20;\nbarrier.red.popc.aligned.u32 %d, 4, 32, !%p;",
       [](Lane, unsigned) { return uint64_t{21}; });
  text("9.7.19.3", "pmevent 1;\nmov.u32 %d, 1;", [](Lane, unsigned) { return uint64_t{1}; });
  text("9.7.13.1", "bar.arrive 4, 64;\nbar.sync 4, 64;\nmov.u32 %d, 1;", [](Lane, unsigned) { return uint64_t{1}; });
  text("9.7.13.1", "barrier.sync 1, 32;\nmov.u32 %d, 1;", [](Lane, unsigned) { return uint64_t{1}; });
  text("9.7.13.1", "setp.gt.u32 %p, %lane, 20;\nbar.red.popc.u32 %d, 0, %p;",
       [](Lane, unsigned) { return uint64_t{11}; });
  text("9.7.13.1", "setp.gt.u32 %p, %lane, 20;\nbar.red.or.pred %q, 0, %p;\nselp.b32 %d, 1, 0, %q;",
       [](Lane, unsigned) { return uint64_t{1}; });
  text("9.7.13.1", "setp.gt.u32 %p, %lane, 20;\nbar.red.and.pred %q, 0, %p;\nselp.b32 %d, 1, 0, %q;",
       [](Lane, unsigned) { return uint64_t{0}; });
  text("9.7.19.2", "nanosleep.u32 20;\nmov.u32 %d, %ntid.x;", [](Lane, unsigned) { return uint64_t{32}; });
  text("9.7.12.7", "mov.u32 %d, 3;\nst.global.u32 [%out], %d;\nexit;", [](Lane, unsigned) { return uint64_t{3}; });
  text("9.7.19.4", "setp.gt.u32 %p, %lane, 40;\n@%p trap;\nmov.u32 %d, 2;", [](Lane, unsigned) { return uint64_t{2}; });
}

}  // namespace

std::vector<Case> warpCases() {
  cases.clear();
  acrossLanes();
  shuffles();
  partialCollectives();
  control();
  return std::move(cases);
}

}  // namespace runner
