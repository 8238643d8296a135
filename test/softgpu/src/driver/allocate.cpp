// Device memory, pinned memory and pools.
#include <algorithm>
#include <cstring>

#include "driver/state.h"

using namespace softgpu;

namespace {

CUresult allocate(CUdeviceptr* out, size_t bytes, MemoryKind kind) {
  SOFTGPU_NOT_NULL(out);
  if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  if (device().refusesAllocation()) return CUDA_ERROR_OUT_OF_MEMORY;
  Allocation* a = arena().allocate(bytes, kind);
  if (!a) return CUDA_ERROR_OUT_OF_MEMORY;
  *out = a->base;
  return CUDA_SUCCESS;
}

CUresult allocateOnStream(CUdeviceptr* out, size_t bytes, CUstream handle) {
  CUstream stream = device().resolve(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  // In a capture this would be a node of the graph, which is not modelled.
  if (stream->capture) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  return allocate(out, bytes, MemoryKind::kDevice);
}

// The live allocation of a kind that starts at the address, if no stream is to free it.
Allocation* allocationAt(CUdeviceptr address, MemoryKind kind) {
  std::lock_guard lock(device().mutex);
  Allocation* a = arena().find(address);
  return a && a->live && !a->freeing && a->base == address && a->kind == kind ? a : nullptr;
}

// Freeing waits for the device, as the real calls do.
CUresult release(CUdeviceptr address, MemoryKind kind) {
  SOFTGPU_TRY(notCapturing());
  if (!allocationAt(address, kind)) return CUDA_ERROR_INVALID_VALUE;
  device().finishAll();
  SOFTGPU_TRY(device().error());
  return arena().free(address) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult allocatePinned(void** out, size_t bytes) {
  SOFTGPU_NOT_NULL(out);
  SOFTGPU_TRY(notCapturing());
  CUdeviceptr address = 0;
  SOFTGPU_TRY(allocate(&address, bytes, MemoryKind::kHost));
  // What the host writes is not seen, so all of it counts as written.
  arena().find(address)->setRangeInitialised(address, bytes);
  *out = reinterpret_cast<void*>(address);
  return CUDA_SUCCESS;
}

}  // namespace

SOFTGPU_API cuMemGetInfo(size_t* free, size_t* total) {
  SOFTGPU_ENTER(kOther);
  if (free) *free = arena().freeBytes();
  if (total) *total = arena().totalBytes();
  return CUDA_SUCCESS;
}

SOFTGPU_API cuMemAlloc(CUdeviceptr* out, size_t bytes) {
  SOFTGPU_ENTER(kAllocating);
  SOFTGPU_TRY(notCapturing());
  return allocate(out, bytes, MemoryKind::kDevice);
}
SOFTGPU_API cuMemAllocPitch(CUdeviceptr* out, size_t* pitch, size_t width, size_t height, unsigned) {
  SOFTGPU_ENTER(kAllocating);
  SOFTGPU_NOT_NULL(pitch);
  SOFTGPU_TRY(notCapturing());
  *pitch = alignUp(width, 512);
  return allocate(out, *pitch * height, MemoryKind::kDevice);
}
SOFTGPU_API cuMemAllocAsync(CUdeviceptr* out, size_t bytes, CUstream stream) {
  SOFTGPU_ENTER(kAllocating);
  return allocateOnStream(out, bytes, stream);
}
SOFTGPU_API cuMemAllocFromPoolAsync(CUdeviceptr* out, size_t bytes, CUmemoryPool pool, CUstream stream) {
  SOFTGPU_ENTER(kAllocating);
  SOFTGPU_HANDLE(pools, pool);
  return allocateOnStream(out, bytes, stream);
}

SOFTGPU_API cuMemFree(CUdeviceptr address) {
  SOFTGPU_ENTER(kFreeing);
  return address == 0 ? CUDA_SUCCESS : release(address, MemoryKind::kDevice);
}
SOFTGPU_API cuMemFreeAsync(CUdeviceptr address, CUstream handle) {
  SOFTGPU_ENTER(kFreeing);
  if (address == 0) return CUDA_SUCCESS;
  Device& d = device();
  std::lock_guard lock(d.mutex);
  CUstream stream = d.resolve(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  Allocation* a = allocationAt(address, MemoryKind::kDevice);
  if (!a) return CUDA_ERROR_INVALID_VALUE;
  if (stream->capture) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  a->freeing = true;
  d.enqueue(stream, [address] { arena().free(address); });
  return CUDA_SUCCESS;
}
SOFTGPU_API cuMemGetAddressRange(CUdeviceptr* base, size_t* bytes, CUdeviceptr address) {
  SOFTGPU_ENTER(kOther);
  const Allocation* a = arena().findRange(address, 0);
  if (!a) return CUDA_ERROR_NOT_FOUND;
  if (base) *base = a->base;
  if (bytes) *bytes = a->size;
  return CUDA_SUCCESS;
}

SOFTGPU_API cuMemHostAlloc(void** out, size_t bytes, unsigned) {
  SOFTGPU_ENTER(kAllocating);
  return allocatePinned(out, bytes);
}
SOFTGPU_API cuMemAllocHost(void** out, size_t bytes) {
  SOFTGPU_ENTER(kAllocating);
  return allocatePinned(out, bytes);
}
SOFTGPU_API cuMemFreeHost(void* p) {
  SOFTGPU_ENTER(kFreeing);
  return release(addressOf(p), MemoryKind::kHost);
}
SOFTGPU_API cuMemHostRegister(void* p, size_t bytes, unsigned) {
  SOFTGPU_ENTER(kAllocating);
  if (!p || bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  if (device().refusesAllocation()) return CUDA_ERROR_OUT_OF_MEMORY;
  Allocation* a = arena().adopt(addressOf(p), bytes);
  if (!a) return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
  a->setRangeInitialised(a->base, bytes);
  return CUDA_SUCCESS;
}
SOFTGPU_API cuMemHostUnregister(void* p) {
  SOFTGPU_ENTER(kFreeing);
  const CUresult result = release(addressOf(p), MemoryKind::kRegistered);
  return result == CUDA_ERROR_INVALID_VALUE ? CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED : result;
}
SOFTGPU_API cuMemHostGetDevicePointer(CUdeviceptr* out, void* p, unsigned) {
  SOFTGPU_ENTER(kOther);
  const Allocation* a = arena().findRange(addressOf(p), 0);
  if (!a || (a->kind != MemoryKind::kHost && a->kind != MemoryKind::kRegistered)) return CUDA_ERROR_INVALID_VALUE;
  SOFTGPU_NOT_NULL(out);
  *out = addressOf(p);
  return CUDA_SUCCESS;
}

SOFTGPU_API cuPointerGetAttribute(void* value, CUpointer_attribute attribute, CUdeviceptr address) {
  SOFTGPU_ENTER(kOther);
  SOFTGPU_NOT_NULL(value);
  const Allocation* a = arena().findRange(address, 0);
  if (!a) return CUDA_ERROR_INVALID_VALUE;
  const bool onHost = a->kind == MemoryKind::kHost || a->kind == MemoryKind::kRegistered;
  auto give = [&](auto result) {
    std::memcpy(value, &result, sizeof result);
    return CUDA_SUCCESS;
  };
  switch (attribute) {
    case CU_POINTER_ATTRIBUTE_CONTEXT:
      return give(&device().context);
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
      return give(static_cast<unsigned>(onHost ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE));
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
      return give(address);
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
      return onHost ? give(address) : CUDA_ERROR_INVALID_VALUE;
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
      return give(0);
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
      return give(0);
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
      return give(a->base);
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
      return give(size_t{a->size});
    default:
      return CUDA_ERROR_NOT_SUPPORTED;
  }
}

// ---- Pools. Their attributes can be set and read back, and change nothing: freed memory is never kept.

namespace {

CUmemoryPool& defaultPool() {
  static CUmemoryPool pool = nullptr;
  return pool;
}
CUresult givePool(CUmemoryPool* out) {
  SOFTGPU_NOT_NULL(out);
  std::lock_guard lock(device().mutex);
  // It may have gone with its context.
  if (!device().pools.has(defaultPool())) defaultPool() = device().pools.add(std::make_unique<CUmemPoolHandle_st>());
  *out = defaultPool();
  return CUDA_SUCCESS;
}
// The first attributes are int, the others 64 bits wide.
size_t attributeBytes(CUmemPool_attribute attribute) {
  return attribute <= CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES ? sizeof(int) : sizeof(cuuint64_t);
}

}  // namespace

SOFTGPU_API cuDeviceGetDefaultMemPool(CUmemoryPool* pool, CUdevice) {
  SOFTGPU_CALL(kOther);
  return givePool(pool);
}
SOFTGPU_API cuDeviceGetMemPool(CUmemoryPool* pool, CUdevice) {
  SOFTGPU_CALL(kOther);
  return givePool(pool);
}
SOFTGPU_API cuMemPoolCreate(CUmemoryPool* pool, const CUmemPoolProps* properties) {
  SOFTGPU_ENTER(kAllocating);
  SOFTGPU_NOT_NULL(pool);
  SOFTGPU_NOT_NULL(properties);
  *pool = device().pools.add(std::make_unique<CUmemPoolHandle_st>());
  return CUDA_SUCCESS;
}
SOFTGPU_API cuMemPoolDestroy(CUmemoryPool pool) {
  SOFTGPU_ENTER(kFreeing);
  if (pool == defaultPool() || !device().pools.take(pool)) return CUDA_ERROR_INVALID_VALUE;
  return CUDA_SUCCESS;
}
SOFTGPU_API cuMemPoolSetAttribute(CUmemoryPool pool, CUmemPool_attribute attribute, void* value) {
  SOFTGPU_ENTER(kOther);
  SOFTGPU_HANDLE(pools, pool);
  SOFTGPU_NOT_NULL(value);
  if (static_cast<unsigned>(attribute) >= std::size(pool->attributes)) return CUDA_ERROR_INVALID_VALUE;
  std::memcpy(&pool->attributes[attribute], value, attributeBytes(attribute));
  return CUDA_SUCCESS;
}
SOFTGPU_API cuMemPoolGetAttribute(CUmemoryPool pool, CUmemPool_attribute attribute, void* value) {
  SOFTGPU_ENTER(kOther);
  SOFTGPU_HANDLE(pools, pool);
  SOFTGPU_NOT_NULL(value);
  if (static_cast<unsigned>(attribute) >= std::size(pool->attributes)) return CUDA_ERROR_INVALID_VALUE;
  cuuint64_t held = pool->attributes[attribute];
  if (attribute == CU_MEMPOOL_ATTR_USED_MEM_CURRENT || attribute == CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT) {
    held = arena().totalBytes() - arena().freeBytes();
  }
  std::memcpy(value, &held, attributeBytes(attribute));
  return CUDA_SUCCESS;
}
SOFTGPU_API cuMemPoolTrimTo(CUmemoryPool pool, size_t) {
  SOFTGPU_ENTER(kFreeing);
  SOFTGPU_HANDLE(pools, pool);
  return CUDA_SUCCESS;
}
