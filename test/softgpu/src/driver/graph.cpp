// Graphs: made by stream capture, instantiated, launched, updated. Nodes cannot be added by hand.
#include <algorithm>

#include "driver/state.h"

using namespace softgpu;

namespace {

// Of this thread, for the calls that a capture forbids.
thread_local CUstreamCaptureMode captureMode = CU_STREAM_CAPTURE_MODE_GLOBAL;

void endCapture(CUgraph graph) {
  for (CUstream stream : graph->streams) {
    if (!device().streams.has(stream)) continue;
    stream->capture = nullptr;
    stream->captured.clear();
  }
  graph->streams.clear();
  graph->origin = nullptr;
}

// Whether every forked stream came back: all nodes are behind the origin's last ones.
bool isJoined(const CUgraph_st& graph) {
  std::vector<bool> reached(graph.nodes.size(), false);
  std::vector<size_t> stack = graph.origin->captured;
  while (!stack.empty()) {
    const size_t k = stack.back();
    stack.pop_back();
    if (reached[k]) continue;
    reached[k] = true;
    stack.insert(stack.end(), graph.nodes[k].after.begin(), graph.nodes[k].after.end());
  }
  return std::find(reached.begin(), reached.end(), false) == reached.end();
}

bool sameShape(const std::vector<GraphNode>& a, const std::vector<GraphNode>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const GraphNode& x, const GraphNode& y) {
    return x.kernel == y.kernel && x.hostCallback == y.hostCallback && x.after == y.after;
  });
}

}  // namespace

CUresult softgpu::notCapturing() {
  if (captureMode == CU_STREAM_CAPTURE_MODE_RELAXED) return CUDA_SUCCESS;
  CUresult result = CUDA_SUCCESS;
  std::lock_guard lock(device().mutex);
  device().graphs.forEach([&](CUgraph_st& graph) {
    if (!graph.origin || graph.mode == CU_STREAM_CAPTURE_MODE_RELAXED) return;
    const bool own = graph.thread == std::this_thread::get_id();
    const bool all = graph.mode == CU_STREAM_CAPTURE_MODE_GLOBAL && captureMode == CU_STREAM_CAPTURE_MODE_GLOBAL;
    if (!own && !all) return;
    graph.invalid = true;
    result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  });
  return result;
}

SOFTGPU_API cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode* mode) {
  SOFTGPU_CALL(kOther);
  SOFTGPU_NOT_NULL(mode);
  std::swap(*mode, captureMode);
  return CUDA_SUCCESS;
}
SOFTGPU_API cuStreamBeginCapture(CUstream handle, CUstreamCaptureMode mode) {
  SOFTGPU_ENTER(kOther);
  Device& d = device();
  std::lock_guard lock(d.mutex);
  CUstream stream = d.resolve(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  if (stream == &d.defaultStream) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  if (stream->capture) return CUDA_ERROR_ILLEGAL_STATE;
  auto graph = std::make_unique<CUgraph_st>();
  graph->origin = stream;
  graph->mode = mode;
  graph->thread = std::this_thread::get_id();
  graph->streams.push_back(stream);
  stream->captured.clear();
  stream->capture = d.graphs.add(std::move(graph));
  return CUDA_SUCCESS;
}
SOFTGPU_API cuStreamEndCapture(CUstream handle, CUgraph* out) {
  SOFTGPU_ENTER(kOther);
  Device& d = device();
  std::lock_guard lock(d.mutex);
  CUstream stream = d.resolve(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  SOFTGPU_NOT_NULL(out);
  *out = nullptr;
  CUgraph graph = stream->capture;
  if (!graph || graph->origin != stream) return CUDA_ERROR_ILLEGAL_STATE;
  if (graph->mode != CU_STREAM_CAPTURE_MODE_RELAXED && graph->thread != std::this_thread::get_id()) {
    return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
  }
  const bool joined = isJoined(*graph);
  endCapture(graph);
  if (graph->invalid || !joined) {
    const CUresult result = graph->invalid ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
    d.graphs.take(graph);
    return result;
  }
  *out = graph;
  return CUDA_SUCCESS;
}
SOFTGPU_API cuStreamIsCapturing(CUstream handle, CUstreamCaptureStatus* status) {
  SOFTGPU_ENTER(kOther);
  CUstream stream = device().resolve(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  std::lock_guard lock(device().mutex);
  *status = !stream->capture           ? CU_STREAM_CAPTURE_STATUS_NONE
            : stream->capture->invalid ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                                       : CU_STREAM_CAPTURE_STATUS_ACTIVE;
  return CUDA_SUCCESS;
}

namespace {
CUresult instantiate(CUgraphExec* out, CUgraph graph) {
  SOFTGPU_HANDLE(graphs, graph);
  SOFTGPU_NOT_NULL(out);
  *out = device().executables.add(std::make_unique<CUgraphExec_st>(CUgraphExec_st{graph->nodes}));
  return CUDA_SUCCESS;
}
}  // namespace

SOFTGPU_API cuGraphInstantiateWithFlags(CUgraphExec* out, CUgraph graph, unsigned long long) {
  SOFTGPU_ENTER(kAllocating);
  return instantiate(out, graph);
}
SOFTGPU_API cuGraphInstantiateWithParams(CUgraphExec* out, CUgraph graph, CUDA_GRAPH_INSTANTIATE_PARAMS* parameters) {
  SOFTGPU_ENTER(kAllocating);
  SOFTGPU_NOT_NULL(parameters);
  parameters->result_out = CUDA_GRAPH_INSTANTIATE_SUCCESS;
  parameters->hErrNode_out = nullptr;
  return instantiate(out, graph);
}
SOFTGPU_API cuGraphUpload(CUgraphExec exec, CUstream stream) {
  SOFTGPU_ENTER(kEnqueueing);
  SOFTGPU_HANDLE(executables, exec);
  return device().resolve(stream) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}
SOFTGPU_API cuGraphLaunch(CUgraphExec exec, CUstream handle) {
  SOFTGPU_SITE();
  Device& d = device();
  CUstream stream = d.resolve(handle);
  softgpuSite.note(CallKind::kLaunching, "", stream ? stream->id : 0);
  SOFTGPU_TRY(usable());
  std::lock_guard lock(d.mutex);
  if (!stream || !d.executables.has(exec)) return CUDA_ERROR_INVALID_HANDLE;
  if (stream->capture) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  d.launchGraph(stream, exec->nodes);
  return CUDA_SUCCESS;
}
SOFTGPU_API cuGraphExecUpdate(CUgraphExec exec, CUgraph graph, CUgraphExecUpdateResultInfo* info) {
  SOFTGPU_ENTER(kOther);
  SOFTGPU_HANDLE(executables, exec);
  SOFTGPU_HANDLE(graphs, graph);
  SOFTGPU_NOT_NULL(info);
  *info = {};
  if (!sameShape(exec->nodes, graph->nodes)) {
    info->result = CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
    return CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE;
  }
  info->result = CU_GRAPH_EXEC_UPDATE_SUCCESS;
  exec->nodes = graph->nodes;
  return CUDA_SUCCESS;
}
// Nodes have no handles: only their number can be asked for.
SOFTGPU_API cuGraphGetNodes(CUgraph graph, CUgraphNode* nodes, size_t* count) {
  SOFTGPU_ENTER(kOther);
  SOFTGPU_HANDLE(graphs, graph);
  SOFTGPU_NOT_NULL(count);
  if (nodes) return CUDA_ERROR_NOT_SUPPORTED;
  *count = graph->nodes.size();
  return CUDA_SUCCESS;
}
SOFTGPU_API cuGraphExecDestroy(CUgraphExec exec) {
  SOFTGPU_ENTER(kFreeing);
  return device().executables.take(exec) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}
SOFTGPU_API cuGraphDestroy(CUgraph graph) {
  SOFTGPU_ENTER(kFreeing);
  SOFTGPU_HANDLE(graphs, graph);
  if (graph->origin) return CUDA_ERROR_ILLEGAL_STATE;
  device().graphs.take(graph);
  return CUDA_SUCCESS;
}
