/** `npm run bench`: what its rows say and what it refuses; speed is nothing that a test could tell. */

import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { run } from './command.js';

const folder = mkdtempSync(join(tmpdir(), 'switchyard-'));
afterAll(() => rmSync(folder, { recursive: true }));

const bench = (...words: string[]) => run(process.execPath, ['--import', 'tsx', 'bench/main.ts', ...words]);

describe('npm run bench', () => {
  it('gives a row for each workload, pass, dtype and stage as JSON, and draws them', async () => {
    const file = join(folder, 'roofline.svg');
    const { code, stdout, stderr } = await bench('C1', 'stages', '--time', '1', '--json', '--plot', file);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    const rows = stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    const stages = ['layer', 'route', 'permute', 'experts', 'combine'];
    expect(rows.map(({ workload, pass, dtype, stage }) => [workload, pass, dtype, stage])).toEqual(
      ['forward', 'training'].flatMap((pass) =>
        ['float32', 'bfloat16'].flatMap((dtype) => stages.map((stage) => ['C1', pass, dtype, stage])),
      ),
    );
    for (const row of rows) {
      const { min, p25, median, p75 } = row.milliseconds;
      expect(min > 0 && min <= p25 && p25 <= median && median <= p75, JSON.stringify(row)).toBe(true);
      expect(row.percentOfPeak).toBeCloseTo((100 * row.gflops) / row.peakGflops, 5);
      expect(row.percentOfBandwidth).toBeGreaterThan(0);
      expect(row.gflops > 0).toBe(row.stage === 'layer' || row.stage === 'experts');
    }
    const svg = readFileSync(file, 'utf8');
    expect(svg).toMatch(/^<svg [^>]*>[\s\S]*<\/svg>\n$/);
    expect(svg.match(/<circle /g)).toHaveLength(8);
  });

  it('says how a layer does with more threads, with skewed routing, in memory, and how long one token takes', async () => {
    const { code, stdout, stderr } = await bench('C1', 'latency', 'scaling', 'skew', 'memory', '--time', '1', '--json');
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    const rows = stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(rows.map(({ study }) => study)).toEqual([
      'latency',
      ...['scaling', 'skew', 'memory'].flatMap((study) => Array(4).fill(study)),
    ]);
    for (const { study, pass, findings } of rows) {
      const values: number[] = Object.values(findings);
      expect(values.every((value) => Number.isFinite(value))).toBe(true);
      if (study === 'scaling' || study === 'skew') expect(values[2]).toBeGreaterThan(0);
      if (study !== 'memory') continue;
      // Forward holds the experts' rows at least; and what a step takes besides does not grow with F.
      expect(values[0]).toBeGreaterThanOrEqual(pass === 'training' ? values[1]! : (1024 * 2 * 512 * 2) / 2 ** 20);
      expect(values[2]).toBeCloseTo(values[1]!, 1);
    }
  });

  it('explains the tiles of a workload on each GPU', async () => {
    const { code, stdout, stderr } = await bench('--explain', 'S1', 'S4');
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    const tiles = (workload: string) =>
      stdout
        .split(/^(?=S)/m)
        .find((part) => part.startsWith(workload))!
        .split('\n')
        .filter((line) => /^ {2}[AH]100 {2}\w+_bfloat16 +\d+x128x\d+, /.test(line));
    expect(tiles('S1 switch-small: 2048 rows')).toHaveLength(2 * 5);
    expect(tiles('S4 decode: 32 rows')).toHaveLength(2 * 2);
  });

  it.each([
    [['--explain', 'gemm'], /gemm is measured on the CPU alone/],
    [['--explain', 'S1', 'training'], /training: of the CPU alone/],
    [['--device', 'cuda', 'S1', 'route', '--json'], /route, --json: of the CPU alone/],
    [['scaling', 'gemm', 'experts'], /gemm, experts: of no study/],
    [['S4', 'training', 'skew'], /decoding has a forward alone/],
    [['S9'], /unknown word "S9": expected any of gemm, S1/],
    [['--time', '0'], /--time must be a positive integer, but is "0"/],
    [['--device', 'tpu'], /--device must be cpu or cuda, but is "tpu"/],
    [['--nothing'], /--nothing[\s\S]*--help/],
  ])('refuses %j', async (words, message) => {
    const { code, stdout, stderr } = await bench(...words);
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
    expect(stderr).toMatch(message);
  });
});
