// Builds one PTX module out of all cases, runs every case as a kernel of one warp, and compares lane by lane.
#include "conformance.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <set>

#include "cases.h"
#include "driver/fatbin.h"
#include "gpu.h"
#include "ptx/parser.h"
#include "ptx/type.h"
#include "refusals.h"
#include "sections.h"

namespace runner {
namespace {

constexpr unsigned kLanes = 32, kPartOfWarp = 19, kInputs = 4;
// The capability that all cases are legal for, times ten.
constexpr unsigned kNewest = 90;

std::vector<Case> allCases(unsigned capability) {
  std::vector<Case> all;
  for (auto family : {integerCases, carryCases, floatCases, halfCases, convertCases, memoryCases, accessCases,
                      atomicCases, warpCases, matrixCases, specialCases, libraryCases}) {
    for (Case& c : family()) {
      if (c.capability <= capability) all.push_back(std::move(c));
    }
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

// Without what only steers caches, and with the modifiers that are no types in one order: atom.add.relaxed is
// atom.relaxed.add.
std::string formOf(const std::string& opcode) {
  std::vector<std::string> modifiers, types;
  std::string form;
  size_t at = 0;
  while (at <= opcode.size()) {
    const size_t dot = std::min(opcode.find('.', at), opcode.size());
    const std::string part = opcode.substr(at, dot - at);
    if (form.empty()) {
      form = part;
    } else if (softgpu::ptx::typeNamed(part)) {
      types.push_back(part);
    } else if (!part.starts_with("L2::") && !part.starts_with("L1::")) {
      modifiers.push_back(part);
    }
    at = dot + 1;
  }
  std::sort(modifiers.begin(), modifiers.end());
  for (const std::string& part : modifiers) form += "." + part;
  for (const std::string& part : types) form += "." + part;
  return form;
}

// Special registers are forms too: every name with a % that the function does not declare.
void addSpecialRegisters(const softgpu::ptx::Function& function, std::set<std::string>& forms) {
  std::set<std::string> declared;
  for (const auto& item : function.body) {
    if (auto* r = std::get_if<softgpu::ptx::RegisterDeclaration>(&item)) declared.insert(r->name);
  }
  for (const auto& item : function.body) {
    auto* s = std::get_if<softgpu::ptx::Statement>(&item);
    if (!s) continue;
    for (const auto& operand : s->operands) {
      if (operand.kind != softgpu::ptx::Operand::Kind::kName || operand.name[0] != '%') continue;
      const std::string stem = operand.name.substr(0, operand.name.find_last_not_of("0123456789") + 1);
      if (!declared.contains(operand.name) && !declared.contains(stem)) forms.insert(operand.name);
    }
  }
}

std::set<std::string> formsIn(std::string_view ptx) {
  std::set<std::string> forms;
  for (const auto& function : softgpu::ptx::parse(ptx).functions) {
    for (const auto& item : function.body) {
      if (auto* s = std::get_if<softgpu::ptx::Statement>(&item)) forms.insert(formOf(s->opcode));
    }
    addSpecialRegisters(function, forms);
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

// The statements of each case's body, without what kernelOf puts around it.
std::vector<std::vector<softgpu::ptx::Statement>> statementsOf(const std::string& ptx, const std::vector<Case>& cases) {
  constexpr size_t kBefore = 7, kAfter = 2;
  std::vector<std::vector<softgpu::ptx::Statement>> all(cases.size());
  for (const auto& function : softgpu::ptx::parse(ptx).functions) {
    if (!function.name.starts_with("case_")) continue;
    const size_t number = std::stoul(function.name.substr(5));
    auto& statements = all.at(number);
    for (const auto& item : function.body) {
      if (auto* s = std::get_if<softgpu::ptx::Statement>(&item)) statements.push_back(*s);
    }
    statements.erase(statements.end() - kAfter, statements.end());
    statements.erase(statements.begin(),
                     statements.begin() + static_cast<std::ptrdiff_t>(kBefore + cases[number].types.size() - 1));
  }
  return all;
}

// Whether a case is about a whole warp; every other one must also be right in a warp that is not full.
bool needsWholeWarp(const Case& c) {
  for (const char* word :
       {".sync", "bar.", "barrier.", ".aligned", "activemask", "%ntid", "atom.shared", "red.shared"}) {
    if (c.body.find(word) != std::string::npos) return true;
  }
  return false;
}

std::string run(const Case& c, CUfunction f, unsigned threads) {
  std::vector<uint64_t> input(kLanes * kInputs);
  for (unsigned l = 0; l < kLanes; ++l) {
    const auto& row = c.inputs[l % c.inputs.size()];
    std::copy(row.begin(), row.end(), input.begin() + l * kInputs);
  }
  Buffer<uint64_t> in(input), out(std::vector<uint64_t>(kLanes, 0));
  launch(f, {1, threads}, in.address(), out.address());
  const std::vector<uint64_t> got = out.read();
  for (unsigned l = 0; l < kLanes; ++l) {
    uint64_t lane[kInputs];
    std::copy_n(input.begin() + l * kInputs, kInputs, lane);
    const uint64_t want = l < threads ? c.expected(lane, l) : 0;
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

std::string ptxOf(const std::vector<Case>& cases, unsigned capability) {
  std::string text = ".version 8.6\n.target sm_" + std::to_string(capability) + "\n";
  text +=
      ".address_size 64\n.global .align 8 .b8 pool[64];\n.global .align 32 .b8 heap[4096];\n"
      ".const .align 4 .u32 table[4] = {11, 22, 33, 44};\n"
      ".func (.param .b32 r) twice(.param .b32 x)\n{\n.reg .b32 %v;\nld.param.b32 %v, [x];\n"
      "add.s32 %v, %v, %v;\nst.param.b32 [r], %v;\nret;\n}\n"
      ".func (.param .align 16 .b8 r[16]) same(.param .align 16 .b8 x[16])\n{\n.reg .b64 %v<2>;\nld.param.v2.b64 {%v0, "
      "%v1}, [x];\nst.param.v2.b64 [r], {%v0, %v1};\nret;\n}\n"
      ".func (.param .b64 r) same64(.param .b64 x)\n{\n.reg .b64 %v;\nld.param.b64 %v, [x];\nst.param.b64 [r], "
      "%v;\nret;\n}\n";
  size_t number = 0;
  for (const Case& c : cases) text += kernelOf(c, number++);
  return text;
}

unsigned presentedCapability() {
  CUdevice device = 0;
  int major = 0, minor = 0;
  CHECK(cuDeviceGet(&device, 0));
  CHECK(cuDeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device));
  CHECK(cuDeviceGetAttribute(&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device));
  return std::min(static_cast<unsigned>(10 * major + minor), kNewest);
}

// How many failed.
int runCases(const std::vector<Case>& cases, unsigned capability) {
  const std::string ptx = ptxOf(cases, capability);
  const auto statements = statementsOf(ptx, cases);
  Module module(ptx);
  int failed = 0;
  for (size_t k = 0; k < cases.size(); ++k) {
    const std::string name = cases[k].body.substr(0, cases[k].body.find('\n'));
    std::string problem;
    bool isLast = false;
    const bool cited = std::any_of(statements[k].begin(), statements[k].end(),
                                   [&](const auto& s) { return isInSection(s, cases[k].section); });
    try {
      const CUfunction function = module.function("case_" + std::to_string(k));
      problem = run(cases[k], function, kLanes);
      if (problem.empty() && !needsWholeWarp(cases[k])) problem = run(cases[k], function, kPartOfWarp);
      if (problem.empty() && !cited) problem = "no instruction of the section that it cites";
    } catch (const std::exception& e) {
      problem = e.what();
      // A device error is for good: nothing after it could run.
      isLast = true;
    }
    if (problem.empty()) continue;
    std::printf("FAIL %s [%s] %s\n", name.c_str(), cases[k].section.c_str(), problem.c_str());
    ++failed;
    if (isLast) break;
  }
  std::printf("%zu cases, %d failed\n", cases.size(), failed);
  return failed;
}

}  // namespace

std::string conformancePtx(unsigned capability) { return ptxOf(allCases(capability), capability); }

int runConformance() {
  const unsigned capability = presentedCapability();
  const int taken = checkRefusals();
  return runCases(allCases(capability), capability) + taken > 0 ? 1 : 0;
}

int runWrongCases() {
  const auto one = [](Lane, unsigned) { return uint64_t{1}; };
  const std::vector<Case> wrong = {
      {"9.7.9.3", "mov.u32 %d, %lane;", "w", {{0}}, one},  // right in one lane only
      {"9.7.1.1", "mov.u32 %d, 1;", "w", {{0}}, one},      // cites add
  };
  return runCases(wrong, presentedCapability()) > 0 ? 1 : 0;
}

std::vector<UncoveredForm> uncoveredForms(const std::string& contents) {
  const std::set<std::string> covered = formsIn(conformancePtx(kNewest));
  std::vector<UncoveredForm> missing;
  auto look = [&](std::string_view ptx, const std::string& where) {
    for (const std::string& form : formsIn(ptx)) {
      if (!covered.contains(form)) missing.push_back({where, form});
    }
  };
  size_t texts = 0;
  for (const softgpu::FatbinEntry& entry : softgpu::entriesInFile(contents)) {
    if (!entry.isPtx) continue;
    const std::string where = ", compute_" + std::to_string(entry.architecture);
    if (entry.compressed) throw std::runtime_error("compressed PTX" + where);
    look(entry.text, where);
    ++texts;
  }
  if (texts == 0 && contents.find(".version") == std::string::npos) throw std::runtime_error("no PTX in the file");
  if (texts == 0) look(contents, "");
  return missing;
}

}  // namespace runner
