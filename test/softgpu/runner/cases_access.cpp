// Every type and vector that nvcc makes of plain accesses, in every space that can be written: stored, then loaded.
#include "builder.h"

namespace runner {

std::vector<Case> accessCases() {
  Builder b;
  Rows rows;
  for (uint64_t l = 0; l < 32; ++l) rows.push_back({0x80f1e2d3c4b5a697 + l * 0x0101});
  struct Type {
    const char* name;
    unsigned bytes;
  };
  constexpr Type kTypes[] = {{"u8", 1},  {"s8", 1},  {"b8", 1},  {"u16", 2}, {"s16", 2}, {"b16", 2}, {"u32", 4},
                             {"s32", 4}, {"b32", 4}, {"f32", 4}, {"u64", 8}, {"s64", 8}, {"b64", 8}, {"f64", 8}};
  for (const Type& type : kTypes) {
    for (const unsigned elements : {1u, 2u, 4u}) {
      if (type.bytes * elements > 16) continue;
      for (const std::string space : {"", ".global", ".shared", ".local", ".param"}) {
        const std::string form = space +
                                 (elements == 1   ? ""
                                  : elements == 2 ? ".v2."
                                                  : ".v4.") +
                                 (elements == 1 ? "." : "") + type.name;
        const std::string width = type.bytes <= 2 ? "b16" : type.bytes == 4 ? "b32" : "b64";
        const std::string place = space == ".shared"  ? "[%t0]"
                                  : space == ".local" ? "[own+16]"
                                  : space == ".param" ? "[x]"
                                                      : "[%in]";
        // Element k is the operand's bits shifted by 8k.
        std::string body = ".reg ." + width + " %s<4>, %r<4>;\nshl.b32 %t0, %lane, 4;\n", stored, loaded;
        for (unsigned k = 0; k < elements; ++k) {
          const std::string shifted = "shr.u64 %x1, %a0, " + std::to_string(8 * k) + ";\n",
                            name = "%s" + std::to_string(k);
          body += shifted + (width == "b64" ? "mov.b64 " + name + ", %x1;\n"
                                            : "cvt.u" + width.substr(1) + ".u64 " + name + ", %x1;\n");
          stored += (k ? ", %s" : "%s") + std::to_string(k);
          loaded += (k ? ", %r" : "%r") + std::to_string(k);
        }
        if (elements > 1) stored = "{" + stored + "}", loaded = "{" + loaded + "}";
        if (space == ".param") body += ".param .align 16 .b8 x[16];\n.param .align 16 .b8 r[16];\n";
        // A parameter of a call comes back as its result.
        const bool called = space == ".param";
        body += "st" + form + " " + place + ", " + stored + ";\n" + (called ? "call.uni (r), same, (x);\n" : "") +
                "ld" + form + " " + loaded + ", " + (called ? "[r]" : place) + ";\nmov.b64 %d, 0;\n";
        // The sum of the elements, each rotated to where it cannot hide another's fault.
        for (unsigned k = 0; k < elements; ++k) {
          const std::string name = "%r" + std::to_string(k);
          body += (width == "b64" ? "mov.b64 %x1, " + name + ";\n"
                                  : "cvt.u64.u" + width.substr(1) + " %x1, " + name + ";\n") +
                  "mad.lo.u64 %d, %x1, " + std::to_string(2 * k + 1) + ", %d;\n";
        }
        b.text(space == ".param" ? "9.7.12.5" : "9.7.9.11", body, "ll", rows, [=](Lane a, unsigned) {
          uint64_t sum = 0;
          for (unsigned k = 0; k < elements; ++k) {
            const uint64_t mask = type.bytes == 8 ? ~uint64_t{0} : (uint64_t{1} << (8 * type.bytes)) - 1;
            uint64_t element = a[0] >> (8 * k) & mask;
            // A signed byte fills its 16-bit register.
            if (type.name[0] == 's' && type.bytes == 1) element = signExtended(element, 1) & 0xffff;
            sum += element * (2 * k + 1);
          }
          return sum;
        });
      }
      // Kernel parameters, whose first eight bytes are the address of the inputs, and constants.
      if (type.bytes * elements > 8) continue;
      const std::string vector = elements == 1 ? "." : elements == 2 ? ".v2." : ".v4.";
      const std::string width = type.bytes <= 2 ? "b16" : type.bytes == 4 ? "b32" : "b64";
      std::string registers = "%r0";
      for (unsigned k = 1; k < elements; ++k) registers += ", %r" + std::to_string(k);
      if (elements > 1) registers = "{" + registers + "}";
      const std::string last = "%r" + std::to_string(elements - 1);
      for (const std::string source : {"param", "const"}) {
        b.text("9.7.9.8",
               ".reg ." + width + " %r<4>;\nld." + source + vector + type.name + " " + registers + ", " +
                   (source == "param" ? "[in]" : "[table+8]") + ";\n" +
                   (width == "b64" ? "mov.b64 %d, " + last : "cvt.u64.u" + width.substr(1) + " %d, " + last) + ";\n" +
                   (source == "param" ? "ld.param.u64 %x0, [in];\n" : "mov.b64 %x0, 0x0000002c00000021;\n") +
                   // What the memory holds there, extended as the type says, must cancel out.
                   "bfe." + (type.name[0] == 's' ? "s64" : "u64") + " %x0, %x0, " +
                   std::to_string(8 * type.bytes * (elements - 1)) + ", " + std::to_string(8 * type.bytes) +
                   ";\nsub.u64 %d, %d, %x0;\nand.b64 %d, %d, " +
                   (type.bytes == 1   ? "0xffff"
                    : type.bytes == 2 ? "0xffff"
                    : type.bytes == 4 ? "0xffffffff"
                                      : "-1") +
                   ";",
               "ll", rows, [](Lane, unsigned) { return uint64_t{0}; });
      }
    }
  }
  return std::move(b.cases);
}

}  // namespace runner
