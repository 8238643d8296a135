import { beforeAll, describe, expect, test } from 'vitest';
import { build, cubProgram } from './softgpu/build.mjs';
import { hasNvcc, orders, ptxOf, run, runProgram } from './softgpu/harness.js';

const kernels = ['gemm', 'topk', 'permute', 'neighbours', 'grid', 'reduce', 'stages', 'transpose', 'cub'];
// Around CUDA's own libraries, of which nvcc makes other PTX for other capabilities.
const libraryKernels = ['math', 'half', 'groups', 'atomics', 'copies', 'wmma', 'control'];
const capabilities = ['8.0', '9.0'];
const architectureOf = (capability: string) => `sm_${capability.replace('.', '')}`;

beforeAll(build, 600_000);

describe.skipIf(!hasNvcc)(hasNvcc ? 'kernels' : 'kernels (skipped: no nvcc)', () => {
  describe.each(capabilities)('at capability %s', (capability) => {
    const architecture = architectureOf(capability);

    test.each(kernels.concat(libraryKernels))('%s uses no form without a case', (kernel) => {
      expect(run(['coverage', ptxOf(kernel, [], architecture)]).output).toBe('');
    });

    test.each(libraryKernels)('%s is right and raises nothing', (kernel) => {
      const ptx = ptxOf(kernel, [], architecture);
      expect(run(['kernel', kernel, ptx], { SOFTGPU_CC: capability })).toMatchObject({ status: 0, faults: [] });
    });

    for (const order of orders) {
      test.each(kernels)(`%s is right and raises nothing with order ${order}`, (kernel) => {
        const env = { SOFTGPU_ORDER: order, SOFTGPU_CC: capability };
        expect(run(['kernel', kernel, ptxOf(kernel, [], architecture)], env)).toMatchObject({ status: 0, faults: [] });
      });
    }
  });

  test('a broken swizzle is counted as wavefronts', () => {
    const plain = run(['kernel', 'gemm', ptxOf('gemm')]).launches[0]!;
    expect(plain.sharedWavefronts).toBe(plain.sharedIdealWavefronts);
    const broken = run(['kernel', 'gemm', ptxOf('gemm', [{ from: '(chunk ^ ((row >> 1) & 3))', to: 'chunk' }])]);
    expect(broken).toMatchObject({ status: 0, faults: [] });
    expect(broken.launches[0]!.sharedWavefronts).toBeGreaterThan(2 * broken.launches[0]!.sharedIdealWavefronts!);
  });
});

describe.skipIf(!hasNvcc)(hasNvcc ? "CUB's device-wide algorithms" : "CUB's (skipped: no nvcc)", () => {
  let program = '';
  beforeAll(() => {
    program = cubProgram();
  }, 900_000);

  test('use no form without a case', () => {
    expect(run(['coverage', program]).output).toBe('');
  });

  for (const capability of capabilities) {
    test.each(orders)(`give right answers at capability ${capability} with order %s`, (order) => {
      const report = runProgram(program, [], { SOFTGPU_CC: capability, SOFTGPU_ORDER: order });
      expect(report).toMatchObject({ status: 0, faults: [] });
      const names = report.launches.map((l) => String(l.kernel));
      for (const part of ['RadixSortSingleTile', 'RadixSortOnesweep', 'DeviceScanKernel', 'HistogramSweep']) {
        expect(names.some((name) => name.includes(part))).toBe(true);
      }
    });
  }
});
