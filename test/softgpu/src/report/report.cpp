// JSON lines by hand: every value is a number or a string that is escaped here.
#include "report/report.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <map>
#include <mutex>

namespace softgpu {

std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return out + "\"";
}

void appendLine(const std::string& path, const std::string& line) {
  // Never destroyed, like every static here: threads of ours outlive main.
  static auto* mutex = new std::mutex;
  static auto* files = new std::map<std::string, int>;
  std::lock_guard lock(*mutex);
  auto [it, added] = files->try_emplace(path, -1);
  if (added) it->second = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (it->second < 0) return;
  // One write, so that lines of different processes do not mix.
  const std::string text = line + "\n";
  if (write(it->second, text.data(), text.size()) < 0) std::perror(path.c_str());
}

void writeReport(const std::string& line) {
  if (!options().reportPath.empty()) appendLine(options().reportPath, line);
}

namespace {

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
  writeReport(line + "]}");
  for (const Fault& fault : launch.faults) std::fprintf(stderr, "%s\n", fault.describe().c_str());
}

void reportFault(const Fault& fault) {
  writeReport("{\"type\":\"fault\",\"faults\":[" + faultJson(fault) + "]}");
  std::fprintf(stderr, "%s\n", fault.describe().c_str());
}

}  // namespace softgpu
