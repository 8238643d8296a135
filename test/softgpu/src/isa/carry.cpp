// Extended-precision integer arithmetic: PTX ISA 9.7.2. The condition code register is one lane mask per warp.
#include "isa/isa.h"
#include "isa/lanes.h"

namespace softgpu::isa {
namespace {

// Slots: 0 the result, 1… the operands, 4 the carry read, 5 the carry written.
constexpr u32 kIn = 4, kOut = 5;

template <class T>
struct Sum {
  T value;
  bool carry;
};
template <class T>
Sum<T> addWithCarry(T a, T b, bool carry) {
  const T partial = static_cast<T>(a + b), value = static_cast<T>(partial + carry);
  return {value, partial < a || value < partial};
}
// A borrow is a carry that is set, as the ISA has it.
template <class T>
Sum<T> subtractWithBorrow(T a, T b, bool borrow) {
  const T partial = static_cast<T>(a - b), value = static_cast<T>(partial - borrow);
  return {value, a < b || partial < static_cast<T>(borrow)};
}

template <class T, class Op>
Execute form(Op) {
  return [](Warp& w, const Instruction& i, LaneMask lanes) {
    const LaneMask in = predicateOf(w, i.slot[kIn]) & (i.immediate[0] ? kAllLanes : 0);
    LaneMask out = 0;
    for (LaneMask m = lanes; m; m &= m - 1) {
      const u32 l = lowestLane(m);
      const Sum<T> sum = Op()(lanesOf<T>(w, i.slot[1])[l], lanesOf<T>(w, i.slot[2])[l], lanesOf<T>(w, i.slot[3])[l],
                              static_cast<bool>(in >> l & 1));
      lanesOf<T>(w, i.slot[0])[l] = sum.value;
      out |= static_cast<LaneMask>(sum.carry) << l;
    }
    if (i.immediate[1]) setPredicate(w, i.slot[kOut], lanes, out);
  };
}

// The part of a product that mad adds; .hi of a signed product differs from that of an unsigned one.
template <class T, bool kHigh, bool kSigned>
T productPart(T a, T b) {
  if constexpr (!kHigh) return static_cast<T>(a * b);
  if constexpr (kSigned) {
    using Signed = std::make_signed_t<T>;
    return static_cast<T>(static_cast<__int128>(static_cast<Signed>(a)) * static_cast<Signed>(b) >> (8 * sizeof(T)));
  }
  return static_cast<T>(static_cast<u128>(a) * b >> (8 * sizeof(T)));
}

template <class T>
Execute product(bool high, bool isSigned) {
  if (!high) {
    return form<T>([](T a, T b, T c, bool in) { return addWithCarry<T>(productPart<T, false, false>(a, b), c, in); });
  }
  if (isSigned) {
    return form<T>([](T a, T b, T c, bool in) { return addWithCarry<T>(productPart<T, true, true>(a, b), c, in); });
  }
  return form<T>([](T a, T b, T c, bool in) { return addWithCarry<T>(productPart<T, true, false>(a, b), c, in); });
}

template <class T>
Execute formOf(std::string_view op, bool high, bool isSigned) {
  if (op.starts_with("add")) return form<T>([](T a, T b, T, bool in) { return addWithCarry<T>(a, b, in); });
  if (op.starts_with("sub")) return form<T>([](T a, T b, T, bool in) { return subtractWithBorrow<T>(a, b, in); });
  return product<T>(high, isSigned);
}

}  // namespace

bool decodeCarry(Decoding& d) {
  const std::string_view op = d.opcode();
  const bool reads = op == "addc" || op == "subc" || op == "madc";
  if (!reads && op != "add" && op != "sub" && op != "mad") return false;
  const bool writes = d.take("cc");
  if (!reads && !writes) return false;
  const bool isProduct = op.starts_with("mad");
  const int part = isProduct ? d.takeOneOf({"lo", "hi"}) : 0;
  if (part < 0) d.fail("'" + std::string(op) + "' needs .lo or .hi");
  const Type type = d.takeType();
  sameType(d, type, isProduct ? 3 : 2);
  if (!isProduct) d.out().slot[3] = d.out().slot[2];
  d.out().immediate[0] = reads;
  d.out().immediate[1] = writes;
  d.readCarry(kIn);
  if (writes) d.writeCarry(kOut);
  const bool isSigned = ptx::isSigned(type);
  const bool isInteger = type == Type::kU32 || type == Type::kS32 || type == Type::kU64 || type == Type::kS64;
  execute(d, !isInteger                ? nullptr
             : ptx::bytesOf(type) == 4 ? formOf<u32>(op, part == 1, isSigned)
                                       : formOf<u64>(op, part == 1, isSigned));
  return true;
}

}  // namespace softgpu::isa
