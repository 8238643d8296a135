// mov, cvta and isspacep: PTX ISA 9.7.9.3, 9.7.9.4, 9.7.9.19 and 9.7.9.20. mov of predicates is in compare.cpp.
#include <algorithm>
#include <cstring>

#include "isa/isa.h"
#include "isa/lanes.h"
#include "memory/access.h"

namespace softgpu::isa {
namespace {

// Slot 0 is the whole, 1… the parts; immediate[0] bytes per part, immediate[1] bytes of the whole, immediate[2] bytes
// of a part's register: 8-bit registers are kept in 16 bits.
void pack(Warp& w, const Instruction& i, LaneMask lanes) {
  const u32 part = i.immediate[0], whole = i.immediate[1], stride = i.immediate[2];
  forLanes(lanes, [&](u32 l) {
    u8* to = w.registers + i.slot[0] + l * whole;
    for (u32 k = 0; k * part < whole; ++k) std::memcpy(to + k * part, w.registers + i.slot[1 + k] + l * stride, part);
  });
}
void unpack(Warp& w, const Instruction& i, LaneMask lanes) {
  const u32 part = i.immediate[0], whole = i.immediate[1], stride = i.immediate[2];
  forLanes(lanes, [&](u32 l) {
    u8 from[16];
    std::memcpy(from, w.registers + i.slot[0] + l * whole, whole);
    for (u32 k = 0; k * part < whole; ++k) {
      u8* to = w.registers + i.slot[1 + k] + l * stride;
      std::memset(to, 0, stride);
      std::memcpy(to, from + k * part, part);
    }
  });
}

void moveVector(Decoding& d, Type type) {
  using Kind = ptx::Operand::Kind;
  const bool packs = d.operand(1).kind == Kind::kVector;
  const ptx::Operand& vector = d.operand(packs ? 1 : 0);
  const u32 whole = ptx::bytesOf(type), count = static_cast<u32>(vector.elements.size());
  if ((count != 2 && count != 4) || whole / count < 1) d.fail("mov of a vector that does not fit");
  const u32 part = whole / count;
  const Type partType = part == 1 ? Type::kB8 : part == 2 ? Type::kB16 : part == 4 ? Type::kB32 : Type::kB64;
  d.out().immediate[0] = part;
  d.out().immediate[1] = whole;
  d.out().immediate[2] = std::max(2u, part);
  if (packs) {
    d.write(0, 0, whole);
  } else {
    d.read(0, 1, type);
  }
  for (u32 k = 0; k < count; ++k) {
    if (packs) {
      d.read(1 + k, vector.elements[k], partType);
    } else {
      d.write(1 + k, vector.elements[k], part);
    }
  }
  execute(d, packs ? pack : unpack);
}

// Clocks count the instructions of the launch: they grow, and that is all that they promise.
bool moveClock(Decoding& d, Type type) {
  const std::string& name = d.operand(1).name;
  const bool isClock = name == "%clock" || name == "%clock64" || name == "%clock_hi" || name == "%globaltimer" ||
                       name == "%globaltimer_lo" || name == "%globaltimer_hi";
  if (!isClock) return false;
  d.write(0, 0, ptx::bytesOf(type));
  d.out().immediate[0] = name.ends_with("_hi") ? 32 : 0;
  execute(d, ptx::forBits<Execute>(type, []<class T>(T) -> Execute {
            return [](Warp& w, const Instruction& i, LaneMask lanes) {
              const T now = static_cast<T>(w.counters->warpInstructions >> i.immediate[0]);
              forLanes(lanes, [&](u32 l) { lanesOf<T>(w, i.slot[0])[l] = now; });
            };
          }));
  return true;
}

void move(Decoding& d) {
  d.out().copies = true;
  const Type type = d.takeType();
  using Kind = ptx::Operand::Kind;
  if (d.operand(0).kind == Kind::kVector || d.operand(1).kind == Kind::kVector) return moveVector(d, type);
  if (moveClock(d, type)) return;
  sameType(d, type, 1);
  if (type == Type::kB128) return execute(d, unary<u128>([](u128 a) { return a; }));
  execute(d, ptx::forBits<Execute>(type, []<class T>(T) { return unary<T>([](T a) { return a; }); }));
}

u64 windowOf(Decoding& d, Space space) {
  switch (space) {
    case Space::kShared:
      return kSharedWindow;
    case Space::kLocal:
      return kLocalWindow;
    case Space::kParam:
      return kParamWindow;
    case Space::kGlobal:
    case Space::kConst:
      return 0;
    default:
      d.fail("'" + std::string(d.opcode()) + "' needs a state space");
  }
}

void convertAddress(Decoding& d) {
  const bool toSpace = d.take("to");
  const Space space = takeSpaceModifier(d);
  const u64 window = windowOf(d, space);
  if (d.takeType() != Type::kU64) d.fail("cvta of 32-bit addresses");
  d.write(0, 0, 8);
  d.read(1, 1, Type::kU64);
  d.constant(2, toSpace ? 0 - window : window, 8);
  execute(d, binary<u64>([](u64 a, u64 b) { return a + b; }));
}

// Kernel parameters lie within the global window, constants do not.
bool liesIn(Space space, u64 address) {
  const u64 window = address >> kWindowShift;
  if (space == Space::kShared) return window == kSharedWindow >> kWindowShift;
  if (space == Space::kLocal) return window == kLocalWindow >> kWindowShift;
  const bool isParameter = window == kParamWindow >> kWindowShift;
  if (space == Space::kParam || isParameter) return isParameter && space != Space::kConst;
  if (window != 0) return false;
  const Allocation* a = arena().find(address);
  return (a && a->constant) == (space == Space::kConst);
}

void isInSpace(Decoding& d) {
  const Space space = takeSpaceModifier(d);
  if (space == Space::kGeneric) d.fail("isspacep needs a state space");
  d.out().immediate[0] = static_cast<u32>(space);
  d.writePredicate(0, d.operand(0).name);
  d.read(1, 1, Type::kU64);
  execute(d, [](Warp& w, const Instruction& i, LaneMask lanes) {
    LaneMask yes = 0;
    for (LaneMask m = lanes; m; m &= m - 1) {
      const u32 l = lowestLane(m);
      yes |= static_cast<LaneMask>(liesIn(static_cast<Space>(i.immediate[0]), lanesOf<u64>(w, i.slot[1])[l])) << l;
    }
    setPredicate(w, i.slot[0], lanes, yes);
  });
}

}  // namespace

bool decodeMove(Decoding& d) {
  if (d.opcode() == "mov") {
    move(d);
  } else if (d.opcode() == "cvta") {
    convertAddress(d);
  } else if (d.opcode() == "isspacep") {
    isInSpace(d);
  } else {
    return false;
  }
  return true;
}

}  // namespace softgpu::isa
