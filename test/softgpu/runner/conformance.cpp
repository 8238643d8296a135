// Builds one PTX module out of all cases, runs every case as a kernel of one warp, and compares lane by lane.
#include "conformance.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <set>

#include "cases.h"
#include "gpu.h"
#include "ptx/parser.h"

namespace runner {
namespace {

constexpr unsigned kLanes = 32, kInputs = 4;

std::vector<Case> allCases() {
  std::vector<Case> all;
  for (auto family : {integerCases, floatCases, memoryCases, warpCases}) {
    for (Case& c : family()) all.push_back(std::move(c));
  }
  return all;
}

const char* registerType(char type) { return type == 'h' ? "b16" : type == 'w' ? "b32" : "b64"; }

std::string kernelOf(const Case& c, size_t number) {
  std::string text =
      ".visible .entry case_" + std::to_string(number) + "(.param .u64 in, .param .u64 out)\n{\n" +
      ".reg .pred %p, %q;\n.reg .b32 %t<4>;\n.reg .b64 %x<4>;\n.reg .b64 %in, %out;\n.reg .b32 %lane;\n" +
      ".shared .align 16 .b8 tile[1024];\n.local .align 16 .b8 own[64];\n.reg ." + registerType(c.types[0]) + " %d;\n" +
      "ld.param.u64 %in, [in];\nld.param.u64 %out, [out];\nmov.u32 %lane, %laneid;\n" +
      "mad.wide.u32 %in, %lane, 32, %in;\nmad.wide.u32 %out, %lane, 8, %out;\n" +
      "setp.ne.u32 %p, %lane, %lane;\nsetp.ne.u32 %q, %lane, %lane;\n";
  for (size_t k = 1; k < c.types.size(); ++k) {
    const std::string type = registerType(c.types[k]), name = "%a" + std::to_string(k - 1);
    text += ".reg ." + type + " " + name + ";\nld.global." + type + " " + name + ", [%in+" +
            std::to_string((k - 1) * 8) + "];\n";
  }
  return text + c.body + "\nst.global." + registerType(c.types[0]) + " [%out], %d;\nret;\n}\n";
}

// Without what only steers caches.
std::string formOf(const std::string& opcode) {
  std::string form;
  size_t at = 0;
  while (at <= opcode.size()) {
    const size_t dot = std::min(opcode.find('.', at), opcode.size());
    const std::string part = opcode.substr(at, dot - at);
    if (!part.starts_with("L2::") && !part.starts_with("L1::")) form += (form.empty() ? "" : ".") + part;
    at = dot + 1;
  }
  return form;
}

std::set<std::string> formsIn(const std::string& ptx) {
  std::set<std::string> forms;
  for (const auto& function : softgpu::ptx::parse(ptx).functions) {
    for (const auto& item : function.body) {
      if (auto* s = std::get_if<softgpu::ptx::Statement>(&item)) forms.insert(formOf(s->opcode));
    }
  }
  return forms;
}

bool matches(const Case& c, uint64_t got, uint64_t want) {
  const unsigned bytes = c.types[0] == 'h' ? 2 : c.types[0] == 'w' ? 4 : 8;
  const uint64_t mask = bytes == 8 ? ~uint64_t{0} : (uint64_t{1} << (bytes * 8)) - 1;
  got &= mask, want &= mask;
  if (got == want || c.tolerance == 0) return got == want;
  const float a = std::bit_cast<float>(static_cast<uint32_t>(got)),
              b = std::bit_cast<float>(static_cast<uint32_t>(want));
  return std::fabs(a - b) <= c.tolerance * std::fabs(b);
}

std::string run(const Case& c, CUfunction f) {
  std::vector<uint64_t> input(kLanes * kInputs);
  for (unsigned l = 0; l < kLanes; ++l) {
    const auto& row = c.inputs[l % c.inputs.size()];
    std::copy(row.begin(), row.end(), input.begin() + l * kInputs);
  }
  Buffer<uint64_t> in(input), out(std::vector<uint64_t>(kLanes, 0));
  launch(f, {1, kLanes}, in.address(), out.address());
  const std::vector<uint64_t> got = out.read();
  for (unsigned l = 0; l < kLanes; ++l) {
    uint64_t lane[kInputs];
    std::copy_n(input.begin() + l * kInputs, kInputs, lane);
    const uint64_t want = c.expected(lane, l);
    if (matches(c, got[l], want)) continue;
    char text[160];
    std::snprintf(text, sizeof text, "lane %u: %llx %llx %llx gave %llx, expected %llx", l,
                  static_cast<unsigned long long>(lane[0]), static_cast<unsigned long long>(lane[1]),
                  static_cast<unsigned long long>(lane[2]), static_cast<unsigned long long>(got[l]),
                  static_cast<unsigned long long>(want));
    return text;
  }
  return "";
}

}  // namespace

std::string conformancePtx() {
  std::string text =
      ".version 8.0\n.target sm_80\n.address_size 64\n.global .align 8 .b8 pool[64];\n"
      ".const .align 4 .u32 table[4] = {11, 22, 33, 44};\n"
      ".func (.param .b32 r) twice(.param .b32 x)\n{\n.reg .b32 %v;\nld.param.b32 %v, [x];\n"
      "add.s32 %v, %v, %v;\nst.param.b32 [r], %v;\nret;\n}\n";
  size_t number = 0;
  for (const Case& c : allCases()) text += kernelOf(c, number++);
  return text;
}

int runConformance() {
  const std::vector<Case> cases = allCases();
  Module module(conformancePtx());
  int failed = 0;
  for (size_t k = 0; k < cases.size(); ++k) {
    const std::string name = cases[k].body.substr(0, cases[k].body.find('\n'));
    std::string problem;
    try {
      problem = run(cases[k], module.function("case_" + std::to_string(k)));
    } catch (const std::exception& e) {
      std::printf("FAIL %s [%s] %s\n", name.c_str(), cases[k].section.c_str(), e.what());
      // A device error is for good: nothing after it could run.
      return 1;
    }
    std::printf("%s %s [%s] %s\n", problem.empty() ? "ok  " : "FAIL", name.c_str(), cases[k].section.c_str(),
                problem.c_str());
    failed += !problem.empty();
  }
  std::printf("%zu cases, %d failed\n", cases.size(), failed);
  return failed ? 1 : 0;
}

std::vector<std::string> uncoveredForms(const std::string& ptx) {
  const std::set<std::string> covered = formsIn(conformancePtx()), wanted = formsIn(ptx);
  std::vector<std::string> missing;
  std::set_difference(wanted.begin(), wanted.end(), covered.begin(), covered.end(), std::back_inserter(missing));
  return missing;
}

}  // namespace runner
