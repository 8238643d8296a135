// Streams, events and host functions.
#include <algorithm>
#include <chrono>

#include "driver/state.h"

using namespace softgpu;

namespace {

double now() {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

CUresult createStream(CUstream* out, unsigned flags, int priority) {
  SOFTGPU_NOT_NULL(out);
  if (flags & ~unsigned{CU_STREAM_NON_BLOCKING}) return CUDA_ERROR_INVALID_VALUE;
  auto stream = std::make_unique<CUstream_st>();
  stream->id = device().nextId();
  stream->flags = flags;
  stream->priority = std::clamp(priority, -5, 0);
  *out = device().streams.add(std::move(stream));
  return CUDA_SUCCESS;
}

// The last work of a stream, or an error: a stream under capture cannot be waited for.
CUresult lastOf(CUstream handle, WorkPtr& out) {
  Device& d = device();
  std::lock_guard lock(d.mutex);
  CUstream stream = d.resolve(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  if (stream->capture) {
    stream->capture->invalid = true;
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  }
  out = stream->last;
  return CUDA_SUCCESS;
}

CUresult recordedBy(CUevent event, WorkPtr& out) {
  Device& d = device();
  std::lock_guard lock(d.mutex);
  if (!d.events.has(event)) return CUDA_ERROR_INVALID_HANDLE;
  if (event->capture) return CUDA_ERROR_CAPTURED_EVENT;
  out = event->recorded;
  return CUDA_SUCCESS;
}

CUresult record(CUevent event, CUstream handle) {
  Device& d = device();
  std::lock_guard lock(d.mutex);
  CUstream stream = d.resolve(handle);
  if (!stream || !d.events.has(event)) return CUDA_ERROR_INVALID_HANDLE;
  event->capture = stream->capture;
  if (stream->capture) {
    event->captured = stream->captured;
    return CUDA_SUCCESS;
  }
  event->time = std::make_shared<double>(0);
  d.enqueue(stream, [time = event->time] { *time = now(); });
  event->recorded = stream->last;
  return CUDA_SUCCESS;
}

}  // namespace

SOFTGPU_API cuStreamCreateWithPriority(CUstream* out, unsigned flags, int priority) {
  SOFTGPU_ENTER(kOther);
  return createStream(out, flags, priority);
}
SOFTGPU_API cuStreamCreate(CUstream* out, unsigned flags) {
  SOFTGPU_ENTER(kOther);
  return createStream(out, flags, 0);
}
SOFTGPU_API cuStreamGetPriority(CUstream handle, int* priority) {
  SOFTGPU_ENTER(kOther);
  CUstream stream = device().resolve(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  *priority = stream->priority;
  return CUDA_SUCCESS;
}
SOFTGPU_API cuStreamGetFlags(CUstream handle, unsigned* flags) {
  SOFTGPU_ENTER(kOther);
  CUstream stream = device().resolve(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  *flags = stream->flags;
  return CUDA_SUCCESS;
}
SOFTGPU_API cuStreamGetId(CUstream handle, unsigned long long* id) {
  SOFTGPU_ENTER(kOther);
  CUstream stream = device().resolve(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  *id = stream->id;
  return CUDA_SUCCESS;
}
SOFTGPU_API cuStreamGetCtx(CUstream handle, CUcontext* context) {
  SOFTGPU_ENTER(kOther);
  if (!device().resolve(handle)) return CUDA_ERROR_INVALID_HANDLE;
  *context = &device().context;
  return CUDA_SUCCESS;
}

// Returns at once, as the real call does; work already queued still runs, and keeps what it needs.
SOFTGPU_API cuStreamDestroy(CUstream stream) {
  SOFTGPU_ENTER(kOther);
  std::lock_guard lock(device().mutex);
  if (device().streams.has(stream) && stream->capture) stream->capture->invalid = true;
  return device().streams.take(stream) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}
SOFTGPU_API cuStreamSynchronize(CUstream stream) {
  SOFTGPU_ENTER(kSynchronising);
  WorkPtr last;
  SOFTGPU_TRY(lastOf(stream, last));
  device().finish(last);
  return device().error();
}
SOFTGPU_API cuStreamQuery(CUstream stream) {
  SOFTGPU_ENTER(kQuerying);
  WorkPtr last;
  SOFTGPU_TRY(lastOf(stream, last));
  return device().poll(last) ? device().error() : CUDA_ERROR_NOT_READY;
}
SOFTGPU_API cuStreamWaitEvent(CUstream handle, CUevent event, unsigned) {
  SOFTGPU_ENTER(kEnqueueing);
  Device& d = device();
  std::lock_guard lock(d.mutex);
  CUstream stream = d.resolve(handle);
  if (!stream || !d.events.has(event)) return CUDA_ERROR_INVALID_HANDLE;
  if (!event->capture) {
    if (!event->recorded) return CUDA_SUCCESS;
    // What happened outside of a capture is no part of it.
    if (stream->capture) return CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
    stream->waits.push_back(event->recorded);
    return CUDA_SUCCESS;
  }
  if (!d.graphs.has(event->capture) || !event->capture->origin) return CUDA_ERROR_CAPTURED_EVENT;
  if (stream->capture && stream->capture != event->capture) return CUDA_ERROR_STREAM_CAPTURE_MERGE;
  if (!stream->capture) {
    // The event brings this stream into the capture.
    stream->capture = event->capture;
    stream->captured.clear();
    event->capture->streams.push_back(stream);
  }
  stream->captured.insert(stream->captured.end(), event->captured.begin(), event->captured.end());
  return CUDA_SUCCESS;
}

SOFTGPU_API cuLaunchHostFunc(CUstream handle, CUhostFn function, void* argument) {
  SOFTGPU_ENTER(kEnqueueing);
  SOFTGPU_NOT_NULL(function);
  Device& d = device();
  std::lock_guard lock(d.mutex);
  CUstream stream = d.resolve(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  d.enqueue(stream, {.run = [=] { function(argument); }, .hostCallback = true});
  return CUDA_SUCCESS;
}
SOFTGPU_API cuStreamAddCallback(CUstream handle, CUstreamCallback function, void* argument, unsigned) {
  SOFTGPU_ENTER(kEnqueueing);
  SOFTGPU_NOT_NULL(function);
  Device& d = device();
  std::lock_guard lock(d.mutex);
  CUstream stream = d.resolve(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  if (stream->capture) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  d.enqueue(
      stream,
      {.run = [=] { function(handle, device().error(), argument); }, .hostCallback = true, .evenAfterErrors = true});
  return CUDA_SUCCESS;
}

SOFTGPU_API cuEventCreate(CUevent* out, unsigned flags) {
  SOFTGPU_ENTER(kOther);
  SOFTGPU_NOT_NULL(out);
  auto event = std::make_unique<CUevent_st>();
  event->flags = flags;
  *out = device().events.add(std::move(event));
  return CUDA_SUCCESS;
}
SOFTGPU_API cuEventDestroy(CUevent event) {
  SOFTGPU_ENTER(kOther);
  std::lock_guard lock(device().mutex);
  return device().events.take(event) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}
SOFTGPU_API cuEventRecord(CUevent event, CUstream stream) {
  SOFTGPU_ENTER(kEnqueueing);
  return record(event, stream);
}
SOFTGPU_API cuEventRecordWithFlags(CUevent event, CUstream stream, unsigned) {
  SOFTGPU_ENTER(kEnqueueing);
  return record(event, stream);
}
SOFTGPU_API cuEventQuery(CUevent event) {
  SOFTGPU_ENTER(kQuerying);
  WorkPtr recorded;
  SOFTGPU_TRY(recordedBy(event, recorded));
  return device().poll(recorded) ? device().error() : CUDA_ERROR_NOT_READY;
}
SOFTGPU_API cuEventSynchronize(CUevent event) {
  SOFTGPU_ENTER(kSynchronising);
  WorkPtr recorded;
  SOFTGPU_TRY(recordedBy(event, recorded));
  device().finish(recorded);
  return device().error();
}
SOFTGPU_API cuEventElapsedTime(float* milliseconds, CUevent start, CUevent end) {
  SOFTGPU_ENTER(kOther);
  SOFTGPU_HANDLE(events, start);
  SOFTGPU_HANDLE(events, end);
  std::lock_guard lock(device().mutex);
  if (!start->recorded || !end->recorded) return CUDA_ERROR_INVALID_HANDLE;
  if ((start->flags | end->flags) & CU_EVENT_DISABLE_TIMING) return CUDA_ERROR_INVALID_HANDLE;
  if (!device().isDone(start->recorded) || !device().isDone(end->recorded)) return CUDA_ERROR_NOT_READY;
  *milliseconds = static_cast<float>(*end->time - *start->time);
  return CUDA_SUCCESS;
}
#ifdef cuEventElapsedTime
// By its name before CUDA 12.8, under which every driver has it.
#undef cuEventElapsedTime
SOFTGPU_API cuEventElapsedTime(float* milliseconds, CUevent start, CUevent end)
    __attribute__((alias("cuEventElapsedTime_v2")));
#endif
