// Control flow, calls and barriers: PTX ISA 9.7.12 and 9.7.13.1; and the list of all families.
#include <cstdio>
#include <cstring>

#include "isa/isa.h"
#include "isa/lanes.h"
#include "memory/access.h"

namespace softgpu::isa {
namespace {

void nothing(Warp&, const Instruction&, LaneMask) {}

// bar and barrier. Slots: 0 the barrier, 1 the thread count, 2 the result, 3 the predicate of .red.
void decodeBarrier(Decoding& d) {
  Instruction& i = d.out();
  const bool aligned = d.take("aligned");
  d.take("cta");
  i.flow = Flow::kBarrier;
  // bar is barrier.aligned.
  i.aligned = aligned || d.opcode() == "bar";
  d.constant(1, 0, 4);
  if (d.take("red")) {
    const int op = d.takeOneOf({"popc", "and", "or"});
    const Type type = d.takeType();
    if (op < 0 || (op == 0) != (type == Type::kU32)) d.fail("unknown form of a barrier with a reduction");
    i.immediate[0] = ptx::kBarrierReduce;
    i.immediate[1] = static_cast<u32>(op);
    const bool counted = d.operandCount() == 4;
    d.read(0, 1, Type::kU32);
    if (counted) d.read(1, 2, Type::kU32);
    d.readPredicate(3, 0, d.operand(counted ? 3 : 2));
    if (type == Type::kPred) {
      d.writePredicate(2, d.operand(0).name);
      return execute(d, [](Warp& w, const Instruction& i, LaneMask lanes) {
        const bool yes = i.immediate[1] == 1 ? w.barrierCount == w.barrierThreads : w.barrierCount != 0;
        setPredicate(w, i.slot[2], lanes, yes ? kAllLanes : 0);
      });
    }
    d.write(2, 0, 4);
    return execute(d, [](Warp& w, const Instruction& i, LaneMask lanes) {
      forLanes(lanes, [&](u32 l) { lanesOf<u32>(w, i.slot[2])[l] = w.barrierCount; });
    });
  }
  if (d.take("arrive")) {
    i.immediate[0] = ptx::kBarrierArrive;
  } else if (!d.take("sync")) {
    d.fail("barrier without .sync, .arrive or .red");
  }
  d.read(0, 0, Type::kU32);
  if (d.operandCount() > 1) d.read(1, 1, Type::kU32);
}

// ---- The two functions of the runtime that kernels call: vprintf(format, arguments) and __assertfail(…).

u64 localWord(Warp& w, u32 lane, u32 offset) {
  u64 value;
  std::memcpy(&value, w.local + u64{lane} * w.kernel->localBytes + offset, 8);
  return value;
}

std::string textAt(Warp& w, const Instruction& i, u32 lane, u64 address) {
  std::string text;
  while (char c = static_cast<char>(*globalForRead(w, i, lane, address++, 1))) text += c;
  return text;
}

// Arguments are packed like a C structure; each conversion says its size.
void print(Warp& w, const Instruction& i, LaneMask lanes) {
  for (; lanes; lanes &= lanes - 1) {
    const u32 l = lowestLane(lanes);
    const std::string format = textAt(w, i, l, localWord(w, l, i.immediate[0]));
    u64 at = localWord(w, l, i.immediate[1]) - kLocalWindow;
    auto argument = [&](u32 bytes) {
      at = alignUp(at, bytes);
      u64 value = 0;
      std::memcpy(&value, localAt(w, i, l, at, bytes), bytes);
      at += bytes;
      return value;
    };
    std::string out;
    for (size_t k = 0; k < format.size(); ++k) {
      if (format[k] != '%' || k + 1 == format.size()) {
        out += format[k];
        continue;
      }
      size_t end = format.find_first_of("diouxXcsfeEgGaAp%", k + 1);
      if (end == std::string::npos) break;
      const std::string spec = format.substr(k, end - k + 1);
      const char kind = format[end];
      char text[128] = "";
      if (kind == '%') {
        out += '%';
      } else if (kind == 's') {
        out += textAt(w, i, l, argument(8));
      } else if (std::strchr("feEgGaA", kind)) {
        std::snprintf(text, sizeof text, spec.c_str(), std::bit_cast<double>(argument(8)));
      } else if (kind == 'p' || spec.find('l') != std::string::npos) {
        std::snprintf(text, sizeof text, spec.c_str(), argument(8));
      } else {
        std::snprintf(text, sizeof text, spec.c_str(), static_cast<u32>(argument(4)));
      }
      out += text;
      k = end;
    }
    std::fputs(out.c_str(), stdout);
    const u32 written = static_cast<u32>(out.size());
    std::memcpy(localAt(w, i, l, i.immediate[2], 4), &written, 4);
  }
}

void failAssertion(Warp& w, const Instruction& i, LaneMask lanes) {
  const u32 l = lowestLane(lanes);
  w.abort(i, l, FaultKind::kAssertion, 0, 0, textAt(w, i, l, localWord(w, l, i.immediate[0])));
}

void decodeCall(Decoding& d) {
  d.take("uni");
  using Kind = ptx::Operand::Kind;
  const bool hasResults = d.operand(0).kind == Kind::kList;
  const std::string& name = d.operand(hasResults ? 1 : 0).name;
  const size_t argumentsAt = hasResults ? 2 : 1;
  const std::vector<ptx::Operand> none;
  const auto& results = hasResults ? d.operand(0).elements : none;
  const auto& arguments = argumentsAt < d.operandCount() ? d.operand(argumentsAt).elements : none;
  if (!d.isDefined(name) && name == "vprintf") {
    d.out().immediate[0] = d.localOffset(arguments.at(0));
    d.out().immediate[1] = d.localOffset(arguments.at(1));
    d.out().immediate[2] = d.localOffset(results.at(0));
    return execute(d, print);
  }
  if (!d.isDefined(name) && name == "__assertfail") {
    d.out().immediate[0] = d.localOffset(arguments.at(0));
    return execute(d, failAssertion);
  }
  d.call(name, results, arguments);
}

}  // namespace

bool decodeControl(Decoding& d) {
  const std::string_view op = d.opcode();
  if (op == "bra") {
    d.take("uni");
    d.branchTo(d.operand(0).name);
  } else if (op == "brx") {
    d.take("uni");
    if (!d.take("idx")) d.fail("brx without .idx");
    d.read(0, 0, Type::kU32);
    d.branchIndexed(d.operand(1).name);
  } else if (op == "call") {
    decodeCall(d);
  } else if (op == "ret") {
    d.take("uni");
    d.returnFromFunction();
  } else if (op == "exit") {
    d.out().flow = Flow::kExit;
  } else if (op == "bar" || op == "barrier") {
    decodeBarrier(d);
  } else if (op == "trap" || op == "brkpt") {
    execute(d, [](Warp& w, const Instruction& i, LaneMask lanes) {
      w.abort(i, lowestLane(lanes), FaultKind::kTrap, 0, 0, "the kernel stopped itself");
    });
  } else if (op == "nanosleep") {
    d.takeType();
    d.out().flow = Flow::kYield;
    execute(d, nothing);
  } else if (op == "pmevent") {
    // Triggers of performance monitors, which are not modelled.
    d.take("mask");
    execute(d, nothing);
  } else if (op == "griddepcontrol") {
    // Grids of one stream never overlap here, so the dependency is met and nobody waits.
    if (!d.take("wait") && !d.take("launch_dependents")) d.fail("unknown griddepcontrol");
    execute(d, nothing);
  } else if (op == "setmaxnreg") {
    d.takeOneOf({"inc", "dec"});
    d.take("sync"), d.take("aligned"), d.takeType();
    execute(d, nothing);
  } else {
    return false;
  }
  return true;
}

void undefinedRead(Warp& w, const Instruction& i, LaneMask lanes) {
  const ptx::UndefinedRegister& r = w.kernel->undefinedRegisters[i.undefined - 1];
  w.report(i, lowestLane(lanes), FaultKind::kUninitialisedRegister, 0, 0, "nothing in the kernel writes " + r.name);
  r.execute(w, i, lanes);
}

void decode(Decoding& d) {
  using Decoder = bool (*)(Decoding&);
  constexpr Decoder kFamilies[] = {decodeCompare, decodeLoadStore, decodeBits,   decodeMove,
                                   decodePacked,  decodeHalf,      decodeFloat,  decodeExtended,
                                   decodeInteger, decodeConvert,   decodeAtomic, decodeAsyncCopy,
                                   decodeWarp,    decodeMatrix,    decodeWmma,   decodeControl};
  for (Decoder family : kFamilies) {
    if (!family(d)) continue;
    d.finish();
    return;
  }
  d.fail("unknown opcode '" + std::string(d.opcode()) + "'");
}

}  // namespace softgpu::isa
