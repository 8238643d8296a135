// Streams, events, host callbacks, and graphs made by stream capture.
#include <algorithm>
#include <chrono>

#include "driver/state.h"

using namespace softgpu;

namespace {

double now() {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// What a stream under capture forbids: a wait for work that will never run by itself.
CUresult notCapturing(CUstream stream) {
  if (!stream->capture) return CUDA_SUCCESS;
  stream->capture->invalid = true;
  return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

}  // namespace

SOFTGPU_API cuStreamCreateWithPriority(CUstream* out, unsigned flags, int priority) {
  SOFTGPU_TRY(usable());
  Device& d = device();
  std::lock_guard lock(d.mutex);
  auto stream = std::make_unique<CUstream_st>();
  stream->id = d.nextId();
  stream->nonBlocking = flags & CU_STREAM_NON_BLOCKING;
  stream->priority = priority;
  *out = stream.get();
  d.streams.push_back(std::move(stream));
  return CUDA_SUCCESS;
}
SOFTGPU_API cuStreamCreate(CUstream* out, unsigned flags) { return cuStreamCreateWithPriority(out, flags, 0); }
SOFTGPU_API cuStreamGetPriority(CUstream stream, int* priority) {
  *priority = device().resolve(stream)->priority;
  return CUDA_SUCCESS;
}

// Work already queued still runs; the stream's memory goes when it has.
SOFTGPU_API cuStreamDestroy(CUstream stream) {
  Device& d = device();
  d.finish(stream->last);
  std::lock_guard lock(d.mutex);
  reportStream(stream->id, stream->calls);
  d.streams.remove_if([=](const auto& s) { return s.get() == stream; });
  return CUDA_SUCCESS;
}
SOFTGPU_API cuStreamSynchronize(CUstream stream) {
  SOFTGPU_TRY(usable());
  Device& d = device();
  stream = d.resolve(stream);
  SOFTGPU_TRY(notCapturing(stream));
  ++stream->calls.synchronisations;
  d.finish(stream->last);
  return d.error();
}
SOFTGPU_API cuStreamQuery(CUstream stream) {
  SOFTGPU_TRY(usable());
  Device& d = device();
  stream = d.resolve(stream);
  SOFTGPU_TRY(notCapturing(stream));
  ++stream->calls.queries;
  return d.poll(stream->last) ? d.error() : CUDA_ERROR_NOT_READY;
}
SOFTGPU_API cuStreamWaitEvent(CUstream stream, CUevent event, unsigned) {
  SOFTGPU_TRY(usable());
  Device& d = device();
  std::lock_guard lock(d.mutex);
  stream = d.resolve(stream);
  if (event->capture && !stream->capture) {
    // The event brings this stream into the capture.
    stream->capture = event->capture;
    event->capture->streams.push_back(stream);
  } else if (event->recorded && !stream->capture) {
    stream->waits.push_back(event->recorded);
  }
  return CUDA_SUCCESS;
}
SOFTGPU_API cuLaunchHostFunc(CUstream stream, CUhostFn function, void* argument) {
  SOFTGPU_TRY(usable());
  Device& d = device();
  std::lock_guard lock(d.mutex);
  d.enqueue(
      d.resolve(stream), [=] { function(argument); }, true);
  return CUDA_SUCCESS;
}

SOFTGPU_API cuEventCreate(CUevent* out, unsigned) {
  SOFTGPU_TRY(usable());
  *out = new CUevent_st;
  return CUDA_SUCCESS;
}
SOFTGPU_API cuEventDestroy(CUevent event) {
  delete event;
  return CUDA_SUCCESS;
}
SOFTGPU_API cuEventRecord(CUevent event, CUstream stream) {
  SOFTGPU_TRY(usable());
  Device& d = device();
  std::lock_guard lock(d.mutex);
  stream = d.resolve(stream);
  event->capture = stream->capture;
  if (stream->capture) return CUDA_SUCCESS;
  event->time = std::make_shared<double>(0);
  d.enqueue(stream, [time = event->time] { *time = now(); });
  event->recorded = stream->last;
  return CUDA_SUCCESS;
}
SOFTGPU_API cuEventQuery(CUevent event) {
  SOFTGPU_TRY(usable());
  ++device().defaultStream.calls.queries;
  return device().poll(event->recorded) ? device().error() : CUDA_ERROR_NOT_READY;
}
SOFTGPU_API cuEventSynchronize(CUevent event) {
  SOFTGPU_TRY(usable());
  if (event->capture) return CUDA_ERROR_CAPTURED_EVENT;
  ++device().defaultStream.calls.synchronisations;
  device().finish(event->recorded);
  return device().error();
}
SOFTGPU_API cuEventElapsedTime(float* milliseconds, CUevent start, CUevent end) {
  if (!start->recorded || !end->recorded) return CUDA_ERROR_INVALID_HANDLE;
  if (!start->recorded->done || !end->recorded->done) return CUDA_ERROR_NOT_READY;
  *milliseconds = static_cast<float>(*end->time - *start->time);
  return CUDA_SUCCESS;
}

SOFTGPU_API cuStreamBeginCapture(CUstream stream, CUstreamCaptureMode) {
  SOFTGPU_TRY(usable());
  Device& d = device();
  std::lock_guard lock(d.mutex);
  stream = d.resolve(stream);
  if (stream == &d.defaultStream) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  if (stream->capture) return CUDA_ERROR_ILLEGAL_STATE;
  stream->capture = new CUgraph_st;
  stream->captureOrigin = true;
  stream->capture->streams.push_back(stream);
  return CUDA_SUCCESS;
}
SOFTGPU_API cuStreamEndCapture(CUstream stream, CUgraph* graph) {
  Device& d = device();
  std::lock_guard lock(d.mutex);
  if (!stream->capture || !stream->captureOrigin) return CUDA_ERROR_ILLEGAL_STATE;
  CUgraph captured = stream->capture;
  for (CUstream member : captured->streams) {
    member->capture = nullptr;
    member->captureOrigin = false;
  }
  captured->streams.clear();
  if (captured->invalid) {
    delete captured;
    *graph = nullptr;
    return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  }
  *graph = captured;
  return CUDA_SUCCESS;
}
SOFTGPU_API cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus* status) {
  stream = device().resolve(stream);
  *status = !stream->capture           ? CU_STREAM_CAPTURE_STATUS_NONE
            : stream->capture->invalid ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                                       : CU_STREAM_CAPTURE_STATUS_ACTIVE;
  return CUDA_SUCCESS;
}
SOFTGPU_API cuGraphInstantiateWithFlags(CUgraphExec* out, CUgraph graph, unsigned long long) {
  *out = new CUgraphExec_st{graph->nodes};
  return CUDA_SUCCESS;
}
SOFTGPU_API cuGraphLaunch(CUgraphExec exec, CUstream stream) {
  SOFTGPU_TRY(usable());
  Device& d = device();
  std::lock_guard lock(d.mutex);
  stream = d.resolve(stream);
  ++stream->calls.launches;
  d.enqueue(stream, [nodes = exec->nodes] {
    for (const auto& node : nodes) {
      if (device().error() == CUDA_SUCCESS) node();
    }
  });
  return CUDA_SUCCESS;
}
SOFTGPU_API cuGraphGetNodes(CUgraph graph, CUgraphNode*, size_t* count) {
  *count = graph->nodes.size();
  return CUDA_SUCCESS;
}
SOFTGPU_API cuGraphExecDestroy(CUgraphExec exec) {
  delete exec;
  return CUDA_SUCCESS;
}
SOFTGPU_API cuGraphDestroy(CUgraph graph) {
  delete graph;
  return CUDA_SUCCESS;
}
