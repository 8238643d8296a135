// Reads SOFTGPU_CC, SOFTGPU_ORDER, SOFTGPU_REPORT and SOFTGPU_FAIL_ALLOC.
#include "base/options.h"

#include <charconv>
#include <cstdlib>
#include <string_view>

namespace softgpu {
namespace {

bool parseNumber(std::string_view text, u64& value) {
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() && !text.empty();
}

void parseCapability(std::string_view text, Options& out) {
  u64 major = 0, minor = 0;
  size_t dot = text.find('.');
  if (dot == std::string_view::npos || !parseNumber(text.substr(0, dot), major) ||
      !parseNumber(text.substr(dot + 1), minor) || major < 8 || minor > 9) {
    out.problem = "SOFTGPU_CC must be a compute capability from 8.0 on, such as 9.0; it is '" + std::string(text) + "'";
    return;
  }
  out.major = static_cast<u32>(major);
  out.minor = static_cast<u32>(minor);
}

void parseOrder(std::string_view text, Options& out) {
  constexpr std::string_view kRandom = "random:";
  if (text == "latest") {
    out.order = Order::kLatest;
  } else if (text == "earliest") {
    out.order = Order::kEarliest;
  } else if (text.starts_with(kRandom) && parseNumber(text.substr(kRandom.size()), out.seed)) {
    out.order = Order::kRandom;
  } else {
    out.problem = "SOFTGPU_ORDER must be latest, earliest or random:SEED; it is '" + std::string(text) + "'";
  }
}

Options read() {
  Options out;
  if (const char* text = std::getenv("SOFTGPU_CC")) parseCapability(text, out);
  if (const char* text = std::getenv("SOFTGPU_ORDER")) parseOrder(text, out);
  if (const char* text = std::getenv("SOFTGPU_REPORT")) out.reportPath = text;
  if (const char* text = std::getenv("SOFTGPU_FAIL_ALLOC")) {
    if (!parseNumber(text, out.failAllocation)) {
      out.problem = "SOFTGPU_FAIL_ALLOC must be a number; it is '" + std::string(text) + "'";
    }
  }
  return out;
}

}  // namespace

const Options& options() {
  static const Options value = read();
  return value;
}

}  // namespace softgpu
