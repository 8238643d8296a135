// The mutation suite: a fault is injected into a correct kernel by a patch of its source, and must be found by its right
// name, or where nothing but the result can tell, by a wrong answer. The kernel without it raises nothing
// (softgpu-kernels.test.ts).
import { beforeAll, describe, expect, test } from 'vitest';
import { build } from './softgpu/build.mjs';
import { hasNvcc, type Patch, ptxOf, run } from './softgpu/harness.js';
import { change, mutations, wrongAnswer } from './softgpu/mutations.js';

beforeAll(build, 600_000);

/** What leaves a kernel right raises nothing. */
const harmless: Record<string, [name: string, ...patches: Patch[]][]> = {
  permute: [['one barrier too many', change('carry += all;\n    __syncthreads();', 'carry += all;')]],
  reduce: [
    [
      'fences by all, a barrier, and the ticket by another warp',
      change(
        `__threadfence();
    isLast`,
        `}
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 32) {
    isLast`,
      ),
    ],
    ['a stronger ticket', change('__threadfence();\n', '__threadfence_system();\n')],
  ],
  neighbours: [['two barriers', change('__syncthreads();', '__syncthreads(); __syncthreads();')]],
};

describe.skipIf(!hasNvcc)(hasNvcc ? 'mutations' : 'mutations (skipped: no nvcc)', () => {
  describe.each(Object.keys(harmless))('of %s', (kernel) => {
    test.each(harmless[kernel]!)('%s: nothing', (_, ...patches) => {
      expect(run(['kernel', kernel, ptxOf(kernel, patches)])).toMatchObject({ status: 0, faults: [] });
    });
  });

  describe.each(Object.keys(mutations))('of %s', (kernel) => {
    test.each(mutations[kernel]!)('%s: %s', (_, fault, ...patches) => {
      const report = run(['kernel', kernel, ptxOf(kernel, patches)]);
      if (fault === wrongAnswer) {
        expect(report.output).toBe(`${kernel}: wrong\n`);
      } else {
        expect(report.faults).toContain(fault);
      }
      expect(report.status).not.toBe(0);
    });
  });
});
