// ldmatrix, stmatrix, movmatrix and mma.sync: PTX ISA 9.7.14.5. g = lane / 4 and t = lane % 4 are the groupID and
// threadID_in_group of the ISA's figures.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "isa/isa.h"
#include "isa/lanes.h"
#include "isa/numbers.h"
#include "memory/access.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

// The hottest loops of all, chosen at load time for the machine.
#if defined(__x86_64__) && !defined(__AVX2__)
#define SOFTGPU_HOT __attribute__((target_clones("avx2", "default")))
#else
#define SOFTGPU_HOT
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
  const int count = d.takeOneOf({"x1", "x2", "x4"});
  if (count < 0) d.fail("matrix moves of .x1, .x2 or .x4");
  i.elements = static_cast<u8>(1 << count);
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

// movmatrix: the transpose, from registers to registers. Slots: 0 the result, 1 the matrix.
void transposeMatrix(Warp& w, const Instruction& i, LaneMask) {
  u16 rows[8][8];
  const u32* from = lanesOf<u32>(w, i.slot[1]);
  for (u32 l = 0; l < kWarpSize; ++l) {
    for (u32 half = 0; half < 2; ++half) rows[l / 4][2 * (l % 4) + half] = static_cast<u16>(from[l] >> (16 * half));
  }
  for (u32 l = 0; l < kWarpSize; ++l) {
    lanesOf<u32>(w, i.slot[0])[l] = rows[2 * (l % 4)][l / 4] | static_cast<u32>(rows[2 * (l % 4) + 1][l / 4]) << 16;
  }
}

void decodeTranspose(Decoding& d) {
  if (!d.take("sync") || !d.take("aligned") || !d.take("m8n8") || !d.take("trans")) {
    d.fail("movmatrix is .sync.aligned.m8n8.trans");
  }
  if (d.takeType() != Type::kB16) d.fail("matrix moves of elements other than .b16");
  d.out().flow = Flow::kConverge;
  d.out().aligned = true;
  d.write(0, 0, 4);
  d.read(1, 1, Type::kB32);
  execute(d, transposeMatrix);
}

// ---- mma.sync m16n8kK.row.col. A is 16×K, B is K×8, C and D are 16×8.

// ---- Fragments. A register of A holds 8 rows of 4·kPer elements of k, row after row, lane after lane; registers
// alternate between the upper and the lower eight rows, then go on along k. A register of B is the same of Bᵀ. The
// registers of C hold the even and the odd columns of eight rows.

struct HalfElement {
  using Stored = u16;
  static constexpr u32 kPerRegister = 2;
  static double load(u16 x) { return halfToFloat(x); }
};
struct Bf16Element {
  using Stored = u16;
  static constexpr u32 kPerRegister = 2;
  static double load(u16 x) { return bf16ToFloat(x); }
};
struct Tf32Element {
  using Stored = u32;
  static constexpr u32 kPerRegister = 1;
  // The low 13 bits are ignored.
  static double load(u32 x) { return std::bit_cast<float>(x & 0xffffe000); }
};
template <bool kSigned>
struct ByteElement {
  using Stored = std::conditional_t<kSigned, i8, u8>;
  static constexpr u32 kPerRegister = 4;
  static double load(Stored x) { return x; }
};

template <class Element>
inline __attribute__((always_inline)) void widen(const u32* words, double* out) {
  constexpr u32 kCount = kWarpSize * Element::kPerRegister;
  typename Element::Stored elements[kCount];
  std::memcpy(elements, words, sizeof elements);
  for (u32 k = 0; k < kCount; ++k) out[k] = Element::load(elements[k]);
}
SOFTGPU_HOT void widenRegister(HalfElement, const u32* words, double* out) { widen<HalfElement>(words, out); }
SOFTGPU_HOT void widenRegister(Bf16Element, const u32* words, double* out) { widen<Bf16Element>(words, out); }
SOFTGPU_HOT void widenRegister(Tf32Element, const u32* words, double* out) { widen<Tf32Element>(words, out); }
template <bool kSigned>
void widenRegister(ByteElement<kSigned>, const u32* words, double* out) {
  widen<ByteElement<kSigned>>(words, out);
}

// c[8][8] += a[8][width] · b[width][8]. Products of two elements are exact in double, so that it does not matter
// whether a product and a sum are fused. Four rows at a time, so that sums do not wait for each other.
using Accumulate = void (*)(const double* a, const double* b, double* c, u32 width);

void accumulatePlain(const double* a, const double* b, double* c, u32 width) {
  for (u32 row = 0; row < 8; ++row) {
    for (u32 k = 0; k < width; ++k) {
      for (u32 column = 0; column < 8; ++column) c[row * 8 + column] += a[row * width + k] * b[k * 8 + column];
    }
  }
}
#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) void accumulate256(const double* a, const double* b, double* c, u32 width) {
  for (u32 row = 0; row < 8; row += 4) {
    __m256d sum[4][2];
    for (u32 r = 0; r < 8; ++r) sum[r / 2][r % 2] = _mm256_loadu_pd(c + row * 8 + r * 4);
    for (u32 k = 0; k < width; ++k) {
      for (u32 r = 0; r < 4; ++r) {
        const __m256d x = _mm256_set1_pd(a[(row + r) * width + k]);
        sum[r][0] = _mm256_fmadd_pd(x, _mm256_loadu_pd(b + k * 8), sum[r][0]);
        sum[r][1] = _mm256_fmadd_pd(x, _mm256_loadu_pd(b + k * 8 + 4), sum[r][1]);
      }
    }
    for (u32 r = 0; r < 8; ++r) _mm256_storeu_pd(c + row * 8 + r * 4, sum[r / 2][r % 2]);
  }
}
__attribute__((target("avx512f"))) void accumulate512(const double* a, const double* b, double* c, u32 width) {
  __m512d sum[8];
  for (u32 row = 0; row < 8; ++row) sum[row] = _mm512_loadu_pd(c + row * 8);
  for (u32 k = 0; k < width; ++k) {
    const __m512d y = _mm512_loadu_pd(b + k * 8);
    for (u32 row = 0; row < 8; ++row) sum[row] = _mm512_fmadd_pd(_mm512_set1_pd(a[row * width + k]), y, sum[row]);
  }
  for (u32 row = 0; row < 8; ++row) _mm512_storeu_pd(c + row * 8, sum[row]);
}
const Accumulate accumulate = __builtin_cpu_supports("avx512f")                                 ? accumulate512
                              : __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? accumulate256
                                                                                                : accumulatePlain;
#else
const Accumulate accumulate = accumulatePlain;
#endif

enum class Accumulator : u8 { kF32, kF16, kS32 };

SOFTGPU_HOT void loadSums(const u32* even, const u32* odd, double* c) {
  for (u32 l = 0; l < kWarpSize; ++l) {
    c[2 * l] = std::bit_cast<float>(even[l]);
    c[2 * l + 1] = std::bit_cast<float>(odd[l]);
  }
}
SOFTGPU_HOT void storeSums(const double* c, u32* even, u32* odd) {
  for (u32 l = 0; l < kWarpSize; ++l) {
    even[l] = std::bit_cast<u32>(truncateToFloat(c[2 * l]));
    odd[l] = std::bit_cast<u32>(truncateToFloat(c[2 * l + 1]));
  }
}

// Slots: D, then A, B and C, as many as the shape needs.
template <class ElementA, class ElementB, u32 kK, Accumulator kAccumulator>
void multiply(Warp& w, const Instruction& i, LaneMask) {
  constexpr u32 kWidth = 4 * ElementA::kPerRegister, kRegistersB = kK / kWidth, kRegistersA = 2 * kRegistersB;
  constexpr u32 kRegistersC = kAccumulator == Accumulator::kF16 ? 2 : 4;
  const u32 *slotsD = &i.slot[0], *slotsA = slotsD + kRegistersC, *slotsB = slotsA + kRegistersA,
            *slotsC = slotsB + kRegistersB;
  double c[2][64];  // the upper and the lower eight rows
  for (u32 half = 0; half < 2; ++half) {
    if constexpr (kAccumulator == Accumulator::kF16) {
      const u32* words = lanesOf<u32>(w, slotsC[half]);
      for (u32 l = 0; l < kWarpSize; ++l) {
        c[half][2 * l] = halfToFloat(static_cast<u16>(words[l]));
        c[half][2 * l + 1] = halfToFloat(static_cast<u16>(words[l] >> 16));
      }
    } else if constexpr (kAccumulator == Accumulator::kF32) {
      loadSums(lanesOf<u32>(w, slotsC[2 * half]), lanesOf<u32>(w, slotsC[2 * half + 1]), c[half]);
    } else {
      for (u32 l = 0; l < kWarpSize; ++l) {
        c[half][2 * l] = lanesOf<i32>(w, slotsC[2 * half])[l];
        c[half][2 * l + 1] = lanesOf<i32>(w, slotsC[2 * half + 1])[l];
      }
    }
  }
  for (u32 r = 0; r < kRegistersB; ++r) {
    double a[8 * kWidth], transposed[8 * kWidth], b[8 * kWidth];
    widenRegister(ElementB(), lanesOf<u32>(w, slotsB[r]), transposed);
    for (u32 column = 0; column < 8; ++column) {
      for (u32 k = 0; k < kWidth; ++k) b[k * 8 + column] = transposed[column * kWidth + k];
    }
    for (u32 half = 0; half < 2; ++half) {
      widenRegister(ElementA(), lanesOf<u32>(w, slotsA[2 * r + half]), a);
      accumulate(a, b, c[half], kWidth);
    }
  }
  const bool saturates = i.immediate[0];
  for (u32 half = 0; half < 2; ++half) {
    if constexpr (kAccumulator == Accumulator::kF16) {
      u32* words = lanesOf<u32>(w, slotsD[half]);
      for (u32 l = 0; l < kWarpSize; ++l) {
        words[l] = doubleToHalf(c[half][2 * l]) | static_cast<u32>(doubleToHalf(c[half][2 * l + 1])) << 16;
      }
    } else if constexpr (kAccumulator == Accumulator::kF32) {
      storeSums(c[half], lanesOf<u32>(w, slotsD[2 * half]), lanesOf<u32>(w, slotsD[2 * half + 1]));
    } else {
      auto narrow = [&](double sum) {
        return static_cast<u32>(static_cast<i64>(saturates ? std::clamp(sum, -0x1p31, 0x1p31 - 1) : sum));
      };
      for (u32 l = 0; l < kWarpSize; ++l) {
        lanesOf<u32>(w, slotsD[2 * half])[l] = narrow(c[half][2 * l]);
        lanesOf<u32>(w, slotsD[2 * half + 1])[l] = narrow(c[half][2 * l + 1]);
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
  if (i.immediate[0] && !bytes) d.fail("mma.satfinite of floating-point numbers");
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
  } else if (d.opcode() == "movmatrix") {
    decodeTranspose(d);
  } else if (d.opcode() == "mma") {
    decodeMultiply(d);
  } else {
    return false;
  }
  return true;
}

}  // namespace softgpu::isa
