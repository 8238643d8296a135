#include "tiles.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace moe::cuda {

namespace {

// Rows per expert from which on a wide tile is filled well enough.
constexpr int64_t wideRows = 33;

/// What the kernels' registers allow, 65,536 for blocks of 128 threads.
int mostBlocks(const TileShape& shape, DType dtype) {
  const bool slim = shape.rows() == flatTile.rows() && dtype != DType::Float32;  // at most 168 of a thread
  return slim ? 3 : 2;
}

TileShape wideOf(DType dtype) { return dtype == DType::Float32 ? wideTileFloat32 : wideTile; }

/// Fills in all but the shape.
void fit(TileChoice& choice, DType dtype, int experts, int64_t tiles, const Properties& device) {
  constexpr size_t reserved = 1024;  // of every block, by the driver
  constexpr size_t ownVariables = 16, granularity = 128;
  const size_t perMultiprocessor = device.sharedBytesPerBlock + reserved;
  const auto bytesOf = [&](int stages) {
    return static_cast<size_t>(stages) * choice.shape.stageBytes() + (experts + 1) * sizeof(int32_t);
  };
  const auto takenBy = [&](int stages) {
    return (bytesOf(stages) + ownVariables + granularity - 1) / granularity * granularity;
  };
  const auto blocksOf = [&](int stages) {
    const size_t fitting = perMultiprocessor / (takenBy(stages) + reserved);
    return std::max(1, std::min(mostBlocks(choice.shape, dtype), static_cast<int>(fitting)));
  };
  // The fourth stage must not cost a block.
  choice.walk.stages =
      blocksOf(4) >= blocksOf(3) && takenBy(4) <= static_cast<size_t>(device.sharedBytesPerBlock) ? 4 : 3;
  choice.sharedBytes = bytesOf(choice.walk.stages);
  choice.blocksPerMultiprocessor = blocksOf(choice.walk.stages);
  choice.tiles = tiles;
  choice.grid =
      static_cast<unsigned>(std::min<int64_t>(tiles, int64_t{device.multiprocessors} * choice.blocksPerMultiprocessor));
  // What runs at one time is about square: it reads as few different rows and columns as it can.
  choice.walk.group = std::max(1, static_cast<int>(std::lround(std::sqrt(choice.grid))));
}

}  // namespace

TileShape gradientTile(DType dtype) { return wideOf(dtype); }

TileChoice chooseRowTile(const ProductShape& product, const Properties& device) {
  TileChoice choice{};
  const bool flat = product.rows < wideRows * product.experts;
  choice.name = flat ? "Flat" : "Wide";
  choice.shape = flat ? flatTile : wideOf(product.dtype);
  const int64_t tiles = maxRowTiles(product.rows, product.experts, choice.shape.rows()) *
                        ceilDivide(product.columns, choice.shape.columns());
  fit(choice, product.dtype, product.experts, tiles, device);
  return choice;
}

TileChoice chooseGradientTile(DType dtype, int64_t tiles, const Properties& device) {
  TileChoice choice{};
  choice.name = "";
  choice.shape = wideOf(dtype);
  fit(choice, dtype, 0, tiles, device);
  return choice;
}

bool inChunks(DType dtype, int64_t width, std::initializer_list<const void*> matrices) {
  constexpr uintptr_t chunk = 16;
  if (width * dtypeSize(dtype) % chunk != 0) return false;
  return std::all_of(matrices.begin(), matrices.end(),
                     [](const void* matrix) { return reinterpret_cast<uintptr_t>(matrix) % chunk == 0; });
}

std::string kernelOf(const char* name, const TileChoice& choice, DType dtype) {
  return std::string(name) + choice.name + "_" + dtypeName(dtype);
}

std::vector<PlannedProduct> planExperts(const ExpertsShape& shape, const Properties& device) {
  const TileShape tile = gradientTile(shape.dtype);
  const auto tilesOf = [&](int M, int N) { return ceilDivide(M, tile.rows()) * ceilDivide(N, tile.columns()); };
  const int64_t tiles =
      shape.experts * (tilesOf(shape.hidden, shape.ffn) + (shape.gated ? 2 : 1) * tilesOf(shape.ffn, shape.hidden));
  const auto product = [&](const char* name, const TileChoice& choice) {
    return PlannedProduct{kernelOf(name, choice, shape.dtype), choice};
  };
  return {product("expertsUp", chooseRowTile(shape.up(), device)),
          product("rowProduct", chooseRowTile(shape.down(), device)),
          product("downBackward", chooseRowTile(shape.downBackward(), device)),
          product("weightGradients", chooseGradientTile(shape.dtype, tiles, device)),
          product("rowGradient", chooseRowTile(shape.rowGradient(), device))};
}

std::string TileChoice::describe(DType dtype) const {
  char text[192];
  std::snprintf(text, sizeof text,
                "%dx%dx%d, %d stages, %d block%s of %.1f KB per multiprocessor, grid %u, rows in groups of %d, at most "
                "%lld tiles",
                shape.rows(), shape.columns(), static_cast<int>(shape.depthBytes / dtypeSize(dtype)), walk.stages,
                blocksPerMultiprocessor, blocksPerMultiprocessor == 1 ? "" : "s", sharedBytes / 1024.0, grid,
                walk.group, static_cast<long long>(tiles));
  return text;
}

}  // namespace moe::cuda
