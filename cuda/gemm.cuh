// The main loop of all grouped products: one block's tile of left·right. Operands stream through a ring of stages in
// shared memory (cp.async), from there to registers (ldmatrix) and into mma.sync with float32 sums. What is multiplied,
// and what becomes of the sums, is the kernels' business.
//
// An operand is K-major when its depth is contiguous in memory (both of x·Wᵀ) and MN-major when its width is (W in
// dy·W, both of dyᵀ·x). In shared memory a stage holds a K-major operand as rows of depthBytes, an MN-major one as a
// row of the tile's width for each step of the depth; the 16-byte chunks of a row are permuted by XOR so that neither
// cp.async nor ldmatrix meets a bank twice.
//
// The left operand's fragment i of warp row m covers rows 16·(i·warpsM + m) of the tile. A warp's columns are two runs,
// one in each half of the tile, so that a tile of gate and up columns has both of a feature in one warp.
#pragma once

#include "../native/shared/tile-map.h"
#include "common.cuh"
#include "ptx.cuh"

namespace moe {

constexpr int chunkBytes = 16;

/// What depends on the element: T is float, whose products are made of three TF32 products, or a 16-bit type.
template <class T_, TileShape shape_>
struct Tile {
  using T = T_;
  static constexpr TileShape shape = shape_;
  static constexpr int threads = shape.threads(), rows = shape.rows(), columns = shape.columns();
  static constexpr int perChunk = chunkBytes / sizeof(T);
  static constexpr int depth = shape.depthBytes / sizeof(T);
  static constexpr int stepDepth = 32 / sizeof(T);  // of one mma
  static constexpr int steps = depth / stepDepth;
  static_assert(steps % 2 == 0);

  using Sums = float[shape.fragmentsM][shape.fragmentsN][4];
  struct Fragments {
    uint32_t left[shape.fragmentsM][4], right[shape.fragmentsN][2];
  };

  /// Steps that a depth takes.
  __device__ static int stepsOf(int elements) { return (elements + stepDepth - 1) / stepDepth; }
  /// Fragments of this warp that the first `count` rows need.
  __device__ static int fragmentsOf(int count) {
    const int all = (count + 15) / 16;
    return max(0, (all - warpM() + shape.warpsM - 1) / shape.warpsM);
  }
  __device__ static int warpM() { return warp() / shape.warpsN; }
  __device__ static int warpN() { return warp() % shape.warpsN; }
  /// The tile's column of a warp's n-th.
  __device__ static int columnOf(int n) {
    constexpr int run = shape.warpColumns() / 2;
    return n / run * (columns / 2) + warpN() * run + n % run;
  }
};

// ------------------------------------------------------------------------------------------------ global → shared

/// The first `count` elements of a chunk, then zeros. What lies in whole chunks is copied at once, without waiting;
/// anything else, which only odd widths and addresses give, element by element.
template <bool whole, class T>
__device__ __forceinline__ void copyChunk(uint32_t to, const char* from, int count) {
  if constexpr (whole) {
    ptx::cpAsync16(to, from, count > 0 ? chunkBytes : 0);
  } else {
    using Bits = std::conditional_t<sizeof(T) == 2, uint16_t, uint32_t>;
#pragma unroll 1
    for (int i = 0; i < chunkBytes / static_cast<int>(sizeof(T)); ++i)
      ptx::storeShared(to + i * sizeof(T), i < count ? reinterpret_cast<const Bits*>(from)[i] : Bits{0});
  }
}

/// Copies a K-major operand `width` rows wide, one stage after the other along the depth. With two parts the first half
/// of the rows comes from one matrix and the second from another.
template <class Tile, int width, int parts = 1>
class KMajorLoader {
  using T = typename Tile::T;
  static constexpr int rowBytes = Tile::shape.depthBytes, chunks = rowBytes / chunkBytes;
  static constexpr int rowsPerPass = Tile::threads / chunks, passes = width / rowsPerPass;
  static_assert(passes % parts == 0);

 public:
  /// rowOf(n): the row of its matrix that is the tile's n-th. Those beyond the matrix may be any row that exists.
  template <class RowOf>
  __device__ void start(uint32_t place, const T* from, const T* second, int depth, RowOf rowOf) {
    const int first = threadIdx.x / chunks;
    pitch_ = depth * sizeof(T);
    place_ = place + first * rowBytes + (chunk() ^ swizzle(first)) * chunkBytes;
#pragma unroll
    for (int i = 0; i < passes; ++i) rows_[i] = rowOf(first + i * rowsPerPass);
    from_[0] = reinterpret_cast<const char*>(from) + chunk() * chunkBytes;
    if constexpr (parts == 2) from_[1] = reinterpret_cast<const char*>(second) + chunk() * chunkBytes;
  }

  /// Goes back by so many stages, and to the same rows of a matrix that lies `distance` bytes further on.
  __device__ void restart(int stages, int64_t distance) { from_[0] += distance - stages * rowBytes; }

  /// The next stage of the first `rows` rows, or of all; of the depth, `left` elements are left from there on.
  template <bool chunked>
  __device__ __forceinline__ void load(uint32_t stage, int left, int rows = width) {
    const int inside = left - chunk() * Tile::perChunk;
#pragma unroll
    for (int i = 0; i < passes; ++i)
      if (i * rowsPerPass < rows) copyChunk<chunked, T>(to(stage, i), source(i), inside);
#pragma unroll
    for (int part = 0; part < parts; ++part) from_[part] += rowBytes;
  }

  __device__ static int swizzle(int row) { return chunks == 4 ? row / 2 % 4 : row % 8; }

 private:
  __device__ static int chunk() { return threadIdx.x % chunks; }
  __device__ uint32_t to(uint32_t stage, int pass) const { return stage + place_ + pass * rowsPerPass * rowBytes; }
  __device__ const char* source(int pass) const {
    return ptx::madWide(rows_[pass], pitch_, from_[pass * parts / passes]);
  }

  const char* from_[parts];  // this thread's chunk of the next stage, in row 0
  uint32_t rows_[passes], pitch_, place_;
};

/// Copies an MN-major operand `width` elements wide. With `gathers`, the rows may be picked by an index for every step
/// of the depth, which is read one stage ahead.
template <class Tile, int width, bool gathers>
class MNMajorLoader {
  using T = typename Tile::T;
  static constexpr int rowBytes = width * sizeof(T), chunks = rowBytes / chunkBytes;
  static constexpr int rowsPerPass = Tile::threads / chunks, passes = Tile::depth / rowsPerPass;
  // Rows that a thread copies share their swizzle.
  static_assert(rowsPerPass % (sizeof(T) == 2 ? 8 : 4) == 0 && passes > 0);

 public:
  /// Elements [column, column + width) of rows [0, depth) of a matrix `columns` wide; with `index`, of the rows it
  /// names.
  __device__ void start(uint32_t place, const T* from, const int32_t* index, int column, int columns, int depth) {
    const int chunk = threadIdx.x % chunks;
    place_ = place + first() * rowBytes + (chunk ^ swizzle(first())) * chunkBytes;
    pitch_ = columns * sizeof(T);
    column_ = column + chunk * Tile::perChunk;
    inside_ = columns - column_;
    // What lies beyond the last column is never used: any chunk will do.
    if (inside_ <= 0) column_ = columns < Tile::perChunk ? 0 : columns - Tile::perChunk;
    from_ = reinterpret_cast<const char*>(from + column_);
    index_ = index;
#pragma unroll
    for (int i = 0; i < passes; ++i) rows_[i] = first() + i * rowsPerPass;
    if (gathers && index) fetch(depth);
  }

  /// Goes back by so many stages, and to the same place in a matrix that lies `distance` bytes further on.
  __device__ void restart(int stages, int64_t distance) {
    from_ += distance - static_cast<int64_t>(pitch_) * Tile::depth * stages;
  }

  /// The next stage, when both it and the one behind it are whole, in chunks.
  __device__ __forceinline__ void loadWhole(uint32_t stage) {
#pragma unroll
    for (int i = 0; i < passes; ++i) ptx::cpAsync16(to(stage, i), source(i));
    advance();
    if (gathers && index_)
#pragma unroll
      for (int i = 0; i < passes; ++i) rows_[i] = index_[first() + i * rowsPerPass];
  }

  /// The next stage; of the depth, `left` rows are left from there on.
  template <bool chunked>
  __device__ __forceinline__ void load(uint32_t stage, int left) {
    if (chunked && left >= Tile::depth) {
#pragma unroll
      for (int i = 0; i < passes; ++i) ptx::cpAsync16(to(stage, i), source(i));
    } else {
#pragma unroll
      for (int i = 0; i < passes; ++i) {
        const bool isInside = first() + i * rowsPerPass < left;
        copyChunk<chunked, T>(to(stage, i), source(i), isInside ? (chunked ? 1 : inside_) : 0);
      }
    }
    advance();
    if (gathers && index_) fetch(left - Tile::depth);
  }

  __device__ static int swizzle(int row) { return sizeof(T) == 2 ? row % 8 : row % 4 * 2; }

 private:
  __device__ static int first() { return threadIdx.x / chunks; }
  __device__ uint32_t to(uint32_t stage, int pass) const { return stage + place_ + pass * rowsPerPass * rowBytes; }
  __device__ const char* source(int pass) const { return ptx::madWide(rows_[pass], pitch_, from_); }
  __device__ __forceinline__ void advance() {
    if (gathers && index_)
      index_ += Tile::depth;
    else
      from_ += static_cast<size_t>(pitch_) * Tile::depth;
  }
  __device__ __forceinline__ void fetch(int left) {
#pragma unroll
    for (int i = 0; i < passes; ++i) {
      const int row = first() + i * rowsPerPass;
      rows_[i] = row < left ? index_[row] : 0;
    }
  }

  const char* from_;      // this thread's chunk of row 0: of the matrix when it gathers, else of the next stage
  const int32_t* index_;  // of the next stage
  uint32_t rows_[passes], pitch_, place_;
  int column_, inside_;
};

// ------------------------------------------------------------------------------------------------ shared → registers

enum class Major { K, MN };

/// Loads the left fragments of one step.
template <class Tile, Major major>
class LeftReader {
  static constexpr TileShape shape = Tile::shape;
  static constexpr bool narrow = sizeof(typename Tile::T) == 2;
  static constexpr int rowBytes = major == Major::K ? shape.depthBytes : Tile::rows * sizeof(typename Tile::T);
  static constexpr int offsets = major == Major::K ? 1 : narrow ? 4 / shape.warpsM : 2;
  static_assert(major == Major::K || shape.warpsM == 2);

 public:
  __device__ LeftReader() {
    const int m = Tile::warpM();
    if constexpr (major == Major::K) {
      const int row = m * 16 + lane() % 16;
      offset_[0] = row * rowBytes + (lane() / 16 ^ KMajorLoader<Tile, Tile::rows>::swizzle(row)) * chunkBytes;
    } else if constexpr (narrow) {
      const int k = lane() / 16 * 8 + lane() % 8, half = lane() / 8 % 2;
#pragma unroll
      for (int i = 0; i < offsets; ++i)
        offset_[i] = k * rowBytes + (((i * shape.warpsM + m) * 2 + half) ^ k % 8) * chunkBytes;
    } else {
      const int g = lane() / 4, t = lane() % 4;
#pragma unroll
      for (int half = 0; half < 2; ++half)
        offset_[half] = t * rowBytes + ((m * 4 + half * 2 + g / 4) ^ t * 2) * chunkBytes + g % 4 * 4;
    }
  }

  /// Of the first `used` fragments.
  __device__ __forceinline__ void load(uint32_t (&a)[shape.fragmentsM][4], uint32_t stage, int step, int used) const {
#pragma unroll
    for (int i = 0; i < shape.fragmentsM; ++i) {
      if (i >= used) continue;
      if constexpr (major == Major::K) {
        const uint32_t from = (stage + offset_[0]) ^ step * 32;
        ptx::ldmatrixX4(a[i][0], a[i][1], a[i][2], a[i][3], from + i * shape.warpsM * 16 * rowBytes);
      } else if constexpr (narrow) {
        const uint32_t from = stage + offset_[i % offsets] + i / offsets * 128 + step * Tile::stepDepth * rowBytes;
        ptx::ldmatrixX4Trans(a[i][0], a[i][1], a[i][2], a[i][3], from);
      } else {
#pragma unroll
        for (int r = 0; r < 4; ++r)
          a[i][r] = ptx::loadShared(stage + offset_[r % 2] + i * 128 + (step * 8 + r / 2 * 4) * rowBytes);
      }
    }
  }

 private:
  uint32_t offset_[offsets];
};

/// Loads the right fragments of one step.
template <class Tile, Major major>
class RightReader {
  static constexpr TileShape shape = Tile::shape;
  static constexpr bool narrow = sizeof(typename Tile::T) == 2;
  static constexpr int rowBytes = major == Major::K ? shape.depthBytes : Tile::columns * sizeof(typename Tile::T);
  static constexpr int perRun = shape.fragmentsN / 2;  // fragments in each half of the tile
  static constexpr int offsets = major == Major::K ? 1 : narrow ? perRun / 2 : perRun;
  static_assert(perRun % 2 == 0);

 public:
  __device__ RightReader() {
    const int run = Tile::warpN() * shape.warpColumns() / 2;  // the warp's first column
    if constexpr (major == Major::K) {
      const int row = run + lane() / 16 * 8 + lane() % 8;
      const int chunk = lane() / 8 % 2 ^ KMajorLoader<Tile, Tile::columns>::swizzle(row);
      offset_[0] = shape.leftBytes() + row * rowBytes + chunk * chunkBytes;
    } else if constexpr (narrow) {
      const int k = lane() % 16;
#pragma unroll
      for (int i = 0; i < offsets; ++i)
        offset_[i] = shape.leftBytes() + k * rowBytes + ((run / 8 + i * 2 + lane() / 16) ^ k % 8) * chunkBytes;
    } else {
      const int g = lane() / 4, t = lane() % 4;
#pragma unroll
      for (int i = 0; i < offsets; ++i)
        offset_[i] = shape.leftBytes() + t * rowBytes + ((run / 4 + i * 2 + g / 4) ^ t * 2) * chunkBytes + g % 4 * 4;
    }
  }

  __device__ __forceinline__ void load(uint32_t (&b)[shape.fragmentsN][2], uint32_t stage, int step) const {
#pragma unroll
    for (int j = 0; j < shape.fragmentsN; ++j) {
      const int half = j / perRun, within = j % perRun;
      if constexpr (major == Major::K) {
        const uint32_t from = ((stage + offset_[0]) ^ step * 32) + (half * Tile::columns / 2 + within * 8) * rowBytes;
        if (j % 2 == 0) ptx::ldmatrixX4(b[j][0], b[j][1], b[j + 1][0], b[j + 1][1], from);
      } else if constexpr (narrow) {
        const uint32_t from = stage + offset_[within / 2] + half * rowBytes / 2 + step * Tile::stepDepth * rowBytes;
        if (j % 2 == 0) ptx::ldmatrixX4Trans(b[j][0], b[j][1], b[j + 1][0], b[j + 1][1], from);
      } else {
#pragma unroll
        for (int r = 0; r < 2; ++r)
          b[j][r] = ptx::loadShared(stage + offset_[within] + half * rowBytes / 2 + (step * 8 + r * 4) * rowBytes);
      }
    }
  }

 private:
  uint32_t offset_[offsets];
};

// ------------------------------------------------------------------------------------------------ registers → sums

__device__ inline void mma(bfloat16, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  ptx::mmaM16N8K16BF16(d, a, b, d);
}
__device__ inline void mma(float16, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  ptx::mmaM16N8K16F16(d, a, b, d);
}

/// A float32 as the sum of two TF32 numbers, to 22 bits of its fraction or more.
__device__ __forceinline__ void split(uint32_t x, uint32_t& big, uint32_t& small) {
  big = ptx::cvtRnaTF32(x);
  small = ptx::cvtRnaTF32(ptx::subF32(x, big));
}

/// sums += left·right for one step of the first `used` fragments. float32 as big·big + big·small + small·big in TF32;
/// the tensor core may cut its sum off after every mma, so that of one step is promoted to a float32 addition.
template <class Tile>
__device__ __forceinline__ void multiply(const typename Tile::Fragments& f, typename Tile::Sums& sums, int used) {
  using T = typename Tile::T;
  constexpr TileShape shape = Tile::shape;
  if constexpr (sizeof(T) == 2) {
#pragma unroll
    for (int i = 0; i < shape.fragmentsM; ++i) {
      if (i >= used) continue;
#pragma unroll
      for (int j = 0; j < shape.fragmentsN; ++j) mma(T{}, sums[i][j], f.left[i], f.right[j]);
    }
  } else {
    const float zero[4] = {};
    uint32_t big[shape.fragmentsN][2], small[shape.fragmentsN][2];
#pragma unroll
    for (int j = 0; j < shape.fragmentsN; ++j)
#pragma unroll
      for (int r = 0; r < 2; ++r) split(f.right[j][r], big[j][r], small[j][r]);
#pragma unroll
    for (int i = 0; i < shape.fragmentsM; ++i) {
      if (i >= used) continue;
      uint32_t leftBig[4], leftSmall[4];
#pragma unroll
      for (int r = 0; r < 4; ++r) split(f.left[i][r], leftBig[r], leftSmall[r]);
#pragma unroll
      for (int j = 0; j < shape.fragmentsN; ++j) {
        float part[4];
        ptx::mmaM16N8K8TF32(part, leftSmall, big[j], zero);
        ptx::mmaM16N8K8TF32(part, leftBig, small[j], part);
        ptx::mmaM16N8K8TF32(part, leftBig, big[j], part);
#pragma unroll
        for (int r = 0; r < 4; ++r) sums[i][j][r] += part[r];
      }
    }
  }
}

/// A ring of 3 or 4 stages at the start of shared memory.
struct Ring {
  uint32_t begin;
  int stages, stageBytes;

  __device__ uint32_t after(uint32_t stage) const {
    const uint32_t next = stage + stageBytes;
    return next == begin + stages * stageBytes ? begin : next;
  }
  __device__ uint32_t before(uint32_t stage) const {
    return (stage == begin ? begin + stages * stageBytes : stage) - stageBytes;
  }
  /// The oldest stage that is not known to have come has come.
  __device__ void wait() const {
    if (stages == 4)
      ptx::cpAsyncWaitGroup<2>();
    else
      ptx::cpAsyncWaitGroup<1>();
    __syncthreads();
  }
};

/// sums = the product over `steps` > 0 steps, of a whole tile or of its first `rows` rows. feed.load(stage, rows)
/// copies the next stage. Shared memory is free again after the next barrier.
template <bool whole, class Tile, class Feed, class Left, class Right>
__device__ __forceinline__ void mainLoop(Feed& feed, const Left& left, const Right& right, const Ring& ring, int steps,
                                         int rows, typename Tile::Sums& sums) {
  constexpr TileShape shape = Tile::shape;
  const int toCopy = whole ? Tile::rows : rows;
  const int used = whole ? shape.fragmentsM : Tile::fragmentsOf(rows);
#pragma unroll
  for (int i = 0; i < shape.fragmentsM; ++i)
#pragma unroll
    for (int j = 0; j < shape.fragmentsN; ++j)
#pragma unroll
      for (int r = 0; r < 4; ++r) sums[i][j][r] = 0;

#pragma unroll 1
  for (int i = 0; i < ring.stages - 1; ++i) {
    if (i * Tile::steps < steps) feed.load(ring.begin + i * ring.stageBytes, toCopy);
    ptx::cpAsyncCommitGroup();
  }
  ring.wait();

  // Fragments are loaded one step ahead, across the barrier between stages too.
  uint32_t read = ring.begin;
  typename Tile::Fragments fragments[2];
  left.load(fragments[0].left, read, 0, used);
  right.load(fragments[0].right, read, 0);
  while (true) {
#pragma unroll
    for (int s = 0; s < Tile::steps; ++s) {
      const bool last = steps == 1;
      if (!last) {
        if (s == Tile::steps - 1) {
          ring.wait();
          read = ring.after(read);
        }
        left.load(fragments[(s + 1) % 2].left, read, (s + 1) % Tile::steps, used);
        right.load(fragments[(s + 1) % 2].right, read, (s + 1) % Tile::steps);
      }
      if (s == 0) {
        // All warps have read the stage before this one: the barrier was behind that.
        if (steps > (ring.stages - 1) * Tile::steps) feed.load(ring.before(read), toCopy);
        ptx::cpAsyncCommitGroup();
      }
      multiply<Tile>(fragments[s % 2], sums, used);
      if (last) return;
      --steps;
    }
  }
}

/// A tile that is full has a main loop without questions.
template <class Tile, class Feed, class Left, class Right>
__device__ __forceinline__ void multiplyTile(Feed& feed, const Left& left, const Right& right, const Ring& ring,
                                             int steps, int rows, typename Tile::Sums& sums) {
  if (rows > Tile::rows - 16)
    mainLoop<true, Tile>(feed, left, right, ring, steps, rows, sums);
  else
    mainLoop<false, Tile>(feed, left, right, ring, steps, rows, sums);
}

}  // namespace moe
