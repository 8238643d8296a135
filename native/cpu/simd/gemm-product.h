// A Product in register tiles, for the instruction set MOE_ISA. Everything has internal linkage, so that no function of
// a newer instruction set can replace its namesake in the rest of the program.
#pragma once

#include "gemm-tile.h"

namespace moe::cpu {

namespace {

inline int vectorsOf(int64_t columns) {
  return columns >= lanes ? shape.vectors : static_cast<int>((columns + width - 1) / width);
}

/// Rows [row, row + count) of one panel.
template <Left left, class Word>
void multiplyRows(const Product<Word>& p, int64_t row, int count, int64_t panel) {
  const int64_t columns = smaller(p.columns - panel * lanes, lanes);
  const int vectors = vectorsOf(columns);
  Tile<Word> tile;
  tile.a = left == Left::Rows        ? p.a + (p.aIndex ? 0 : row * p.aRow)
           : left == Left::PanelRows ? p.a + row * (lanes / perWord<Word>)
                                     : p.a + (row / lanes) * p.aPanel + row % lanes;
  tile.aIndex = left == Left::Rows && p.aIndex ? p.aIndex + row : nullptr;
  tile.aRow = p.aRow;
  tile.aPanel = p.aPanel;
  tile.b = p.b + panel * p.bPanel;
  tile.depth = p.depth;
  tile.accumulate = p.accumulate;
  tile.rowBias = p.rowBias ? p.rowBias + row : nullptr;
  const TileFunction<Word> function = Tiles<Word, left>::byVecs[vectors - 1].of[count - 1];

  float* c = p.c + panel * p.cPanel + row * p.cRow;
  if (p.cPadded || columns == vectors * width) {
    tile.c = c;
    tile.cRow = p.cRow;
    function(tile);
    return;
  }
  float whole[maxRows * lanes];
  if (p.accumulate)
    for (int r = 0; r < count; ++r)
      for (int64_t i = 0; i < vectors * width; ++i) whole[r * lanes + i] = i < columns ? c[r * p.cRow + i] : 0.0f;
  tile.c = whole;
  tile.cRow = lanes;
  function(tile);
  for (int r = 0; r < count; ++r)
    for (int64_t i = 0; i < columns; ++i) c[r * p.cRow + i] = whole[r * lanes + i];
}

/// Tiles of nearly equal height over rows [0, p.rows) for panels [firstPanel, lastPanel). A tile of PanelColumns stays
/// within one panel of A.
template <Left left, class Word>
void multiplyPanels(const Product<Word>& p, int64_t firstPanel, int64_t lastPanel) {
  const int maximum = shape.rows[vectorsOf(p.columns - firstPanel * lanes) - 1];
  const int64_t group = left == Left::PanelColumns ? lanes : p.rows;
  for (int64_t begin = 0; begin < p.rows; begin += group) {
    const int64_t rows = smaller(group, p.rows - begin);
    const int64_t tiles = (rows + maximum - 1) / maximum;
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t from = rows * tile / tiles;
      const int count = static_cast<int>(rows * (tile + 1) / tiles - from);
      for (int64_t panel = firstPanel; panel < lastPanel; ++panel) multiplyRows<left>(p, begin + from, count, panel);
    }
  }
}

template <Left left, class Word>
void multiplyLeft(const Product<Word>& p) {
  const int64_t panels = (p.columns + lanes - 1) / lanes;
  if (p.rowsOutside) {
    // A last panel of fewer vectors by itself: its tiles have more rows.
    const int64_t whole = vectorsOf(p.columns - (panels - 1) * lanes) == shape.vectors ? panels : panels - 1;
    if (whole > 0) multiplyPanels<left>(p, 0, whole);
    if (whole < panels) multiplyPanels<left>(p, whole, panels);
  } else {
    for (int64_t panel = 0; panel < panels; ++panel) multiplyPanels<left>(p, panel, panel + 1);
  }
}

template <class Word>
void multiply(const Product<Word>& p) {
  switch (p.left) {
    case Left::Rows:
      return multiplyLeft<Left::Rows>(p);
    case Left::PanelRows:
      return multiplyLeft<Left::PanelRows>(p);
    case Left::PanelColumns:
      return multiplyLeft<Left::PanelColumns>(p);
  }
}

}  // namespace

}  // namespace moe::cpu
