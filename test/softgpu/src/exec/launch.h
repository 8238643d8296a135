// One kernel launch: its configuration, its blocks, and what came of it.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <vector>

#include "base/options.h"
#include "exec/warp.h"
#include "memory/global_races.h"

namespace softgpu {

struct Dim3 {
  u32 x = 1, y = 1, z = 1;
  u64 count() const { return u64{x} * y * z; }
};

struct LaunchConfig {
  const ptx::Kernel* kernel = nullptr;
  Dim3 grid, block;
  u32 dynamicShared = 0;
  bool cooperative = false;
  u32 maxResidentBlocks = 1;
  u32 maxResidentWarps = 1;  // of a multiprocessor
  std::vector<u8> parameters;
  u64 id = 0;
};

struct Barrier {
  u32 arrived = 0;   // threads
  u32 expected = 0;  // 0: all live threads
  Reach reach, sequential;
  u32 instruction = 0;  // of the first arrival
  u32 voters = 0;       // bar.red: the threads that it takes a predicate of …
  u32 count = 0;        // … and those where it is true
};

constexpr u32 kBarriers = 16;
// Few, so that a persistent grid stays small.
constexpr u32 kMultiprocessors = 4;

class Block {
 public:
  u32 x = 0, y = 0, z = 0;
  u32 number = 0;  // in the grid
  u32 liveThreads = 0;
  GlobalRaces::Knowledge known;
  bool sequentialFences = false;  // whether there was any fence.sc of the device's scope
  SharedMemory shared;
  std::vector<Warp> warps;
  std::array<Barrier, kBarriers> barriers;

  std::vector<u8> registerBytes, localBytes;  // of all warps
};

struct Launch {
  LaunchConfig config;
  Counters counters;
  std::vector<Fault> faults;
  std::map<std::pair<FaultKind, u32>, size_t> faultIndex;  // by kind and source line
  std::set<Allocation*> touched;
  u64 memoryVersion = 0;  // counts what other lanes could see
  std::mt19937_64 random;
  u64 gridWorkspace = 0;  // address of the words that a cooperative grid synchronises on
  GlobalRaces races;

  void record(Fault fault);
  void noteSectors(Allocation& allocation, u64 firstSector, u64 count, bool write);
};

// Runs all blocks. Faults, counters and output are in the result; nothing is thrown.
std::unique_ptr<Launch> runLaunch(LaunchConfig config);

// How far a block came: to its end; to where nothing in it can go on by itself; or to the end of its turn.
enum class BlockResult : u8 { kFinished, kStalled, kPaused };
BlockResult runBlock(Block& block);
// Records why a stalled block cannot go on.
[[noreturn]] void reportStall(Block& block);

}  // namespace softgpu
