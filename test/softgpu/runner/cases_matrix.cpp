// Cases of matrices: the fragment layouts of ldmatrix, stmatrix, movmatrix and mma.sync, checked lane by lane with
// small integers against the figures of the ISA; wmma by what it computes, because its layout is nobody's business.
#include <array>
#include <bit>

#include "builder.h"

namespace runner {
namespace {

Builder cases;

Rows numbered() {
  Rows rows;
  for (uint64_t l = 0; l < 32; ++l) rows.push_back({1000 + l, l % 5, l});
  return rows;
}
void text(const char* section, const std::string& body, Formula expected) {
  cases.text(section, body, "www", numbered(), std::move(expected));
}

// Row r, column c of matrix m holds 100·m + 8·r + c. Lane l fills row l of the four matrices, 16 bytes each.
void matrices() {
  std::string fill =
      "mul.lo.u32 %t0, %lane, 16;\nshr.u32 %t1, %lane, 3;\nmul.lo.u32 %t1, %t1, 100;\nand.b32 %t2, %lane, "
      "7;\nmad.lo.u32 %t1, %t2, 8, %t1;\nmul.lo.u32 %t1, %t1, 0x10001;\nadd.u32 %t1, %t1, 0x10000;\n";
  for (int k = 0; k < 4; ++k)
    fill += "st.shared.u32 [%t0+" + std::to_string(4 * k) + "], %t1;\nadd.u32 %t1, %t1, 0x20002;\n";
  fill += "bar.warp.sync -1;\n";
  auto element = [](unsigned matrix, unsigned row, unsigned column) {
    return uint64_t{100 * matrix + 8 * row + column};
  };
  auto plain = [=](unsigned m) {
    return [=](Lane, unsigned l) { return element(m, l / 4, l % 4 * 2) | element(m, l / 4, l % 4 * 2 + 1) << 16; };
  };
  auto transposed = [=](unsigned m) {
    return [=](Lane, unsigned l) { return element(m, l % 4 * 2, l / 4) | element(m, l % 4 * 2 + 1, l / 4) << 16; };
  };
  const std::string form = "ldmatrix.sync.aligned.m8n8.";
  text("9.7.14.5.15", fill + form + "x1.shared.b16 {%d}, [%t0];", plain(0));
  text("9.7.14.5.15", fill + form + "x1.trans.shared.b16 {%d}, [%t0];", transposed(0));
  text("9.7.14.5.15", fill + form + "x2.shared.b16 {%t1, %d}, [%t0];", plain(1));
  text("9.7.14.5.15", fill + form + "x2.trans.shared.b16 {%t1, %d}, [%t0];", transposed(1));
  text("9.7.14.5.15", fill + form + "x4.shared.b16 {%t1, %t2, %d, %t3}, [%t0];", plain(2));
  text("9.7.14.5.15", fill + form + "x4.trans.shared.b16 {%t1, %t2, %t3, %d}, [%t0];", transposed(3));
}

// A[r][k] = (16r + k) mod 251, which every format holds; B[k][n] = (k == probe) · (n + 1), C = 0: then D[r][n] is
// A[r][probe] · (n + 1), so that every element of A and B that the layout misplaces shows. One case per column of A and
// per register of D. Fragments as immediates are the same in every lane, so they come from memory: element by element,
// per lane.
struct Product {
  const char* section;
  const char* shape;
  const char* types;  // of D, A, B, C
  unsigned k, perRegister;
  uint64_t (*encode)(unsigned value);
  uint64_t (*result)(unsigned value);  // nullptr for pairs of f16
};

uint64_t f32Bits(unsigned v) { return std::bit_cast<uint32_t>(static_cast<float>(v)); }
uint64_t bf16Bits(unsigned v) { return f32Bits(v) >> 16; }
uint64_t f16Bits(unsigned v) {
  if (v == 0) return 0;
  const unsigned exponent = 31 - static_cast<unsigned>(std::countl_zero(v));
  return (exponent + 15) << 10 | ((v << 10 >> exponent) & 0x3ff);
}
uint64_t plainBits(unsigned v) { return v; }
unsigned entryOfA(unsigned row, unsigned column) { return (16 * row + column) % 251; }

// The ISA's figures: groupID = l/4, threadID_in_group = l%4; rows groupID and groupID + 8 alternate in A.
std::vector<uint64_t> fragmentsOf(const Product& p, unsigned l, unsigned probe) {
  const unsigned per = p.perRegister, width = 32 / per, group = l / 4, thread = l % 4;
  std::array<uint64_t, 6> words{};
  for (unsigned r = 0; r < 16 * p.k / 32 / per; ++r) {
    for (unsigned e = 0; e < per; ++e) {
      const unsigned row = r % 2 == 0 ? group : group + 8, column = thread * per + e + (r >= 2 ? p.k / 2 : 0);
      words[r] |= p.encode(entryOfA(row, column)) << (width * e);
    }
  }
  for (unsigned r = 0; r < p.k * 8 / 32 / per; ++r) {
    for (unsigned e = 0; e < per; ++e) {
      const unsigned row = thread * per + e + (r == 1 ? p.k / 2 : 0);
      words[4 + r] |= (row == probe ? p.encode(group + 1) : 0) << (width * e);
    }
  }
  return {words[0] | words[1] << 32, words[2] | words[3] << 32, words[4] | words[5] << 32};
}

void products() {
  const Product all[] = {{"9.7.14.5.8", "m16n8k16", "f32.bf16.bf16.f32", 16, 2, bf16Bits, f32Bits},
                         {"9.7.14.5.7", "m16n8k8", "f32.bf16.bf16.f32", 8, 2, bf16Bits, f32Bits},
                         {"9.7.14.5.8", "m16n8k16", "f32.f16.f16.f32", 16, 2, f16Bits, f32Bits},
                         {"9.7.14.5.7", "m16n8k8", "f32.f16.f16.f32", 8, 2, f16Bits, f32Bits},
                         {"9.7.14.5.8", "m16n8k16", "f16.f16.f16.f16", 16, 2, f16Bits, nullptr},
                         {"9.7.14.5.7", "m16n8k8", "f16.f16.f16.f16", 8, 2, f16Bits, nullptr},
                         {"9.7.14.5.7", "m16n8k8", "f32.tf32.tf32.f32", 8, 1, f32Bits, f32Bits},
                         {"9.7.14.5.6", "m16n8k4", "f32.tf32.tf32.f32", 4, 1, f32Bits, f32Bits},
                         {"9.7.14.5.10", "m16n8k32", "s32.u8.u8.s32", 32, 4, plainBits, plainBits},
                         {"9.7.14.5.9", "m16n8k16", "s32.u8.u8.s32", 16, 4, plainBits, plainBits}};
  for (const Product& p : all) {
    const unsigned registersA = 16 * p.k / 32 / p.perRegister, registersB = p.k * 8 / 32 / p.perRegister;
    for (unsigned probe = 0; probe < p.k; ++probe) {
      for (unsigned output = 0; output < (p.result ? 4 : 2); ++output) {
        Rows rows;
        for (unsigned l = 0; l < 32; ++l) rows.push_back(fragmentsOf(p, l, probe));
        std::string body =
            "mov.b32 %t0, 0;\n.reg .b32 %m<6>, %r<4>;\nmov.b64 {%m0, %m1}, %a0;\nmov.b64 {%m2, %m3}, %a1;\nmov.b64 "
            "{%m4, %m5}, %a2;\n";
        const std::string a[] = {"", "", "{%m0, %m1}", "", "{%m0, %m1, %m2, %m3}"}, b[] = {"", "{%m4}", "{%m4, %m5}"};
        body += std::string("mma.sync.aligned.") + p.shape + ".row.col." + p.types +
                (p.result ? " {%r0, %r1, %r2, %r3}, " : " {%r0, %r1}, ") + a[registersA] + ", " + b[registersB] +
                (p.result ? ", {%t0, %t0, %t0, %t0}" : ", {%t0, %t0}") + ";\nmov.b32 %d, %r" + std::to_string(output) +
                ";";
        cases.text(p.section, body, "wlll", rows, [=](Lane, unsigned l) {
          // D's registers hold two columns of row groupID, then of row groupID + 8; f16 packs the two.
          const bool lower = p.result ? output >= 2 : output == 1;
          const unsigned left = entryOfA(l / 4 + (lower ? 8 : 0), probe), column = l % 4 * 2;
          if (p.result) return p.result(left * (column + output % 2 + 1));
          return f16Bits(left * (column + 1)) | f16Bits(left * (column + 2)) << 16;
        });
      }
    }
  }
}

// What a fragment of lane l holds, stored or transposed: rows of 16 bytes that lane 8·m + r has given the address of.
void stores() {
  cases.require(90);
  const std::string form = "stmatrix.sync.aligned.m8n8.", rows = "mul.lo.u32 %t0, %lane, 16;\n",
                    // Lane l holds the numbers of its two elements, 2l and 2l + 1, in matrix m above them 100·m.
      values =
          "mul.lo.u32 %t1, %lane, 0x20002;\nadd.u32 %t1, %t1, 0x10000;\nadd.u32 %t2, %t1, 0x640064;\nadd.u32 %t3, "
          "%t2, 0x640064;\n",
                    // Each lane looks at row l / 4, elements 2 (l % 4) and the next, of the last matrix.
      look = "bar.warp.sync -1;\nshl.b32 %t0, %lane, 2;\n";
  auto plain = [](unsigned m) {
    return [=](Lane, unsigned l) { return uint64_t{100 * m + 2 * l} | uint64_t{100 * m + 2 * l + 1} << 16; };
  };
  // Row r, column c of the transposed matrix is row c, column r of the fragment's: number 8c + r.
  auto transposed = [](unsigned m) {
    return [=](Lane, unsigned l) {
      const unsigned row = l / 4, column = l % 4 * 2;
      return uint64_t{100 * m + 8 * column + row} | uint64_t{100 * m + 8 * (column + 1) + row} << 16;
    };
  };
  text("9.7.14.5.16", rows + values + form + "x1.shared.b16 [%t0], {%t1};\n" + look + "ld.shared.u32 %d, [%t0];",
       plain(0));
  text("9.7.14.5.16", rows + values + form + "x1.trans.shared.b16 [%t0], {%t1};\n" + look + "ld.shared.u32 %d, [%t0];",
       transposed(0));
  text("9.7.14.5.16",
       rows + values + form + "x2.shared.b16 [%t0], {%t1, %t2};\n" + look + "ld.shared.u32 %d, [%t0+128];", plain(1));
  text("9.7.14.5.16",
       rows + values + form + "x4.trans.shared.b16 [%t0], {%t1, %t2, %t3, %t1};\n" + look +
           "ld.shared.u32 %d, [%t0+256];",
       transposed(2));
  text("9.7.14.5.16",
       rows + "cvt.u64.u32 %x0, %t0;\ncvta.shared.u64 %x0, %x0;\n" + values + form +
           "x4.b16 [%x0], {%t1, %t2, %t3, %t2};\n" + look + "ld.shared.u32 %d, [%t0+384];",
       plain(1));
  cases.require(80);
  text("9.7.14.5.17", values + "movmatrix.sync.aligned.m8n8.trans.b16 %d, %t1;", transposed(0));
}

// A is the identity with its rows shifted by one, so that D is B's rows in another order, plus C.
void warpMultiply() {
  // B is 16×16 bytes of u8 by columns: element (k, n) is 16n + k; A by rows; both 256 bytes in shared memory.
  const std::string fill =
      "shl.b32 %t0, %lane, 3;\nmov.b64 %x0, 0x0706050403020100;\nmul.wide.u32 %x1, %t0, 0x01010101;\nmov.b64 {%t1, "
      "%t2}, "
      "%x1;\nmul.lo.u32 %t1, %t0, 0x01010101;\nmov.b64 %x1, {%t1, %t1};\nadd.u64 %x1, %x1, %x0;\nst.shared.u64 "
      "[%t0+256], "
      "%x1;\n"
      // Row r of A is one at column (r + 1) % 16: byte (r + 1) % 16 of the row's two longs.
      "shr.u32 %t1, %lane, 1;\nadd.u32 %t1, %t1, 1;\nand.b32 %t1, %t1, 15;\nshr.u32 %t2, %t1, 3;\nand.b32 %t3, %lane, "
      "1;\nsetp.eq.u32 %p, %t2, %t3;\nand.b32 %t1, %t1, 7;\nshl.b32 %t1, %t1, 3;\nmov.b64 %x0, 1;\nshl.b64 %x0, %x0, "
      "%t1;\nselp.b64 %x0, %x0, 0, %p;\nst.shared.u64 [%t0], %x0;\nbar.warp.sync -1;\n";
  const std::string registers = "{%f0, %f1, %f2, %f3, %f4, %f5, %f6, %f7}";
  const std::string multiply =
      ".reg .b32 %f<8>, %m<4>;\nwmma.load.a.sync.aligned.row.m16n16k16.shared.u8 {%m0, %m1}, [tile];\n"
      "wmma.load.b.sync.aligned.col.m16n16k16.shared.u8 {%m2, %m3}, [tile+256];\nmov.u32 %f0, 7;\nmov.u32 %f1, "
      "7;\nmov.u32 "
      "%f2, 7;\nmov.u32 %f3, 7;\nmov.u32 %f4, 7;\nmov.u32 %f5, 7;\nmov.u32 %f6, 7;\nmov.u32 %f7, 7;\n"
      "wmma.mma.sync.aligned.row.col.m16n16k16.s32.u8.u8.s32 " +
      registers + ", {%m0, %m1}, {%m2, %m3}, " + registers + ";\nbar.warp.sync -1;\n";
  // D's row l / 2, column 8 (l % 2), stored by rows and by columns.
  const std::string look = "bar.warp.sync -1;\nshr.u32 %t0, %lane, 1;\nand.b32 %t1, %lane, 1;\n";
  auto element = [](unsigned row, unsigned column) { return uint64_t{16 * column + (row + 1) % 16 + 7}; };
  cases.text("9.7.14.4.5",
             fill + multiply + "wmma.store.d.sync.aligned.row.m16n16k16.shared.s32 [tile], " + registers + ";\n" +
                 look + "shl.b32 %t0, %t0, 6;\nshl.b32 %t1, %t1, 5;\nadd.u32 %t0, %t0, %t1;\nld.shared.u32 %d, [%t0];",
             "wl", numbered(), [=](Lane, unsigned l) { return element(l / 2, 8 * (l % 2)); });
  cases.text("9.7.14.4.4",
             fill + multiply + "wmma.store.d.sync.aligned.col.m16n16k16.shared.s32 [tile], " + registers + ", 16;\n" +
                 look + "shl.b32 %t0, %t0, 2;\nshl.b32 %t1, %t1, 9;\nadd.u32 %t0, %t0, %t1;\nld.shared.u32 %d, [%t0];",
             "wl", numbered(), [=](Lane, unsigned l) { return element(l / 2, 8 * (l % 2)); });
}

}  // namespace

std::vector<Case> matrixCases() {
  cases = {};
  matrices();
  stores();
  products();
  warpMultiply();
  return std::move(cases.cases);
}

}  // namespace runner
