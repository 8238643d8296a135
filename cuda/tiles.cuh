// What the kernels of grouped products share around the main loop: the walk over row tiles, and the way of the sums out
// of the registers, row by row through shared memory, so that global memory is read and written in whole sectors.
#pragma once

#include "gemm.cuh"
#include "rows.cuh"

namespace moe {

extern __shared__ __align__(128) char sharedMemory[];

// ------------------------------------------------------------------------------------------------ row tiles

struct RowTile {
  int expert;
  int64_t row;  // the first of the expert's rows in the tile
  int rows, column;
};

/// The tiles of all experts' rows. Every block finds the map from the experts' offsets by itself: no launch, and
/// nothing for the host to know.
template <class Tile>
class RowTiles {
 public:
  /// Without offsets, all R rows belong to expert 0. The map lies behind the ring.
  __device__ RowTiles(const int32_t* offsets, int64_t R, int E, const TileWalk& walk, int columnTiles)
      : firsts_(reinterpret_cast<int32_t*>(sharedMemory + walk.stages * Tile::shape.stageBytes())),
        offsets_(offsets),
        R_(R),
        E_(offsets ? E : 1),
        group_(walk.group),
        columnTiles_(columnTiles) {
    // A thread scans a run of experts, then the block scans the runs.
    __shared__ int32_t warpTotals[Tile::threads / warpSize_];
    const int run = (E_ + Tile::threads - 1) / Tile::threads;
    const int from = min(E_, static_cast<int>(threadIdx.x) * run), to = min(E_, from + run);
    int total = 0;
#pragma unroll 1
    for (int e = from; e < to; ++e) total += tilesOf(e);
    int sum = total;
#pragma unroll
    for (int distance = 1; distance < warpSize_; distance *= 2) {
      const int below = __shfl_up_sync(wholeWarp, sum, distance);
      if (lane() >= distance) sum += below;
    }
    if (lane() == warpSize_ - 1) warpTotals[warp()] = sum;
    __syncthreads();
#pragma unroll 1
    for (int w = 0; w < warp(); ++w) sum += warpTotals[w];
    int first = sum - total;
#pragma unroll 1
    for (int e = from; e < to; ++e) {
      firsts_[e] = first;
      first += tilesOf(e);
    }
    if (threadIdx.x == Tile::threads - 1) firsts_[E_] = sum;
    __syncthreads();
  }

  __device__ int count() const { return firsts_[E_] * columnTiles_; }
  /// Rows that belong to experts.
  __device__ int64_t end() const { return offsets_ ? offsets_[E_] : R_; }

  __device__ RowTile operator[](int index) const {
    const int e = tileExpert(firsts_, E_, index / columnTiles_);
    const int first = firsts_[e], rowTiles = firsts_[e + 1] - first;
    const TilePosition position = tilePosition(index - first * columnTiles_, rowTiles, columnTiles_, group_);
    const int64_t row = begin(e) + int64_t{position.row} * Tile::rows, left = begin(e + 1) - row;
    return {e, row, static_cast<int>(left < Tile::rows ? left : Tile::rows), position.column};
  }

 private:
  __device__ int64_t begin(int e) const { return offsets_ ? offsets_[e] : e * R_; }
  __device__ int tilesOf(int e) const {
    return static_cast<int>((begin(e + 1) - begin(e) + Tile::rows - 1) / Tile::rows);
  }

  int32_t* firsts_;  // [E+1]
  const int32_t* offsets_;
  int64_t R_;
  int E_, group_, columnTiles_;
};

// ------------------------------------------------------------------------------------------------ rows of elements

/// Four neighbouring elements, as they lie in memory.
template <class T>
using Four = std::conditional_t<sizeof(T) == 2, uint2, float4>;

/// Whether rows of n elements can be read and written by fours.
template <class T, class... Pointers>
__device__ bool inFours(int n, Pointers... pointers) {
  return n % 4 == 0 && ((reinterpret_cast<uintptr_t>(pointers) | ...) & (sizeof(Four<T>) - 1)) == 0;
}

__device__ inline void toFloats(float4 four, const float*, float (&x)[4]) {
  x[0] = four.x, x[1] = four.y, x[2] = four.z, x[3] = four.w;
}
template <class T>
__device__ inline void toFloats(uint2 four, const T* type, float (&x)[4]) {
  unpack(four.x, type, x[0], x[1]);
  unpack(four.y, type, x[2], x[3]);
}
__device__ inline float4 toFour(const float (&x)[4], const float*) { return {x[0], x[1], x[2], x[3]}; }
template <class T>
__device__ inline uint2 toFour(const float (&x)[4], const T* type) {
  return {pack(x[0], x[1], type), pack(x[2], x[3], type)};
}

/// The first `count` > 0 of four elements, then zeros; `whole` when they can be read at once.
template <class T>
__device__ __forceinline__ Four<T> loadFour(const T* from, int count, bool whole) {
  if (whole) return *reinterpret_cast<const Four<T>*>(from);
  float x[4] = {};
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (i < count) x[i] = toFloat(from[i]);
  return toFour(x, from);
}

template <class T>
__device__ __forceinline__ void storeFour(T* to, const float (&x)[4], int count, bool whole) {
  if (whole) {
    *reinterpret_cast<Four<T>*>(to) = toFour(x, to);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (i < count) to[i] = fromFloat<T>(x[i]);
  }
}

/// output [from, to) = 0, by the whole grid.
template <class T>
__device__ void clearElements(T* output, int64_t from, int64_t to) {
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = from + int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < to; i += stride)
    output[i] = fromFloat<T>(0.0f);
}

// ------------------------------------------------------------------------------------------------ sums → rows

/// A warp's sums, sixteen rows at a time, in a part of the ring that is its own: free of bank conflicts whether by
/// fragments or by fours of a row.
template <class Tile>
class Slab {
  static constexpr TileShape shape = Tile::shape;
  static constexpr int stride = shape.warpColumns() + 8;
  static_assert(16 * stride * sizeof(float) * (Tile::threads / warpSize_) <= 3 * shape.stageBytes());

 public:
  __device__ Slab() : mine_(reinterpret_cast<float*>(sharedMemory) + warp() * 16 * stride) {}

  /// Fragment i of the sums.
  __device__ void put(const typename Tile::Sums& sums, int i) {
    const int g = lane() / 4, t = lane() % 4;
    __syncwarp();
#pragma unroll
    for (int c = 0; c < shape.fragmentsM; ++c) {
      if (c != i) continue;
#pragma unroll
      for (int j = 0; j < shape.fragmentsN; ++j) {
        *reinterpret_cast<float2*>(mine_ + g * stride + j * 8 + t * 2) = {sums[c][j][0], sums[c][j][1]};
        *reinterpret_cast<float2*>(mine_ + (g + 8) * stride + j * 8 + t * 2) = {sums[c][j][2], sums[c][j][3]};
      }
    }
    __syncwarp();
  }

  __device__ float4 at(int row, int column) const {
    return *reinterpret_cast<const float4*>(mine_ + row * stride + column);
  }

 private:
  float* mine_;  // [16][stride]
};

/// How the lanes of a warp share a slab: `perRow` lanes, by fours of columns, in each of several rows at once.
template <class Tile>
struct SlabLanes {
  int perRow, column, row;

  __device__ explicit SlabLanes(int columns) : perRow(columns / 4), column(lane() % (columns / 4) * 4) {
    // Eight lanes read at a time; when they are in two rows, these must be two apart to meet no bank twice.
    const int nth = lane() / perRow;
    row = perRow < 8 ? (nth & ~3) | (nth & 1) << 1 | (nth >> 1 & 1) : nth;
  }

  __device__ int rowsAtOnce() const { return warpSize_ / perRow; }
  __device__ int passes() const { return perRow / 2; }
  /// Row of the tile that row `row` of fragment i is.
  __device__ static int tileRow(int i, int row) { return (i * Tile::shape.warpsM + Tile::warpM()) * 16 + row; }
};

/// output [.,width] = the tile's sums; add(four sums) may add something to them first.
template <class Tile, class Add>
__device__ __forceinline__ void storeTile(const typename Tile::Sums& sums, const RowTile& tile,
                                          typename Tile::T* output, int width, Add add) {
  using T = typename Tile::T;
  Slab<Tile> slab;
  const SlabLanes<Tile> lanes(Tile::shape.warpColumns());
  const int column = tile.column * Tile::columns + Tile::columnOf(lanes.column), inside = width - column;
  const bool whole = inside >= 4 && inFours<T>(width, output);
  T* to = output + tile.row * width + column;
#pragma unroll 1
  for (int i = 0; i < Tile::fragmentsOf(tile.rows); ++i) {
    slab.put(sums, i);
#pragma unroll 2
    for (int pass = 0; pass < lanes.passes(); ++pass) {
      const int local = pass * lanes.rowsAtOnce() + lanes.row, row = lanes.tileRow(i, local);
      if (row >= tile.rows || inside <= 0) continue;
      float x[4];
      toFloats(slab.at(local, lanes.column), static_cast<const float*>(nullptr), x);
      add(x);
      storeFour(to + int64_t{row} * width, x, inside, whole);
    }
  }
}

}  // namespace moe
