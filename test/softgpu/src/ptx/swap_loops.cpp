// Loads that begin the loop around a compare-and-swap: on some way forward from them it follows, by the same register,
// with no barrier before it.
#include <algorithm>
#include <vector>

#include "isa/isa.h"
#include "ptx/lowering.h"

namespace softgpu::ptx {
namespace {

bool writes(const Instruction& i, const SlotUse& use, u32 slot) {
  for (u32 k = 0; k < kMaxSlots; ++k) {
    if ((use.writes >> k & 1) && i.slot[k] == slot) return true;
  }
  return false;
}

bool swapFollows(const Kernel& kernel, const std::vector<SlotUse>& uses, size_t load) {
  const u32 address = kernel.code[load].slot[isa::kLoadAddressSlot];
  const i64 offset = kernel.code[load].offset;
  if (writes(kernel.code[load], uses[load], address)) return false;
  // Ways back are not followed, so that in the order of the code each instruction is looked at once.
  std::vector<bool> reached(kernel.code.size() + 1);
  reached[load + 1] = true;
  for (size_t k = load + 1; k < kernel.code.size(); ++k) {
    const Instruction& i = kernel.code[k];
    if (!reached[k]) continue;
    if (i.swaps && i.slot[isa::kAtomicAddressSlot] == address && i.offset == offset) return true;
    if (i.flow == Flow::kBarrier || writes(i, uses[k], address)) continue;
    if (i.flow == Flow::kBranch) reached[i.target] = true;
    if (i.flow == Flow::kBranchIndexed) {
      for (u32 target : kernel.branchTables[i.target]) reached[target] = true;
    }
    const bool leaves = i.flow == Flow::kBranch || i.flow == Flow::kBranchIndexed || i.flow == Flow::kExit;
    if (!leaves || i.guard != 0) reached[k + 1] = true;
  }
  return false;
}

}  // namespace

void markSwapLoops(Kernel& kernel, const std::vector<SlotUse>& uses) {
  if (std::none_of(kernel.code.begin(), kernel.code.end(), [](const Instruction& i) { return i.swaps; })) return;
  for (size_t k = 0; k < kernel.code.size(); ++k) {
    if (kernel.code[k].loads) kernel.code[k].beginsSwap = swapFollows(kernel, uses, k);
  }
}

}  // namespace softgpu::ptx
