// Somebody else's code on the software GPU: CUB's block-wide sort, scan and histogram, 128 threads of four items.
#include <cub/block/block_histogram.cuh>
#include <cub/block/block_radix_sort.cuh>
#include <cub/block/block_scan.cuh>

constexpr int kThreads = 128, kItems = 4;

template <class T>
__device__ void load(const T* from, T (&items)[kItems]) {
  for (int k = 0; k < kItems; ++k) items[k] = from[threadIdx.x * kItems + k];
}
template <class T>
__device__ void store(T* to, const T (&items)[kItems]) {
  for (int k = 0; k < kItems; ++k) to[threadIdx.x * kItems + k] = items[k];
}

extern "C" __global__ void block_sort(const int* in, int* out) {
  using Sort = cub::BlockRadixSort<int, kThreads, kItems>;
  __shared__ typename Sort::TempStorage storage;
  int items[kItems];
  load(in, items);
  Sort(storage).Sort(items);
  store(out, items);
}

extern "C" __global__ void block_scan(const int* in, int* out) {
  using Scan = cub::BlockScan<int, kThreads>;
  __shared__ typename Scan::TempStorage storage;
  int items[kItems];
  load(in, items);
  Scan(storage).ExclusiveSum(items, items);
  store(out, items);
}

extern "C" __global__ void block_histogram(const unsigned char* in, unsigned* out) {
  using Histogram = cub::BlockHistogram<unsigned char, kThreads, kItems, 256>;
  __shared__ typename Histogram::TempStorage storage;
  __shared__ unsigned counts[256];
  unsigned char items[kItems];
  load(in, items);
  Histogram(storage).Histogram(items, counts);
  __syncthreads();
  for (int k = threadIdx.x; k < 256; k += kThreads) out[k] = counts[k];
}
