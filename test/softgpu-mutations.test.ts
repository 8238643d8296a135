// The mutation suite: a fault is injected into a correct kernel by a patch of its source, and must be found by its right
// name; the kernel without it raises nothing (softgpu-kernels.test.ts).
import { beforeAll, describe, expect, test } from 'vitest';
import { build } from './softgpu/build.mjs';
import { hasNvcc, ptxOf, run } from './softgpu/harness.js';

beforeAll(build, 600_000);

describe.skipIf(!hasNvcc)(hasNvcc ? 'mutations' : 'mutations (skipped: no nvcc)', () => {
  const mutations: [name: string, kernel: string, from: string, to: string, fault: string][] = [
    ['a barrier removed', 'neighbours', '__syncthreads();', '', 'shared-race'],
    ['a barrier replaced by one of the warp', 'neighbours', '__syncthreads();', '__syncwarp();', 'shared-race'],
    [
      'a barrier only some lanes reach',
      'neighbours',
      '__syncthreads();',
      'if (threadIdx.x % 2) __syncthreads();',
      'divergent-barrier',
    ],
    [
      'an exit before the barrier',
      'neighbours',
      '__syncthreads();',
      'if (threadIdx.x == 5) return; __syncthreads();',
      'divergent-barrier',
    ],
    ['a read guard removed', 'neighbours', 'k < n ? x[k] : 0.0f', 'x[k]', 'out-of-bounds'],
    ['a write guard removed', 'neighbours', 'if (k < n) y[k]', 'y[k]', 'out-of-bounds'],
    [
      'shared memory written only in part',
      'neighbours',
      'tile[threadIdx.x] = k',
      'if (threadIdx.x != 9) tile[threadIdx.x] = k',
      'uninitialised-shared',
    ],
    ['a shared index too large', 'neighbours', '(threadIdx.x + 1) % 64', 'threadIdx.x + 1', 'out-of-bounds'],
    ['a misaligned pointer', 'neighbours', 'y[k] = sum', '*(float*)((char*)y + 4 * k + 1) = sum', 'misaligned'],
    [
      'a spin on what nobody writes',
      'neighbours',
      '__syncthreads();',
      'while (((volatile float*)tile)[threadIdx.x] != -7.0f) {}',
      'deadlock',
    ],
    ['a trap', 'neighbours', '__syncthreads();', '__trap();', 'trap'],
    ['one wait too few', 'gemm', 'waitGroup<kStages - 2>()', 'waitGroup<kStages - 1>()', 'async-copy-not-waited'],
    ['no barrier between stages', 'gemm', '__syncthreads();', '', 'shared-race'],
    ['a copy nobody waits for', 'gemm', 'waitGroup<0>();', 'load(0, 0);', 'async-copy-at-exit'],
    ['the guard of a ragged edge removed', 'gemm', 'firstRow + row < M && k < K', 'k < K', 'out-of-bounds'],
    [
      'ldmatrix by half a warp',
      'gemm',
      'loadMatrices(fragmentA[i],',
      'if (lane < 16) loadMatrices(fragmentA[i],',
      'diverged-aligned',
    ],
    ['a histogram not zeroed', 'permute', 'local[e] = 0;', '{}', 'uninitialised-shared'],
    [
      'a lane outside its own mask',
      'topk',
      '__shfl_xor_sync(~0u, highest',
      '__shfl_xor_sync(0xffffu, highest',
      'wrong-member-mask',
    ],
  ];
  test.each(mutations)('%s (%s)', (_, kernel, from, to, fault) => {
    const report = run(['kernel', kernel, ptxOf(kernel, [{ from, to }])]);
    expect(report.faults).toContain(fault);
    expect(report.status).not.toBe(0);
  });
});
