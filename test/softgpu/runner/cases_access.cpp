// Cases of ld and st: every state space, type and vector length, each with every ordering, scope and cache operator.
// One case runs all variants of one form on the same bytes, and folds what they moved into one number.
#include <algorithm>
#include <string>

#include "cases.h"

namespace runner {
namespace {

std::vector<Case> cases;

struct AccessType {
  const char* name;
  unsigned bytes;
  bool isSigned;
  unsigned registerBytes() const { return bytes == 1 ? 2 : bytes; }
  std::string registerType() const { return std::to_string(8 * registerBytes()); }
};
constexpr AccessType kTypes[] = {{"b8", 1, false},  {"u8", 1, false},  {"s8", 1, true},   {"b16", 2, false},
                                 {"u16", 2, false}, {"s16", 2, true},  {"b32", 4, false}, {"u32", 4, false},
                                 {"s32", 4, true},  {"f32", 4, false}, {"b64", 8, false}, {"u64", 8, false},
                                 {"s64", 8, true},  {"f64", 8, false}};
constexpr unsigned kVectors[] = {1, 2, 4};

std::string vectorName(unsigned elements) { return elements == 1 ? "" : ".v" + std::to_string(elements); }
std::string vectorOf(const char* name, unsigned elements) {
  std::string text;
  for (unsigned k = 0; k < elements; ++k) text += (k ? ", " : "") + std::string(name) + std::to_string(k);
  return elements == 1 ? text : "{" + text + "}";
}
uint64_t low(uint64_t x, unsigned bytes) { return bytes == 8 ? x : x & ((uint64_t{1} << (8 * bytes)) - 1); }
uint64_t fold(uint64_t sum, uint64_t value) { return sum * 31 + value; }

// ld and st with all that may stand between the opcode and the vector: "{}" is where the space goes.
std::vector<std::string> variants(const std::string& op, const std::string& space, unsigned bytes) {
  const bool load = op == "ld";
  std::vector<std::string> all{op + space, op + ".weak" + space};
  if (space == ".local") return all.erase(all.begin() + 1), all;
  if (space == ".param" || space == ".const") return {op + space};
  for (const char* cache :
       load ? std::vector{".ca", ".cg", ".cs", ".lu", ".cv"} : std::vector{".wb", ".cg", ".cs", ".wt"})
    if (space != ".shared") all.push_back(op + space + cache);
  all.push_back(op + ".volatile" + space);
  if (bytes > 1) {
    for (const char* scope : {".cta", ".gpu", ".sys"}) {
      all.push_back(op + ".relaxed" + scope + space);
      all.push_back(op + (load ? ".acquire" : ".release") + scope + space);
    }
  }
  if (load && space == ".global") {
    for (const char* cache : {"", ".ca", ".cg", ".cs"}) all.push_back(op + space + cache + ".nc");
  }
  return all;
}

std::string foldInto(const AccessType& type, unsigned elements) {
  std::string text;
  for (unsigned k = 0; k < elements; ++k) {
    const std::string v = "%v" + std::to_string(k);
    if (type.registerBytes() == 8) {
      text += "mad.lo.u64 %sum, %sum, 31, " + v + ";\n";
    } else {
      text += "cvt.u64.u" + type.registerType() + " %x0, " + v + ";\nmad.lo.u64 %sum, %sum, 31, %x0;\n";
    }
  }
  return text;
}

// Where the lane's own 16 bytes are, and how to get there.
std::string placeOf(const std::string& space, std::string& address) {
  address = "[%at]";
  if (space == ".shared") return "mul.wide.u32 %at, %lane, 16;\n";
  if (space == ".local") return "mov.u64 %at, own;\n";
  return "mov.u64 %at, %in;\n";
}

void loads(const std::string& space, const AccessType& type, unsigned elements) {
  std::string address;
  std::string body =
      ".reg .b64 %at, %sum;\n.reg .b" + type.registerType() + " %v<4>;\nmov.u64 %sum, 0;\n" + placeOf(space, address);
  if (space == ".shared" || space == ".local")
    body += "st" + space + ".u64 [%at], %a0;\nst" + space + ".u64 [%at+8], %a1;\n";
  const std::vector<std::string> forms = variants("ld", space, type.bytes);
  for (const std::string& form : forms) {
    body += form + vectorName(elements) + "." + type.name + " " + vectorOf("%v", elements) + ", " + address + ";\n" +
            foldInto(type, elements);
  }
  body += "mov.u64 %d, %sum;";
  cases.push_back({"9.7.9.8", body, "lll", longRows(), [=, count = forms.size()](Lane a, unsigned) {
                     uint64_t sum = 0;
                     for (size_t n = 0; n < count; ++n) {
                       for (unsigned k = 0; k < elements; ++k) {
                         const unsigned at = k * type.bytes;
                         uint64_t value = low(a[at / 8] >> (8 * (at % 8)), type.bytes);
                         const uint64_t sign = uint64_t{1} << (8 * type.bytes - 1);
                         if (type.isSigned && (value & sign)) value |= ~(sign - 1);
                         sum = fold(sum, low(value, type.registerBytes()));
                       }
                     }
                     return sum;
                   }});
}

// Each variant stores other values, which are then read back.
void stores(const std::string& space, const AccessType& type, unsigned elements) {
  std::string address;
  std::string body =
      ".reg .b64 %at, %sum;\n.reg .b" + type.registerType() + " %v<4>;\nmov.u64 %sum, 0;\n" + placeOf(space, address);
  const std::vector<std::string> forms = variants("st", space, type.bytes);
  const std::string tail = vectorName(elements) + "." + type.name + " ";
  for (size_t n = 0; n < forms.size(); ++n) {
    for (unsigned k = 0; k < elements; ++k) {
      body += "add.u64 %x0, %a" + std::to_string(k % 2) + ", " + std::to_string(n + k * 77) + ";\n";
      body += (type.registerBytes() == 8 ? "mov.u64" : "cvt.u" + type.registerType() + ".u64") + " %v" +
              std::to_string(k) + ", %x0;\n";
    }
    body += forms[n] + tail + address + ", " + vectorOf("%v", elements) + ";\n";
    body += "ld" + space + tail + vectorOf("%v", elements) + ", " + address + ";\n" + foldInto(type, elements);
  }
  body += "mov.u64 %d, %sum;";
  cases.push_back({"9.7.9.11", body, "lll", longRows(), [=, count = forms.size()](Lane a, unsigned) {
                     uint64_t sum = 0;
                     for (size_t n = 0; n < count; ++n) {
                       for (unsigned k = 0; k < elements; ++k) {
                         uint64_t value = low(a[k % 2] + n + k * 77, type.bytes);
                         const uint64_t sign = uint64_t{1} << (8 * type.bytes - 1);
                         if (type.isSigned && (value & sign)) value |= ~(sign - 1);
                         sum = fold(sum, low(value, type.registerBytes()));
                       }
                     }
                     return sum;
                   }});
}

// Of kernel parameters, constants and the parameters of a call.
void readOnly(const AccessType& type, unsigned elements) {
  const std::string tail = vectorName(elements) + "." + type.name + " ", list = vectorOf("%v", elements);
  const std::string head = ".reg .b64 %at, %sum;\n.reg .b" + type.registerType() + " %v<4>;\nmov.u64 %sum, 0;\n";
  const std::string both = "ld.const" + tail + list + ", [words+16];\n" + foldInto(type, elements);
  cases.push_back({"9.7.9.8", head + both + "mov.u64 %d, %sum;", "lll", longRows(), [=](Lane, unsigned) {
                     // The words that the module declares.
                     const uint64_t words[] = {0x8090a0b0c0d0e0f0, 0x0102030405060708};
                     uint64_t sum = 0;
                     for (unsigned k = 0; k < elements; ++k) {
                       const unsigned at = k * type.bytes;
                       uint64_t value = low(words[at / 8] >> (8 * (at % 8)), type.bytes);
                       const uint64_t sign = uint64_t{1} << (8 * type.bytes - 1);
                       if (type.isSigned && (value & sign)) value |= ~(sign - 1);
                       sum = fold(sum, low(value, type.registerBytes()));
                     }
                     return sum;
                   }});
  // Through a call that returns its parameter.
  std::string body = head + "{.param .align 16 .b8 x[16];\n.param .align 16 .b8 r[16];\n";
  for (unsigned k = 0; k < elements; ++k) {
    body += type.registerBytes() == 8 ? "mov.u64 %v" + std::to_string(k) + ", %a" + std::to_string(k % 2) + ";\n"
                                      : "cvt.u" + type.registerType() + ".u64 %v" + std::to_string(k) + ", %a" +
                                            std::to_string(k % 2) + ";\n";
  }
  body += "st.param" + tail + "[x], " + list + ";\ncall.uni (r), same, (x);\nld.param" + tail + list + ", [r];\n" +
          foldInto(type, elements) + "}\nmov.u64 %d, %sum;";
  cases.push_back({"9.7.12.5", body, "lll", longRows(), [=](Lane a, unsigned) {
                     uint64_t sum = 0;
                     for (unsigned k = 0; k < elements; ++k) {
                       uint64_t value = low(a[k % 2], type.bytes);
                       const uint64_t sign = uint64_t{1} << (8 * type.bytes - 1);
                       if (type.isSigned && (value & sign)) value |= ~(sign - 1);
                       sum = fold(sum, low(value, type.registerBytes()));
                     }
                     return sum;
                   }});
}

}  // namespace

std::vector<Case> accessCases() {
  cases.clear();
  for (const AccessType& type : kTypes) {
    for (unsigned elements : kVectors) {
      if (elements * type.bytes > 16) continue;
      for (const char* space : {"", ".global", ".shared", ".local"}) {
        loads(space, type, elements);
        stores(space, type, elements);
      }
      readOnly(type, elements);
    }
  }
  return std::move(cases);
}

}  // namespace runner
