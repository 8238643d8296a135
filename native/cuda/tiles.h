// The choice of tiles for the grouped products: a pure function of shapes and of what the device has. What a choice may
// change is how the work is laid out; the sums are the same bits with every shape, grid and number of stages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "../shared/dtype.h"
#include "../shared/tile-map.h"

namespace moe::cuda {

struct Properties;

/// A grouped product as the choice sees it: `rows` rows of `experts` experts, every row tile with all column tiles.
struct ProductShape {
  DType dtype;
  int64_t rows;
  int experts;
  int64_t columns;  // of the result, gate and up counted both
};

struct TileChoice {
  const char* name;  // of the kernels made for this shape: "Wide" or "Flat"
  TileShape shape;
  TileWalk walk;
  size_t sharedBytes;
  int blocksPerMultiprocessor;
  int64_t tiles;  // the most there can be
  unsigned grid;

  /// "128x128x32, 4 stages, 2 blocks of 69.6 KB per multiprocessor, grid 216, rows in groups of 14, at most 230 tiles".
  std::string describe(DType dtype) const;
};

/// For products that have rows: experts with few rows get a flat tile.
TileChoice chooseRowTile(const ProductShape& product, const Properties& device);

/// For gradients of weights: `tiles` of them for all experts together, rows and columns from the weights alone.
TileChoice chooseGradientTile(DType dtype, int64_t tiles, const Properties& device);

/// The shape that gradients of weights are tiled by.
TileShape gradientTile(DType dtype);

/// Whether rows of `width` elements begin at multiples of 16 bytes in all of these matrices; null ones do.
bool inChunks(DType dtype, int64_t width, std::initializer_list<const void*> matrices);

/// "expertsUp", Wide and BFloat16 give "expertsUpWide_bfloat16".
std::string kernelOf(const char* name, const TileChoice& choice, DType dtype);

}  // namespace moe::cuda
