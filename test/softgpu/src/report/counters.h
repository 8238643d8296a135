// What a launch counts. Counts of PTX semantics: how often something was asked for, never how long it took.
#pragma once

#include "base/types.h"

namespace softgpu {

struct Counters {
  u64 warpInstructions = 0;
  u64 threadInstructions = 0;
  u64 globalLoadRequests = 0;  // one per warp instruction
  u64 globalLoadSectors = 0;   // distinct 32-byte sectors per request
  u64 globalLoadBytes = 0;     // distinct bytes per request
  u64 globalStoreRequests = 0;
  u64 globalStoreSectors = 0;
  u64 globalStoreBytes = 0;
  u64 wideLoadSectors = 0;  // of the requests of 16 bytes a lane: streams, not lookups
  u64 wideLoadBytes = 0;
  u64 uniqueReadBytes = 0;  // distinct sectors of the whole launch: what a cold L2 must fetch
  u64 uniqueWrittenBytes = 0;
  u64 sharedRequests = 0;
  u64 sharedWavefronts = 0;       // with bank conflicts
  u64 sharedIdealWavefronts = 0;  // without
  u64 tensorOps = 0;              // mma.sync instructions
  u64 tensorFlops = 0;
  u64 barriers = 0;  // warps arriving at one
  u64 branches = 0;
  u64 divergentBranches = 0;
  u64 atomics = 0;  // per lane
  u64 asyncCopyBytes = 0;
};

// Calls visit(name, value) for every counter, in the order of the report.
template <class Visit>
void forEachCounter(const Counters& c, Visit visit) {
  visit("warpInstructions", c.warpInstructions);
  visit("threadInstructions", c.threadInstructions);
  visit("globalLoadRequests", c.globalLoadRequests);
  visit("globalLoadSectors", c.globalLoadSectors);
  visit("globalLoadBytes", c.globalLoadBytes);
  visit("globalStoreRequests", c.globalStoreRequests);
  visit("globalStoreSectors", c.globalStoreSectors);
  visit("globalStoreBytes", c.globalStoreBytes);
  visit("wideLoadSectors", c.wideLoadSectors);
  visit("wideLoadBytes", c.wideLoadBytes);
  visit("uniqueReadBytes", c.uniqueReadBytes);
  visit("uniqueWrittenBytes", c.uniqueWrittenBytes);
  visit("sharedRequests", c.sharedRequests);
  visit("sharedWavefronts", c.sharedWavefronts);
  visit("sharedIdealWavefronts", c.sharedIdealWavefronts);
  visit("tensorOps", c.tensorOps);
  visit("tensorFlops", c.tensorFlops);
  visit("barriers", c.barriers);
  visit("branches", c.branches);
  visit("divergentBranches", c.divergentBranches);
  visit("atomics", c.atomics);
  visit("asyncCopyBytes", c.asyncCopyBytes);
}

}  // namespace softgpu
