// Short integer names and the lane mask, used everywhere. Nothing else belongs here.
#pragma once

#include <cstddef>
#include <cstdint>

namespace softgpu {

using u8 = uint8_t;
using u16 = uint16_t;
using u32 = uint32_t;
using u64 = uint64_t;
using i8 = int8_t;
using i16 = int16_t;
using i32 = int32_t;
using i64 = int64_t;
using u128 = unsigned __int128;

// Bit l stands for lane l of a warp.
using LaneMask = u32;
constexpr u32 kWarpSize = 32;
constexpr LaneMask kAllLanes = ~0u;

inline u32 lowestLane(LaneMask mask) { return static_cast<u32>(__builtin_ctz(mask)); }
inline u32 laneCount(LaneMask mask) {
  if (mask == kAllLanes) return kWarpSize;
  mask -= (mask >> 1) & 0x55555555u;
  mask = (mask & 0x33333333u) + ((mask >> 2) & 0x33333333u);
  return (((mask + (mask >> 4)) & 0x0f0f0f0fu) * 0x01010101u) >> 24;
}
inline u64 alignUp(u64 value, u64 alignment) { return (value + alignment - 1) / alignment * alignment; }

}  // namespace softgpu
