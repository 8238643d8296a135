// Makes an instruction's execute function out of what happens in one lane. Slot 0 is the result, 1… the operands.
#pragma once

#include "exec/warp.h"
#include "ptx/lowering.h"

namespace softgpu::isa {

using ptx::Decoding;
using ptx::Execute;
using ptx::Flow;
using ptx::Instruction;
using ptx::Space;
using ptx::Type;

template <class Result, class A = Result, class Op>
Execute unary(Op) {
  return [](Warp& w, const Instruction& i, LaneMask lanes) {
    Result* __restrict d = lanesOf<Result>(w, i.slot[0]);
    const A* a = lanesOf<A>(w, i.slot[1]);
    forLanes(lanes, [=](u32 l) { d[l] = Op()(a[l]); });
  };
}

template <class Result, class A = Result, class B = A, class Op>
Execute binary(Op) {
  return [](Warp& w, const Instruction& i, LaneMask lanes) {
    Result* d = lanesOf<Result>(w, i.slot[0]);
    const A* a = lanesOf<A>(w, i.slot[1]);
    const B* b = lanesOf<B>(w, i.slot[2]);
    forLanes(lanes, [=](u32 l) { d[l] = Op()(a[l], b[l]); });
  };
}

template <class Result, class A = Result, class B = A, class C = Result, class Op>
Execute ternary(Op) {
  return [](Warp& w, const Instruction& i, LaneMask lanes) {
    Result* d = lanesOf<Result>(w, i.slot[0]);
    const A* a = lanesOf<A>(w, i.slot[1]);
    const B* b = lanesOf<B>(w, i.slot[2]);
    const C* c = lanesOf<C>(w, i.slot[3]);
    forLanes(lanes, [=](u32 l) { d[l] = Op()(a[l], b[l], c[l]); });
  };
}

// Takes the operands of an instruction with one result and `sources` operands of one type.
inline void sameType(Decoding& d, Type type, u32 sources) {
  d.write(0, 0, ptx::bytesOf(type));
  for (u32 k = 1; k <= sources; ++k) d.read(k, k, type);
}

// Gives the instruction its execute function, or fails naming the form.
inline void execute(Decoding& d, Execute function) {
  if (!function) d.fail("unknown form of '" + std::string(d.opcode()) + "'");
  d.out().execute = function;
}

}  // namespace softgpu::isa
