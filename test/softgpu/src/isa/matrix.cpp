// ldmatrix, stmatrix and mma.sync: PTX ISA 9.7.15. g = lane / 4 and t = lane % 4 are the groupID and threadID_in_group
// of the ISA's figures.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "isa/isa.h"
#include "isa/lanes.h"
#include "isa/numbers.h"
#include "memory/access.h"

// The inner product is the hottest loop of all: chosen at load time for the machine it runs on.
#if defined(__x86_64__) && !defined(__AVX2__)
#define SOFTGPU_WITH_AVX __attribute__((target_clones("avx2", "default")))
#else
#define SOFTGPU_WITH_AVX
#endif

namespace softgpu::isa {
namespace {

// ---- 8×8 matrices of 16-bit elements. Slots: 0…3 the matrices, 4 the row addresses.
// Lane 8·m + r gives the address of row r of matrix m; lane l holds row l/4, columns 2(l%4) and 2(l%4)+1.

template <bool kStore, bool kTransposed>
void moveMatrices(Warp& w, const Instruction& i, LaneMask lanes) {
  u64 addresses[kWarpSize];
  addressesOf(w, i.slot[4], i.offset, i.wideAddress, addresses);
  if (i.space == Space::kGeneric) {
    Space space;
    LaneMask rest = lanes & (i.elements == 4 ? kAllLanes : (1u << (8 * i.elements)) - 1);
    takeSpace(addresses, rest, space);
    if (space != Space::kShared) w.abort(i, 0, FaultKind::kOutOfBounds, addresses[0], 16, "not shared memory");
  }
  for (u32 matrix = 0; matrix < i.elements; ++matrix) {
    u16 rows[8][8];
    u32* fragment = lanesOf<u32>(w, i.slot[matrix]);
    auto cell = [&](u32 lane, u32 half) -> u16& {
      const u32 row = lane / 4, column = 2 * (lane % 4) + half;
      return kTransposed ? rows[column][row] : rows[row][column];
    };
    if (kStore) {
      for (u32 l = 0; l < kWarpSize; ++l) {
        cell(l, 0) = static_cast<u16>(fragment[l]);
        cell(l, 1) = static_cast<u16>(fragment[l] >> 16);
      }
    }
    for (u32 r = 0; r < 8; ++r) {
      const u32 lane = 8 * matrix + r;
      if (kStore) {
        RacyWrite racy;
        u8* to = sharedForWrite(w, i, lane, addresses[lane], 16, racy);
        if (racy && std::memcmp(to, rows[r], 16) != 0) reportRacyWrite(w, i, lane, addresses[lane], 16, racy);
        std::memcpy(to, rows[r], 16);
      } else {
        std::memcpy(rows[r], sharedForRead(w, i, lane, addresses[lane], 16, SharedMemory::kManyLanes), 16);
      }
    }
    if (!kStore) {
      for (u32 l = 0; l < kWarpSize; ++l) fragment[l] = cell(l, 0) | static_cast<u32>(cell(l, 1)) << 16;
    }
  }
  const LaneMask used = i.elements == 4 ? kAllLanes : (1u << (8 * i.elements)) - 1;
  countShared(w, addresses, used, 16);
  if (kStore) ++w.launch->memoryVersion;
}

void decodeMatrixMove(Decoding& d, bool store) {
  Instruction& i = d.out();
  if (!d.take("sync") || !d.take("aligned") || !d.take("m8n8")) d.fail("matrix moves are .sync.aligned.m8n8");
  i.elements = static_cast<u8>(1 << std::max(0, d.takeOneOf({"x1", "x2", "x4"})));
  const bool transposed = d.take("trans");
  i.space = takeSpaceModifier(d);
  if (d.takeType() != Type::kB16) d.fail("matrix moves of elements other than .b16");
  i.flow = Flow::kConverge;
  i.aligned = true;
  const ptx::Operand& data = d.operand(store ? 1 : 0);
  const bool isVector = data.kind == ptx::Operand::Kind::kVector;
  if (isVector ? data.elements.size() != i.elements : i.elements != 1) d.fail("wrong number of matrices");
  for (u32 k = 0; k < i.elements; ++k) {
    const ptx::Operand& element = isVector ? data.elements[k] : data;
    if (store) {
      d.read(k, element, Type::kB32);
    } else {
      d.write(k, element, 4);
    }
  }
  Space space = i.space;
  d.address(4, store ? 0 : 1, space);
  if (store) return execute(d, transposed ? moveMatrices<true, true> : moveMatrices<true, false>);
  execute(d, transposed ? moveMatrices<false, true> : moveMatrices<false, false>);
}

// ---- mma.sync m16n8kK.row.col. A is 16×K, B is K×8, C and D are 16×8.

// Hardware may drop what does not fit: the sum is exact (nearly: in double), then cut towards zero.
float truncateToFloat(double x) {
  const float nearest = static_cast<float>(x);
  const bool beyond = std::fabs(static_cast<double>(nearest)) > std::fabs(x) && std::fabs(nearest) < HUGE_VALF;
  return std::bit_cast<float>(std::bit_cast<u32>(nearest) - beyond);
}

template <class Visit>
inline __attribute__((always_inline)) void forLanePairs(Visit visit) {
  for (u32 g = 0; g < 8; ++g) {
    for (u32 t = 0; t < 4; ++t) visit(g, t);
  }
}

// c[16][8] += a[16][k] · b[k][8].
SOFTGPU_WITH_AVX void accumulate(const double* a, const double* b, double* c, u32 depth) {
  for (u32 row = 0; row < 16; ++row) {
    double sum[8];
    for (u32 column = 0; column < 8; ++column) sum[column] = c[row * 8 + column];
    for (u32 k = 0; k < depth; ++k) {
      const double x = a[row * depth + k];
      for (u32 column = 0; column < 8; ++column) sum[column] += x * b[k * 8 + column];
    }
    for (u32 column = 0; column < 8; ++column) c[row * 8 + column] = sum[column];
  }
}

struct HalfElement {
  static constexpr u32 kPerRegister = 2;
  static double load(u32 word, u32 k) { return halfToFloat(static_cast<u16>(word >> (16 * k))); }
};
struct Bf16Element {
  static constexpr u32 kPerRegister = 2;
  static double load(u32 word, u32 k) { return bf16ToFloat(static_cast<u16>(word >> (16 * k))); }
};
struct Tf32Element {
  static constexpr u32 kPerRegister = 1;
  // The low 13 bits are ignored.
  static double load(u32 word, u32) { return std::bit_cast<float>(word & 0xffffe000); }
};
template <bool kSigned>
struct ByteElement {
  static constexpr u32 kPerRegister = 4;
  static double load(u32 word, u32 k) {
    return kSigned ? static_cast<i8>(word >> (8 * k)) : static_cast<double>(static_cast<u8>(word >> (8 * k)));
  }
};

enum class Accumulator : u8 { kF32, kF16, kS32 };

// Slots: D, then A, B and C, as many as the shape needs.
template <class ElementA, class ElementB, u32 kK, Accumulator kAccumulator>
void multiply(Warp& w, const Instruction& i, LaneMask) {
  constexpr u32 kPer = ElementA::kPerRegister;
  constexpr u32 kRegistersA = 16 * kK / kWarpSize / kPer, kRegistersB = kK * 8 / kWarpSize / kPer;
  constexpr u32 kRegistersC = kAccumulator == Accumulator::kF16 ? 2 : 4;
  double a[16][kK], b[kK][8], c[16][8];
  const u32 *slotsD = &i.slot[0], *slotsA = slotsD + kRegistersC, *slotsB = slotsA + kRegistersA,
            *slotsC = slotsB + kRegistersB;
  double part[kWarpSize];  // one element of every lane's fragment
  for (u32 r = 0; r < kRegistersA; ++r) {
    const u32* words = lanesOf<u32>(w, slotsA[r]);
    for (u32 e = 0; e < kPer; ++e) {
      for (u32 l = 0; l < kWarpSize; ++l) part[l] = ElementA::load(words[l], e);
      // Registers alternate between the upper and the lower eight rows.
      const u32 row = 8 * (r & 1), column = e + 4 * kPer * (r >> 1);
      forLanePairs([&](u32 g, u32 t) { a[row + g][column + t * kPer] = part[4 * g + t]; });
    }
  }
  for (u32 r = 0; r < kRegistersB; ++r) {
    const u32* words = lanesOf<u32>(w, slotsB[r]);
    for (u32 e = 0; e < kPer; ++e) {
      for (u32 l = 0; l < kWarpSize; ++l) part[l] = ElementB::load(words[l], e);
      const u32 row = e + 4 * kPer * r;
      forLanePairs([&](u32 g, u32 t) { b[row + t * kPer][g] = part[4 * g + t]; });
    }
  }
  for (u32 e = 0; e < 4; ++e) {
    const u32* words = lanesOf<u32>(w, slotsC[kAccumulator == Accumulator::kF16 ? e / 2 : e]);
    for (u32 l = 0; l < kWarpSize; ++l) {
      if (kAccumulator == Accumulator::kF32) part[l] = std::bit_cast<float>(words[l]);
      if (kAccumulator == Accumulator::kF16) part[l] = halfToFloat(static_cast<u16>(words[l] >> (16 * (e & 1))));
      if (kAccumulator == Accumulator::kS32) part[l] = static_cast<i32>(words[l]);
    }
    forLanePairs([&](u32 g, u32 t) { c[g + 8 * (e >> 1)][2 * t + (e & 1)] = part[4 * g + t]; });
  }
  accumulate(&a[0][0], &b[0][0], &c[0][0], kK);
  const bool saturates = i.immediate[0];
  for (u32 e = 0; e < 4; ++e) {
    u32* words = lanesOf<u32>(w, slotsD[kAccumulator == Accumulator::kF16 ? e / 2 : e]);
    forLanePairs([&](u32 g, u32 t) { part[4 * g + t] = c[g + 8 * (e >> 1)][2 * t + (e & 1)]; });
    for (u32 l = 0; l < kWarpSize; ++l) {
      if (kAccumulator == Accumulator::kF32) words[l] = std::bit_cast<u32>(truncateToFloat(part[l]));
      if (kAccumulator == Accumulator::kF16) {
        const u32 bits = doubleToHalf(part[l]);
        words[l] = e & 1 ? (words[l] & 0xffff) | bits << 16 : (words[l] & 0xffff0000) | bits;
      }
      if (kAccumulator == Accumulator::kS32) {
        const double sum = saturates ? std::min(std::max(part[l], -0x1p31), 0x1p31 - 1) : part[l];
        words[l] = static_cast<u32>(static_cast<i64>(sum));
      }
    }
  }
  ++w.counters->tensorOps;
  w.counters->tensorFlops += 2 * 16 * 8 * kK;
}

template <class Element>
Execute floatingShape(u32 k, Accumulator accumulator) {
  constexpr u32 kShort = Element::kPerRegister * 4, kLong = Element::kPerRegister * 8;
  if (accumulator == Accumulator::kF16) {
    if constexpr (std::is_same_v<Element, HalfElement>) {
      if (k == 8) return multiply<Element, Element, 8, Accumulator::kF16>;
      if (k == 16) return multiply<Element, Element, 16, Accumulator::kF16>;
    }
    return nullptr;
  }
  if (k == kShort) return multiply<Element, Element, kShort, Accumulator::kF32>;
  if (k == kLong) return multiply<Element, Element, kLong, Accumulator::kF32>;
  return nullptr;
}

template <bool kA, bool kB>
Execute integerShape(u32 k) {
  if (k == 16) return multiply<ByteElement<kA>, ByteElement<kB>, 16, Accumulator::kS32>;
  if (k == 32) return multiply<ByteElement<kA>, ByteElement<kB>, 32, Accumulator::kS32>;
  return nullptr;
}

void decodeMultiply(Decoding& d) {
  Instruction& i = d.out();
  if (!d.take("sync") || !d.take("aligned")) d.fail("mma needs .sync.aligned");
  const int shape = d.takeOneOf({"m16n8k4", "m16n8k8", "m16n8k16", "m16n8k32"});
  if (shape < 0) d.fail("mma of an unknown shape");
  if (!d.take("row") || !d.take("col")) d.fail("mma needs .row.col");
  const u32 k = 4u << shape;
  i.immediate[0] = d.take("satfinite");
  const Type typeD = d.takeType(), typeA = d.takeType(), typeB = d.takeType(), typeC = d.takeType();
  if (typeD != typeC) d.fail("mma with different types of C and D");
  const bool bytes = ptx::bytesOf(typeA) == 1;
  if (!bytes && typeA != typeB) d.fail("mma with different types of A and B");
  const u32 per = bytes ? 4 : typeA == Type::kTf32 ? 1 : 2;
  const u32 counts[] = {typeD == Type::kF16 ? 2u : 4u, 16 * k / kWarpSize / per, 8 * k / kWarpSize / per,
                        typeD == Type::kF16 ? 2u : 4u};
  u32 slot = 0;
  for (u32 matrix = 0; matrix < 4; ++matrix) {
    const ptx::Operand& o = d.operand(matrix);
    const bool isVector = o.kind == ptx::Operand::Kind::kVector;
    if (isVector ? o.elements.size() != counts[matrix] : counts[matrix] != 1)
      d.fail("mma with a fragment of the wrong size");
    for (u32 r = 0; r < counts[matrix]; ++r) {
      const ptx::Operand& element = isVector ? o.elements[r] : o;
      if (matrix == 0) {
        d.write(slot++, element, 4);
      } else {
        d.read(slot++, element, typeD == Type::kF32 && matrix == 3 ? Type::kF32 : Type::kB32);
      }
    }
  }
  i.flow = Flow::kConverge;
  i.aligned = true;
  const Accumulator accumulator = typeD == Type::kF16 ? Accumulator::kF16 : Accumulator::kF32;
  if (bytes && typeD == Type::kS32) {
    const bool a = typeA == Type::kS8, b = typeB == Type::kS8;
    execute(d, a ? (b ? integerShape<true, true>(k) : integerShape<true, false>(k))
                 : (b ? integerShape<false, true>(k) : integerShape<false, false>(k)));
  } else if (typeD != Type::kF32 && typeD != Type::kF16) {
    execute(d, nullptr);
  } else if (typeA == Type::kF16) {
    execute(d, floatingShape<HalfElement>(k, accumulator));
  } else if (typeA == Type::kBf16) {
    execute(d, floatingShape<Bf16Element>(k, accumulator));
  } else {
    execute(d, typeA == Type::kTf32 ? floatingShape<Tf32Element>(k, accumulator) : nullptr);
  }
}

}  // namespace

bool decodeMatrix(Decoding& d) {
  if (d.opcode() == "ldmatrix" || d.opcode() == "stmatrix") {
    decodeMatrixMove(d, d.opcode() == "stmatrix");
  } else if (d.opcode() == "mma") {
    decodeMultiply(d);
  } else {
    return false;
  }
  return true;
}

}  // namespace softgpu::isa
