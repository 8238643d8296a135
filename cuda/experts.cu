// The experts stage, and the products of rows with one matrix per expert: up with the activation, down, the backward of
// down with the activation's derivative, and the gradient of rows. The gradients of weights are in experts-wgrad.cu.
//
// Every output here is written (=). No sum depends on which block computes it.
#include "../native/shared/activation.h"
#include "../native/shared/experts.h"
#include "../native/shared/noise.h"
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

/// Of both operands, the next stage; `remaining` is what is left of the depth from there on.
template <class Tile, class Left, class Right>
__device__ __forceinline__ void loadStage(bool chunked, uint32_t stage, int& remaining, int rows, Left& left,
                                          Right& right) {
  if (chunked) {
    left.template load<true>(stage, remaining, rows);
    right.template load<true>(stage, remaining);
  } else {
    left.template load<false>(stage, remaining, rows);
    right.template load<false>(stage, remaining);
  }
  remaining -= Tile::depth;
}

/// Both operands K-major: left·rightᵀ.
template <class Tile, int parts>
struct FeedNT {
  bool chunked;
  int remaining;  // of the depth, from the next stage on
  KMajorLoader<Tile, Tile::rows> left;
  KMajorLoader<Tile, Tile::columns, parts> right;

  __device__ __forceinline__ void load(uint32_t stage, int rows) {
    loadStage<Tile>(chunked, stage, remaining, rows, left, right);
  }
};

/// left·right; or of two pairs, one after the other along the depth.
template <class Tile, bool paired>
struct FeedNN {
  bool chunked;
  int remaining;  // of the pair's depth, from the next stage on
  int depth;
  const void *const *lefts, *const *rights;  // of the pairs
  KMajorLoader<Tile, Tile::rows> left;
  MNMajorLoader<Tile, Tile::columns, false> right;

  __device__ __forceinline__ void load(uint32_t stage, int rows) {
    if (paired && remaining <= 0) {
      const int stages = (depth + Tile::depth - 1) / Tile::depth;
      left.restart(stages, distance(lefts));
      right.restart(stages, distance(rights));
      remaining = depth;
    }
    loadStage<Tile>(chunked, stage, remaining, rows, left, right);
  }

 private:
  __device__ static int64_t distance(const void* const* pair) {
    return static_cast<const char*>(pair[1]) - static_cast<const char*>(pair[0]);
  }
};

template <class Tile>
__device__ Ring ringOf(const TileWalk& walk) {
  return {ptx::sharedAddress(sharedMemory), walk.stages, Tile::shape.stageBytes()};
}

// ------------------------------------------------------------------------------------------------ forward

/// The bias of four columns; zeros without one.
template <class T>
__device__ __forceinline__ void biasOf(const T* bias, int64_t at, int count, float (&x)[4]) {
#pragma unroll
  for (int k = 0; k < 4; ++k) x[k] = bias && k < count ? toFloat(bias[at + k]) : 0.0f;
}

/// values *= what dropout leaves of four features of a row; the first is a multiple of 4.
__device__ __forceinline__ void drop(const Dropout& dropout, int64_t token, int expert, int F, int feature,
                                     float (&values)[4]) {
  const Philox4 bits = noiseBits(valueOf(dropout.key), dropout.tokenOffset + token, dropoutBlock(expert, F, feature));
#pragma unroll
  for (int k = 0; k < 4; ++k) values[k] *= dropoutFactor(bits.word[k], dropout.threshold, dropout.scale);
}

/// z = x·[gate; up]ᵀ + bias with x = input[rowToken[r]], a = act(z). With a gate, half of a tile's columns are gate,
/// half the up of the same features. `extra`: weights of the input, which multiply the product instead, and dropout.
template <class Tile, bool extra>
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
    feed.chunked = walk.chunked;
    feed.remaining = H;
    typename Tile::Sums sums;
    multiplyTile<Tile>(feed, left, right, ring, Tile::stepsOf(H), tile.rows, sums);
    __syncthreads();

    // A lane has four features; with a gate the slab holds the gate of all, then their up.
    constexpr int run = Tile::shape.warpColumns() / 2;
    Slab<Tile> slab;
    const SlabLanes<Tile> lanes(gated ? run : 2 * run);
    const int feature = f0 + (gated ? Tile::warpN() * run + lanes.column : Tile::columnOf(lanes.column));
    const int inside = F - feature, upColumn = lanes.column + (gated ? run : 0);
    const bool whole = inside >= 4 && inFours<T>(F, space.activated, p.savedGate, p.savedUp);
    const float* none = nullptr;
    float gateBias[4], upBias[4];
    biasOf(gated ? static_cast<const T*>(p.gateBias) : nullptr, int64_t{tile.expert} * F + feature, inside, gateBias);
    biasOf(static_cast<const T*>(p.upBias), int64_t{tile.expert} * F + feature, inside, upBias);
    const int64_t first = tile.row * F + feature;
#pragma unroll 1
    for (int i = 0; i < Tile::fragmentsOf(tile.rows); ++i) {
      slab.put(sums, i);
#pragma unroll 1
      for (int pass = 0; pass < lanes.passes(); ++pass) {
        const int local = pass * lanes.rowsAtOnce() + lanes.row, row = lanes.tileRow(i, local);
        if (row >= tile.rows || inside <= 0) continue;
        float g[4], u[4], a[4];
        toFloats(slab.at(local, lanes.column), none, g);
        toFloats(slab.at(local, upColumn), none, u);
        const int64_t at = first + int64_t{row} * F;
        if (extra && p.inputWeights) {
          if (gated && p.savedGate) storeFour(static_cast<T*>(p.savedGate) + at, g, inside, whole);
          if (p.savedUp) storeFour(static_cast<T*>(p.savedUp) + at, u, inside, whole);
          const float weight = p.inputWeights[p.plan.rowSlot[tile.row + row]];
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            g[k] *= weight;
            u[k] *= weight;
          }
        }
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          g[k] += gateBias[k];
          u[k] += upBias[k];
        }
        withActivation(p.activation.kind, [&](auto kind) {
#pragma unroll
          for (int k = 0; k < 4; ++k)
            a[k] = activationAt<kind.value>(g[k], u[k], p.activation.alpha, p.activation.limit).value;
        });
        if (extra && p.dropout.threshold > 0)
          drop(p.dropout, p.plan.rowToken[tile.row + row], tile.expert, F, feature, a);
        if (!extra || !p.inputWeights) {
          if (gated && p.savedGate) storeFour(static_cast<T*>(p.savedGate) + at, g, inside, whole);
          if (p.savedUp) storeFour(static_cast<T*>(p.savedUp) + at, u, inside, whole);
        }
        storeFour(static_cast<T*>(space.activated) + at, a, inside, whole);
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
    feed.chunked = walk.chunked;
    feed.remaining = p.in;
    typename Tile::Sums sums;
    multiplyTile<Tile>(feed, left, right, ring, Tile::stepsOf(p.in), tile.rows, sums);
    __syncthreads();

    float bias[4];
    const int column = column0 + Tile::columnOf(SlabLanes<Tile>(Tile::shape.warpColumns()).column);
    biasOf(static_cast<const T*>(p.bias), int64_t{tile.expert} * p.out + column, p.out - column, bias);
    storeTile<Tile>(sums, tile, output, p.out, [&](float(&x)[4]) {
#pragma unroll
      for (int k = 0; k < 4; ++k) x[k] += bias[k];
    });
    __syncthreads();
  }
}

// ------------------------------------------------------------------------------------------------ backward

/// dA = dO·down with dO = gradOutput[rowToken[r]]; dz = w·dA·act'(z), w·a, and the row sums ⟨dA, a⟩ of each warp's
/// columns, from the saved z. Also clears the gradients of routing weights, which rowGradient then fills in.
/// `extra`: dropout, and weights v of the input, which give dz and v·dz = v·dA·act'(z), a, and ⟨dz, u⟩ from the saved
/// products u.
template <class Tile, bool extra>
__device__ void downBackward(const ExpertsBackward& p, const ExpertsBackwardSpace& space, const TileWalk& walk) {
  using T = typename Tile::T;
  const bool gated = p.activation.gated();
  const int H = p.H, F = p.F, columnTiles = (F + Tile::columns - 1) / Tile::columns;
  const T *savedGate = static_cast<const T*>(p.savedGate), *savedUp = static_cast<const T*>(p.savedUp);
  T *gradGate = static_cast<T*>(space.gradGate), *gradUp = static_cast<T*>(space.gradUp),
    *weighted = static_cast<T*>(space.weighted);
  const bool ofInput = extra && p.inputWeights;
  const float* rowWeights = ofInput ? p.inputWeights : p.weights;
  const Ring ring = ringOf<Tile>(walk);
  const LeftReader<Tile, Major::K> left;
  const RightReader<Tile, Major::MN> right;

  if (p.gradWeights) clearElements(p.gradWeights, 0, p.plan.slots);
  const RowTiles<Tile> tiles(p.plan.expertOffsets, p.plan.R, p.plan.E, walk, columnTiles);
  for (int index = blockIdx.x; index < tiles.count(); index += gridDim.x) {
    const RowTile tile = tiles[index];
    const int f0 = tile.column * Tile::columns;
    FeedNN<Tile, false> feed;
    feed.remaining = H;
    feed.left.start(0, static_cast<const T*>(p.gradOutput), nullptr, H,
                    [&](int n) { return p.plan.rowToken[tile.row + min(n, tile.rows - 1)]; });
    feed.right.start(Tile::shape.leftBytes(), static_cast<const T*>(p.down) + int64_t{tile.expert} * H * F, nullptr, f0,
                     F, H);
    feed.chunked = walk.chunked;
    typename Tile::Sums sums;
    multiplyTile<Tile>(feed, left, right, ring, Tile::stepsOf(H), tile.rows, sums);
    __syncthreads();

    Slab<Tile> slab;
    const SlabLanes<Tile> lanes(Tile::shape.warpColumns());
    const int feature = f0 + Tile::columnOf(lanes.column), inside = F - feature, passes = lanes.passes();
    const bool whole = inside >= 4 && inFours<T>(F, savedGate, savedUp, gradGate, gradUp, weighted);
    const int64_t first = tile.row * F + feature;
    const int dot = tile.column * Tile::shape.warpsN + Tile::warpN();
    const auto rowOf = [&](int pass) {
      return lanes.tileRow(pass / passes, pass % passes * lanes.rowsAtOnce() + lanes.row);
    };

    // What the next pass needs from global memory is on its way during the pass before, where registers suffice.
    Four<T> gate4{}, up4{};
    float weight = 1;
    const auto fetch = [&](int row) {
      if (row >= tile.rows || inside <= 0) return;
      const int64_t at = first + int64_t{row} * F;
      if (gated) gate4 = loadFour(savedGate + at, inside, whole);
      up4 = loadFour(savedUp + at, inside, whole);
      if (rowWeights) weight = rowWeights[p.plan.rowSlot[tile.row + row]];
    };
    const int last = Tile::fragmentsOf(tile.rows) * passes - 1;
    if (!extra) fetch(rowOf(0));
#pragma unroll 1
    for (int pass = 0; pass <= last; ++pass) {
      if (pass % passes == 0) slab.put(sums, pass / passes);
      const int row = rowOf(pass);
      if (extra) fetch(row);
      float g[4], u[4], dA[4], sum = 0;
      toFloats(gate4, savedGate, g);
      toFloats(up4, savedUp, u);
      const float w = weight;
      if (!extra && pass < last) fetch(rowOf(pass + 1));
      if (row < tile.rows && inside > 0) {
        toFloats(slab.at(pass % passes * lanes.rowsAtOnce() + lanes.row, lanes.column), static_cast<float*>(nullptr),
                 dA);
        const int64_t at = first + int64_t{row} * F;
        const bool drops = extra && p.dropout.threshold > 0;
        const int64_t token = drops ? p.plan.rowToken[tile.row + row] : 0;
        if (drops) drop(p.dropout, token, tile.expert, F, feature, dA);
        float a[4], rawG[4], rawU[4];
        if (ofInput) {
          float gateBias[4], upBias[4];
          biasOf(static_cast<const T*>(p.gateBias), int64_t{tile.expert} * F + feature, inside, gateBias);
          biasOf(static_cast<const T*>(p.upBias), int64_t{tile.expert} * F + feature, inside, upBias);
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            rawG[k] = g[k];
            rawU[k] = u[k];
            g[k] = w * g[k] + gateBias[k];
            u[k] = w * u[k] + upBias[k];
          }
        }
        const float outputWeight = ofInput ? 1.0f : w;
        withActivation(p.activation.kind, [&](auto kind) {
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            const ActivationPoint z = activationAt<kind.value>(g[k], u[k], p.activation.alpha, p.activation.limit);
            if (k < inside) sum += dA[k] * z.value;
            const float wdA = outputWeight * dA[k];
            g[k] = wdA * z.dGate;
            u[k] = wdA * z.dUp;
            a[k] = outputWeight * z.value;
          }
        });
        if (ofInput) {
          sum = 0;
          if (space.biasGate) storeFour(static_cast<T*>(space.biasGate) + at, g, inside, whole);
          if (space.biasUp) storeFour(static_cast<T*>(space.biasUp) + at, u, inside, whole);
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            if (k < inside) sum += u[k] * rawU[k] + (gated ? g[k] * rawG[k] : 0.0f);
            g[k] *= w;
            u[k] *= w;
          }
        }
        if (gated) storeFour(gradGate + at, g, inside, whole);
        storeFour(gradUp + at, u, inside, whole);
        if (weighted) {
          if (drops) drop(p.dropout, token, tile.expert, F, feature, a);
          storeFour(weighted + at, a, inside, whole);
        }
      }
      if (!p.gradWeights) continue;
#pragma unroll 1
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
    FeedNN<Tile, true> feed;
    feed.depth = feed.remaining = p.depth;
    feed.lefts = p.gradients;
    feed.rights = p.weights;
    feed.left.start(0, static_cast<const T*>(p.gradients[0]) + row, nullptr, p.depth,
                    [&](int n) { return min(n, tile.rows - 1); });
    feed.right.start(Tile::shape.leftBytes(), static_cast<const T*>(p.weights[0]) + weight, nullptr, column0, p.width,
                     p.depth);
    const int steps = Tile::stepsOf(p.depth) + (p.gradients[1] ? stages * Tile::steps : 0);
    feed.chunked = walk.chunked;
    typename Tile::Sums sums;
    multiplyTile<Tile>(feed, left, right, ring, steps, tile.rows, sums);
    __syncthreads();

    storeTile<Tile>(sums, tile, output, p.width, [](float(&)[4]) {});
    __syncthreads();
  }
}

// ------------------------------------------------------------------------------------------------

#define MOE_ACTIVATION_KERNELS(tile, shape, name, type, which, extra)                                \
  extern "C" __global__ void __launch_bounds__(128, 2) expertsUp##which##tile##_##name(              \
      const __grid_constant__ ExpertsForward p, const __grid_constant__ ExpertsForwardSpace space,   \
      const __grid_constant__ TileWalk walk, const __grid_constant__ Guard guard) {                  \
    if (enter(guard)) expertsUp<Tile<type, shape>, extra>(p, space, walk);                           \
  }                                                                                                  \
  extern "C" __global__ void __launch_bounds__(128, 2) downBackward##which##tile##_##name(           \
      const __grid_constant__ ExpertsBackward p, const __grid_constant__ ExpertsBackwardSpace space, \
      const __grid_constant__ TileWalk walk, const __grid_constant__ Guard guard) {                  \
    if (enter(guard)) downBackward<Tile<type, shape>, extra>(p, space, walk);                        \
  }

#define MOE_TILE_KERNELS(tile, shape, name, type)                                                                    \
  MOE_ACTIVATION_KERNELS(tile, shape, name, type, , false)                                                           \
  MOE_ACTIVATION_KERNELS(tile, shape, name, type, Extra, true)                                                       \
  extern "C" __global__ void __launch_bounds__(128, 2)                                                               \
      rowProduct##tile##_##name(const __grid_constant__ GroupedGemmForward p, const __grid_constant__ TileWalk walk, \
                                bool clearTail, const __grid_constant__ Guard guard) {                               \
    if (enter(guard)) rowProduct<Tile<type, shape>>(p, walk, clearTail);                                             \
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
