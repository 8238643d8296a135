// The comparisons of set and setp and their combination with a predicate: PTX ISA 9.3.1, 9.7.6 and 9.7.7.
#pragma once

#include "ptx/lowering.h"

namespace softgpu::isa {

// An index that `compare` knows. The unordered forms (…u) are true when an operand is NaN.
inline int takeComparison(ptx::Decoding& d) {
  int comparison =
      d.takeOneOf({"eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"});
  // lo, ls, hi and hs are lt, le, gt and ge of unsigned integers.
  if (comparison < 0) {
    int alias = d.takeOneOf({"lo", "ls", "hi", "hs"});
    if (alias < 0) d.fail("'" + std::string(d.opcode()) + "' without a comparison");
    comparison = 2 + alias;
  }
  return comparison;
}

template <class T>
bool compare(int comparison, T a, T b) {
  const bool unordered = a != a || b != b;
  switch (comparison) {
    case 0:
      return a == b;
    case 1:
      return a != b && !unordered;
    case 2:
      return a < b;
    case 3:
      return a <= b;
    case 4:
      return a > b;
    case 5:
      return a >= b;
    case 6:
      return unordered || a == b;
    case 7:
      return unordered || a != b;
    case 8:
      return unordered || a < b;
    case 9:
      return unordered || a <= b;
    case 10:
      return unordered || a > b;
    case 11:
      return unordered || a >= b;
    case 12:
      return !unordered;
    default:
      return unordered;
  }
}

// .and, .or and .xor with the fourth operand, into `slot`; 0 for none of them, which reads as slot 0.
inline u32 takeCombination(ptx::Decoding& d, u32 slot) {
  const int combination = d.takeOneOf({"and", "or", "xor"});
  if (combination >= 0) d.readPredicate(slot, 0, d.operand(3));
  return static_cast<u32>(combination + 1);
}

inline LaneMask combine(u32 combination, LaneMask value, LaneMask c) {
  switch (combination) {
    case 1:
      return value & c;
    case 2:
      return value | c;
    case 3:
      return value ^ c;
    default:
      return value;
  }
}

}  // namespace softgpu::isa
