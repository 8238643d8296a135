// The report file: one JSON object per line, for each launch, each fault outside a launch, and each stream's host
// calls. Faults also go to stderr, one line each, when they are found.
#pragma once

#include "exec/launch.h"

namespace softgpu {

// What the host asked of one stream.
struct StreamCalls {
  u64 launches = 0;
  u64 copies = 0;  // asynchronous
  u64 blockingCopies = 0;
  u64 allocations = 0;
  u64 synchronisations = 0;
  u64 queries = 0;
};

void reportLaunch(const Launch& launch, u64 stream);
void reportFault(const Fault& fault);
void reportStream(u64 stream, const StreamCalls& calls);

}  // namespace softgpu
