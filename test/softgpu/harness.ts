// What the tests of the software GPU share: running its runner, reading its reports, and compiling mutated kernels.
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll } from 'vitest';
import { buildFolder, compileToPtx, cudaTool, home, runner } from './build.mjs';

export const hasNvcc = cudaTool('nvcc') !== undefined;
export const orders = ['latest', 'earliest', 'random:1', 'random:2'];

export interface Fault {
  fault: string;
  kernel: string;
  block: [number, number, number];
  thread: [number, number, number];
  line: number;
  statement: string;
  address: number;
  bytes: number;
  detail: string;
}
export interface Report {
  status: number | null;
  output: string;
  /** Names, each once, in the order of their first occurrence. */
  faults: string[];
  details: Fault[];
  launches: Record<string, number>[];
  records: Record<string, unknown>[];
}

export const scratch = mkdtempSync(join(tmpdir(), 'softgpu-'));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

let runs = 0;
/** Runs a command with the software GPU in place of the driver. */
export function runProgram(program: string, words: string[], env: Record<string, string> = {}): Report {
  const report = join(scratch, `report-${++runs}.jsonl`);
  writeFileSync(report, '');
  const done = spawnSync(program, words, {
    encoding: 'utf8',
    maxBuffer: 1 << 28,
    env: { ...process.env, LD_LIBRARY_PATH: buildFolder, SOFTGPU_REPORT: report, ...env },
  });
  const records = readFileSync(report, 'utf8')
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line));
  const details: Fault[] = records.flatMap((r) => r.faults ?? []);
  return {
    status: done.status,
    output: done.stdout + done.stderr,
    faults: [...new Set(details.map((f) => f.fault))],
    details,
    launches: records.filter((r) => r.type === 'launch'),
    records,
  };
}

export function run(words: string[], env: Record<string, string> = {}): Report {
  return runProgram(runner, words, env);
}

export const failures = (report: Report) => report.output.split('\n').filter((line) => line.startsWith('FAIL'));

export interface Patch {
  from: string;
  to: string;
}

export const kernelSource = (kernel: string) => join(home, 'kernels', `${kernel}.cu`);

/** The PTX of a kernel, with patches of its source if there are any. */
export function ptxOf(kernel: string, patches: Patch[] = [], architecture = 'sm_80'): string {
  if (patches.length === 0) return compileToPtx(kernelSource(kernel), architecture);
  let text = readFileSync(kernelSource(kernel), 'utf8');
  for (const { from, to } of patches) {
    if (!text.includes(from)) throw new Error(`${kernel}.cu has no '${from}'`);
    text = text.replace(from, () => to);
  }
  const folder = mkdtempSync(join(scratch, 'mutation-'));
  mkdirSync(folder, { recursive: true });
  const source = join(folder, `${kernel}.cu`);
  writeFileSync(source, text);
  return compileToPtx(source, architecture);
}
