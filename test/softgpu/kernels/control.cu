// Calls, structures by value, switches, loops, local arrays, constants, state spaces, cache hints and printf. Test
// kernel of the software GPU.
#include <cassert>
#include <cstdio>

struct Big {
  int values[9];
  double scale;
};

__constant__ int table[16] = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3};
__device__ int calls;
__device__ const char* names[3] = {"a", "bc", "def"};

__device__ __noinline__ Big grown(Big big, int by) {
  for (int k = 0; k < 9; ++k) big.values[k] += by * k;
  big.scale *= by;
  return big;
}
__device__ __noinline__ int chosen(int which) {
  switch (which) {
    case 0:
      return 5;
    case 1:
      return 9;
    case 2:
      return 1;
    case 3:
      return 77;
    case 4:
      return 4;
    case 5:
      return 12;
    case 6:
      return 3;
    case 7:
      return 33;
    default:
      return -1;
  }
}

extern "C" __global__ void control(const int* x, int* y, int n, Big big) {
  const int k = blockIdx.x * blockDim.x + threadIdx.x;
  if (k >= n) return;
  const Big r = grown(big, x[k]);
  int local[33];
  for (int j = 0; j < 33; ++j) local[j] = r.values[j % 9] * j;
  int sum = 0;
  for (int j = 0; j < x[k]; ++j) sum += local[(j * 7 + k) % 33] + chosen(j % 9);
  sum += static_cast<int>(r.scale) + table[k % 16] + names[k % 3][0];
  atomicAdd(&calls, 1);
  if (k == 3) printf("k %d, %.1f %s %lld %c\n", k, r.scale, names[2], static_cast<long long>(k) << 33, 'q');
  assert(k < n);
  sum += (__isShared(local) ? 1 : 0) + (__isLocal(local) ? 2 : 0) + (__isGlobal(y) ? 4 : 0) +
         (__isConstant(table) ? 8 : 0) + (__isGlobal(table) ? 16 : 0);
  sum += __ldg(x + k) + __ldcs(x + k) + __ldcg(x + k) + __ldlu(x + k) + __ldcv(x + k);
  __stwt(y + k, sum);
}
