// Integers packed in a word: the pairs of 16 bits of 9.7.1 (add, min, max) and vabsdiff4 of 9.7.18.2, the one SIMD
// video instruction that nvcc still emits.
#include <algorithm>
#include <cstdlib>

#include "isa/isa.h"
#include "isa/lanes.h"

namespace softgpu::isa {
namespace {

template <class T, class Op>
u32 pairwise(u32 a, u32 b, Op op) {
  u32 result = 0;
  for (u32 shift = 0; shift < 32; shift += 16) {
    const T half = static_cast<T>(op(static_cast<T>(a >> shift), static_cast<T>(b >> shift)));
    result |= static_cast<u32>(static_cast<u16>(half)) << shift;
  }
  return result;
}

template <class T>
Execute pairForm(std::string_view op, bool relu) {
  if (op == "add") return binary<u32>([](u32 a, u32 b) { return pairwise<T>(a, b, [](T x, T y) { return x + y; }); });
  if (op == "min") {
    if (relu) {
      return binary<u32>(
          [](u32 a, u32 b) { return pairwise<T>(a, b, [](T x, T y) { return std::max<int>(0, std::min(x, y)); }); });
    }
    return binary<u32>([](u32 a, u32 b) { return pairwise<T>(a, b, [](T x, T y) { return std::min(x, y); }); });
  }
  if (relu) {
    return binary<u32>(
        [](u32 a, u32 b) { return pairwise<T>(a, b, [](T x, T y) { return std::max<int>(0, std::max(x, y)); }); });
  }
  return binary<u32>([](u32 a, u32 b) { return pairwise<T>(a, b, [](T x, T y) { return std::max(x, y); }); });
}

i32 byteOf(u32 word, u32 index, bool isSigned) {
  return isSigned ? static_cast<i8>(word >> (8 * index)) : static_cast<u8>(word >> (8 * index));
}

// Without .add the four differences, in the third operand's place where nothing masks them; with it their sum on top of
// the third operand.
void absoluteDifferences(Warp& w, const Instruction& i, LaneMask lanes) {
  const u32 *a = lanesOf<u32>(w, i.slot[1]), *b = lanesOf<u32>(w, i.slot[2]), *c = lanesOf<u32>(w, i.slot[3]);
  forLanes(lanes, [&](u32 l) {
    u32 sum = c[l], bytes = 0;
    for (u32 k = 0; k < 4; ++k) {
      const u32 distance =
          static_cast<u32>(std::abs(byteOf(a[l], k, i.immediate[0]) - byteOf(b[l], k, i.immediate[1])));
      sum += distance;
      bytes |= (distance & 255) << (8 * k);
    }
    lanesOf<u32>(w, i.slot[0])[l] = i.immediate[2] ? sum : bytes;
  });
}

}  // namespace

bool decodePacked(Decoding& d) {
  const std::string_view op = d.opcode();
  if (op == "vabsdiff4") {
    const bool add = d.take("add");
    const Type result = d.takeType(), a = d.takeType(), b = d.takeType();
    // Differences of signed bytes, and all below zero, would saturate or wrap by the type of the result.
    if (!add && (ptx::isSigned(a) || ptx::isSigned(b))) d.fail("vabsdiff4 of signed bytes without .add");
    sameType(d, result, 3);
    d.out().immediate[0] = ptx::isSigned(a);
    d.out().immediate[1] = ptx::isSigned(b);
    d.out().immediate[2] = add;
    execute(d, absoluteDifferences);
    return true;
  }
  if (op != "add" && op != "min" && op != "max") return false;
  const bool isSigned = d.take("s16x2");
  if (!isSigned && !d.take("u16x2")) return false;
  const bool relu = isSigned && op != "add" && d.take("relu");
  sameType(d, Type::kB32, 2);
  execute(d, isSigned ? pairForm<i16>(op, relu) : pairForm<u16>(op, relu));
  return true;
}

}  // namespace softgpu::isa
