// Reads the SOFTGPU_ variables. A value that makes no sense is a problem that cuInit reports.
#include "base/options.h"

#include <charconv>
#include <cstdlib>
#include <string_view>
#include <type_traits>

#include "base/injection.h"

namespace softgpu {
namespace {

bool parseNumber(std::string_view text, u64& value) {
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() && !text.empty();
}

// "8.6" as 8 and 6.
bool parsePair(std::string_view text, u64& major, u64& minor) {
  const size_t dot = text.find('.');
  return dot != std::string_view::npos && parseNumber(text.substr(0, dot), major) &&
         parseNumber(text.substr(dot + 1), minor);
}

void parseCapability(std::string_view text, Options& out) {
  u64 major = 0, minor = 0;
  if (!parsePair(text, major, minor) || major < 5 || major > 99 || minor > 9) {
    out.problem = "SOFTGPU_CC must be a compute capability from 5.0 on, such as 9.0; it is '" + std::string(text) + "'";
    return;
  }
  out.major = static_cast<u32>(major);
  out.minor = static_cast<u32>(minor);
}

void parseDriverVersion(std::string_view text, Options& out) {
  u64 major = 0, minor = 0;
  if (!parsePair(text, major, minor) || major < 1 || major > 99 || minor > 9) {
    out.problem = "SOFTGPU_DRIVER_VERSION must be a CUDA version such as 12.4; it is '" + std::string(text) + "'";
    return;
  }
  out.driverVersion = static_cast<int>(major * 1000 + minor * 10);
}

void checkInjection(const char* name, Options& out) {
  const char* text = std::getenv(name);
  if (text && !Injection().parse(text))
    out.problem = std::string(name) + " must be a number, or a number and '+'; it is '" + text + "'";
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
  auto number = [&](const char* name, auto& value, u64 highest) {
    const char* text = std::getenv(name);
    u64 parsed = 0;
    if (!text) return;
    if (!parseNumber(text, parsed) || parsed > highest) {
      out.problem =
          std::string(name) + " must be a number from 0 to " + std::to_string(highest) + "; it is '" + text + "'";
    } else {
      value = static_cast<std::remove_reference_t<decltype(value)>>(parsed);
    }
  };
  if (const char* text = std::getenv("SOFTGPU_CC")) parseCapability(text, out);
  if (const char* text = std::getenv("SOFTGPU_ORDER")) parseOrder(text, out);
  if (const char* text = std::getenv("SOFTGPU_REPORT")) out.reportPath = text;
  if (const char* text = std::getenv("SOFTGPU_TRACE")) out.tracePath = text;
  if (const char* text = std::getenv("SOFTGPU_DRIVER_VERSION")) parseDriverVersion(text, out);
  for (const char* name : {"SOFTGPU_FAIL_ALLOC", "SOFTGPU_FAIL_LAUNCH"}) checkInjection(name, out);
  number("SOFTGPU_DEVICES", out.devices, 1);
  number("SOFTGPU_MEMORY", out.memoryBytes, u64{1} << 40);
  return out;
}

}  // namespace

const Options& options() {
  static const auto* value = new Options(read());
  return *value;
}

}  // namespace softgpu
