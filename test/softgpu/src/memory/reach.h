// Up to which clocks the accesses of a block's warps happened before something.
#pragma once

#include <algorithm>
#include <array>
#include <vector>

#include "base/types.h"

namespace softgpu {

constexpr u32 kMaxWarps = 32;
using Clock = std::array<u32, kMaxWarps>;

// Of all lanes of each warp; and further, of single lanes that came without the others of their warp.
struct Reach {
  struct Lane {
    u32 warp, lane, clock;
    bool operator==(const Lane&) const = default;
  };
  Clock warps{};
  std::vector<Lane> lanes;  // ascending

  bool operator==(const Reach&) const = default;

  bool covers(u32 warp, LaneMask of, u32 clock) const {
    if (clock <= warps[warp]) return true;
    for (const Lane& l : lanes) {
      if (l.warp == warp && clock <= l.clock) of &= ~(1u << l.lane);
    }
    return of == 0;
  }

  void raise(u32 warp, u32 clock) { warps[warp] = std::max(warps[warp], clock); }

  void raise(u32 warp, u32 lane, u32 clock) {
    if (clock <= warps[warp]) return;
    auto at = std::lower_bound(lanes.begin(), lanes.end(), warp * kWarpSize + lane,
                               [](const Lane& l, u32 thread) { return l.warp * kWarpSize + l.lane < thread; });
    if (at != lanes.end() && at->warp == warp && at->lane == lane) {
      at->clock = std::max(at->clock, clock);
    } else {
      lanes.insert(at, {warp, lane, clock});
    }
  }

  void raise(const Reach& other) {
    for (u32 w = 0; w < kMaxWarps; ++w) raise(w, other.warps[w]);
    for (const Lane& l : other.lanes) raise(l.warp, l.lane, l.clock);
    forgetCovered();
  }

  // Lanes that add nothing to their warps.
  void forgetCovered() {
    if (!lanes.empty()) std::erase_if(lanes, [&](const Lane& l) { return l.clock <= warps[l.warp]; });
  }
};

}  // namespace softgpu
