// Instructions across the lanes of a warp: shfl, vote, match, redux, elect, activemask, bar.warp.sync: PTX ISA 9.7.9.6,
// 9.7.13.2, 9.7.13.9 to 9.7.13.12 and 9.7.13.14. The scheduler has already brought the lanes of the member mask
// together.
#include <algorithm>

#include "isa/isa.h"
#include "isa/lanes.h"
#include "memory/access.h"

namespace softgpu::isa {
namespace {

void collective(Decoding& d, u32 memberSlot, size_t operand) {
  if (!d.take("sync")) d.fail("'" + std::string(d.opcode()) + "' without .sync");
  d.out().flow = Flow::kConverge;
  d.out().memberSlot = static_cast<u8>(memberSlot);
  d.read(memberSlot, operand, Type::kB32);
}

// Slots: 0 result, 1 value, 2 lane or distance, 3 clamp and segment mask, 4 members, 5 the predicate "in range".
enum class Shuffle : u8 { kUp, kDown, kButterfly, kIndex };

template <Shuffle kMode>
void shuffle(Warp& w, const Instruction& i, LaneMask lanes) {
  const u32 *a = lanesOf<u32>(w, i.slot[1]), *b = lanesOf<u32>(w, i.slot[2]), *c = lanesOf<u32>(w, i.slot[3]);
  u32 source[kWarpSize];
  std::copy(a, a + kWarpSize, source);
  LaneMask inRange = 0, missing = 0;
  u32* result = lanesOf<u32>(w, i.slot[0]);
  // What reductions do: all lanes, one distance, no segments.
  if (kMode == Shuffle::kButterfly && lanes == kAllLanes && c[0] == 31 && isUniform(b) && isUniform(c)) {
    const u32 by = b[0] & 31;
    for (u32 l = 0; l < kWarpSize; ++l) result[l] = source[l ^ by];
    return setPredicate(w, i.slot[5], kAllLanes, kAllLanes);
  }
  forLanes(lanes, [&](u32 l) {
    const u32 by = b[l] & 31, clamp = c[l] & 31, segment = c[l] >> 8 & 31;
    const i32 bound = static_cast<i32>((l & segment) | (clamp & ~segment));
    i32 j = static_cast<i32>(kMode == Shuffle::kUp          ? l - by
                             : kMode == Shuffle::kDown      ? l + by
                             : kMode == Shuffle::kButterfly ? l ^ by
                                                            : (l & segment) | (by & ~segment));
    const bool valid = kMode == Shuffle::kUp ? j >= bound : j <= bound;
    j = valid ? j : static_cast<i32>(l);
    result[l] = source[j];
    inRange |= static_cast<LaneMask>(valid) << l;
    missing |= static_cast<LaneMask>(!(lanes >> j & 1)) << l;
  });
  if (missing) {
    w.report(i, lowestLane(missing), FaultKind::kWrongMemberMask, 0, 0, "reads a lane that takes no part");
  }
  setPredicate(w, i.slot[5], lanes, inRange);
}

void decodeShuffle(Decoding& d) {
  collective(d, 4, 4);
  const int mode = d.takeOneOf({"up", "down", "bfly", "idx"});
  if (ptx::bytesOf(d.takeType()) != 4) d.fail("shfl of other than 32 bits");
  d.write(0, 0, 4);
  d.writePredicate(5, d.operand(0).pair);
  for (u32 k = 1; k <= 3; ++k) d.read(k, k, Type::kB32);
  constexpr Execute forms[] = {shuffle<Shuffle::kUp>, shuffle<Shuffle::kDown>, shuffle<Shuffle::kButterfly>,
                               shuffle<Shuffle::kIndex>};
  execute(d, mode < 0 ? nullptr : forms[mode]);
}

// Slots: 0 result, 1 predicate, 2 members.
void decodeVote(Decoding& d) {
  collective(d, 2, 2);
  d.readPredicate(1, 0, d.operand(1));
  const int mode = d.takeOneOf({"all", "any", "uni", "ballot"});
  d.takeType();
  d.out().immediate[0] = static_cast<u32>(mode);
  if (mode == 3) {
    d.write(0, 0, 4);
    return execute(d, [](Warp& w, const Instruction& i, LaneMask lanes) {
      const u32 ballot = (predicateOf(w, i.slot[1]) ^ i.invert[0]) & lanes;
      forLanes(lanes, [&](u32 l) { lanesOf<u32>(w, i.slot[0])[l] = ballot; });
    });
  }
  if (mode < 0) d.fail("vote without a mode");
  d.writePredicate(0, d.operand(0).name);
  execute(d, [](Warp& w, const Instruction& i, LaneMask lanes) {
    const LaneMask yes = (predicateOf(w, i.slot[1]) ^ i.invert[0]) & lanes;
    const bool answers[] = {yes == lanes, yes != 0, yes == lanes || yes == 0};
    setPredicate(w, i.slot[0], lanes, answers[i.immediate[0]] ? kAllLanes : 0);
  });
}

// Slots: 0 result, 1 value, 2 members, 3 the predicate "all equal".
void decodeMatch(Decoding& d) {
  collective(d, 2, 2);
  const int mode = d.takeOneOf({"any", "all"});
  if (mode < 0) d.fail("match without a mode");
  const Type type = d.takeType();
  d.write(0, 0, 4);
  d.read(1, 1, type);
  d.writePredicate(3, d.operand(0).pair);
  d.out().immediate[0] = static_cast<u32>(mode);
  execute(d, ptx::forBits<Execute>(type, []<class T>(T) -> Execute {
            return [](Warp& w, const Instruction& i, LaneMask lanes) {
              const T* a = lanesOf<T>(w, i.slot[1]);
              LaneMask result[kWarpSize];
              for (LaneMask m = lanes; m; m &= m - 1) {
                const u32 l = lowestLane(m);
                result[l] = 0;
                for (LaneMask n = lanes; n; n &= n - 1) {
                  if (a[lowestLane(n)] == a[l]) result[l] |= 1u << lowestLane(n);
                }
              }
              const bool all = result[lowestLane(lanes)] == lanes;
              for (LaneMask m = lanes; m; m &= m - 1) {
                const u32 l = lowestLane(m);
                lanesOf<u32>(w, i.slot[0])[l] = i.immediate[0] == 0 ? result[l] : all ? lanes : 0;
              }
              if (i.immediate[0] == 1) setPredicate(w, i.slot[3], lanes, all ? kAllLanes : 0);
            };
          }));
}

template <class T>
Execute reduction(int op) {
  auto form = []<class Op>(Op) -> Execute {
    return [](Warp& w, const Instruction& i, LaneMask lanes) {
      const T* a = lanesOf<T>(w, i.slot[1]);
      T result = a[lowestLane(lanes)];
      for (LaneMask m = lanes & (lanes - 1); m; m &= m - 1) result = Op()(result, a[lowestLane(m)]);
      forLanes(lanes, [&](u32 l) { lanesOf<T>(w, i.slot[0])[l] = result; });
    };
  };
  switch (op) {
    case 0:
      return form([](T a, T b) { return static_cast<T>(static_cast<u32>(a) + static_cast<u32>(b)); });
    case 1:
      return form([](T a, T b) { return std::min(a, b); });
    case 2:
      return form([](T a, T b) { return std::max(a, b); });
    case 3:
      return form([](T a, T b) { return a & b; });
    case 4:
      return form([](T a, T b) { return a | b; });
    case 5:
      return form([](T a, T b) { return a ^ b; });
    default:
      return nullptr;
  }
}

void decodeReduction(Decoding& d) {
  collective(d, 2, 2);
  const int op = d.takeOneOf({"add", "min", "max", "and", "or", "xor"});
  const Type type = d.takeType();
  d.write(0, 0, 4);
  d.read(1, 1, type);
  const bool bitwise = op > 2;
  execute(d, type == Type::kS32 && !bitwise                ? reduction<i32>(op)
             : type == (bitwise ? Type::kB32 : Type::kU32) ? reduction<u32>(op)
                                                           : nullptr);
}

void decodeElect(Decoding& d) {
  collective(d, 1, 1);
  d.write(0, 0, 4);
  d.writePredicate(2, d.operand(0).pair);
  execute(d, [](Warp& w, const Instruction& i, LaneMask lanes) {
    const u32 leader = lowestLane(lanes);
    forLanes(lanes, [&](u32 l) { lanesOf<u32>(w, i.slot[0])[l] = leader; });
    setPredicate(w, i.slot[2], lanes, 1u << leader);
  });
}

}  // namespace

bool decodeWarp(Decoding& d) {
  const std::string_view op = d.opcode();
  if (op == "shfl") {
    decodeShuffle(d);
  } else if (op == "vote") {
    decodeVote(d);
  } else if (op == "match") {
    decodeMatch(d);
  } else if (op == "redux") {
    decodeReduction(d);
  } else if (op == "elect") {
    decodeElect(d);
  } else if (op == "activemask") {
    d.takeType();
    d.write(0, 0, 4);
    execute(d, [](Warp& w, const Instruction& i, LaneMask lanes) {
      forLanes(lanes, [&](u32 l) { lanesOf<u32>(w, i.slot[0])[l] = lanes; });
    });
  } else if (op == "bar" && d.take("warp")) {
    collective(d, 0, 0);
    d.out().immediate[2] = ptx::kWarpBarrier;
    execute(d, [](Warp& w, const Instruction&, LaneMask lanes) { w.block->shared.orderLanes(w.index, lanes, w.live); });
  } else {
    return false;
  }
  return true;
}

}  // namespace softgpu::isa
