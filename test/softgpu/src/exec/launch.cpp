// Sets up blocks and warps, lets the blocks take turns, and collects what came of it.
#include "exec/launch.h"

#include <algorithm>
#include <cstring>
#include <deque>

namespace softgpu {
namespace {

u32 specialValue(ptx::Special id, const Launch& launch, const Block& block, const Warp& w, u32 lane) {
  using ptx::Special;
  const LaunchConfig& c = launch.config;
  const u32 thread = w.index * kWarpSize + lane;
  const u32 bit = 1u << lane;
  switch (id) {
    case Special::kTidX:
      return thread % c.block.x;
    case Special::kTidY:
      return thread / c.block.x % c.block.y;
    case Special::kTidZ:
      return thread / c.block.x / c.block.y;
    case Special::kNtidX:
      return c.block.x;
    case Special::kNtidY:
      return c.block.y;
    case Special::kNtidZ:
      return c.block.z;
    case Special::kCtaidX:
      return block.x;
    case Special::kCtaidY:
      return block.y;
    case Special::kCtaidZ:
      return block.z;
    case Special::kNctaidX:
      return c.grid.x;
    case Special::kNctaidY:
      return c.grid.y;
    case Special::kNctaidZ:
      return c.grid.z;
    case Special::kLaneId:
      return lane;
    case Special::kWarpId:
      return w.index;
    case Special::kNwarpId:
      return c.maxResidentWarps;
    case Special::kSmId:
      return (block.x + block.y * c.grid.x) % kMultiprocessors;
    case Special::kNsmId:
      return kMultiprocessors;
    case Special::kGridId:
      return static_cast<u32>(c.id);
    case Special::kLaneMaskEq:
      return bit;
    case Special::kLaneMaskLt:
      return bit - 1;
    case Special::kLaneMaskLe:
      return bit | (bit - 1);
    case Special::kLaneMaskGt:
      return ~(bit | (bit - 1));
    case Special::kLaneMaskGe:
      return ~(bit - 1);
    case Special::kDynamicSharedSize:
      return c.dynamicShared;
    case Special::kTotalSharedSize:
      return block.shared.size();
    case Special::kGridWorkspaceHigh:
      return static_cast<u32>(launch.gridWorkspace >> 32);
    case Special::kGridWorkspaceLow:
      return static_cast<u32>(launch.gridWorkspace);
    case Special::kZero:
      return 0;
    case Special::kOne:
      return 1;
  }
  return 0;
}

void fillSpecials(const Launch& launch, const Block& block, Warp& w) {
  for (const ptx::SpecialSlot& slot : w.kernel->specials) {
    for (u32 lane = 0; lane < kWarpSize; ++lane) {
      u64 value = specialValue(slot.id, launch, block, w, lane);
      std::memcpy(w.registers + slot.offset + lane * slot.bytes, &value, slot.bytes);
    }
  }
}

void startBlock(Launch& launch, Block& block, u64 number) {
  const LaunchConfig& c = launch.config;
  const ptx::Kernel& kernel = *c.kernel;
  const u32 threads = static_cast<u32>(c.block.count());
  const u32 warps = (threads + kWarpSize - 1) / kWarpSize;
  block.number = static_cast<u32>(number);
  block.known.clear();
  block.sequentialFences = false;
  block.x = static_cast<u32>(number % c.grid.x);
  block.y = static_cast<u32>(number / c.grid.x % c.grid.y);
  block.z = static_cast<u32>(number / c.grid.x / c.grid.y);
  block.liveThreads = threads;
  block.barriers.fill(Barrier{});
  block.shared.reset(static_cast<u32>(kernel.sharedBytes(c.dynamicShared)), kernel.sharedGranularity, warps);
  const bool fresh = block.warps.empty();
  block.warps.resize(warps);
  block.registerBytes.resize(size_t{warps} * kernel.registerFileBytes + 64);
  block.localBytes.resize(size_t{warps} * kWarpSize * kernel.localBytes + 16);
  u8* registers = reinterpret_cast<u8*>(alignUp(reinterpret_cast<u64>(block.registerBytes.data()), 64));
  u8* local = reinterpret_cast<u8*>(alignUp(reinterpret_cast<u64>(block.localBytes.data()), 16));
  for (u32 k = 0; k < warps; ++k) {
    Warp& w = block.warps[k];
    const u32 lanes = std::min(kWarpSize, threads - k * kWarpSize);
    w.registers = registers + size_t{k} * kernel.registerFileBytes;
    w.local = local + size_t{k} * kWarpSize * kernel.localBytes;
    w.block = &block;
    w.launch = &launch;
    w.kernel = &kernel;
    w.counters = &launch.counters;
    w.index = k;
    w.live = w.all = lanes == kWarpSize ? kAllLanes : (1u << lanes) - 1;
    w.groups.assign(1, {0, w.live, GroupState::kReady});
    w.pending.clear();
    std::fill(std::begin(w.commits), std::end(w.commits), 0);
    w.fences = {};
    predicateOf(w, 0) = kAllLanes;
    if (fresh) std::copy(kernel.constants.begin(), kernel.constants.end(), w.registers + kernel.constantsOffset);
    fillSpecials(launch, block, w);
  }
}

// The order in which blocks start: ascending, or among as many as run at once descending or shuffled. A device may have
// any such order.
class BlockOrder {
 public:
  BlockOrder(Launch& launch, u64 resident) : launch_(launch), window_(resident) {}
  u64 operator()(u64 position) {
    const u64 total = launch_.config.grid.count(), first = position / window_ * window_;
    const u64 size = std::min(window_, total - first);
    if (options().order == Order::kLatest) return position;
    if (options().order == Order::kEarliest) return first + size - 1 - (position - first);
    if (position == first) {
      shuffled_.resize(size);
      for (u64 k = 0; k < size; ++k) shuffled_[k] = first + k;
      std::shuffle(shuffled_.begin(), shuffled_.end(), launch_.random);
    }
    return shuffled_[position - first];
  }

 private:
  Launch& launch_;
  u64 window_;
  std::vector<u64> shuffled_;
};

// Ordinary grids run one block after the other; another one starts early only when the running ones cannot go on.
// The blocks of a cooperative grid all start at once.
void runBlocks(Launch& launch) {
  const u64 total = launch.config.grid.count();
  const u64 resident = std::max(1u, launch.config.maxResidentBlocks);
  BlockOrder order(launch, resident);
  std::deque<std::unique_ptr<Block>> active;
  std::vector<std::unique_ptr<Block>> idle;
  u64 next = 0;
  auto admit = [&] {
    if (idle.empty()) idle.push_back(std::make_unique<Block>());
    startBlock(launch, *idle.back(), order(next++));
    active.push_back(std::move(idle.back()));
    idle.pop_back();
  };
  if (launch.config.cooperative) {
    while (next < total) admit();
  }
  u64 stalled = 0, version = 0;
  while (!active.empty() || next < total) {
    if (active.empty()) admit();
    std::unique_ptr<Block> block = std::move(active.front());
    active.pop_front();
    BlockResult result = runBlock(*block);
    if (result == BlockResult::kFinished) {
      idle.push_back(std::move(block));
      stalled = 0;
      continue;
    }
    const bool hopeless = result == BlockResult::kStalled && version == launch.memoryVersion;
    stalled = hopeless ? stalled + 1 : 0;
    version = launch.memoryVersion;
    active.push_back(std::move(block));
    if (next < total && active.size() < resident) {
      admit();
      stalled = 0;
    } else if (stalled > active.size()) {
      reportStall(*active.front());
    }
  }
}

void countUniqueSectors(Launch& launch) {
  auto bits = [](const Allocation::Bits& map, u64 bytes) {
    u64 count = 0;
    for (u64 k = 0; k < bytes / kSectorBytes / 8 + 1; ++k) count += static_cast<u64>(__builtin_popcount(map[k]));
    return count * kSectorBytes;
  };
  for (const Allocation* a : launch.touched) {
    launch.counters.uniqueReadBytes += bits(a->sectorsRead, a->size);
    launch.counters.uniqueWrittenBytes += bits(a->sectorsWritten, a->size);
  }
}

}  // namespace

void Launch::record(Fault fault) {
  auto [it, added] = faultIndex.try_emplace({fault.kind, fault.line}, faults.size());
  if (added) {
    faults.push_back(std::move(fault));
  } else {
    ++faults[it->second].count;
  }
}

void Launch::noteSectors(Allocation& a, u64 firstSector, u64 count, bool write) {
  if (a.touchedBy != config.id) {
    a.touchedBy = config.id;
    std::memset(a.sectorsRead.get(), 0, a.size / kSectorBytes / 8 + 1);
    std::memset(a.sectorsWritten.get(), 0, a.size / kSectorBytes / 8 + 1);
    touched.insert(&a);
  }
  u8* map = write ? a.sectorsWritten.get() : a.sectorsRead.get();
  for (u64 s = firstSector; s < firstSector + count; ++s) map[s >> 3] |= static_cast<u8>(1u << (s & 7));
}

void Warp::report(const ptx::Instruction& i, u32 lane, FaultKind kind, u64 address, u32 bytes,
                  const std::string& detail) {
  const Dim3& dim = launch->config.block;
  const u32 thread = index * kWarpSize + lane;
  const ptx::SourceLine& source = kernel->sources[i.source];
  Fault fault;
  fault.kind = kind;
  fault.kernel = kernel->name;
  fault.block = {block->x, block->y, block->z};
  fault.thread = {thread % dim.x, thread / dim.x % dim.y, thread / dim.x / dim.y};
  fault.line = source.line;
  fault.statement = source.text;
  fault.address = address;
  fault.bytes = bytes;
  fault.detail = detail;
  launch->record(std::move(fault));
}

void Warp::abort(const ptx::Instruction& i, u32 lane, FaultKind kind, u64 address, u32 bytes,
                 const std::string& detail) {
  report(i, lane, kind, address, bytes, detail);
  throw LaunchAborted{};
}

std::unique_ptr<Launch> runLaunch(LaunchConfig config) {
  auto launch = std::make_unique<Launch>();
  launch->config = std::move(config);
  // Room for widest loads of the last parameter.
  launch->config.parameters.resize(launch->config.kernel->parameterBytes + 16);
  launch->races.start(launch->config.id, launch->config.kernel->globalGranularity);
  launch->random.seed(options().seed + launch->config.id);
  if (launch->config.cooperative) {
    static Allocation* workspace = arena().allocate(64, MemoryKind::kModule);
    std::memset(reinterpret_cast<void*>(workspace->base), 0, 64);
    workspace->setRangeInitialised(workspace->base, 64);
    launch->gridWorkspace = workspace->base;
  }
  try {
    runBlocks(*launch);
  } catch (const LaunchAborted&) {
    // What happened is in launch->faults.
  }
  countUniqueSectors(*launch);
  return launch;
}

}  // namespace softgpu
