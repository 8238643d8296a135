// Extended-precision integers: add.cc, addc, sub.cc, subc, mad.cc and madc: PTX ISA 9.7.2. The carry flag is one more
// predicate of the thread. The ISA leaves open how a borrow is held: it is a carry that is absent, because subtraction
// adds the complement; nvcc's 128-bit division reads it with addc.
#include <type_traits>

#include "isa/isa.h"
#include "isa/lanes.h"

namespace softgpu::isa {
namespace {

enum class Sum : u32 { kAdd, kSubtract, kLowProduct, kHighProduct };

template <class T>
std::make_unsigned_t<T> productHalf(T a, T b, bool high) {
  using Wide = std::conditional_t<std::is_signed_v<T>, __int128, u128>;
  const u128 product = static_cast<u128>(static_cast<Wide>(a) * static_cast<Wide>(b));
  return static_cast<std::make_unsigned_t<T>>(high ? product >> (sizeof(T) * 8) : product);
}

// Slots: 0 the result, 1 to 3 the operands, 4 the carry. Immediates: the sum, carry in, carry out.
template <class T>
void withCarry(Warp& w, const Instruction& i, LaneMask lanes) {
  using U = std::make_unsigned_t<T>;
  const Sum sum = static_cast<Sum>(i.immediate[0]);
  const LaneMask carryIn = i.immediate[1] ? predicateOf(w, i.slot[4]) : 0;
  LaneMask carryOut = 0;
  for (LaneMask m = lanes; m; m &= m - 1) {
    const u32 l = lowestLane(m);
    auto operand = [&](u32 k) { return lanesOf<T>(w, i.slot[k])[l]; };
    const u32 carry = carryIn >> l & 1;
    u128 result;
    if (sum == Sum::kSubtract) {
      const u32 noBorrow = i.immediate[1] ? carry : 1;
      result = u128{static_cast<U>(operand(1))} + static_cast<U>(~static_cast<U>(operand(2))) + noBorrow;
    } else if (sum == Sum::kAdd) {
      result = u128{static_cast<U>(operand(1))} + static_cast<U>(operand(2)) + carry;
    } else {
      result = u128{productHalf(operand(1), operand(2), sum == Sum::kHighProduct)} + static_cast<U>(operand(3)) + carry;
    }
    carryOut |= static_cast<LaneMask>(result >> (sizeof(T) * 8) & 1) << l;
    lanesOf<T>(w, i.slot[0])[l] = static_cast<T>(result);
  }
  if (i.immediate[2]) setPredicate(w, i.slot[4], lanes, carryOut);
}

}  // namespace

bool decodeExtended(Decoding& d) {
  const std::string_view op = d.opcode();
  const bool carryIn = op == "addc" || op == "subc" || op == "madc";
  if (!carryIn && op != "add" && op != "sub" && op != "mad") return false;
  const bool carryOut = d.take("cc");
  if (!carryIn && !carryOut) return false;
  Sum sum = op.starts_with("add") ? Sum::kAdd : Sum::kSubtract;
  if (op.starts_with("mad")) {
    const int part = d.takeOneOf({"lo", "hi"});
    if (part < 0) d.fail("'" + std::string(op) + "' needs .lo or .hi");
    sum = part == 0 ? Sum::kLowProduct : Sum::kHighProduct;
  }
  const Type type = d.takeType();
  sameType(d, type, op.starts_with("mad") ? 3 : 2);
  d.carry(4);
  d.out().immediate[0] = static_cast<u32>(sum);
  d.out().immediate[1] = carryIn;
  d.out().immediate[2] = carryOut;
  execute(d, type == Type::kU32   ? withCarry<u32>
             : type == Type::kS32 ? withCarry<i32>
             : type == Type::kU64 ? withCarry<u64>
             : type == Type::kS64 ? withCarry<i64>
                                  : nullptr);
  return true;
}

}  // namespace softgpu::isa
