// Loads that begin the loop around a compare-and-swap: they name the address by the same register.
#include <algorithm>
#include <set>

#include "isa/isa.h"
#include "ptx/lowering.h"

namespace softgpu::ptx {

void markSwapLoops(Kernel& kernel) {
  std::set<std::pair<u32, i64>> swapped;  // the register and the offset
  for (const Instruction& i : kernel.code) {
    if (i.swaps) swapped.emplace(i.slot[isa::kAtomicAddressSlot], i.offset);
  }
  if (swapped.empty()) return;
  for (Instruction& i : kernel.code) {
    i.beginsSwap = i.loads && swapped.contains({i.slot[isa::kLoadAddressSlot], i.offset});
  }
}

}  // namespace softgpu::ptx
