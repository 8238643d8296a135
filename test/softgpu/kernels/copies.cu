// Asynchronous copies to shared memory through CUDA's three interfaces. Test kernel of the software GPU.
#include <cooperative_groups.h>
#include <cooperative_groups/memcpy_async.h>
#include <cuda_pipeline.h>

#include <cuda/pipeline>

namespace cg = cooperative_groups;

constexpr int kThreads = 128;

// Each block turns its part around.
extern "C" __global__ void copy_group(const int* x, int* y) {
  __shared__ alignas(16) int tile[kThreads];
  const cg::thread_block block = cg::this_thread_block();
  cg::memcpy_async(block, tile, x + blockIdx.x * kThreads, sizeof tile);
  cg::wait(block);
  y[blockIdx.x * kThreads + threadIdx.x] = tile[kThreads - 1 - threadIdx.x];
}

// Of odd threads' 16 bytes 4 exist, the rest is zero.
extern "C" __global__ void copy_primitives(const int4* x, int4* y) {
  __shared__ int4 tile[kThreads];
  __pipeline_memcpy_async(tile + threadIdx.x, x + threadIdx.x, sizeof(int4), threadIdx.x % 2 ? 12 : 0);
  __pipeline_commit();
  __pipeline_wait_prior(0);
  __syncthreads();
  y[threadIdx.x] = tile[kThreads - 1 - threadIdx.x];
}

// The same with a wait for all copies, committed or not.
extern "C" __global__ void copy_all(const int4* x, int4* y) {
  __shared__ int4 tile[kThreads];
  __pipeline_memcpy_async(tile + threadIdx.x, x + threadIdx.x, sizeof(int4), threadIdx.x % 2 ? 12 : 0);
  asm volatile("cp.async.wait_all;" ::: "memory");
  __syncthreads();
  y[threadIdx.x] = tile[kThreads - 1 - threadIdx.x];
}

// Four stages of a thread's own, two in flight.
extern "C" __global__ void copy_pipeline(const float* x, float* y) {
  constexpr int kStages = 2, kSteps = 4;
  __shared__ float tile[kStages][kThreads];
  auto pipe = cuda::make_pipeline();
  auto fetch = [&](int step) {
    pipe.producer_acquire();
    if (step < kSteps)
      cuda::memcpy_async(&tile[step % kStages][threadIdx.x], x + step * kThreads + threadIdx.x, sizeof(float), pipe);
    pipe.producer_commit();
  };
  for (int step = 0; step < kStages; ++step) fetch(step);
  for (int step = 0; step < kSteps; ++step) {
    cuda::pipeline_consumer_wait_prior<kStages - 1>(pipe);
    y[step * kThreads + threadIdx.x] = 2 * tile[step % kStages][threadIdx.x];
    pipe.consumer_release();
    fetch(step + kStages);
  }
}
