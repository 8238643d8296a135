// The instructions of the PTX ISA's chapter 9.7 and the special registers of chapter 10 by section, as numbered in
// version 9.0, so that a case cannot cite a section of something else.
#include "sections.h"

#include <algorithm>
#include <string_view>
#include <utility>

namespace runner {
namespace {

// One name can have a section for integers, one for f32 and f64, and one for 16-bit numbers.
enum class Of { kAnything, kIntegers, kFloats, kHalves, kScalars, kVectors };

struct Section {
  std::string_view number;
  std::string_view opcode;  // with the modifiers that belong to the name
  Of of = Of::kAnything;
};

constexpr Section kSections[] = {
    {"9.7.1.1", "add", Of::kIntegers},
    {"9.7.1.2", "sub", Of::kIntegers},
    {"9.7.1.3", "mul", Of::kIntegers},
    {"9.7.1.4", "mad", Of::kIntegers},
    {"9.7.1.5", "mul24"},
    {"9.7.1.6", "mad24"},
    {"9.7.1.7", "sad"},
    {"9.7.1.8", "div", Of::kIntegers},
    {"9.7.1.9", "rem"},
    {"9.7.1.10", "abs", Of::kIntegers},
    {"9.7.1.11", "neg", Of::kIntegers},
    {"9.7.1.12", "min", Of::kIntegers},
    {"9.7.1.13", "max", Of::kIntegers},
    {"9.7.1.14", "popc"},
    {"9.7.1.15", "clz"},
    {"9.7.1.16", "bfind"},
    {"9.7.1.17", "fns"},
    {"9.7.1.18", "brev"},
    {"9.7.1.19", "bfe"},
    {"9.7.1.20", "bfi"},
    {"9.7.1.21", "szext"},
    {"9.7.1.22", "bmsk"},
    {"9.7.1.23", "dp4a"},
    {"9.7.1.24", "dp2a"},
    {"9.7.2.1", "add.cc"},
    {"9.7.2.2", "addc"},
    {"9.7.2.3", "sub.cc"},
    {"9.7.2.4", "subc"},
    {"9.7.2.5", "mad.lo.cc"},
    {"9.7.2.5", "mad.hi.cc"},
    {"9.7.2.6", "madc"},
    {"9.7.3.1", "testp"},
    {"9.7.3.2", "copysign"},
    {"9.7.3.3", "add", Of::kFloats},
    {"9.7.3.4", "sub", Of::kFloats},
    {"9.7.3.5", "mul", Of::kFloats},
    {"9.7.3.6", "fma", Of::kFloats},
    {"9.7.3.7", "mad", Of::kFloats},
    {"9.7.3.8", "div", Of::kFloats},
    {"9.7.3.9", "abs", Of::kFloats},
    {"9.7.3.10", "neg", Of::kFloats},
    {"9.7.3.11", "min", Of::kFloats},
    {"9.7.3.12", "max", Of::kFloats},
    {"9.7.3.13", "rcp"},
    {"9.7.3.14", "rcp.approx.ftz.f64"},
    {"9.7.3.15", "sqrt"},
    {"9.7.3.16", "rsqrt"},
    {"9.7.3.17", "rsqrt.approx.ftz.f64"},
    {"9.7.3.18", "sin"},
    {"9.7.3.19", "cos"},
    {"9.7.3.20", "lg2"},
    {"9.7.3.21", "ex2", Of::kFloats},
    {"9.7.3.22", "tanh", Of::kFloats},
    {"9.7.4.1", "add", Of::kHalves},
    {"9.7.4.2", "sub", Of::kHalves},
    {"9.7.4.3", "mul", Of::kHalves},
    {"9.7.4.4", "fma", Of::kHalves},
    {"9.7.4.5", "neg", Of::kHalves},
    {"9.7.4.6", "abs", Of::kHalves},
    {"9.7.4.7", "min", Of::kHalves},
    {"9.7.4.8", "max", Of::kHalves},
    {"9.7.4.9", "tanh", Of::kHalves},
    {"9.7.4.10", "ex2", Of::kHalves},
    {"9.7.6.1", "set", Of::kIntegers},
    {"9.7.6.1", "set", Of::kFloats},
    {"9.7.6.2", "setp", Of::kIntegers},
    {"9.7.6.2", "setp", Of::kFloats},
    {"9.7.6.3", "selp"},
    {"9.7.6.4", "slct"},
    {"9.7.7.1", "set", Of::kHalves},
    {"9.7.7.2", "setp", Of::kHalves},
    {"9.7.8.1", "and"},
    {"9.7.8.2", "or"},
    {"9.7.8.3", "xor"},
    {"9.7.8.4", "not"},
    {"9.7.8.5", "cnot"},
    {"9.7.8.6", "lop3"},
    {"9.7.8.7", "shf"},
    {"9.7.8.8", "shl"},
    {"9.7.8.9", "shr"},
    {"9.7.9.3", "mov", Of::kScalars},
    {"9.7.9.4", "mov", Of::kVectors},
    {"9.7.9.6", "shfl"},
    {"9.7.9.7", "prmt"},
    {"9.7.9.8", "ld"},
    {"9.7.9.9", "ld.global.nc"},
    {"9.7.9.10", "ldu"},
    {"9.7.9.11", "st"},
    {"9.7.9.15", "prefetch"},
    {"9.7.9.15", "prefetchu"},
    {"9.7.9.16", "applypriority"},
    {"9.7.9.17", "discard"},
    {"9.7.9.18", "createpolicy"},
    {"9.7.9.19", "isspacep"},
    {"9.7.9.20", "cvta"},
    {"9.7.9.21", "cvt"},
    {"9.7.9.22", "cvt.pack"},
    {"9.7.9.25.3.1", "cp.async"},
    {"9.7.9.25.3.2", "cp.async.commit_group"},
    {"9.7.9.25.3.3", "cp.async.wait_group"},
    {"9.7.9.25.3.3", "cp.async.wait_all"},
    {"9.7.12.3", "bra"},
    {"9.7.12.4", "brx.idx"},
    {"9.7.12.5", "call"},
    {"9.7.12.5", "st.param"},
    {"9.7.12.6", "ret"},
    {"9.7.12.7", "exit"},
    {"9.7.13.1", "bar"},
    {"9.7.13.1", "barrier"},
    {"9.7.13.2", "bar.warp.sync"},
    {"9.7.13.4", "membar"},
    {"9.7.13.4", "fence"},
    {"9.7.13.5", "atom"},
    {"9.7.13.6", "red"},
    {"9.7.13.9", "vote"},
    {"9.7.13.10", "match"},
    {"9.7.13.11", "activemask"},
    {"9.7.13.12", "redux.sync"},
    {"9.7.13.13", "griddepcontrol"},
    {"9.7.13.14", "elect.sync"},
    {"9.7.14.4.3", "wmma.load"},
    {"9.7.14.4.4", "wmma.store"},
    {"9.7.14.4.5", "wmma.mma"},
    {"9.7.14.5.6", "mma.sync.aligned.m16n8k4"},
    {"9.7.14.5.7", "mma.sync.aligned.m16n8k8"},
    {"9.7.14.5.8", "mma.sync.aligned.m16n8k16", Of::kHalves},
    {"9.7.14.5.9", "mma.sync.aligned.m16n8k16", Of::kIntegers},
    {"9.7.14.5.10", "mma.sync.aligned.m16n8k32"},
    {"9.7.14.5.14", "mma"},
    {"9.7.14.5.15", "ldmatrix"},
    {"9.7.14.5.16", "stmatrix"},
    {"9.7.14.5.17", "movmatrix"},
    {"9.7.18.2", "vabsdiff4"},
    {"9.7.19.2", "nanosleep"},
    {"9.7.19.3", "pmevent"},
    {"9.7.19.4", "trap"},
};

constexpr std::pair<std::string_view, std::string_view> kSpecialRegisters[] = {
    {"10.1", "%tid"},          {"10.2", "%ntid"},         {"10.3", "%laneid"},       {"10.4", "%warpid"},
    {"10.5", "%nwarpid"},      {"10.6", "%ctaid"},        {"10.7", "%nctaid"},       {"10.18", "%lanemask_eq"},
    {"10.19", "%lanemask_le"}, {"10.20", "%lanemask_lt"}, {"10.21", "%lanemask_ge"}, {"10.22", "%lanemask_gt"},
    {"10.28", "%envreg"},
};

bool namesRegister(const softgpu::ptx::Statement& s, std::string_view name) {
  return std::any_of(s.operands.begin(), s.operands.end(), [&](const auto& o) {
    const std::string_view rest =
        std::string_view(o.name).starts_with(name) ? std::string_view(o.name).substr(name.size()) : "_";
    return rest.empty() || rest[0] == '.' || (rest[0] >= '0' && rest[0] <= '9');
  });
}

bool isOf(Of of, const softgpu::ptx::Statement& s) {
  const bool halves = s.opcode.find("f16") != std::string::npos;
  const bool floats =
      !halves && (s.opcode.find(".f32") != std::string::npos || s.opcode.find(".f64") != std::string::npos);
  const bool vector = std::any_of(s.operands.begin(), s.operands.end(),
                                  [](const auto& o) { return o.kind == softgpu::ptx::Operand::Kind::kVector; });
  switch (of) {
    case Of::kIntegers:
      return !halves && !floats;
    case Of::kFloats:
      return floats;
    case Of::kHalves:
      return halves;
    case Of::kScalars:
      return !vector;
    case Of::kVectors:
      return vector;
    default:
      return true;
  }
}

}  // namespace

bool isInSection(const softgpu::ptx::Statement& statement, const std::string& section) {
  for (const auto& [number, name] : kSpecialRegisters) {
    if (number == section) return namesRegister(statement, name);
  }
  const std::string_view opcode = statement.opcode;
  return std::any_of(std::begin(kSections), std::end(kSections), [&](const Section& s) {
    const bool named =
        opcode.starts_with(s.opcode) && (opcode.size() == s.opcode.size() || opcode[s.opcode.size()] == '.');
    return s.number == section && named && isOf(s.of, statement);
  });
}

}  // namespace runner
