// The choice of tiles for the grouped products on CUDA: a pure function of shapes and of the GPU's size.
import { describe, expect, test } from 'vitest';
import { dtypeCode, native } from '../lib/binding.js';

const h100 = { multiprocessors: 132, sharedBytesPerBlock: 227 << 10 };
const layer = { dtype: dtypeCode.bfloat16, rows: 8192, numExperts: 8, hiddenSize: 1024, ffnSize: 2048, gated: true };
const kernels = ['expertsUp', 'rowProduct', 'downBackward', 'weightGradients', 'rowGradient'];

function tiles(change: Partial<Parameters<typeof native.cudaTiles>[0]> = {}) {
  return native.cudaTiles({ ...layer, ...h100, ...change });
}

function numbersOf(tile: string) {
  const found =
    /^(\d+)x(\d+)x(\d+), (\d+) stages, (\d+) blocks? of ([\d.]+) KB per multiprocessor, grid (\d+), .*most (\d+) tiles$/.exec(
      tile,
    );
  const [rows, columns, depth, stages, blocks, kilobytes, grid, most] = found!.slice(1).map(Number) as number[];
  return {
    rows: rows!,
    columns: columns!,
    depth: depth!,
    stages: stages!,
    blocks: blocks!,
    kilobytes: kilobytes!,
    grid: grid!,
    most: most!,
  };
}

describe('tiles', () => {
  test('are the same for the same shape, product by product', () => {
    expect(tiles()).toEqual(tiles());
    expect(tiles().map(({ kernel }) => kernel)).toEqual(
      kernels.map((name) => `${name}${name === 'weightGradients' ? '' : 'Wide'}_bfloat16`),
    );
  });

  test.each([
    [33, 128],
    [32, 32],
    [1, 32],
  ])('with %i rows an expert are %i rows high', (perExpert, rows) => {
    const [up] = tiles({ rows: perExpert * layer.numExperts });
    expect(numbersOf(up!.tile)).toMatchObject({ rows, columns: 128 });
  });

  test('leave room for two blocks a multiprocessor, and fill the GPU no more than that', () => {
    for (const sharedBytesPerBlock of [99 << 10, 163 << 10, 227 << 10])
      for (const { kernel, tile } of tiles({ sharedBytesPerBlock })) {
        const { blocks, kilobytes, grid, most } = numbersOf(tile);
        expect(blocks * (kilobytes + 1), `${kernel}: ${tile}`).toBeLessThanOrEqual(sharedBytesPerBlock / 1024 + 1);
        expect(grid).toBe(Math.min(most, blocks * h100.multiprocessors));
        if (sharedBytesPerBlock > 99 << 10) expect(blocks).toBeGreaterThanOrEqual(2);
      }
  });

  test('take a stage less where the fourth would cost a block', () => {
    const [up] = tiles({ sharedBytesPerBlock: 99 << 10 });
    expect(numbersOf(up!.tile)).toMatchObject({ stages: 3, blocks: 2 });
  });

  test('leave room for the variables of the kernels, to the byte', () => {
    // Half of an A100's shared memory for each of two blocks, and all of the 99 KB of a smaller GPU.
    const flat = (numExperts: number, kilobytes: number) => {
      const [up] = tiles({ rows: numExperts, numExperts, sharedBytesPerBlock: kilobytes << 10 });
      return numbersOf(up!.tile);
    };
    expect(flat(223, 163)).toMatchObject({ stages: 4, blocks: 2 });
    expect(flat(255, 163)).toMatchObject({ stages: 3, blocks: 2 });
    expect(flat(4860, 99)).toMatchObject({ stages: 3, blocks: 1 });
  });

  test('of experts with few rows are three to a multiprocessor where registers allow it', () => {
    const blocks = (dtype: keyof typeof dtypeCode) =>
      numbersOf(tiles({ rows: 8, dtype: dtypeCode[dtype] })[0]!.tile).blocks;
    expect(blocks('bfloat16')).toBe(3);
    expect(blocks('float32')).toBe(2);
  });

  test('are as many as the ragged ends of all experts can make', () => {
    const [up] = tiles({ rows: 8192 + 7 });
    // 2·2048 columns of gate and up in tiles of 128; each of the 8 experts may end in a tile that is not full.
    expect(numbersOf(up!.tile).most).toBe((Math.floor(8191 / 128) + 8) * 32);
  });
});
