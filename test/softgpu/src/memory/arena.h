// Device memory: real host addresses in one reserved range, never reused, with unmapped-by-name red zones between
// allocations, one bit per byte that says whether it was ever written, and the sectors a launch touched.
#pragma once

#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "base/types.h"

namespace softgpu {

constexpr u32 kSectorBytes = 32;

struct Allocation {
  struct Free {
    void operator()(u8* p) const { std::free(p); }
  };
  using Bits = std::unique_ptr<u8[], Free>;

  u64 base = 0;
  u64 size = 0;
  bool live = true;
  bool module = false;    // a variable of a loaded module
  bool constant = false;  // … in the .const state space
  Bits initialised;       // one bit per byte
  u64 touchedBy = 0;      // the launch that the two maps below belong to
  Bits sectorsRead, sectorsWritten;

  bool contains(u64 address, u64 bytes) const { return address - base < size && bytes <= size - (address - base); }
  // For an aligned access of 1, 2, 4, 8 or 16 bytes: its bits never straddle more than 16.
  bool isInitialised(u64 address, u32 bytes) const {
    u64 at = address - base;
    u32 word = initialised[at >> 3] | initialised[(at >> 3) + 1] << 8;
    u32 mask = (1u << bytes) - 1;
    return (word >> (at & 7) & mask) == mask;
  }
  void setInitialised(u64 address, u32 bytes) {
    u64 at = address - base;
    u32 mask = ((1u << bytes) - 1) << (at & 7);
    initialised[at >> 3] |= static_cast<u8>(mask);
    initialised[(at >> 3) + 1] |= static_cast<u8>(mask >> 8);
  }
  bool isRangeInitialised(u64 address, u64 bytes) const;
  void setRangeInitialised(u64 address, u64 bytes);
  // Makes the bytes unwritten again; both numbers are multiples of 8.
  void clearRangeInitialised(u64 address, u64 bytes);
  // Whether each byte was written travels with a copy inside the device.
  void copyInitialised(u64 address, const Allocation& from, u64 fromAddress, u64 bytes);
};

class Arena {
 public:
  // Null when the device's memory is used up.
  Allocation* allocate(u64 bytes, bool module);
  // False when no live allocation starts there.
  bool free(u64 address);
  // The allocation, live or freed, whose range holds the address. Stays valid for ever.
  Allocation* find(u64 address);
  // The live allocation that holds the whole range, or null.
  Allocation* findRange(u64 address, u64 bytes);

  u64 totalBytes() const { return kTotal; }
  u64 freeBytes();
  std::vector<const Allocation*> liveAllocations();

 private:
  static constexpr u64 kTotal = u64{16} << 30;
  static constexpr u64 kReserved = u64{8} << 40;
  static constexpr u64 kAlignment = 512;

  std::mutex mutex_;
  u64 start_ = 0, top_ = 0, used_ = 0;
  std::map<u64, std::unique_ptr<Allocation>> allocations_;
};

Arena& arena();

}  // namespace softgpu
