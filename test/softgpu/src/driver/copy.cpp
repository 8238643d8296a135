// Copies and fills, each of which the host waits for or queues.
#include <algorithm>
#include <cstring>

#include "driver/state.h"

using namespace softgpu;

namespace {

// A range that a copy reads or writes must be inside one live allocation.
Allocation* rangeOrFault(const char* call, u64 address, u64 bytes) {
  if (bytes == 0) return nullptr;  // nothing to do, and no fault either
  if (Allocation* a = arena().findRange(address, bytes)) return a;
  const Allocation* a = arena().find(address);
  Fault fault{};
  fault.kind = a && !a->live ? FaultKind::kUseAfterFree : FaultKind::kOutOfBounds;
  fault.address = address;
  fault.bytes = bytes;
  fault.detail = call;
  reportFault(fault);
  device().fail(CUDA_ERROR_ILLEGAL_ADDRESS);
  return nullptr;
}

// Host memory is the program's own, except where it is ours: what is pinned ends somewhere, too.
bool hostRangeOrFault(const char* call, const void* p, u64 bytes) {
  return !arena().owns(addressOf(p)) || rangeOrFault(call, addressOf(p), bytes) != nullptr;
}

// ---- What copies do when their time comes. Each works on rows; a plain copy is one row.

struct Rows {
  u64 width = 0, count = 1;
  u64 toPitch = 0, fromPitch = 0;
};

void copyToDevice(const char* call, u64 to, const void* from, Rows rows) {
  for (u64 k = 0; k < rows.count; ++k, to += rows.toPitch) {
    const u8* row = static_cast<const u8*>(from) + k * rows.fromPitch;
    Allocation* a = rangeOrFault(call, to, rows.width);
    if (!a || !hostRangeOrFault(call, row, rows.width)) return;
    std::memcpy(reinterpret_cast<void*>(to), row, rows.width);
    a->setRangeInitialised(to, rows.width);
  }
}

void copyToHost(const char* call, void* to, u64 from, Rows rows) {
  bool reported = false;
  for (u64 k = 0; k < rows.count; ++k, from += rows.fromPitch) {
    u8* row = static_cast<u8*>(to) + k * rows.toPitch;
    Allocation* a = rangeOrFault(call, from, rows.width);
    if (!a || !hostRangeOrFault(call, row, rows.width)) return;
    if (!reported && !a->isRangeInitialised(from, rows.width)) {
      Fault fault{};
      fault.kind = FaultKind::kUninitialisedCopy;
      fault.address = a->firstUninitialised(from, rows.width);
      fault.bytes = from + rows.width - fault.address;
      fault.detail = std::string(call) + " reads memory that was never written";
      reportFault(fault);
      reported = true;
    }
    std::memcpy(row, reinterpret_cast<const void*>(from), rows.width);
  }
}

void copyOnDevice(const char* call, u64 to, u64 from, Rows rows) {
  for (u64 k = 0; k < rows.count; ++k, to += rows.toPitch, from += rows.fromPitch) {
    Allocation* target = rangeOrFault(call, to, rows.width);
    Allocation* source = rangeOrFault(call, from, rows.width);
    if (!target || !source) return;
    std::memmove(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), rows.width);
    target->copyInitialised(to, *source, from, rows.width);
  }
}

template <class T>
void fill(const char* call, u64 to, T value, Rows rows) {
  for (u64 k = 0; k < rows.count; ++k, to += rows.toPitch) {
    Allocation* a = rangeOrFault(call, to, rows.width);
    if (!a) return;
    std::fill_n(reinterpret_cast<T*>(to), rows.width / sizeof(T), value);
    a->setRangeInitialised(to, rows.width);
  }
}

// ---- When that is.

// Memory that the device reaches by itself: device memory, and the host's if it is pinned or registered.
bool isKnown(u64 address, u64 bytes) { return arena().findRange(address, bytes) != nullptr; }

CUresult blocking(std::function<void()> run) {
  Device& d = device();
  SOFTGPU_TRY(notCapturing());
  WorkPtr work;
  {
    std::lock_guard lock(d.mutex);
    d.enqueue(&d.defaultStream, std::move(run));
    work = d.defaultStream.last;
  }
  d.finish(work);
  return d.error();
}

CUresult queued(CUstream handle, std::function<void()> run) {
  Device& d = device();
  std::lock_guard lock(d.mutex);
  CUstream stream = d.resolve(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  d.enqueue(stream, std::move(run));
  return CUDA_SUCCESS;
}

std::vector<u8> staged(const void* from, Rows rows) {
  std::vector<u8> bytes(rows.width * rows.count);
  for (u64 k = 0; k < rows.count; ++k) {
    std::memcpy(bytes.data() + k * rows.width, static_cast<const u8*>(from) + k * rows.fromPitch, rows.width);
  }
  return bytes;
}

// Whether a host range of so many rows is pinned; or was, or is beyond the end of what is, as the copy will find out.
bool isPinned(const void* p, u64 pitch, Rows rows) {
  return arena().owns(addressOf(p)) ||
         isKnown(addressOf(p), rows.count == 0 ? 0 : pitch * (rows.count - 1) + rows.width);
}

// Pageable memory is staged before the call returns: the real call may wait, so it counts as blocking. In a graph the
// memory is read whenever the graph runs.
CUresult toDeviceAsync(CallSite& site, u64 to, const void* from, Rows rows, CUstream handle) {
  const char* call = "cuMemcpyHtoDAsync";
  const bool pinned = isPinned(from, rows.fromPitch, rows);
  site.note(pinned ? CallKind::kEnqueueing : CallKind::kBlockingCopy);
  SOFTGPU_TRY(usable());
  Device& d = device();
  std::lock_guard lock(d.mutex);
  CUstream stream = d.resolve(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  if (pinned || stream->capture) {
    d.enqueue(stream, [=] { copyToDevice(call, to, from, rows); });
    return CUDA_SUCCESS;
  }
  Rows compact = rows;
  compact.fromPitch = rows.width;
  d.enqueue(stream, [=, bytes = staged(from, rows)] { copyToDevice(call, to, bytes.data(), compact); });
  return CUDA_SUCCESS;
}

// Into pageable memory the call returns when the copy is complete.
CUresult toHostAsync(CallSite& site, void* to, u64 from, Rows rows, CUstream handle) {
  const bool pinned = isPinned(to, rows.toPitch, rows);
  site.note(pinned ? CallKind::kEnqueueing : CallKind::kBlockingCopy);
  SOFTGPU_TRY(usable());
  Device& d = device();
  WorkPtr work;
  {
    std::lock_guard lock(d.mutex);
    CUstream stream = d.resolve(handle);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    d.enqueue(stream, [=] { copyToHost("cuMemcpyDtoHAsync", to, from, rows); });
    if (!pinned && !stream->capture) work = stream->last;
  }
  d.finish(work);
  return d.error();
}

template <class T>
CUresult fillBlocking(const char* call, u64 to, T value, Rows rows) {
  return blocking([=] { fill<T>(call, to, value, rows); });
}
template <class T>
CUresult fillQueued(const char* call, u64 to, T value, Rows rows, CUstream stream) {
  return queued(stream, [=] { fill<T>(call, to, value, rows); });
}

// The two ends of a two-dimensional copy.
struct Copy2D {
  u64 to, from;
  bool toHost, fromHost;
  Rows rows;
};
CUresult describe(const CUDA_MEMCPY2D* c, Copy2D& out) {
  SOFTGPU_NOT_NULL(c);
  auto end = [](CUmemorytype type, const void* host, CUdeviceptr onDevice, size_t x, size_t y, size_t pitch,
                u64& address, bool& isHost) {
    isHost = type == CU_MEMORYTYPE_HOST;
    if (type == CU_MEMORYTYPE_ARRAY) return CUDA_ERROR_NOT_SUPPORTED;
    address = (isHost ? addressOf(host) : onDevice) + y * pitch + x;
    if (type == CU_MEMORYTYPE_UNIFIED) isHost = !isKnown(address, 0);
    return CUDA_SUCCESS;
  };
  SOFTGPU_TRY(
      end(c->dstMemoryType, c->dstHost, c->dstDevice, c->dstXInBytes, c->dstY, c->dstPitch, out.to, out.toHost));
  SOFTGPU_TRY(
      end(c->srcMemoryType, c->srcHost, c->srcDevice, c->srcXInBytes, c->srcY, c->srcPitch, out.from, out.fromHost));
  if ((c->dstPitch && c->dstPitch < c->WidthInBytes) || (c->srcPitch && c->srcPitch < c->WidthInBytes)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  out.rows = {c->WidthInBytes, c->Height, c->dstPitch, c->srcPitch};
  return CUDA_SUCCESS;
}
void run(const Copy2D& c) {
  if (c.toHost && c.fromHost) {
    for (u64 k = 0; k < c.rows.count; ++k) {
      void* to = reinterpret_cast<void*>(c.to + k * c.rows.toPitch);
      const void* from = reinterpret_cast<const void*>(c.from + k * c.rows.fromPitch);
      if (!hostRangeOrFault("cuMemcpy2D", to, c.rows.width) || !hostRangeOrFault("cuMemcpy2D", from, c.rows.width))
        return;
      std::memcpy(to, from, c.rows.width);
    }
  } else if (c.toHost) {
    copyToHost("cuMemcpy2D", reinterpret_cast<void*>(c.to), c.from, c.rows);
  } else if (c.fromHost) {
    copyToDevice("cuMemcpy2D", c.to, reinterpret_cast<const void*>(c.from), c.rows);
  } else {
    copyOnDevice("cuMemcpy2D", c.to, c.from, c.rows);
  }
}

}  // namespace

SOFTGPU_API cuMemcpyHtoD(CUdeviceptr to, const void* from, size_t bytes) {
  SOFTGPU_ENTER(kBlockingCopy);
  return blocking([=] { copyToDevice("cuMemcpyHtoD", to, from, {.width = bytes}); });
}
SOFTGPU_API cuMemcpyDtoH(void* to, CUdeviceptr from, size_t bytes) {
  SOFTGPU_ENTER(kBlockingCopy);
  return blocking([=] { copyToHost("cuMemcpyDtoH", to, from, {.width = bytes}); });
}
SOFTGPU_API cuMemcpyDtoD(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
  SOFTGPU_ENTER(kBlockingCopy);
  return blocking([=] { copyOnDevice("cuMemcpyDtoD", to, from, {.width = bytes}); });
}
SOFTGPU_API cuMemcpy(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
  SOFTGPU_ENTER(kBlockingCopy);
  const Copy2D copy{to, from, !isKnown(to, 0), !isKnown(from, 0), {.width = bytes}};
  return blocking([=] { run(copy); });
}
SOFTGPU_API cuMemcpy2D(const CUDA_MEMCPY2D* description) {
  SOFTGPU_ENTER(kBlockingCopy);
  Copy2D copy;
  SOFTGPU_TRY(describe(description, copy));
  return blocking([=] { run(copy); });
}
SOFTGPU_API cuMemcpy2DUnaligned(const CUDA_MEMCPY2D* description) {
  SOFTGPU_ENTER(kBlockingCopy);
  Copy2D copy;
  SOFTGPU_TRY(describe(description, copy));
  return blocking([=] { run(copy); });
}

SOFTGPU_API cuMemcpyHtoDAsync(CUdeviceptr to, const void* from, size_t bytes, CUstream stream) {
  SOFTGPU_SITE();
  return toDeviceAsync(softgpuSite, to, from, {.width = bytes}, stream);
}
SOFTGPU_API cuMemcpyDtoHAsync(void* to, CUdeviceptr from, size_t bytes, CUstream stream) {
  SOFTGPU_SITE();
  return toHostAsync(softgpuSite, to, from, {.width = bytes}, stream);
}
SOFTGPU_API cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  SOFTGPU_ENTER(kEnqueueing);
  return queued(stream, [=] { copyOnDevice("cuMemcpyDtoDAsync", to, from, {.width = bytes}); });
}
SOFTGPU_API cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  SOFTGPU_SITE();
  const Rows rows{.width = bytes};
  if (!isKnown(to, 0)) return toHostAsync(softgpuSite, reinterpret_cast<void*>(to), from, rows, stream);
  if (!isKnown(from, 0)) return toDeviceAsync(softgpuSite, to, reinterpret_cast<const void*>(from), rows, stream);
  softgpuSite.note(CallKind::kEnqueueing);
  SOFTGPU_TRY(usable());
  return queued(stream, [=] { copyOnDevice("cuMemcpyAsync", to, from, rows); });
}
SOFTGPU_API cuMemcpy2DAsync(const CUDA_MEMCPY2D* description, CUstream stream) {
  SOFTGPU_SITE();
  Copy2D copy;
  SOFTGPU_TRY(describe(description, copy));
  if (copy.toHost && copy.fromHost) return CUDA_ERROR_NOT_SUPPORTED;
  if (copy.toHost) return toHostAsync(softgpuSite, reinterpret_cast<void*>(copy.to), copy.from, copy.rows, stream);
  if (copy.fromHost) {
    return toDeviceAsync(softgpuSite, copy.to, reinterpret_cast<const void*>(copy.from), copy.rows, stream);
  }
  softgpuSite.note(CallKind::kEnqueueing);
  SOFTGPU_TRY(usable());
  return queued(stream, [=] { run(copy); });
}

SOFTGPU_API cuMemsetD8(CUdeviceptr to, unsigned char value, size_t count) {
  SOFTGPU_ENTER(kBlockingCopy);
  return fillBlocking<u8>("cuMemsetD8", to, value, {.width = count});
}
SOFTGPU_API cuMemsetD16(CUdeviceptr to, unsigned short value, size_t count) {
  SOFTGPU_ENTER(kBlockingCopy);
  if (to % 2) return CUDA_ERROR_INVALID_VALUE;
  return fillBlocking<u16>("cuMemsetD16", to, value, {.width = 2 * count});
}
SOFTGPU_API cuMemsetD32(CUdeviceptr to, unsigned value, size_t count) {
  SOFTGPU_ENTER(kBlockingCopy);
  if (to % 4) return CUDA_ERROR_INVALID_VALUE;
  return fillBlocking<u32>("cuMemsetD32", to, value, {.width = 4 * count});
}
SOFTGPU_API cuMemsetD2D8(CUdeviceptr to, size_t pitch, unsigned char value, size_t width, size_t height) {
  SOFTGPU_ENTER(kBlockingCopy);
  return fillBlocking<u8>("cuMemsetD2D8", to, value, {width, height, pitch, 0});
}
SOFTGPU_API cuMemsetD2D32(CUdeviceptr to, size_t pitch, unsigned value, size_t width, size_t height) {
  SOFTGPU_ENTER(kBlockingCopy);
  if (to % 4 || pitch % 4) return CUDA_ERROR_INVALID_VALUE;
  return fillBlocking<u32>("cuMemsetD2D32", to, value, {4 * width, height, pitch, 0});
}
SOFTGPU_API cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count, CUstream stream) {
  SOFTGPU_ENTER(kEnqueueing);
  return fillQueued<u8>("cuMemsetD8Async", to, value, {.width = count}, stream);
}
SOFTGPU_API cuMemsetD16Async(CUdeviceptr to, unsigned short value, size_t count, CUstream stream) {
  SOFTGPU_ENTER(kEnqueueing);
  if (to % 2) return CUDA_ERROR_INVALID_VALUE;
  return fillQueued<u16>("cuMemsetD16Async", to, value, {.width = 2 * count}, stream);
}
SOFTGPU_API cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t count, CUstream stream) {
  SOFTGPU_ENTER(kEnqueueing);
  if (to % 4) return CUDA_ERROR_INVALID_VALUE;
  return fillQueued<u32>("cuMemsetD32Async", to, value, {.width = 4 * count}, stream);
}
SOFTGPU_API cuMemsetD2D8Async(CUdeviceptr to, size_t pitch, unsigned char value, size_t width, size_t height,
                              CUstream stream) {
  SOFTGPU_ENTER(kEnqueueing);
  return fillQueued<u8>("cuMemsetD2D8Async", to, value, {width, height, pitch, 0}, stream);
}
SOFTGPU_API cuMemsetD2D32Async(CUdeviceptr to, size_t pitch, unsigned value, size_t width, size_t height,
                               CUstream stream) {
  SOFTGPU_ENTER(kEnqueueing);
  if (to % 4 || pitch % 4) return CUDA_ERROR_INVALID_VALUE;
  return fillQueued<u32>("cuMemsetD2D32Async", to, value, {4 * width, height, pitch, 0}, stream);
}
