// Device memory: real host addresses in one reserved range, never reused, with unmapped-by-name red zones between
// allocations, one bit per byte that says whether it was ever written, and the sectors a launch touched.
#pragma once

#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "base/options.h"
#include "base/types.h"

namespace softgpu {

constexpr u32 kSectorBytes = 32;

// What a range of memory is: of the device; of a loaded module; pinned by us; the program's own, registered.
enum class MemoryKind : u8 { kDevice, kModule, kHost, kRegistered };

// Who wrote the cells of a piece of global memory, in the launch that wrote there last: see GlobalRaces.
struct WriteChunk {
  u64 launch = 0;
  std::vector<u64> cells;
};

struct Allocation {
  struct Free {
    void operator()(u8* p) const { std::free(p); }
  };
  using Bits = std::unique_ptr<u8[], Free>;

  u64 base = 0;
  u64 size = 0;
  bool live = true;
  bool freeing = false;  // by a stream, as soon as it comes to that
  MemoryKind kind = MemoryKind::kDevice;
  bool constant = false;  // a module's variable in the .const state space
  Bits initialised;       // one bit per byte
  u64 touchedBy = 0;      // the launch that the two maps below belong to
  Bits sectorsRead, sectorsWritten;
  u64 writtenBy = 0;  // the last launch that wrote here
  std::vector<WriteChunk> chunks;

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
  // The first byte of the range that was never written, or its end.
  u64 firstUninitialised(u64 address, u64 bytes) const;
  void setRangeInitialised(u64 address, u64 bytes);
  // Makes the bytes unwritten again; both numbers are multiples of 8.
  void clearRangeInitialised(u64 address, u64 bytes);
  // Whether each byte was written travels with a copy inside the device.
  void copyInitialised(u64 address, const Allocation& from, u64 fromAddress, u64 bytes);
};

class Arena {
 public:
  // Null when the device's memory is used up.
  Allocation* allocate(u64 bytes, MemoryKind kind);
  // Memory of the program, until it is freed here. Null when some of it is known already.
  Allocation* adopt(u64 address, u64 bytes);
  // False when no live allocation starts there.
  bool free(u64 address);
  // The allocation, live or freed, whose range holds the address. Stays valid for ever.
  Allocation* find(u64 address);
  // Whether the address is of the arena's own range, allocated or not.
  bool owns(u64 address);
  // The live allocation that holds the whole range, or null.
  Allocation* findRange(u64 address, u64 bytes);

  u64 totalBytes() const { return options().memoryBytes; }
  u64 freeBytes();
  std::vector<const Allocation*> liveAllocations();

 private:
  static constexpr u64 kReserved = u64{8} << 40;
  static constexpr u64 kAlignment = 512;

  Allocation* insert(u64 address, u64 bytes, MemoryKind kind);

  std::mutex mutex_;
  u64 start_ = 0, top_ = 0, used_ = 0;
  std::map<u64, std::unique_ptr<Allocation>> allocations_;
  std::vector<std::unique_ptr<Allocation>> gone_;  // whose place another one took
};

Arena& arena();

}  // namespace softgpu
