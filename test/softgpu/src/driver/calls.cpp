// Call sites know each other through one list, in the order of their first call.
#include "driver/calls.h"

#include <mutex>
#include <string>
#include <vector>

#include "base/options.h"
#include "report/report.h"

namespace softgpu {
namespace {

struct Sites {
  std::mutex mutex;
  std::vector<CallSite*> all;
  std::vector<u64> mark;  // the counts at the mark, site after site
};
Sites& sites() {
  static Sites* instance = new Sites;  // call sites register after any static destructor may have run
  return *instance;
}

constexpr const char* kNames[kCallKinds] = {"other",    "launching",    "enqueueing", "synchronising",
                                            "querying", "blockingCopy", "allocating", "freeing"};

std::string_view withoutVersion(std::string_view name) {
  const size_t at = name.rfind("_v");
  return at == std::string_view::npos ? name : name.substr(0, at);
}

}  // namespace

CallSite::CallSite(const char* function) : name_(withoutVersion(function)) {
  std::lock_guard lock(sites().mutex);
  sites().all.push_back(this);
}

void CallSite::note(CallKind kind, std::string_view kernel, u64 stream) {
  counts_[static_cast<u32>(kind)].fetch_add(1, std::memory_order_relaxed);
  if (options().tracePath.empty()) return;
  std::string line = "{\"type\":\"call\",\"call\":" + quoted(name_) + ",\"kind\":\"" + kNames[static_cast<u32>(kind)] +
                     "\",\"stream\":" + std::to_string(stream);
  if (!kernel.empty()) line += ",\"kernel\":" + quoted(kernel);
  appendLine(options().tracePath, line + "}");
}

void markCalls() {
  Sites& s = sites();
  std::lock_guard lock(s.mutex);
  s.mark.clear();
  for (const CallSite* site : s.all) {
    for (u32 k = 0; k < kCallKinds; ++k) s.mark.push_back(site->count(static_cast<CallKind>(k)));
  }
}

void reportCalls(std::string_view when) {
  Sites& s = sites();
  std::lock_guard lock(s.mutex);
  u64 totals[kCallKinds] = {};
  std::string byName;
  for (size_t n = 0; n < s.all.size(); ++n) {
    u64 calls = 0;
    for (u32 k = 0; k < kCallKinds; ++k) {
      const size_t at = n * kCallKinds + k;
      const u64 count = s.all[n]->count(static_cast<CallKind>(k)) - (at < s.mark.size() ? s.mark[at] : 0);
      totals[k] += count;
      calls += count;
    }
    if (calls) byName += (byName.empty() ? "" : ",") + quoted(s.all[n]->name()) + ":" + std::to_string(calls);
  }
  std::string line = "{\"type\":\"calls\",\"at\":" + quoted(when);
  for (u32 k = 0; k < kCallKinds; ++k) line += ",\"" + std::string(kNames[k]) + "\":" + std::to_string(totals[k]);
  writeReport(line + ",\"calls\":{" + byName + "}}");
  s.mark.clear();
}

}  // namespace softgpu
