// Cases of atom and red: every operation and type, each in every state space, with every ordering and scope. One case
// runs all of these on one word of the lane's own, and folds what they returned and what they left into one number.
#include <algorithm>
#include <bit>
#include <string>

#include "cases.h"
#include "formats.h"

namespace runner {
namespace {

std::vector<Case> cases;

using Operation = uint64_t (*)(uint64_t old, uint64_t b);

struct Atomic {
  const char* op;
  const char* type;
  unsigned bytes;
  Operation of;
  bool reduces = true;  // red has it as well
  unsigned target = 80;

  bool isFloat() const { return std::string(type).find('f') != std::string::npos; }
};

int32_t s(uint64_t x) { return static_cast<int32_t>(x); }
int64_t sl(uint64_t x) { return static_cast<int64_t>(x); }
uint64_t u(uint64_t x) { return static_cast<uint32_t>(x); }
float f(uint64_t x) { return std::bit_cast<float>(static_cast<uint32_t>(x)); }
uint64_t bits(float x) { return std::bit_cast<uint32_t>(x); }
uint64_t bits(double x) { return std::bit_cast<uint64_t>(x); }
uint64_t half(const Format& format, uint64_t a, uint64_t b) {
  return format.encode(format.decode(a & 0xffff) + format.decode(b & 0xffff));
}
uint64_t halves(const Format& format, uint64_t a, uint64_t b) {
  return half(format, a, b) | half(format, a >> 16, b >> 16) << 16;
}

const Atomic kAtomics[] = {
    {"add", "u32", 4, [](uint64_t a, uint64_t b) { return u(a + b); }},
    {"add", "s32", 4, [](uint64_t a, uint64_t b) { return u(a + b); }},
    {"add", "u64", 8, [](uint64_t a, uint64_t b) { return a + b; }},
    {"add", "f32", 4, [](uint64_t a, uint64_t b) { return bits(f(a) + f(b)); }},
    {"add", "f64", 8, [](uint64_t a, uint64_t b) { return bits(std::bit_cast<double>(a) + std::bit_cast<double>(b)); }},
    {"add.noftz", "f16", 2, [](uint64_t a, uint64_t b) { return half(kF16, a, b); }},
    {"add.noftz", "f16x2", 4, [](uint64_t a, uint64_t b) { return halves(kF16, a, b); }},
    {"add.noftz", "bf16", 2, [](uint64_t a, uint64_t b) { return half(kBf16, a, b); }, true, 90},
    {"add.noftz", "bf16x2", 4, [](uint64_t a, uint64_t b) { return halves(kBf16, a, b); }, true, 90},
    {"min", "u32", 4, [](uint64_t a, uint64_t b) { return std::min(u(a), u(b)); }},
    {"min", "s32", 4, [](uint64_t a, uint64_t b) { return u(static_cast<uint64_t>(std::min(s(a), s(b)))); }},
    {"min", "u64", 8, [](uint64_t a, uint64_t b) { return std::min(a, b); }},
    {"min", "s64", 8, [](uint64_t a, uint64_t b) { return static_cast<uint64_t>(std::min(sl(a), sl(b))); }},
    {"max", "u32", 4, [](uint64_t a, uint64_t b) { return std::max(u(a), u(b)); }},
    {"max", "s32", 4, [](uint64_t a, uint64_t b) { return u(static_cast<uint64_t>(std::max(s(a), s(b)))); }},
    {"max", "u64", 8, [](uint64_t a, uint64_t b) { return std::max(a, b); }},
    {"max", "s64", 8, [](uint64_t a, uint64_t b) { return static_cast<uint64_t>(std::max(sl(a), sl(b))); }},
    {"and", "b32", 4, [](uint64_t a, uint64_t b) { return u(a & b); }},
    {"and", "b64", 8, [](uint64_t a, uint64_t b) { return a & b; }},
    {"or", "b32", 4, [](uint64_t a, uint64_t b) { return u(a | b); }},
    {"or", "b64", 8, [](uint64_t a, uint64_t b) { return a | b; }},
    {"xor", "b32", 4, [](uint64_t a, uint64_t b) { return u(a ^ b); }},
    {"xor", "b64", 8, [](uint64_t a, uint64_t b) { return a ^ b; }},
    {"inc", "u32", 4, [](uint64_t a, uint64_t b) { return u(a) >= u(b) ? 0 : u(a + 1); }},
    {"dec", "u32", 4, [](uint64_t a, uint64_t b) { return u(a) == 0 || u(a) > u(b) ? u(b) : u(a - 1); }},
    {"exch", "b32", 4, [](uint64_t, uint64_t b) { return u(b); }, false},
    {"exch", "b64", 8, [](uint64_t, uint64_t b) { return b; }, false},
    // Compares with what the variant before left, half of the time: see below.
    {"cas", "b16", 2, nullptr, false},
    {"cas", "b32", 4, nullptr, false},
    {"cas", "b64", 8, nullptr, false},
};

// atom and red order their words differently: the ordering, the scope, then the space.
std::vector<std::string> prefixes(const std::string& op, const std::string& space) {
  std::vector<std::string> all{op + space};
  for (const char* scope : {".cta", ".gpu", ".sys"}) all.push_back(op + space + scope);
  for (const char* order : {".relaxed", ".acquire", ".release", ".acq_rel"}) {
    if (op == "red" && order[1] == 'a') continue;
    for (const char* scope : {".cta", ".gpu", ".sys"}) all.push_back(op + order + scope + space);
  }
  return all;
}

uint64_t low(uint64_t x, unsigned bytes) { return bytes == 8 ? x : x & ((uint64_t{1} << (8 * bytes)) - 1); }

// Variant n uses the operand rotated by n bits, so that no two do the same. Floats are added as they are.
uint64_t operandOf(const Atomic& atomic, uint64_t b, size_t n) {
  return atomic.isFloat() ? b : std::rotl(b, static_cast<int>(n % 64));
}
uint64_t step(const Atomic& atomic, uint64_t old, uint64_t b, size_t n) {
  if (atomic.of) return low(atomic.of(old, b), atomic.bytes);
  return n % 2 ? low(b, atomic.bytes) : old;  // every other cas compares with a value that is not there
}

void add(const Atomic& atomic, const std::string& space) {
  const unsigned width = atomic.bytes == 8 ? 64 : atomic.bytes == 4 ? 32 : 16;
  const std::string w = std::to_string(width), type = std::string(".") + atomic.type;
  std::string body =
      ".reg .b64 %at, %sum, %b, %wide;\n.reg .b" + w + " %v, %new, %old;\nmov.u64 %sum, 0;\nmov.u64 %b, %a1;\n";
  body += space == ".shared" ? "mul.wide.u32 %at, %lane, 16;\nst.shared.u64 [%at], %a0;\n" : "mov.u64 %at, %in;\n";
  const bool isCas = std::string(atomic.op) == "cas";
  auto narrow = [&](const char* to, const char* from) {
    return (width == 64 ? std::string("mov.u64 ") : "cvt.u" + w + ".u64 ") + to + ", " + from + ";\n";
  };
  auto foldIn = [&](const char* value) {
    return (width == 64 ? std::string("mov.u64 ") : "cvt.u64.u" + w + " ") + "%wide, " + value +
           ";\nmad.lo.u64 %sum, %sum, 31, %wide;\n";
  };
  size_t count = 0;
  const std::string rotate = "shl.b64 %x0, %b, 1;\nshr.u64 %x1, %b, 63;\nor.b64 %b, %x0, %x1;\n";
  auto variant = [&](const std::string& prefix, bool returns) {
    body += narrow("%v", "%b");
    if (isCas) {
      body += "ld" + space + ".b" + w + " %new, [%at];\n";
      if (count % 2 == 0) body += "not.b" + w + " %new, %new;\n";
      body += prefix + ".cas" + type + " %old, [%at], %new, %v;\n";
    } else {
      body += prefix + "." + atomic.op + type + (returns ? " %old," : "") + " [%at], %v;\n";
    }
    if (returns) body += foldIn("%old");
    if (!atomic.isFloat()) body += rotate;
    ++count;
  };
  const std::vector<std::string> atoms = prefixes("atom", space);
  const std::vector<std::string> reds = atomic.reduces ? prefixes("red", space) : std::vector<std::string>();
  for (const std::string& prefix : atoms) variant(prefix, true);
  for (const std::string& prefix : reds) variant(prefix, false);
  body += "ld" + space + ".b" + w + " %v, [%at];\n" + foldIn("%v") + "mov.u64 %d, %sum;";
  Case c{"9.7.13", body, "lll", longRows(), [=, returning = atoms.size()](Lane a, unsigned) {
           uint64_t value = low(a[0], atomic.bytes), sum = 0;
           for (size_t n = 0; n < count; ++n) {
             if (n < returning) sum = sum * 31 + value;
             value = step(atomic, value, operandOf(atomic, a[1], n), n);
           }
           return sum * 31 + value;
         }};
  c.target = atomic.target;
  // 1.5 in every format, added to 1.5: no sum is rounded.
  const uint64_t start = atomic.bytes == 8 ? bits(1.5)
                         : type == ".f32"  ? bits(1.5f)
                         : type[1] == 'f'  ? 0x3e003e00
                                           : 0x3fc03fc0;
  if (atomic.isFloat()) c.inputs = {{start, start}};
  cases.push_back(std::move(c));
}

}  // namespace

std::vector<Case> atomicCases() {
  cases.clear();
  for (const Atomic& atomic : kAtomics) {
    for (const char* space : {"", ".global", ".shared"}) add(atomic, space);
  }
  return std::move(cases);
}

}  // namespace runner
