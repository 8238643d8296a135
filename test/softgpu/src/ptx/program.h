// What the executor runs: decoded kernels. Every operand is a byte offset into a warp's register file.
//
// The register file of a warp: predicates first (one lane mask each), then registers, 32 lanes side by side, then the
// kernel's constants and special registers, broadcast, so that there is only one kind of operand.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/types.h"
#include "ptx/syntax.h"

namespace softgpu {
class Warp;
}

namespace softgpu::ptx {

struct Instruction;
using Execute = void (*)(Warp&, const Instruction&, LaneMask);

// How the scheduler treats an instruction.
enum class Flow : u8 {
  kNormal,
  kBranch,
  kBranchIndexed,
  kExit,
  kBarrier,   // waits for other warps
  kConverge,  // waits for the other lanes that its member mask names, or for all (aligned)
  kYield,     // lets others run, then goes on
};

// Instruction::immediate[0] of kBarrier.
constexpr u32 kBarrierSync = 0, kBarrierArrive = 1, kBarrierReduce = 2;
// Instruction::immediate[2] of bar.warp.sync.
constexpr u32 kWarpBarrier = 1;

// As many as wmma.mma has: four fragments of eight registers.
constexpr u32 kMaxSlots = 32;

struct Instruction {
  Execute execute = nullptr;
  Flow flow = Flow::kNormal;
  Space space = Space::kGeneric;
  u8 elements = 1;                    // of a vector access
  bool wideAddress = false;           // the address register has 64 bits
  bool aligned = false;               // kConverge, kBarrier: every live lane of the warp must take part
  u8 strong = 0;                      // a volatile, relaxed, acquire or release access: 1 of the block, 2 of the device
  bool releases = false;              // publishes what came before, without a fence
  bool loads = false, swaps = false;  // ld; atom.cas
  bool beginsSwap = false;            // a load of what an atom.cas of the kernel then compares: see markSwapLoops
  bool nonCoherent = false;           // ld.global.nc: of memory that nobody writes in this launch
  u8 memberSlot = 0;                  // kConverge, not aligned: the slot of the member mask
  u32 guard = 0;                      // predicate slot; slot 0 is always true
  u32 guardInvert = 0;
  std::array<u32, kMaxSlots> slot{};
  u32 invert[2] = {};  // for the predicate sources, in order
  i64 offset = 0;      // of an address
  u32 immediate[3] = {};
  bool copies = false;  // moves bits without looking at them
  u32 undefined = 0;    // index + 1 into Kernel::undefinedRegisters, when it reads one
  u32 target = 0;       // kBranch: an instruction index; kBranchIndexed: a table index
  u32 source = 0;       // index into Kernel::sources
};

struct SourceLine {
  u32 line;
  std::string text;
};

// A register that nothing writes, and what the instruction that reads it does.
struct UndefinedRegister {
  std::string name;
  Execute execute;
};

struct KernelParameter {
  u32 offset;
  u32 size;
};

enum class Special : u8 {
  kTidX,
  kTidY,
  kTidZ,
  kNtidX,
  kNtidY,
  kNtidZ,
  kCtaidX,
  kCtaidY,
  kCtaidZ,
  kNctaidX,
  kNctaidY,
  kNctaidZ,
  kLaneId,
  kWarpId,
  kNwarpId,
  kSmId,
  kNsmId,
  kGridId,
  kLaneMaskEq,
  kLaneMaskLt,
  kLaneMaskLe,
  kLaneMaskGt,
  kLaneMaskGe,
  kDynamicSharedSize,
  kTotalSharedSize,
  kGridWorkspaceHigh,
  kGridWorkspaceLow,
  kZero,
  kOne,
};

struct SpecialSlot {
  Special id;
  u32 offset;
  u32 bytes;
};

struct Kernel {
  std::string name;
  u32 target = 0;  // the architecture that the PTX was compiled for: 80 for sm_80
  std::vector<Instruction> code;
  std::vector<std::vector<u32>> branchTables;
  std::vector<SourceLine> sources;
  std::vector<UndefinedRegister> undefinedRegisters;
  std::vector<KernelParameter> parameters;
  u32 parameterBytes = 0;
  u32 registerFileBytes = 0;
  u32 constantsOffset = 0;
  std::vector<u8> constants;  // copied to constantsOffset of each warp's register file
  std::vector<SpecialSlot> specials;
  u32 registersPerThread = 0;  // after allocation, in 32-bit registers
  u32 staticShared = 0;
  u32 dynamicSharedOffset = 0;  // aligned: what lies between the static part and it belongs to nobody
  u32 localBytes = 0;
  u32 maxThreads = 1024;
  u32 requiredThreads = 0;
  u32 sharedGranularity = 16;  // the smallest access to shared memory in bytes
  u32 globalGranularity = 16;  // the smallest write to global memory

  // The size of a block's shared memory.
  u64 sharedBytes(u64 dynamic) const { return dynamic ? dynamicSharedOffset + dynamic : staticShared; }
};

struct ModuleSymbol {
  Space space;
  u64 address;
  u64 bytes;
};

struct Module {
  std::map<std::string, std::unique_ptr<Kernel>> kernels;
  std::map<std::string, ModuleSymbol> symbols;  // .global and .const variables
};

}  // namespace softgpu::ptx
