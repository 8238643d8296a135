// A header, then entries, each with a header of its own.
#include "driver/fatbin.h"

#include <cstring>

namespace softgpu {
namespace {

constexpr u32 kMagic = 0xba55ed50, kWrapperMagic = 0x466243b1;
constexpr u16 kPtxKind = 1;
constexpr u64 kCompressed = 0xa000;
constexpr u64 kHeaderBytes = 16, kEntryHeaderBytes = 64;

template <class T>
T read(const u8* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

// The fatbin's own size includes its header.
u64 sizeOf(const u8* fatbin) { return read<u16>(fatbin + 6) + read<u64>(fatbin + 8); }

std::vector<FatbinEntry> entriesAt(const u8* fatbin) {
  std::vector<FatbinEntry> entries;
  const u8* end = fatbin + sizeOf(fatbin);
  for (const u8* at = fatbin + read<u16>(fatbin + 6); at < end;) {
    const u32 header = read<u32>(at + 4);
    const u64 size = read<u64>(at + 8);
    FatbinEntry entry;
    entry.isPtx = read<u16>(at) == kPtxKind;
    entry.architecture = read<u32>(at + 28);
    entry.compressed = read<u64>(at + 40) & kCompressed;
    const char* text = reinterpret_cast<const char*>(at + header);
    if (entry.isPtx && !entry.compressed) entry.text = {text, strnlen(text, size)};
    entries.push_back(entry);
    at += header + size;
  }
  return entries;
}

}  // namespace

bool isFatbin(const void* image) {
  const u32 magic = read<u32>(static_cast<const u8*>(image));
  return magic == kMagic || magic == kWrapperMagic;
}

std::vector<FatbinEntry> entriesOf(const void* image) {
  const u8* at = static_cast<const u8*>(image);
  return entriesAt(read<u32>(at) == kWrapperMagic ? read<const u8*>(at + 8) : at);
}

std::vector<FatbinEntry> entriesInFile(std::string_view contents) {
  std::vector<FatbinEntry> all;
  const u8* begin = reinterpret_cast<const u8*>(contents.data());
  for (u64 at = 0; at + kHeaderBytes + kEntryHeaderBytes <= contents.size();) {
    if (read<u32>(begin + at) != kMagic || sizeOf(begin + at) > contents.size() - at) {
      at += 4;
      continue;
    }
    for (const FatbinEntry& entry : entriesAt(begin + at)) all.push_back(entry);
    at += sizeOf(begin + at);
  }
  return all;
}

}  // namespace softgpu
