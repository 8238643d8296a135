// What the case files share: numbers as bits, and a list that cases are added to.
#pragma once

#include <bit>
#include <string>
#include <utility>
#include <vector>

#include "cases.h"

namespace runner {

using Rows = std::vector<std::vector<uint64_t>>;
using Formula = std::function<uint64_t(Lane, unsigned)>;

inline uint64_t f(float x) { return std::bit_cast<uint32_t>(x); }
inline uint64_t g(double x) { return std::bit_cast<uint64_t>(x); }
inline float F(uint64_t x) { return std::bit_cast<float>(static_cast<uint32_t>(x)); }
inline double G(uint64_t x) { return std::bit_cast<double>(x); }
constexpr uint64_t kNan = 0x7fffffff, kHalfNan = 0x7fff, kDoubleNan = 0x7ff8000000000000;

inline uint64_t signExtended(uint64_t x, unsigned bytes) {
  const unsigned shift = 64 - 8 * bytes;
  return static_cast<uint64_t>(static_cast<int64_t>(x << shift) >> shift);
}

class Builder {
 public:
  // Cases from here on need this compute capability, times ten.
  void require(unsigned capability) { capability_ = capability; }
  void text(const char* section, const std::string& body, const char* types, Rows rows, Formula expected,
            double tolerance = 0) {
    cases.push_back({section, body, types, std::move(rows), std::move(expected), tolerance, capability_});
  }
  // One instruction with a result and operands %a0, %a1 …
  void op(const char* section, const std::string& form, const char* types, Rows rows, Formula expected,
          double tolerance = 0) {
    std::string body = form + " %d";
    for (size_t k = 0; k + 1 < std::string(types).size(); ++k) body += ", %a" + std::to_string(k);
    text(section, body + ";", types, std::move(rows), std::move(expected), tolerance);
  }
  // The same with the expected result of each row as its last column.
  void table(const char* section, const std::string& form, const char* types, const Rows& rows, double tolerance = 0) {
    op(
        section, form, types, rows, [rows](Lane, unsigned l) { return rows[l % rows.size()].back(); }, tolerance);
  }
  std::vector<Case> cases;

 private:
  unsigned capability_ = 80;
};

}  // namespace runner
