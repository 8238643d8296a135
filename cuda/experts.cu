// The experts stage, and the products of rows with one matrix per expert: up with the activation, down, the backward of
// down with the activation's derivative, and the gradient of rows. The gradients of weights are in experts-wgrad.cu.
//
// Every output here is written (=). No sum depends on which block computes it.
#include "../native/shared/activation.h"
#include "../native/shared/experts.h"
#include "tiles.cuh"

namespace moe {

/// Calls visit(std::integral_constant) with the kind of activation: in epilogues, where a branch for every four
/// elements costs little and a kernel for every kind would cost much.
template <class Visit>
__device__ __forceinline__ void withActivation(Activation kind, Visit visit) {
  switch (kind) {
    case Activation::Relu:
      return visit(std::integral_constant<Activation, Activation::Relu>{});
    case Activation::Gelu:
      return visit(std::integral_constant<Activation, Activation::Gelu>{});
    case Activation::GeluTanh:
      return visit(std::integral_constant<Activation, Activation::GeluTanh>{});
    case Activation::Silu:
      return visit(std::integral_constant<Activation, Activation::Silu>{});
    case Activation::SwiGlu:
      return visit(std::integral_constant<Activation, Activation::SwiGlu>{});
    case Activation::GeGlu:
      return visit(std::integral_constant<Activation, Activation::GeGlu>{});
    case Activation::GeGluTanh:
      return visit(std::integral_constant<Activation, Activation::GeGluTanh>{});
    case Activation::ReGlu:
      return visit(std::integral_constant<Activation, Activation::ReGlu>{});
    case Activation::ClampedSwiGlu:
      return visit(std::integral_constant<Activation, Activation::ClampedSwiGlu>{});
  }
}

/// Both operands K-major: left·rightᵀ.
template <class Tile, int parts>
struct FeedNT {
  KMajorLoader<Tile, Tile::rows> left;
  KMajorLoader<Tile, Tile::columns, parts> right;

  template <int used>
  __device__ void load(uint32_t stage) {
    left.template load<used * Tile::shape.warpsM * 16>(stage);
    right.load(stage);
  }
};

/// left·right, one pair of matrices after the other along the depth.
template <class Tile>
struct FeedNN {
  KMajorLoader<Tile, Tile::rows> left;
  MNMajorLoader<Tile, Tile::columns, false> right;
  const typename Tile::T *nextLeft, *nextRight;
  int depth, untilNext;  // stages of the first pair; below 0 when there is no second

  template <int used>
  __device__ void load(uint32_t stage) {
    if (untilNext-- == 0) {
      left.restart(nextLeft, nullptr, depth);
      right.restart(nextRight, nullptr, depth);
    }
    left.template load<used * Tile::shape.warpsM * 16>(stage);
    right.load(stage);
  }
};

template <class Tile>
__device__ Ring ringOf(const TileWalk& walk) {
  return {ptx::sharedAddress(sharedMemory), walk.stages, Tile::shape.stageBytes()};
}

template <class Tile>
__device__ int stepsOf(int depth) {
  return (depth + Tile::stepDepth - 1) / Tile::stepDepth;
}

// ------------------------------------------------------------------------------------------------ forward

/// z = x·[gate; up]ᵀ + bias with x = input[rowToken[r]], a = act(z). With a gate, half of a tile's columns are gate,
/// half the up of the same features.
template <class Tile>
__device__ void expertsUp(const ExpertsForward& p, const ExpertsForwardSpace& space, const TileWalk& walk) {
  using T = typename Tile::T;
  const bool gated = p.activation.gated();
  const int features = gated ? Tile::columns / 2 : Tile::columns;  // of a tile
  const int H = p.H, F = p.F, columnTiles = (F + features - 1) / features;
  const T *input = static_cast<const T*>(p.input), *up = static_cast<const T*>(p.up);
  const T* gate = gated ? static_cast<const T*>(p.gate) : up;
  const Ring ring = ringOf<Tile>(walk);
  const LeftReader<Tile, Major::K> left;
  const RightReader<Tile, Major::K> right;

  const RowTiles<Tile> tiles(p.plan.expertOffsets, p.plan.R, p.plan.E, walk, columnTiles);
  for (int index = blockIdx.x; index < tiles.count(); index += gridDim.x) {
    const RowTile tile = tiles[index];
    const int f0 = tile.column * features;
    const int64_t weight = int64_t{tile.expert} * F * H;
    FeedNT<Tile, 2> feed;
    feed.left.start(0, input, nullptr, H, [&](int n) { return p.plan.rowToken[tile.row + min(n, tile.rows - 1)]; });
    feed.right.start(Tile::shape.leftBytes(), gate + weight, up + weight, H,
                     [&](int n) { return min(f0 + n % features, F - 1); });
    typename Tile::Sums sums;
    const int used = withFragments<Tile>(
        tile.rows, [&](auto count) { mainLoop<count.value, Tile>(feed, left, right, ring, stepsOf<Tile>(H), sums); });
    __syncthreads();

    // A lane has four features; with a gate the slab holds the gate of all, then their up.
    constexpr int run = Tile::shape.warpColumns() / 2;
    Slab<Tile> slab;
    const SlabLanes<Tile> lanes(gated ? run : 2 * run);
    const int feature = f0 + (gated ? Tile::warpN() * run + lanes.column : Tile::columnOf(lanes.column));
    const int inside = F - feature;
    const bool vectors = inFours<T>(space.activated, F) && inFours<T>(p.savedGate, F) && inFours<T>(p.savedUp, F);
    float gateBias[4] = {}, upBias[4] = {};
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const int64_t at = int64_t{tile.expert} * F + feature + k;
      if (k < inside && gated && p.gateBias) gateBias[k] = toFloat(static_cast<const T*>(p.gateBias)[at]);
      if (k < inside && p.upBias) upBias[k] = toFloat(static_cast<const T*>(p.upBias)[at]);
    }
#pragma unroll 1
    for (int i = 0; i < used; ++i) {
      slab.put(sums, i);
#pragma unroll 1
      for (int pass = 0; pass < lanes.passes(); ++pass) {
        const int local = pass * lanes.rowsAtOnce() + lanes.row, row = lanes.tileRow(i, local);
        if (row >= tile.rows || inside <= 0) continue;
        const float4 g4 = slab.at(local, lanes.column), u4 = gated ? slab.at(local, run + lanes.column) : g4;
        const float g[4] = {g4.x + gateBias[0], g4.y + gateBias[1], g4.z + gateBias[2], g4.w + gateBias[3]};
        const float u[4] = {u4.x + upBias[0], u4.y + upBias[1], u4.z + upBias[2], u4.w + upBias[3]};
        float a[4];
        withActivation(p.activation.kind, [&](auto kind) {
#pragma unroll
          for (int k = 0; k < 4; ++k)
            a[k] = activationAt<kind.value>(g[k], u[k], p.activation.alpha, p.activation.limit).value;
        });
        const int64_t at = (tile.row + row) * F + feature;
        if (gated && p.savedGate) storeFour(static_cast<T*>(p.savedGate) + at, g, inside, vectors);
        if (p.savedUp) storeFour(static_cast<T*>(p.savedUp) + at, u, inside, vectors);
        storeFour(static_cast<T*>(space.activated) + at, a, inside, vectors);
      }
    }
    __syncthreads();
  }
}

/// output[r] = weight_e·input[r] + bias: down, and the bare grouped product.
template <class Tile>
__device__ void rowProduct(const GroupedGemmForward& p, const TileWalk& walk, bool clearTail) {
  using T = typename Tile::T;
  const int columnTiles = (p.out + Tile::columns - 1) / Tile::columns;
  T* output = static_cast<T*>(p.output);
  const bool vectors = inFours<T>(output, p.out);
  const Ring ring = ringOf<Tile>(walk);
  const LeftReader<Tile, Major::K> left;
  const RightReader<Tile, Major::K> right;

  const RowTiles<Tile> tiles(p.expertOffsets, p.R, p.E, walk, columnTiles);
  if (clearTail) clearElements(output, tiles.end() * p.out, p.R * p.out);
  for (int index = blockIdx.x; index < tiles.count(); index += gridDim.x) {
    const RowTile tile = tiles[index];
    const int column0 = tile.column * Tile::columns;
    FeedNT<Tile, 1> feed;
    feed.left.start(0, static_cast<const T*>(p.input) + tile.row * p.in, nullptr, p.in,
                    [&](int n) { return min(n, tile.rows - 1); });
    feed.right.start(Tile::shape.leftBytes(), static_cast<const T*>(p.weight) + int64_t{tile.expert} * p.out * p.in,
                     nullptr, p.in, [&](int n) { return min(column0 + n, p.out - 1); });
    typename Tile::Sums sums;
    const int used = withFragments<Tile>(tile.rows, [&](auto count) {
      mainLoop<count.value, Tile>(feed, left, right, ring, stepsOf<Tile>(p.in), sums);
    });
    __syncthreads();

    const T* bias = static_cast<const T*>(p.bias) + int64_t{tile.expert} * p.out;
    forEachFour<Tile>(sums, used, [&](int row, int tileColumn, const float4& x) {
      const int column = column0 + tileColumn;
      if (row >= tile.rows || column >= p.out) return;
      float y[4] = {x.x, x.y, x.z, x.w};
      if (p.bias) {
#pragma unroll
        for (int k = 0; k < 4; ++k)
          if (column + k < p.out) y[k] += toFloat(bias[column + k]);
      }
      storeFour(output + (tile.row + row) * p.out + column, y, p.out - column, vectors);
    });
    __syncthreads();
  }
}

// ------------------------------------------------------------------------------------------------ backward

/// dA = dO·down with dO = gradOutput[rowToken[r]]; dz = w·dA·act'(z), w·a, and the row sums ⟨dA, a⟩ of each warp's
/// columns, from the saved z. Also clears the gradients of routing weights, which rowGradient then fills in.
template <class Tile>
__device__ void downBackward(const ExpertsBackward& p, const ExpertsBackwardSpace& space, const TileWalk& walk) {
  using T = typename Tile::T;
  const bool gated = p.activation.gated();
  const int H = p.H, F = p.F, columnTiles = (F + Tile::columns - 1) / Tile::columns;
  const T *savedGate = static_cast<const T*>(p.savedGate), *savedUp = static_cast<const T*>(p.savedUp);
  T *gradGate = static_cast<T*>(space.gradGate), *gradUp = static_cast<T*>(space.gradUp),
    *weighted = static_cast<T*>(space.weighted);
  const bool vectors = inFours<T>(savedGate, F) && inFours<T>(savedUp, F) && inFours<T>(gradUp, F);
  const Ring ring = ringOf<Tile>(walk);
  const LeftReader<Tile, Major::K> left;
  const RightReader<Tile, Major::MN> right;

  if (p.gradWeights) clearElements(p.gradWeights, 0, p.plan.T * p.plan.K);
  const RowTiles<Tile> tiles(p.plan.expertOffsets, p.plan.R, p.plan.E, walk, columnTiles);
  for (int index = blockIdx.x; index < tiles.count(); index += gridDim.x) {
    const RowTile tile = tiles[index];
    const int f0 = tile.column * Tile::columns;
    FeedNN<Tile> feed;
    feed.untilNext = -1;
    feed.left.start(0, static_cast<const T*>(p.gradOutput), nullptr, H,
                    [&](int n) { return p.plan.rowToken[tile.row + min(n, tile.rows - 1)]; });
    feed.right.start(Tile::shape.leftBytes(), static_cast<const T*>(p.down) + int64_t{tile.expert} * H * F, nullptr, f0,
                     F, H);
    typename Tile::Sums sums;
    const int used = withFragments<Tile>(
        tile.rows, [&](auto count) { mainLoop<count.value, Tile>(feed, left, right, ring, stepsOf<Tile>(H), sums); });
    __syncthreads();

    Slab<Tile> slab;
    const SlabLanes<Tile> lanes(Tile::shape.warpColumns());
    const int feature = f0 + Tile::columnOf(lanes.column), inside = F - feature, passes = lanes.passes();
    const int dot = tile.column * Tile::shape.warpsN + Tile::warpN();

    // What the next pass needs from global memory is on its way during the pass before.
    struct Saved {
      Four<T> gate, up;
      float weight;
    };
    const auto saved = [&](int pass) {
      Saved s{};
      const int row = lanes.tileRow(pass / passes, pass % passes * lanes.rowsAtOnce() + lanes.row);
      if (row >= tile.rows || inside <= 0) return s;
      const int64_t at = (tile.row + row) * F + feature;
      if (gated) s.gate = loadFour(savedGate + at, inside, vectors);
      s.up = loadFour(savedUp + at, inside, vectors);
      s.weight = p.weights ? p.weights[p.plan.rowSlot[tile.row + row]] : 1.0f;
      return s;
    };
    Saved next = saved(0);
#pragma unroll 1
    for (int pass = 0; pass < used * passes; ++pass) {
      const int i = pass / passes, local = pass % passes * lanes.rowsAtOnce() + lanes.row,
                row = lanes.tileRow(i, local);
      if (pass % passes == 0) slab.put(sums, i);
      const Saved z = next;
      if (pass + 1 < used * passes) next = saved(pass + 1);

      float sum = 0;
      if (row < tile.rows && inside > 0) {
        const float4 x = slab.at(local, lanes.column);
        const float dA[4] = {x.x, x.y, x.z, x.w};
        float dGate[4], dUp[4], a[4];
        withActivation(p.activation.kind, [&](auto kind) {
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            const ActivationPoint point = activationAt<kind.value>(toFloat(z.gate.value[k]), toFloat(z.up.value[k]),
                                                                   p.activation.alpha, p.activation.limit);
            if (k < inside) sum += dA[k] * point.value;
            dGate[k] = z.weight * dA[k] * point.dGate;
            dUp[k] = z.weight * dA[k] * point.dUp;
            a[k] = z.weight * point.value;
          }
        });
        const int64_t at = (tile.row + row) * F + feature;
        if (gated) storeFour(gradGate + at, dGate, inside, vectors);
        storeFour(gradUp + at, dUp, inside, vectors);
        storeFour(weighted + at, a, inside, vectors);
      }
      if (!p.gradWeights) continue;
      for (int distance = lanes.perRow / 2; distance > 0; distance /= 2)
        sum += __shfl_xor_sync(wholeWarp, sum, distance);
      if (lanes.column == 0 && row < tile.rows) space.dots[(tile.row + row) * space.dotCount + dot] = sum;
    }
    __syncthreads();
  }
}

/// gradWeights[slot] = Σ dots + ⟨dO, downBias⟩, a warp for each row.
template <class T, class Tiles>
__device__ void sumDots(const RowGradient& p, const Tiles& tiles) {
  const int64_t stride = int64_t{gridDim.x} * (blockDim.x / warpSize_), end = tiles.end();
  for (int64_t row = int64_t{blockIdx.x} * (blockDim.x / warpSize_) + warp(); row < end; row += stride) {
    float sum = 0;
    for (int i = lane(); i < p.dotCount; i += warpSize_) sum += p.dots[row * p.dotCount + i];
    if (p.downBias) {
      const T* dO = static_cast<const T*>(p.gradOutput) + int64_t{p.rowToken[row]} * p.hidden;
      const T* bias = static_cast<const T*>(p.downBias) + int64_t{expertOfRow(p.expertOffsets, p.E, row)} * p.hidden;
      for (int h = lane(); h < p.hidden; h += warpSize_) sum += toFloat(dO[h]) * toFloat(bias[h]);
    }
    sum = warpSum(sum);
    if (lane() == 0) p.gradWeights[p.rowSlot[row]] = sum;
  }
}

/// The gradient of the rows that up gathered: dz·[gate; up] in one product of depth 2F; and of the bare grouped
/// product's input.
template <class Tile>
__device__ void rowGradient(const RowGradient& p, const TileWalk& walk) {
  using T = typename Tile::T;
  const int columnTiles = p.output ? (p.width + Tile::columns - 1) / Tile::columns : 0;
  T* output = static_cast<T*>(p.output);
  const bool vectors = inFours<T>(output, p.width);
  const Ring ring = ringOf<Tile>(walk);
  const LeftReader<Tile, Major::K> left;
  const RightReader<Tile, Major::MN> right;

  const RowTiles<Tile> tiles(p.expertOffsets, p.R, p.E, walk, columnTiles);
  if (p.dots) sumDots<T>(p, tiles);
  if (p.clearTail && output) clearElements(output, tiles.end() * p.width, p.R * p.width);
  for (int index = blockIdx.x; index < tiles.count(); index += gridDim.x) {
    const RowTile tile = tiles[index];
    const int column0 = tile.column * Tile::columns, stages = (p.depth + Tile::depth - 1) / Tile::depth;
    const int64_t row = tile.row * p.depth, weight = int64_t{tile.expert} * p.depth * p.width;
    FeedNN<Tile> feed;
    feed.depth = p.depth;
    feed.untilNext = p.gradients[1] ? stages : -1;
    feed.nextLeft = static_cast<const T*>(p.gradients[1]) + row;
    feed.nextRight = static_cast<const T*>(p.weights[1]) + weight;
    feed.left.start(0, static_cast<const T*>(p.gradients[0]) + row, nullptr, p.depth,
                    [&](int n) { return min(n, tile.rows - 1); });
    feed.right.start(Tile::shape.leftBytes(), static_cast<const T*>(p.weights[0]) + weight, nullptr, column0, p.width,
                     p.depth);
    const int steps = stepsOf<Tile>(p.depth) + (p.gradients[1] ? stages * Tile::steps : 0);
    typename Tile::Sums sums;
    const int used = withFragments<Tile>(
        tile.rows, [&](auto count) { mainLoop<count.value, Tile>(feed, left, right, ring, steps, sums); });
    __syncthreads();

    forEachFour<Tile>(sums, used, [&](int r, int tileColumn, const float4& x) {
      const int column = column0 + tileColumn;
      if (r >= tile.rows || column >= p.width) return;
      const float y[4] = {x.x, x.y, x.z, x.w};
      storeFour(output + (tile.row + r) * p.width + column, y, p.width - column, vectors);
    });
    __syncthreads();
  }
}

// ------------------------------------------------------------------------------------------------

#define MOE_TILE_KERNELS(tile, shape, name, type)                                                                    \
  extern "C" __global__ void __launch_bounds__(128, 2) expertsUp##tile##_##name(                                     \
      const __grid_constant__ ExpertsForward p, const __grid_constant__ ExpertsForwardSpace space,                   \
      const __grid_constant__ TileWalk walk, const __grid_constant__ Guard guard) {                                  \
    if (enter(guard)) expertsUp<Tile<type, shape>>(p, space, walk);                                                  \
  }                                                                                                                  \
  extern "C" __global__ void __launch_bounds__(128, 2)                                                               \
      rowProduct##tile##_##name(const __grid_constant__ GroupedGemmForward p, const __grid_constant__ TileWalk walk, \
                                bool clearTail, const __grid_constant__ Guard guard) {                               \
    if (enter(guard)) rowProduct<Tile<type, shape>>(p, walk, clearTail);                                             \
  }                                                                                                                  \
  extern "C" __global__ void __launch_bounds__(128, 2) downBackward##tile##_##name(                                  \
      const __grid_constant__ ExpertsBackward p, const __grid_constant__ ExpertsBackwardSpace space,                 \
      const __grid_constant__ TileWalk walk, const __grid_constant__ Guard guard) {                                  \
    if (enter(guard)) downBackward<Tile<type, shape>>(p, space, walk);                                               \
  }                                                                                                                  \
  extern "C" __global__ void __launch_bounds__(128, 2)                                                               \
      rowGradient##tile##_##name(const __grid_constant__ RowGradient p, const __grid_constant__ TileWalk walk,       \
                                 const __grid_constant__ Guard guard) {                                              \
    if (enter(guard)) rowGradient<Tile<type, shape>>(p, walk);                                                       \
  }

MOE_TILE_KERNELS(Wide, wideTileFloat32, float32, float)
MOE_TILE_KERNELS(Wide, wideTile, bfloat16, bfloat16)
MOE_TILE_KERNELS(Wide, wideTile, float16, float16)
MOE_TILE_KERNELS(Flat, flatTile, float32, float)
MOE_TILE_KERNELS(Flat, flatTile, bfloat16, bfloat16)
MOE_TILE_KERNELS(Flat, flatTile, float16, float16)

}  // namespace moe
