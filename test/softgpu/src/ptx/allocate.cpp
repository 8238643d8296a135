// Register allocation by liveness: a linear scan over live intervals. Lanes are independent threads that each follow
// one path, so the liveness of a single thread is enough even when the warp diverges.
#include <algorithm>
#include <cstring>

#include "ptx/lowering.h"

namespace softgpu::ptx {
namespace {

using Kind = VirtualRegister::Kind;

class BitSet {
 public:
  explicit BitSet(size_t size) : words_((size + 63) / 64) {}
  bool test(size_t k) const { return words_[k / 64] >> (k % 64) & 1; }
  void set(size_t k) { words_[k / 64] |= u64{1} << (k % 64); }
  void add(const BitSet& other) {
    for (size_t w = 0; w < words_.size(); ++w) words_[w] |= other.words_[w];
  }
  // this = uses | (out & ~defines); true when it changed.
  bool transfer(const BitSet& uses, const BitSet& out, const BitSet& defines) {
    bool changed = false;
    for (size_t w = 0; w < words_.size(); ++w) {
      u64 value = uses.words_[w] | (out.words_[w] & ~defines.words_[w]);
      changed |= value != words_[w];
      words_[w] = value;
    }
    return changed;
  }
  template <class Visit>
  void forEach(Visit visit) const {
    for (size_t w = 0; w < words_.size(); ++w) {
      for (u64 bits = words_[w]; bits; bits &= bits - 1) {
        visit(static_cast<u32>(w * 64 + static_cast<size_t>(__builtin_ctzll(bits))));
      }
    }
  }

 private:
  std::vector<u64> words_;
};

struct Block {
  u32 begin, end;
  std::vector<u32> successors;
  BitSet uses, defines, in, out;
};

std::vector<Block> splitIntoBlocks(const Kernel& kernel, size_t registerCount) {
  const u32 size = static_cast<u32>(kernel.code.size());
  std::vector<bool> leader(size + 1, false);
  leader[0] = true;
  for (u32 k = 0; k < size; ++k) {
    const Instruction& i = kernel.code[k];
    if (i.flow == Flow::kBranch) leader[i.target] = leader[k + 1] = true;
    if (i.flow == Flow::kBranchIndexed || i.flow == Flow::kExit) leader[k + 1] = true;
  }
  for (const auto& table : kernel.branchTables) {
    for (u32 target : table) leader[target] = true;
  }
  std::vector<Block> blocks;
  std::vector<u32> blockAt(size + 1);
  for (u32 k = 0; k < size; ++k) {
    if (leader[k]) {
      blocks.push_back(
          {k, k, {}, BitSet(registerCount), BitSet(registerCount), BitSet(registerCount), BitSet(registerCount)});
    }
    blocks.back().end = k + 1;
    blockAt[k] = static_cast<u32>(blocks.size() - 1);
  }
  for (Block& b : blocks) {
    const Instruction& last = kernel.code[b.end - 1];
    bool fallsThrough = last.guard != 0 ||
                        (last.flow != Flow::kBranch && last.flow != Flow::kExit && last.flow != Flow::kBranchIndexed);
    if (last.flow == Flow::kBranch) b.successors.push_back(blockAt[last.target]);
    if (last.flow == Flow::kBranchIndexed) {
      for (u32 target : kernel.branchTables[last.target]) b.successors.push_back(blockAt[target]);
    }
    if (fallsThrough && b.end < size) b.successors.push_back(blockAt[b.end]);
  }
  return blocks;
}

struct Interval {
  u32 begin = ~0u, end = 0;
  void touch(u32 at) {
    begin = std::min(begin, at);
    end = std::max(end, at + 1);
  }
};

std::vector<Interval> liveIntervals(const Kernel& kernel, const std::vector<VirtualRegister>& registers,
                                    const std::vector<SlotUse>& uses) {
  std::vector<Block> blocks = splitIntoBlocks(kernel, registers.size());
  auto forSlots = [&](u32 at, u32 slots, auto visit) {
    for (; slots; slots &= slots - 1) {
      u32 r = kernel.code[at].slot[static_cast<u32>(__builtin_ctz(slots))];
      if (registers[r].kind == Kind::kNormal) visit(r);
    }
  };
  for (Block& b : blocks) {
    for (u32 k = b.begin; k < b.end; ++k) {
      forSlots(k, uses[k].reads, [&](u32 r) {
        if (!b.defines.test(r)) b.uses.set(r);
      });
      forSlots(k, uses[k].writes, [&](u32 r) { b.defines.set(r); });
    }
  }
  for (bool changed = true; changed;) {
    changed = false;
    for (auto b = blocks.rbegin(); b != blocks.rend(); ++b) {
      for (u32 s : b->successors) b->out.add(blocks[s].in);
      changed |= b->in.transfer(b->uses, b->out, b->defines);
    }
  }
  std::vector<Interval> intervals(registers.size());
  for (const Block& b : blocks) {
    b.in.forEach([&](u32 r) { intervals[r].touch(b.begin); });
    b.out.forEach([&](u32 r) { intervals[r].touch(b.end - 1); });
    for (u32 k = b.begin; k < b.end; ++k) {
      forSlots(k, uses[k].reads | uses[k].writes, [&](u32 r) { intervals[r].touch(k); });
    }
  }
  return intervals;
}

// 32 lanes of 4 bytes; narrower registers take one unit as well.
constexpr u32 kUnit = kWarpSize * 4;
u32 unitsOf(u32 bytes) { return std::max(1u, bytes / 4); }

u32 scan(std::vector<VirtualRegister>& registers, const std::vector<Interval>& intervals) {
  std::vector<u32> order;
  for (u32 r = 0; r < registers.size(); ++r) {
    if (registers[r].kind == Kind::kNormal && intervals[r].end != 0) order.push_back(r);
  }
  std::sort(order.begin(), order.end(), [&](u32 a, u32 b) { return intervals[a].begin < intervals[b].begin; });
  u32 top = 0;
  std::vector<u32> active;
  std::vector<u32> freeUnits[5];  // by size in units
  for (u32 r : order) {
    std::erase_if(active, [&](u32 other) {
      if (intervals[other].end > intervals[r].begin) return false;
      freeUnits[unitsOf(registers[other].bytes)].push_back(registers[other].offset);
      return true;
    });
    u32 units = unitsOf(registers[r].bytes);
    if (freeUnits[units].empty()) {
      registers[r].offset = top;
      top += units;
    } else {
      registers[r].offset = freeUnits[units].back();
      freeUnits[units].pop_back();
    }
    active.push_back(r);
  }
  return top;
}

template <class T>
void broadcast(u8* at, u64 value) {
  T narrow = static_cast<T>(value);
  for (u32 lane = 0; lane < kWarpSize; ++lane) std::memcpy(at + lane * sizeof(T), &narrow, sizeof(T));
}

}  // namespace

void allocateRegisters(Kernel& kernel, std::vector<VirtualRegister>& registers, const std::vector<SlotUse>& uses) {
  std::vector<Interval> intervals = liveIntervals(kernel, registers, uses);
  u32 top = scan(registers, intervals);
  kernel.registersPerThread = top;

  u32 predicates = 0;
  for (VirtualRegister& r : registers) {
    if (r.kind == Kind::kPredicate) r.offset = predicates++ * 4;
  }
  const u32 base = static_cast<u32>(alignUp(predicates * 4, 64));
  auto place = [&](Kind kind) {
    for (VirtualRegister& r : registers) {
      if (r.kind != kind) continue;
      r.offset = top;
      top += unitsOf(r.bytes);
    }
  };
  place(Kind::kSink);
  place(Kind::kSpecial);
  kernel.constantsOffset = base + top * kUnit;
  place(Kind::kConstant);
  kernel.registerFileBytes = base + top * kUnit;
  for (VirtualRegister& r : registers) {
    if (r.kind != Kind::kPredicate) r.offset = base + r.offset * kUnit;
    if (r.kind == Kind::kSpecial) kernel.specials.push_back({static_cast<Special>(r.value), r.offset, r.bytes});
  }
  kernel.constants.resize(kernel.registerFileBytes - kernel.constantsOffset);
  for (const VirtualRegister& r : registers) {
    if (r.kind != Kind::kConstant) continue;
    u8* at = kernel.constants.data() + (r.offset - kernel.constantsOffset);
    if (r.bytes == 2) broadcast<u16>(at, r.value);
    if (r.bytes == 4) broadcast<u32>(at, r.value);
    if (r.bytes == 8) broadcast<u64>(at, r.value);
    if (r.bytes == 16) broadcast<u128>(at, r.value);
  }
  for (Instruction& i : kernel.code) {
    i.guard = registers[i.guard].offset;
    for (u32& slot : i.slot) slot = registers[slot].offset;
  }
}

}  // namespace softgpu::ptx
