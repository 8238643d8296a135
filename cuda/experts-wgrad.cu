// The gradients of the experts' weights, gradient(e) = or += leftᵀ·right over the rows of expert e, and of their
// biases. Rows are gathered while they are loaded. What is accumulated into is read and written by one thread. An
// expert without rows has gradient 0.
#include "../native/shared/experts.h"
#include "tiles.cuh"

namespace moe {

template <class Tile>
struct FeedTN {
  bool chunked;
  int remaining;  // rows from the next stage on
  MNMajorLoader<Tile, Tile::rows, true> left;
  MNMajorLoader<Tile, Tile::columns, true> right;

  __device__ __forceinline__ void load(uint32_t stage, int) {
    if (chunked && remaining >= 2 * Tile::depth) {
      left.loadWhole(stage);
      right.loadWhole(stage);
    } else if (chunked) {
      left.template load<true>(stage, remaining);
      right.template load<true>(stage, remaining);
    } else {
      left.template load<false>(stage, remaining);
      right.template load<false>(stage, remaining);
    }
    remaining -= Tile::depth;
  }
};

struct GradientTile {
  int which, expert, row0, column0;
};

/// A tile of one gradient, as the fragments lie: the four lanes of a row write one sector.
template <class Tile>
__device__ void storeGradient(const typename Tile::Sums& sums, const WeightGradient& w, const GradientTile& tile) {
  constexpr TileShape shape = Tile::shape;
  float* gradient = w.gradient + int64_t{tile.expert} * w.M * w.N;
  const bool pairs = w.N % 2 == 0 && reinterpret_cast<uintptr_t>(gradient) % sizeof(float2) == 0;
#pragma unroll
  for (int i = 0; i < shape.fragmentsM; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = tile.row0 + (i * shape.warpsM + Tile::warpM()) * 16 + half * 8 + lane() / 4;
      if (row >= w.M) continue;
      float* to = gradient + int64_t{row} * w.N;
      float2 x[shape.fragmentsN];
#pragma unroll
      for (int j = 0; j < shape.fragmentsN; ++j) x[j] = {sums[i][j][half * 2], sums[i][j][half * 2 + 1]};
      if (w.accumulate) {
#pragma unroll
        for (int j = 0; j < shape.fragmentsN; ++j) {
          const int column = tile.column0 + Tile::columnOf(j * 8) + lane() % 4 * 2;
          float2 old = {};
          if (pairs && column < w.N) {
            old = *reinterpret_cast<const float2*>(to + column);
          } else {
            if (column < w.N) old.x = to[column];
            if (column + 1 < w.N) old.y = to[column + 1];
          }
          x[j].x += old.x;
          x[j].y += old.y;
        }
      }
#pragma unroll
      for (int j = 0; j < shape.fragmentsN; ++j) {
        const int column = tile.column0 + Tile::columnOf(j * 8) + lane() % 4 * 2;
        if (pairs && column < w.N) {
          *reinterpret_cast<float2*>(to + column) = x[j];
        } else {
          if (column < w.N) to[column] = x[j].x;
          if (column + 1 < w.N) to[column + 1] = x[j].y;
        }
      }
    }
  }
}

/// Of all gradients of an expert, then of the next expert.
template <class Tile>
class GradientTiles {
 public:
  __device__ GradientTiles(const WeightGradients& p, int group) : p_(p), group_(group) {
    for (int i = 0; i < p.count; ++i) perExpert_ += rowTiles(p.list[i]) * columnTiles(p.list[i]);
  }

  __device__ int count() const { return p_.E * perExpert_; }

  __device__ GradientTile operator[](int index) const {
    int within = index % perExpert_, which = 0;
    for (int tiles; within >= (tiles = rowTiles(p_.list[which]) * columnTiles(p_.list[which])); ++which)
      within -= tiles;
    const WeightGradient& w = p_.list[which];
    const TilePosition position = tilePosition(within, rowTiles(w), columnTiles(w), group_);
    return {which, index / perExpert_, position.row * Tile::rows, position.column * Tile::columns};
  }

 private:
  __device__ static int rowTiles(const WeightGradient& w) { return (w.M + Tile::rows - 1) / Tile::rows; }
  __device__ static int columnTiles(const WeightGradient& w) { return (w.N + Tile::columns - 1) / Tile::columns; }

  const WeightGradients& p_;
  int group_, perExpert_ = 0;
};

template <class Tile>
__device__ void weightGradients(const WeightGradients& p, const TileWalk& walk) {
  using T = typename Tile::T;
  const Ring ring = {ptx::sharedAddress(sharedMemory), walk.stages, Tile::shape.stageBytes()};
  const LeftReader<Tile, Major::MN> left;
  const RightReader<Tile, Major::MN> right;

  // Which tile it is waits in shared memory for the end of the main loop, which needs all registers.
  __shared__ GradientTile current;
  const GradientTiles<Tile> tiles(p, walk.group);
  for (int index = blockIdx.x; index < tiles.count(); index += gridDim.x) {
    GradientTile tile = tiles[index];
    const WeightGradient& w = p.list[tile.which];
    const int64_t begin = p.expertOffsets ? p.expertOffsets[tile.expert] : 0,
                  end = p.expertOffsets ? p.expertOffsets[tile.expert + 1] : p.R;

    typename Tile::Sums sums = {};
    if (end > begin) {
      if (threadIdx.x == 0) current = tile;
      // Without an index, the expert's rows are neighbours.
      const auto from = [&](const void* rows, const int32_t* rowIndex, int width) {
        return static_cast<const T*>(rows) + (rowIndex ? 0 : begin * width);
      };
      const int depth = static_cast<int>(end - begin);
      FeedTN<Tile> feed;
      feed.left.start(0, from(w.left, w.leftIndex, w.M), w.leftIndex ? w.leftIndex + begin : nullptr, tile.row0, w.M,
                      depth);
      feed.right.start(Tile::shape.leftBytes(), from(w.right, w.rightIndex, w.N),
                       w.rightIndex ? w.rightIndex + begin : nullptr, tile.column0, w.N, depth);
      feed.chunked = walk.chunked;
      feed.remaining = depth;
      multiplyTile<Tile>(feed, left, right, ring, Tile::stepsOf(depth), min(Tile::rows, w.M - tile.row0), sums);
      tile = current;
      __syncthreads();
    } else if (w.accumulate) {
      continue;
    }
    storeGradient<Tile>(sums, p.list[tile.which], tile);
  }
}

constexpr int biasThreads = 256, biasWarps = biasThreads / warpSize_, biasColumns = 4 * warpSize_;

// Rows that a warp sums before it adds them to what it has: that bounds the rounding of long sums.
constexpr int biasRun = 32;

/// 128 columns of one expert's bias: a warp takes every eighth row, then the warps' sums are added in order.
template <class T>
__device__ void biasGradients(const BiasGradients& p) {
  __shared__ float4 sums[biasWarps][warpSize_];
  int block = blockIdx.x, which = 0;
  const auto blocksOf = [](const BiasGradient& b) { return (b.N + biasColumns - 1) / biasColumns; };
  for (int blocks; block >= (blocks = blocksOf(p.list[which]) * p.E); ++which) block -= blocks;
  const BiasGradient& b = p.list[which];
  const int e = block / blocksOf(b), column = block % blocksOf(b) * biasColumns + lane() * 4, inside = b.N - column;
  const int64_t begin = p.expertOffsets ? p.expertOffsets[e] : 0, end = p.expertOffsets ? p.expertOffsets[e + 1] : p.R;
  const T* rows = static_cast<const T*>(b.rows);
  const bool whole = inside >= 4 && inFours<T>(b.N, rows);

  float4 sum = {};
  for (int64_t run = begin + warp(); run < end; run += biasRun * biasWarps) {
    float4 part = {};
#pragma unroll 4
    for (int64_t row = run; row < min(run + biasRun * biasWarps, end); row += biasWarps) {
      const int64_t from = b.index ? b.index[row] : row;
      const float weight = b.weights ? b.weights[b.rowSlot[row]] : 1.0f;
      float x[4];
      toFloats(inside > 0 ? loadFour(rows + from * b.N + column, inside, whole) : Four<T>{}, rows, x);
      part = {part.x + weight * x[0], part.y + weight * x[1], part.z + weight * x[2], part.w + weight * x[3]};
    }
    sum = {sum.x + part.x, sum.y + part.y, sum.z + part.z, sum.w + part.w};
  }
  sums[warp()][lane()] = sum;
  __syncthreads();
  if (warp() > 0) return;
  for (int w = 1; w < biasWarps; ++w) {
    const float4 other = sums[w][lane()];
    sum = {sum.x + other.x, sum.y + other.y, sum.z + other.z, sum.w + other.w};
  }
  float* gradient = b.gradient + int64_t{e} * b.N + column;
  const float x[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
  for (int k = 0; k < 4; ++k)
    if (k < inside) gradient[k] = b.accumulate ? gradient[k] + x[k] : x[k];
}

// ------------------------------------------------------------------------------------------------

#define MOE_GRADIENT_KERNELS(name, type, shape)                                                                \
  extern "C" __global__ void __launch_bounds__(128, 2)                                                         \
      weightGradients_##name(const __grid_constant__ WeightGradients p, const __grid_constant__ TileWalk walk, \
                             const __grid_constant__ Guard guard) {                                            \
    if (enter(guard)) weightGradients<Tile<type, shape>>(p, walk);                                             \
  }                                                                                                            \
  extern "C" __global__ void __launch_bounds__(256)                                                            \
      biasGradients_##name(const __grid_constant__ BiasGradients p, const __grid_constant__ Guard guard) {     \
    if (enter(guard)) biasGradients<type>(p);                                                                  \
  }

MOE_GRADIENT_KERNELS(float32, float, wideTileFloat32)
MOE_GRADIENT_KERNELS(bfloat16, bfloat16, wideTile)
MOE_GRADIENT_KERNELS(float16, float16, wideTile)

}  // namespace moe
