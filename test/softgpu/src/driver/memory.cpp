// Allocation, copies and fills.
#include <cstring>

#include "driver/state.h"

using namespace softgpu;

namespace {

u64 addressOf(const void* p) { return reinterpret_cast<u64>(p); }

// A range that a copy reads or writes must be inside one live allocation.
Allocation* rangeOrFault(const char* call, u64 address, u64 bytes) {
  if (Allocation* a = arena().findRange(address, bytes)) return a;
  const Allocation* a = arena().find(address);
  Fault fault{};
  fault.kind = a && !a->live ? FaultKind::kUseAfterFree : FaultKind::kOutOfBounds;
  fault.address = address;
  fault.bytes = static_cast<u32>(bytes);
  fault.detail = call;
  reportFault(fault);
  device().fail(CUDA_ERROR_ILLEGAL_ADDRESS);
  return nullptr;
}

void copyToDevice(u64 to, const void* from, u64 bytes) {
  if (Allocation* a = rangeOrFault("cuMemcpyHtoD", to, bytes)) {
    std::memcpy(reinterpret_cast<void*>(to), from, bytes);
    a->setRangeInitialised(to, bytes);
  }
}

void copyToHost(void* to, u64 from, u64 bytes) {
  Allocation* a = rangeOrFault("cuMemcpyDtoH", from, bytes);
  if (!a) return;
  if (!a->isRangeInitialised(from, bytes)) {
    Fault fault{};
    fault.kind = FaultKind::kUninitialisedCopy;
    fault.address = from;
    fault.bytes = static_cast<u32>(bytes);
    fault.detail = "cuMemcpyDtoH reads memory that was never written";
    reportFault(fault);
  }
  std::memcpy(to, reinterpret_cast<const void*>(from), bytes);
}

void copyOnDevice(u64 to, u64 from, u64 bytes) {
  Allocation* target = rangeOrFault("cuMemcpyDtoD", to, bytes);
  Allocation* source = rangeOrFault("cuMemcpyDtoD", from, bytes);
  if (!target || !source) return;
  std::memmove(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes);
  target->copyInitialised(to, *source, from, bytes);
}

template <class T>
void fill(u64 to, T value, u64 count) {
  Allocation* a = rangeOrFault("cuMemset", to, count * sizeof(T));
  if (!a) return;
  std::fill_n(reinterpret_cast<T*>(to), count, value);
  a->setRangeInitialised(to, count * sizeof(T));
}

// Host memory from cuMemAllocHost lives in the arena, where kernels can reach it as on a device.
bool isPinned(const void* p, u64 bytes) { return arena().findRange(addressOf(p), bytes) != nullptr; }

CUresult allocate(CUdeviceptr* out, size_t bytes, CUstream stream) {
  Device& d = device();
  std::lock_guard lock(d.mutex);
  ++stream->calls.allocations;
  if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  if (d.refusesAllocation()) return CUDA_ERROR_OUT_OF_MEMORY;
  Allocation* a = arena().allocate(bytes, false);
  if (!a) return CUDA_ERROR_OUT_OF_MEMORY;
  *out = a->base;
  return CUDA_SUCCESS;
}

// A copy or fill that the host waits for.
CUresult blocking(std::function<void()> run) {
  SOFTGPU_TRY(usable());
  Device& d = device();
  WorkPtr work;
  {
    std::lock_guard lock(d.mutex);
    ++d.defaultStream.calls.blockingCopies;
    d.enqueue(&d.defaultStream, std::move(run));
    work = d.defaultStream.last;
  }
  d.finish(work);
  return d.error();
}

CUresult queued(CUstream stream, std::function<void()> run) {
  SOFTGPU_TRY(usable());
  Device& d = device();
  std::lock_guard lock(d.mutex);
  stream = d.resolve(stream);
  ++stream->calls.copies;
  d.enqueue(stream, std::move(run));
  return CUDA_SUCCESS;
}

}  // namespace

SOFTGPU_API cuMemGetInfo(size_t* free, size_t* total) {
  *free = arena().freeBytes();
  *total = arena().totalBytes();
  return CUDA_SUCCESS;
}

SOFTGPU_API cuMemAlloc(CUdeviceptr* out, size_t bytes) {
  SOFTGPU_TRY(usable());
  return allocate(out, bytes, &device().defaultStream);
}
SOFTGPU_API cuMemAllocAsync(CUdeviceptr* out, size_t bytes, CUstream stream) {
  SOFTGPU_TRY(usable());
  stream = device().resolve(stream);
  if (stream->capture) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  return allocate(out, bytes, stream);
}
SOFTGPU_API cuMemAllocFromPoolAsync(CUdeviceptr* out, size_t bytes, CUmemoryPool, CUstream stream) {
  return cuMemAllocAsync(out, bytes, stream);
}

// Freeing waits for the device, as the real call does.
SOFTGPU_API cuMemFree(CUdeviceptr address) {
  SOFTGPU_TRY(usable());
  if (address == 0) return CUDA_SUCCESS;
  device().finishAll();
  SOFTGPU_TRY(device().error());
  return arena().free(address) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
SOFTGPU_API cuMemFreeAsync(CUdeviceptr address, CUstream stream) {
  SOFTGPU_TRY(usable());
  if (address == 0) return CUDA_SUCCESS;
  if (const Allocation* a = arena().find(address); !a || !a->live || a->base != address)
    return CUDA_ERROR_INVALID_VALUE;
  Device& d = device();
  std::lock_guard lock(d.mutex);
  stream = d.resolve(stream);
  if (stream->capture) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  d.enqueue(stream, [address] { arena().free(address); });
  return CUDA_SUCCESS;
}

SOFTGPU_API cuMemHostAlloc(void** out, size_t bytes, unsigned) {
  SOFTGPU_TRY(usable());
  if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  Allocation* a = arena().allocate(bytes, false);
  if (!a) return CUDA_ERROR_OUT_OF_MEMORY;
  a->setRangeInitialised(a->base, bytes);
  *out = reinterpret_cast<void*>(a->base);
  return CUDA_SUCCESS;
}
SOFTGPU_API cuMemAllocHost(void** out, size_t bytes) { return cuMemHostAlloc(out, bytes, 0); }
SOFTGPU_API cuMemFreeHost(void* p) { return cuMemFree(addressOf(p)); }
SOFTGPU_API cuMemHostGetDevicePointer(CUdeviceptr* out, void* p, unsigned) {
  *out = addressOf(p);
  return CUDA_SUCCESS;
}

SOFTGPU_API cuMemcpyHtoD(CUdeviceptr to, const void* from, size_t bytes) {
  return blocking([=] { copyToDevice(to, from, bytes); });
}
SOFTGPU_API cuMemcpyDtoH(void* to, CUdeviceptr from, size_t bytes) {
  return blocking([=] { copyToHost(to, from, bytes); });
}
SOFTGPU_API cuMemcpyDtoD(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
  return blocking([=] { copyOnDevice(to, from, bytes); });
}
SOFTGPU_API cuMemcpyHtoDAsync(CUdeviceptr to, const void* from, size_t bytes, CUstream stream) {
  if (isPinned(from, bytes)) return queued(stream, [=] { copyToDevice(to, from, bytes); });
  // Pageable memory is staged before the call returns.
  const u8* begin = static_cast<const u8*>(from);
  return queued(
      stream, [to, staged = std::vector<u8>(begin, begin + bytes)] { copyToDevice(to, staged.data(), staged.size()); });
}
SOFTGPU_API cuMemcpyDtoHAsync(void* to, CUdeviceptr from, size_t bytes, CUstream stream) {
  SOFTGPU_TRY(queued(stream, [=] { copyToHost(to, from, bytes); }));
  stream = device().resolve(stream);
  // Into pageable memory the call returns when the copy is complete.
  if (!isPinned(to, bytes) && !stream->capture) {
    ++stream->calls.blockingCopies;
    device().finish(stream->last);
  }
  return device().error();
}
SOFTGPU_API cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  return queued(stream, [=] { copyOnDevice(to, from, bytes); });
}
SOFTGPU_API cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  const bool toDevice = arena().find(to) != nullptr, fromDevice = arena().find(from) != nullptr;
  if (toDevice && fromDevice) return cuMemcpyDtoDAsync(to, from, bytes, stream);
  if (toDevice) return cuMemcpyHtoDAsync(to, reinterpret_cast<const void*>(from), bytes, stream);
  return cuMemcpyDtoHAsync(reinterpret_cast<void*>(to), from, bytes, stream);
}

SOFTGPU_API cuMemsetD8(CUdeviceptr to, unsigned char value, size_t count) {
  return blocking([=] { fill<u8>(to, value, count); });
}
SOFTGPU_API cuMemsetD16(CUdeviceptr to, unsigned short value, size_t count) {
  return blocking([=] { fill<u16>(to, value, count); });
}
SOFTGPU_API cuMemsetD32(CUdeviceptr to, unsigned value, size_t count) {
  return blocking([=] { fill<u32>(to, value, count); });
}
SOFTGPU_API cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count, CUstream stream) {
  return queued(stream, [=] { fill<u8>(to, value, count); });
}
SOFTGPU_API cuMemsetD16Async(CUdeviceptr to, unsigned short value, size_t count, CUstream stream) {
  return queued(stream, [=] { fill<u16>(to, value, count); });
}
SOFTGPU_API cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t count, CUstream stream) {
  return queued(stream, [=] { fill<u32>(to, value, count); });
}

// There is one pool, whose attributes can be set and read back but change nothing.
namespace {
cuuint64_t poolAttributes[16] = {};
}
SOFTGPU_API cuDeviceGetDefaultMemPool(CUmemoryPool* pool, CUdevice) {
  *pool = reinterpret_cast<CUmemoryPool>(&poolAttributes);
  return CUDA_SUCCESS;
}
SOFTGPU_API cuDeviceGetMemPool(CUmemoryPool* pool, CUdevice dev) { return cuDeviceGetDefaultMemPool(pool, dev); }
SOFTGPU_API cuMemPoolSetAttribute(CUmemoryPool, CUmemPool_attribute attribute, void* value) {
  if (static_cast<unsigned>(attribute) >= std::size(poolAttributes)) return CUDA_ERROR_INVALID_VALUE;
  poolAttributes[attribute] = *static_cast<cuuint64_t*>(value);
  return CUDA_SUCCESS;
}
SOFTGPU_API cuMemPoolGetAttribute(CUmemoryPool, CUmemPool_attribute attribute, void* value) {
  if (static_cast<unsigned>(attribute) >= std::size(poolAttributes)) return CUDA_ERROR_INVALID_VALUE;
  *static_cast<cuuint64_t*>(value) = poolAttributes[attribute];
  return CUDA_SUCCESS;
}
SOFTGPU_API cuMemPoolTrimTo(CUmemoryPool, size_t) { return CUDA_SUCCESS; }
