// The instruction set, by family. Each decoder returns false when the opcode is not of its family, fills the
// instruction otherwise, and throws for a form that it does not know.
#pragma once

#include "ptx/lowering.h"

namespace softgpu::isa {

using ptx::Decoding;

bool decodeInteger(Decoding& d);    // 9.7.1
bool decodeExtended(Decoding& d);   // 9.7.2: carries
bool decodePacked(Decoding& d);     // 9.7.1 and 9.7.18: several integers in a word
bool decodeBits(Decoding& d);       // 9.7.1, 9.7.8 and prmt: bit fields, logic, shifts
bool decodeFloat(Decoding& d);      // 9.7.3
bool decodeHalf(Decoding& d);       // 9.7.4, and pairs of 9.7.7
bool decodeCompare(Decoding& d);    // 9.7.6, 9.7.7, and logic on predicates
bool decodeConvert(Decoding& d);    // 9.7.9: cvt
bool decodeMove(Decoding& d);       // 9.7.9: mov, cvta, isspacep
bool decodeLoadStore(Decoding& d);  // 9.7.9: ld, st, ldu, prefetch
bool decodeAtomic(Decoding& d);     // 9.7.13: atom, red, membar, fence
bool decodeAsyncCopy(Decoding& d);  // 9.7.9.25: cp.async
bool decodeWarp(Decoding& d);       // 9.7.9, 9.7.13: shfl, vote, match, redux, bar.warp.sync
bool decodeMatrix(Decoding& d);     // 9.7.14: ldmatrix, stmatrix, mma
bool decodeWmma(Decoding& d);       // 9.7.14.4: wmma
bool decodeControl(Decoding& d);    // 9.7.12, 9.7.13, 9.7.19: branches, calls, barriers, exit, trap

// Where the decoders put the addresses of ld and st, and of atom.
constexpr u32 kLoadAddressSlot = 4, kAtomicAddressSlot = 1;

// The state space that an instruction names; generic if none.
ptx::Space takeSpaceModifier(Decoding& d);

// Reports the register of Instruction::undefined, then does what the instruction does.
void undefinedRead(Warp& w, const ptx::Instruction& i, LaneMask lanes);

// Tries every family; throws for an unknown opcode.
void decode(Decoding& d);

}  // namespace softgpu::isa
