// C[M,N] = A[M,K] · B[N,K]ᵀ, bf16 in, f32 out: 128×128×32 tiles, four stages of cp.async, ldmatrix and mma.sync.
// Test kernel of the software GPU: correct as it stands, and the subject of mutations.
#include <cstdint>

constexpr int kTile = 128, kDepth = 32, kStages = 4;
constexpr int kStageBytes = kTile * kDepth * 2;

__device__ __forceinline__ void copyAsync(uint32_t to, const void* from, int bytes) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
__device__ __forceinline__ void commitGroup() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
__device__ __forceinline__ void waitGroup() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}
__device__ __forceinline__ void loadMatrices(uint32_t (&r)[4], uint32_t from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(from)
               : "memory");
}
__device__ __forceinline__ void multiplyAdd(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// A row is 64 bytes; its four 16-byte chunks are permuted so that ldmatrix has no bank conflicts.
__device__ __forceinline__ uint32_t placeOf(int row, int chunk) { return row * 64 + ((chunk ^ ((row >> 1) & 3)) << 4); }

extern "C" __global__ void __launch_bounds__(128)
    gemm_bf16(const uint16_t* __restrict__ A, const uint16_t* __restrict__ B, float* __restrict__ C, int M, int N,
              int K) {
  extern __shared__ __align__(128) unsigned char tiles[];
  const uint32_t tilesA = static_cast<uint32_t>(__cvta_generic_to_shared(tiles));
  const uint32_t tilesB = tilesA + kStages * kStageBytes;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int warpRow = (warp >> 1) * 64, warpColumn = (warp & 1) * 64;
  const int firstRow = blockIdx.y * kTile, firstColumn = blockIdx.x * kTile;
  const int steps = (K + kDepth - 1) / kDepth;
  float sums[4][8][4] = {};

  auto load = [&](int stage, int step) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int chunk = threadIdx.x + i * 128, row = chunk >> 2, part = chunk & 3, k = step * kDepth + part * 8;
      const bool inA = firstRow + row < M && k < K;
      const bool inB = firstColumn + row < N && k < K;
      const size_t offsetA = inA ? static_cast<size_t>(firstRow + row) * K + k : 0;
      const size_t offsetB = inB ? static_cast<size_t>(firstColumn + row) * K + k : 0;
      copyAsync(tilesA + stage * kStageBytes + placeOf(row, part), A + offsetA, inA ? 16 : 0);
      copyAsync(tilesB + stage * kStageBytes + placeOf(row, part), B + offsetB, inB ? 16 : 0);
    }
  };

#pragma unroll
  for (int s = 0; s < kStages - 1; ++s) {
    if (s < steps) load(s, s);
    commitGroup();
  }
  for (int step = 0; step < steps; ++step) {
    waitGroup<kStages - 2>();
    __syncthreads();
    if (step + kStages - 1 < steps) load((step + kStages - 1) % kStages, step + kStages - 1);
    commitGroup();
    const uint32_t a = tilesA + step % kStages * kStageBytes, b = tilesB + step % kStages * kStageBytes;
#pragma unroll
    for (int part = 0; part < 4; part += 2) {
      uint32_t fragmentA[4][4], fragmentB[4][4];
#pragma unroll
      for (int i = 0; i < 4; ++i)
        loadMatrices(fragmentA[i], a + placeOf(warpRow + i * 16 + (lane & 15), part + (lane >> 4)));
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int row = warpColumn + j * 16 + (lane & 7) + ((lane >> 4) << 3);
        loadMatrices(fragmentB[j], b + placeOf(row, part + ((lane >> 3) & 1)));
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 8; ++j)
          multiplyAdd(sums[i][j], fragmentA[i], fragmentB[j >> 1][(j & 1) * 2], fragmentB[j >> 1][(j & 1) * 2 + 1]);
      }
    }
  }
  waitGroup<0>();
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 8; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int row = firstRow + warpRow + i * 16 + (lane >> 2) + (e >> 1) * 8;
        const int column = firstColumn + warpColumn + j * 8 + (lane & 3) * 2 + (e & 1);
        if (row < M && column < N) C[static_cast<size_t>(row) * N + column] = sums[i][j][e];
      }
    }
  }
}
