// y[columns][rows] = x[rows][columns]ᵀ of 16-bit elements: tiles of 32×32 through shared memory, rows padded against
// bank conflicts, blocks of 32×8 threads. And each warp's 32 words in reverse, through shared memory of its own. Test
// kernels of the software GPU.

constexpr int kTile = 32, kRows = 8;

extern "C" __global__ void transpose(const unsigned short* __restrict__ x, int rows, int columns,
                                     unsigned short* __restrict__ y) {
  __shared__ unsigned short tile[kTile][kTile + 2];
  const int column = blockIdx.x * kTile + threadIdx.x;
  for (int k = threadIdx.y; k < kTile; k += kRows) {
    const int row = blockIdx.y * kTile + k;
    if (row < rows && column < columns) tile[k][threadIdx.x] = x[row * columns + column];
  }
  __syncthreads();
  const int outColumn = blockIdx.y * kTile + threadIdx.x;
  for (int k = threadIdx.y; k < kTile; k += kRows) {
    const int outRow = blockIdx.x * kTile + k;
    if (outRow < columns && outColumn < rows) y[outRow * rows + outColumn] = tile[threadIdx.x][k];
  }
}

extern "C" __global__ void reverse_warps(const int* __restrict__ x, int n, int* __restrict__ y) {
  extern __shared__ int words[];
  const int lane = threadIdx.x % 32;
  int* own = words + threadIdx.x / 32 * 32;
  for (int first = blockIdx.x * blockDim.x; first < n; first += gridDim.x * blockDim.x) {
    own[lane] = x[first + threadIdx.x];
    __syncwarp();
    y[first + threadIdx.x] = own[31 - lane];
    __syncwarp();
  }
}
