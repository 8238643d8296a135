// Registers that are read and never written: what a kernel does with them is undefined. Only whole kernels are looked
// at, not paths, so that nothing is reported which some path makes right.
#include <algorithm>

#include "ptx/lowering.h"

namespace softgpu::ptx {
namespace {

using Kind = VirtualRegister::Kind;

template <class Visit>
void forSlots(const Instruction& i, u32 slots, Visit visit) {
  for (; slots; slots &= slots - 1) visit(i.slot[static_cast<u32>(__builtin_ctz(slots))]);
}

}  // namespace

void markUndefinedReads(Kernel& kernel, const std::vector<VirtualRegister>& registers, const std::vector<SlotUse>& uses,
                        Execute reporter) {
  std::vector<bool> undefined(registers.size());
  for (size_t r = 0; r < registers.size(); ++r) {
    undefined[r] =
        registers[r].kind == Kind::kNormal || (registers[r].kind == Kind::kPredicate && !registers[r].name.empty());
  }
  // A copy of what is undefined defines nothing. Each round finds registers that something else writes.
  for (bool changed = true; changed;) {
    changed = false;
    for (size_t k = 0; k < kernel.code.size(); ++k) {
      const Instruction& i = kernel.code[k];
      bool passesOn = i.copies && uses[k].reads != 0;
      if (i.copies) forSlots(i, uses[k].reads & ~uses[k].writes, [&](u32 r) { passesOn &= undefined[r]; });
      if (passesOn) continue;
      forSlots(i, uses[k].writes, [&](u32 r) {
        changed |= undefined[r];
        undefined[r] = false;
      });
    }
  }
  for (size_t k = 0; k < kernel.code.size(); ++k) {
    Instruction& i = kernel.code[k];
    // Copies pass on what nobody may ever look at, such as the unused half of a pair.
    if (i.copies || !i.execute) continue;
    forSlots(i, uses[k].reads & ~uses[k].writes, [&](u32 r) {
      if (!undefined[r] || i.undefined) return;
      kernel.undefinedRegisters.push_back({registers[r].name, i.execute});
      i.undefined = static_cast<u32>(kernel.undefinedRegisters.size());
      i.execute = reporter;
    });
  }
}

}  // namespace softgpu::ptx
