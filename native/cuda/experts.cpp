// The experts stage: tiles, grids and workspaces of cuda/experts.cu and cuda/experts-wgrad.cu. Forward is two launches;
// backward one for the gradients that flow back through down, one for those of the weights, one for those of the rows,
// and one for those of biases where there are any.
#include "../shared/experts.h"

#include <algorithm>

#include "backend.h"
#include "tiles.h"

namespace moe::cuda {

namespace {

constexpr unsigned biasThreads = 256;
constexpr int biasColumns = 128;

template <class Experts>
ExpertsShape shapeOf(const Experts& p) {
  return {p.dtype, p.plan.R, p.plan.E, p.H, p.F, p.activation.gated()};
}

/// The kernel with the activation: a second one has what few layers use.
template <class Experts>
std::string activationKernel(std::string name, const Experts& p, const TileChoice& tile) {
  if (p.inputWeights || p.dropout.threshold > 0) name += "Extra";
  return kernelOf(name.c_str(), tile, p.dtype);
}

void append(WeightGradients& gradients, const WeightGradient& gradient) {
  if (gradient.gradient) gradients.list[gradients.count++] = gradient;
}

void append(BiasGradients& gradients, const BiasGradient& gradient) {
  if (gradient.gradient) gradients.list[gradients.count++] = gradient;
}

int64_t tilesOf(const WeightGradients& p, const TileShape& shape) {
  int64_t tiles = 0;
  for (int i = 0; i < p.count; ++i)
    tiles += ceilDivide(p.list[i].M, shape.rows()) * ceilDivide(p.list[i].N, shape.columns());
  return tiles * p.E;
}

unsigned blocksOf(const BiasGradients& p) {
  int64_t blocks = 0;
  for (int i = 0; i < p.count; ++i) blocks += ceilDivide(p.list[i].N, biasColumns);
  return static_cast<unsigned>(blocks * p.E);
}

}  // namespace

void CudaBackend::rowProduct(const GroupedGemmForward& p, bool clearTail) {
  TileChoice tile = chooseRowTile({p.dtype, p.R, p.expertOffsets ? p.E : 1, p.out}, properties_);
  tile.walk.chunked = inChunks(p.dtype, p.in, {p.input, p.weight});
  launch(kernelOf("rowProduct", tile, p.dtype), {tile.grid}, tile.shape.threads(), tile.sharedBytes, p, tile.walk,
         clearTail);
}

void CudaBackend::rowGradient(const RowGradient& p, DType dtype) {
  TileChoice tile = chooseRowTile({dtype, p.R, p.E, p.width}, properties_);
  tile.walk.chunked = inChunks(dtype, p.depth, {p.gradients[0], p.gradients[1]}) &&
                      inChunks(dtype, p.width, {p.weights[0], p.weights[1]});
  launch(kernelOf("rowGradient", tile, dtype), {tile.grid}, tile.shape.threads(), tile.sharedBytes, p, tile.walk);
}

void CudaBackend::parameterGradients(const WeightGradients& weights, const BiasGradients& biases, DType dtype) {
  TileChoice tile = chooseGradientTile(dtype, tilesOf(weights, gradientTile(dtype)), properties_);
  tile.walk.chunked = std::all_of(weights.list, weights.list + weights.count, [&](const WeightGradient& w) {
    return inChunks(dtype, w.M, {w.left}) && inChunks(dtype, w.N, {w.right});
  });
  launch(typed("weightGradients", dtype), {tile.grid}, tile.shape.threads(), tile.sharedBytes, weights, tile.walk);
  launch(typed("biasGradients", dtype), {blocksOf(biases)}, biasThreads, 0, biases);
}

// ------------------------------------------------------------------------------------------------ forward

size_t CudaBackend::workspaceBytes(const ExpertsForward& p) const { return ExpertsForwardSpace{}.carve(nullptr, p); }

void CudaBackend::expertsForward(const ExpertsForward& p) {
  ExpertsForwardSpace space{};
  space.carve(static_cast<char*>(p.workspace), p);
  TileChoice tile = chooseRowTile(shapeOf(p).up(), properties_);
  tile.walk.chunked = inChunks(p.dtype, p.H, {p.input, p.gate, p.up});
  launch(activationKernel("expertsUp", p, tile), {tile.grid}, tile.shape.threads(), tile.sharedBytes, p, space,
         tile.walk);

  GroupedGemmForward down{};
  down.dtype = p.dtype;
  down.R = p.plan.R;
  down.E = p.plan.E;
  down.in = p.F;
  down.out = p.H;
  down.expertOffsets = p.plan.expertOffsets;
  down.input = space.activated;
  down.weight = p.down;
  down.bias = p.downBias;
  down.output = p.rows;
  rowProduct(down, false);
}

size_t CudaBackend::workspaceBytes(const GroupedGemmForward&) const { return 0; }

void CudaBackend::groupedGemmForward(const GroupedGemmForward& p) { rowProduct(p, true); }

// ------------------------------------------------------------------------------------------------ backward

size_t CudaBackend::workspaceBytes(const ExpertsBackward& p) const {
  return ExpertsBackwardSpace{}.carve(nullptr, p, chooseRowTile(shapeOf(p).downBackward(), properties_).shape);
}

void CudaBackend::expertsBackward(const ExpertsBackward& p) {
  const PlanRows& plan = p.plan;
  TileChoice tile = chooseRowTile(shapeOf(p).downBackward(), properties_);
  tile.walk.chunked = inChunks(p.dtype, p.H, {p.gradOutput}) && inChunks(p.dtype, p.F, {p.down});
  ExpertsBackwardSpace space{};
  space.carve(static_cast<char*>(p.workspace), p, tile.shape);
  launch(activationKernel("downBackward", p, tile), {tile.grid}, tile.shape.threads(), tile.sharedBytes, p, space,
         tile.walk);

  WeightGradients weights{};
  weights.R = plan.R;
  weights.E = plan.E;
  weights.expertOffsets = plan.expertOffsets;
  const int32_t* token = plan.rowToken;
  append(weights, {p.gradOutput, space.weighted, token, nullptr, p.H, p.F, p.gradDown, p.accumulateDown});
  append(weights, {space.gradGate, p.input, nullptr, token, p.F, p.H, p.gradGate, p.accumulateGate});
  append(weights, {space.gradUp, p.input, nullptr, token, p.F, p.H, p.gradUp, p.accumulateUp});

  BiasGradients biases{};
  biases.R = plan.R;
  biases.E = plan.E;
  biases.expertOffsets = plan.expertOffsets;
  const void *gate = p.inputWeights ? space.biasGate : space.gradGate,
             *up = p.inputWeights ? space.biasUp : space.gradUp;
  append(biases, {p.gradOutput, token, p.weights, plan.rowSlot, p.H, p.gradDownBias, p.accumulateDownBias});
  append(biases, {gate, nullptr, nullptr, nullptr, p.F, p.gradGateBias, p.accumulateGateBias});
  append(biases, {up, nullptr, nullptr, nullptr, p.F, p.gradUpBias, p.accumulateUpBias});
  parameterGradients(weights, biases, p.dtype);

  if (!p.gradRows && !p.gradWeights) return;
  const bool gated = p.activation.gated();
  RowGradient rows{};
  rows.R = plan.R;
  rows.E = plan.E;
  rows.depth = p.F;
  rows.width = p.H;
  rows.expertOffsets = plan.expertOffsets;
  rows.gradients[0] = gated ? space.gradGate : space.gradUp;
  rows.weights[0] = gated ? p.gate : p.up;
  rows.gradients[1] = gated ? space.gradUp : nullptr;
  rows.weights[1] = gated ? p.up : nullptr;
  rows.output = p.gradRows;
  if (p.gradWeights) {
    rows.dots = space.dots;
    rows.dotCount = space.dotCount;
    rows.hidden = p.H;
    rows.rowToken = plan.rowToken;
    rows.rowSlot = plan.rowSlot;
    rows.gradOutput = p.gradOutput;
    rows.downBias = p.inputWeights ? nullptr : p.downBias;
    rows.gradWeights = p.gradWeights;
  }
  rowGradient(rows, p.dtype);
}

size_t CudaBackend::workspaceBytes(const GroupedGemmBackward&) const { return 0; }

void CudaBackend::groupedGemmBackward(const GroupedGemmBackward& p) {
  const int E = p.expertOffsets ? p.E : 1;
  WeightGradients weights{};
  weights.R = p.R;
  weights.E = E;
  weights.expertOffsets = p.expertOffsets;
  append(weights, {p.gradOutput, p.input, nullptr, nullptr, p.out, p.in, p.gradWeight, p.accumulateWeight});
  BiasGradients biases{};
  biases.R = p.R;
  biases.E = E;
  biases.expertOffsets = p.expertOffsets;
  append(biases, {p.gradOutput, nullptr, nullptr, nullptr, p.out, p.gradBias, p.accumulateBias});
  parameterGradients(weights, biases, p.dtype);

  if (!p.gradInput) return;
  RowGradient rows{};
  rows.R = p.R;
  rows.E = E;
  rows.depth = p.out;
  rows.width = p.in;
  rows.expertOffsets = p.expertOffsets;
  rows.gradients[0] = p.gradOutput;
  rows.weights[0] = p.weight;
  rows.output = p.gradInput;
  rows.clearTail = true;
  rowGradient(rows, p.dtype);
}

}  // namespace moe::cuda
