// Atomics of CUDA and of libcu++, with every memory order. Test kernel of the software GPU.
#include <cuda/atomic>

constexpr int kThreads = 64;

extern "C" __global__ void atomics(int* i, unsigned* u, unsigned long long* l, float* f, double* d, unsigned short* s,
                                   int* order) {
  const int k = threadIdx.x;
  __shared__ int sums[2];
  if (k < 2) sums[k] = 0;
  __syncthreads();
  order[k] = atomicAdd(i, 1);
  atomicSub(i + 1, k);
  atomicMin(i + 2, -k);
  atomicMax(i + 3, k);
  atomicAnd(i + 4, ~(1 << (k & 31)));
  atomicOr(i + 5, 1 << (k & 31));
  atomicXor(i + 6, k * 77);
  atomicInc(u, 9);
  atomicDec(u + 1, 9);
  atomicCAS(u + 2, 0u, 5u);
  atomicAdd(l, 1ull << 33);
  atomicMax(l + 1, static_cast<unsigned long long>(k) << 40);
  atomicXor(l + 2, 1ull << k);
  atomicAdd(f, 0.5f);
  atomicAdd(d, 0.25);
  atomicCAS(s, static_cast<unsigned short>(0), static_cast<unsigned short>(3));
  atomicAdd_block(sums, k);
  atomicMax(sums + 1, k);
  __syncthreads();
  if (k == 0) {
    i[7] = sums[0];
    i[8] = sums[1];
  }
  using cuda::thread_scope_device;
  cuda::atomic_ref<int, thread_scope_device> word(i[9]);
  word.fetch_add(1, cuda::std::memory_order_relaxed);
  word.fetch_add(1, cuda::std::memory_order_acquire);
  word.fetch_add(1, cuda::std::memory_order_release);
  word.fetch_add(1, cuda::std::memory_order_acq_rel);
  word.fetch_add(1);
  cuda::atomic_ref<float, thread_scope_device> real(f[1]);
  real.fetch_add(1.5f, cuda::std::memory_order_relaxed);
  cuda::atomic_ref<float, thread_scope_device> most(f[2]);
  most.fetch_max(static_cast<float>(k));
  cuda::atomic_ref<unsigned long long, cuda::thread_scope_system> swapped(l[3]);
  unsigned long long seen = swapped.load(cuda::std::memory_order_acquire);
  while (!swapped.compare_exchange_weak(seen, seen + 3, cuda::std::memory_order_acq_rel,
                                        cuda::std::memory_order_relaxed)) {
  }
  cuda::atomic_ref<unsigned short, thread_scope_device> narrow(s[1]);
  narrow.fetch_add(2);
  cuda::atomic_ref<unsigned char, thread_scope_device> byte(reinterpret_cast<unsigned char*>(s)[5]);
  byte.fetch_or(static_cast<unsigned char>(1 << (k & 7)));
  cuda::atomic_thread_fence(cuda::std::memory_order_seq_cst, cuda::thread_scope_system);
  __threadfence();
}

// A lock that spins, and hands on what it protects.
extern "C" __global__ void locked_sum(int* lock, int* sum) {
  cuda::atomic_ref<int, cuda::thread_scope_device> flag(*lock);
  if (threadIdx.x % 32 == 0) {
    while (flag.exchange(1, cuda::std::memory_order_acquire) != 0) __nanosleep(20);
    *sum += static_cast<int>(blockIdx.x) + 1;
    flag.store(0, cuda::std::memory_order_release);
  }
}
