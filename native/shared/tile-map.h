// Tiles of the grouped products, for the host that chooses them and the kernels that walk them. The rows of every
// expert are cut into row tiles without padding, and every row tile is multiplied with every column tile. What a tile
// computes does not depend on how many blocks walk the tiles.
#pragma once

#include <cstdint>

#include "hd.h"

namespace moe {

MOE_HD int64_t ceilDivide(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// A block's tile: warpsM·warpsN warps, each with fragmentsM·fragmentsN products of m16n8. The fragments of a warp are
/// spread over the tile, so that a tile that is not full keeps all warps busy.
struct TileShape {
  int warpsM, warpsN, fragmentsM, fragmentsN;
  int depthBytes;  // of one stage, in every row of either operand

  MOE_MEMBER constexpr int threads() const { return 32 * warpsM * warpsN; }
  MOE_MEMBER constexpr int rows() const { return 16 * warpsM * fragmentsM; }
  MOE_MEMBER constexpr int columns() const { return 8 * warpsN * fragmentsN; }
  MOE_MEMBER constexpr int warpColumns() const { return 8 * fragmentsN; }
  MOE_MEMBER constexpr int leftBytes() const { return rows() * depthBytes; }
  MOE_MEMBER constexpr int stageBytes() const { return (rows() + columns()) * depthBytes; }
};

constexpr TileShape wideTile = {2, 2, 4, 8, 64};         // 128×128, for 16-bit types
constexpr TileShape wideTileFloat32 = {2, 2, 4, 4, 64};  // 128×64: three passes need more registers
constexpr TileShape flatTile = {1, 4, 2, 4, 128};        // 32×128, for experts with few rows

/// How the blocks of a launch walk its tiles.
struct TileWalk {
  int32_t stages;  // of the pipeline: 3 or 4
  int32_t group;   // row tiles that pass all columns together
  bool chunked;    // rows of all operands begin at multiples of 16 bytes
};

/// The most row tiles that R rows of E experts can give, whatever the routing: each expert with rows has at most one
/// tile that is not full.
constexpr int64_t maxRowTiles(int64_t R, int64_t E, int tileRows) {
  const int64_t ragged = E < R ? E : R;
  return (R - ragged) / tileRows + ragged;
}

struct TilePosition {
  int row, column;  // in tiles
};

/// The index-th of an expert's rowTiles·columnTiles tiles. They follow each other down the rows of a group, then along
/// the columns: neighbours in time read the same part of the weight, and a group's rows stay in L2 meanwhile.
MOE_HD TilePosition tilePosition(int index, int rowTiles, int columnTiles, int group) {
  const int first = index / (group * columnTiles) * group;
  const int rows = rowTiles - first < group ? rowTiles - first : group;
  const int within = index - first * columnTiles;
  return {first + within % rows, within / rows};
}

/// The expert that owns row tile `tile`: the last whose first tile is not behind it. firsts [E+1] are the experts'
/// first row tiles, with the number of all at the end.
MOE_HD int tileExpert(const int32_t* firsts, int E, int tile) {
  int low = 0, high = E;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (firsts[middle] <= tile)
      low = middle;
    else
      high = middle;
  }
  return low;
}

/// The expert that row `row` belongs to.
MOE_HD int expertOfRow(const int32_t* expertOffsets, int E, int64_t row) {
  return tileExpert(expertOffsets, E, static_cast<int>(row));
}

}  // namespace moe
