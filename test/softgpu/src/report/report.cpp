// JSON lines by hand: every value is a number or a string that is escaped here.
#include "report/report.h"

#include <cstdio>
#include <mutex>

namespace softgpu {
namespace {

std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return out + "\"";
}

std::string triple(u32 x, u32 y, u32 z) {
  return "[" + std::to_string(x) + "," + std::to_string(y) + "," + std::to_string(z) + "]";
}

std::string faultJson(const Fault& f) {
  return "{\"fault\":" + quoted(nameOf(f.kind)) + ",\"kernel\":" + quoted(f.kernel) +
         ",\"block\":" + triple(f.block[0], f.block[1], f.block[2]) +
         ",\"thread\":" + triple(f.thread[0], f.thread[1], f.thread[2]) + ",\"line\":" + std::to_string(f.line) +
         ",\"statement\":" + quoted(f.statement) + ",\"address\":" + std::to_string(f.address) +
         ",\"bytes\":" + std::to_string(f.bytes) + ",\"detail\":" + quoted(f.detail) +
         ",\"count\":" + std::to_string(f.count) + "}";
}

void writeLine(const std::string& line) {
  static std::mutex mutex;
  if (options().reportPath.empty()) return;
  std::lock_guard lock(mutex);
  // Opened per line, so that several processes may share one report.
  if (FILE* file = std::fopen(options().reportPath.c_str(), "a")) {
    std::fputs((line + "\n").c_str(), file);
    std::fclose(file);
  }
}

}  // namespace

void reportLaunch(const Launch& launch, u64 stream) {
  const LaunchConfig& c = launch.config;
  std::string line = "{\"type\":\"launch\",\"id\":" + std::to_string(c.id) + ",\"kernel\":" + quoted(c.kernel->name) +
                     ",\"stream\":" + std::to_string(stream) + ",\"grid\":" + triple(c.grid.x, c.grid.y, c.grid.z) +
                     ",\"block\":" + triple(c.block.x, c.block.y, c.block.z) +
                     ",\"dynamicShared\":" + std::to_string(c.dynamicShared);
  forEachCounter(launch.counters, [&](const char* name, u64 value) {
    line += ",\"" + std::string(name) + "\":" + std::to_string(value);
  });
  line += ",\"faults\":[";
  for (size_t k = 0; k < launch.faults.size(); ++k) line += (k ? "," : "") + faultJson(launch.faults[k]);
  writeLine(line + "]}");
  for (const Fault& fault : launch.faults) std::fprintf(stderr, "%s\n", fault.describe().c_str());
}

void reportFault(const Fault& fault) {
  writeLine("{\"type\":\"fault\",\"faults\":[" + faultJson(fault) + "]}");
  std::fprintf(stderr, "%s\n", fault.describe().c_str());
}

void reportStream(u64 stream, const StreamCalls& c) {
  writeLine("{\"type\":\"stream\",\"stream\":" + std::to_string(stream) +
            ",\"launches\":" + std::to_string(c.launches) + ",\"copies\":" + std::to_string(c.copies) +
            ",\"blockingCopies\":" + std::to_string(c.blockingCopies) + ",\"allocations\":" +
            std::to_string(c.allocations) + ",\"synchronisations\":" + std::to_string(c.synchronisations) +
            ",\"queries\":" + std::to_string(c.queries) + "}");
}

}  // namespace softgpu
