// The times of `npm run bench -- --device cuda`: what its tables say. The times themselves mean nothing on the software GPU.
import { describe, expect, it } from 'vitest';
import { floors } from '../bench/floor.js';
import { timeTable } from '../bench/gpu.js';
import type { Workload } from '../bench/workloads.js';
import { openDevice } from '../lib/index.js';

const workload: Workload = {
  name: 'W',
  title: 'tiny',
  tokens: 24,
  config: { hiddenSize: 64, ffnSize: 32, numExperts: 4, topK: 2, seed: 1, experts: { activation: 'swiglu' } },
};

/** Rows of cells, without the head. */
const rowsOf = (table: string) =>
  table
    .split('\n')
    .filter((line) => line.startsWith('| ') && !line.startsWith('| launch'))
    .map((line) => line.slice(2, -2).split(' | '));

/** Rounded to 0 it may be. */
const isNumber = (cell: string | undefined) => /^\d+(\.\d+)?$/.test(cell!);

describe.skipIf(!process.env.SWITCHYARD_TEST_CUDA)('times on a GPU', () => {
  it('are given for every kernel of a training step, for its parts, and for forward and backward as graphs', async () => {
    using device = openDevice('cuda');
    const table = await timeTable(device, workload, 1, 1024);
    expect(table).toMatch(/^### W tiny on .+, bfloat16; read bandwidth \d+ GB\/s\n/);
    const rows = rowsOf(table);
    const { forward, backward } = floors(workload);
    expect(rows.map(([label]) => label)).toEqual([
      ...forward.map(({ kernel }) => kernel),
      '**forward**, its kernels',
      ...backward.map(({ kernel }) => kernel),
      '**backward**, its kernels',
      'adamwNorm',
      'adamwUpdate',
      '**optimizer**, its kernels',
      '**forward**, a graph',
      '**forward and backward**, a graph',
    ]);
    for (const [label, time, megabytes, rate, share, products] of rows) {
      expect(Number(time), label).toBeGreaterThan(0);
      const hasFloor = !/adamw|optimizer|routeLosses/.test(label!);
      for (const cell of [megabytes, rate, share]) expect(hasFloor ? isNumber(cell) : cell === '–', label).toBe(true);
      const multiplies = /experts|rowProduct|downBackward|weightGradients|rowGradient|forward|\*\*backward/.test(
        label!,
      );
      expect(products === '–', label).toBe(!multiplies);
    }
  });

  it('of decoding are those of a forward, its floor without the experts that no token has chosen', async () => {
    using device = openDevice('cuda');
    const decode: Workload = { ...workload, tokens: 1, forwardOnly: true };
    const rows = rowsOf(await timeTable(device, decode, 1, 1024));
    const { forward } = floors({ ...decode, forwardOnly: true }, 2);
    expect(rows.map(([label]) => label)).toEqual([
      ...forward.map(({ kernel }) => kernel),
      '**forward**, its kernels',
      '**forward**, a graph',
    ]);
    const up = rows.find(([label]) => label === 'expertsUp')!;
    expect(Number(up[2])).toBeCloseTo(forward.find(({ kernel }) => kernel === 'expertsUp')!.bytes / 1e6, 3);
  });
});
