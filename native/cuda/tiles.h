// The choice of tiles for the grouped products: a pure function of shapes and of what the device has. What a choice may
// change is how the work is laid out; the sums are the same bits with every shape, grid and number of stages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "../shared/dtype.h"
#include "../shared/tile-map.h"

namespace moe::cuda {

/// What the choice of a grid or a tile may depend on.
struct Properties {
  int multiprocessors;
  int sharedBytesPerBlock;  // the most that a kernel may ask for
};

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

/// The experts of a layer, with all the rows that a plan can have.
struct ExpertsShape {
  DType dtype;
  int64_t rows;
  int experts, hidden, ffn;
  bool gated;

  ProductShape up() const { return {dtype, rows, experts, int64_t{ffn} * (gated ? 2 : 1)}; }
  ProductShape down() const { return {dtype, rows, experts, hidden}; }
  ProductShape downBackward() const { return {dtype, rows, experts, ffn}; }
  ProductShape rowGradient() const { return {dtype, rows, experts, hidden}; }
};

/// For products that have rows: experts with few rows get a flat tile.
TileChoice chooseRowTile(const ProductShape& product, const Properties& device);

/// For gradients of weights: `tiles` of them for all experts together, rows and columns from the weights alone.
TileChoice chooseGradientTile(DType dtype, int64_t tiles, const Properties& device);

/// The shape that gradients of weights are tiled by.
TileShape gradientTile(DType dtype);

/// How a kernel of the experts stage would be launched.
struct PlannedProduct {
  std::string kernel;
  TileChoice choice;
};

/// Of forward and backward, in the order of their launches, when all weights are trained.
std::vector<PlannedProduct> planExperts(const ExpertsShape& shape, const Properties& device);

/// Whether rows of `width` elements begin at multiples of 16 bytes in all of these matrices; null ones do.
bool inChunks(DType dtype, int64_t width, std::initializer_list<const void*> matrices);

/// "expertsUp", Wide and BFloat16 give "expertsUpWide_bfloat16".
std::string kernelOf(const char* name, const TileChoice& choice, DType dtype);

}  // namespace moe::cuda
