// Every fault of the software GPU by its right name and place: small programs that do one thing wrong each. And
// programs that are right, but look like one of those.
import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { build, cudaTool, home, runner } from './softgpu/build.mjs';
import { orders, run, scratch } from './softgpu/harness.js';

interface Program {
  name: string;
  fault: string;
  kernel: string;
  /** Where it is found, for faults of an instruction. */
  statement?: string;
  thread?: number;
  block?: number;
  /** The buffer that the address is counted from, or nothing. */
  base: string;
  offset: number;
  bytes: number;
  /** A fault that comes with it. */
  also?: string;
  /** The only order that finds it. */
  order?: string;
}

build();
const ask = (...words: string[]) => spawnSync(runner, words, { encoding: 'utf8' }).stdout;
const programs: Program[] = ask('faults')
  .trim()
  .split('\n')
  .map((line) => JSON.parse(line));
const harmless = programs.filter((p) => p.fault === 'none').map((p) => p.name);
const faulty = programs.filter((p) => p.fault !== 'none');
const kinds = [...new Set(faulty.map((p) => p.fault))].sort();
const byName = faulty.map((p) => [p.fault, p.name, p] as const);

test('each name that the documentation lists has a program, and no other', () => {
  const text = readFileSync(join(home, 'README.md'), 'utf8');
  const section = text.slice(text.indexOf('## Faults'), text.indexOf('Where it is stricter'));
  const listed = [...section.matchAll(/^\| `([a-z-]+)` /gm)].map((match) => match[1]);
  expect(listed.sort()).toEqual(kinds);
});

test.each(byName)('%s: %s', (_, name, program) => {
  const report = run(['fault', name], program.order ? { SOFTGPU_ORDER: program.order } : {});
  const found = report.details.find((f) => f.fault === program.fault);
  expect(report.faults).toContain(program.fault);
  const expected = [program.fault, program.also].filter((fault) => fault !== undefined);
  expect(report.faults.filter((fault) => !expected.includes(fault))).toEqual([]);
  expect(found!.kernel).toBe(program.kernel);
  if (program.bytes && program.fault !== 'leak') {
    const lines = report.output.split('\n').filter((line) => line.startsWith('{'));
    const buffers = Object.assign({}, ...lines.map((line) => JSON.parse(line)));
    expect(found!.address - (buffers[program.base] ?? 0)).toBe(program.offset);
  }
  if (program.bytes) expect(found!.bytes).toBe(program.bytes);
  if (program.statement) {
    const line = ask('fault-ptx', name).split('\n')[found!.line - 1];
    expect(found!.statement).toBe(program.statement);
    expect(line).toContain(program.statement);
    expect(found).toMatchObject({ thread: [program.thread, 0, 0], block: [program.block, 0, 0] });
  }
  // The same in one line on stderr.
  expect(report.output).toContain(`softgpu: ${program.fault}`);
});

describe.each(orders)('with order %s, nothing', (order) => {
  test.each(harmless)('%s', (name) => {
    const report = run(['fault', name], { SOFTGPU_ORDER: order });
    expect(report.details).toEqual([]);
    expect(report.output).toContain('no error');
  });
});

// What depends on which thread comes first may be found elsewhere, but is found.
describe.each(orders.slice(1))('with order %s', (order) => {
  test.each(byName.filter(([, , program]) => !program.order))('%s: %s', (_, name, program) => {
    expect(run(['fault', name], { SOFTGPU_ORDER: order }).faults).toContain(program.fault);
  });
});

const ptxas = cudaTool('ptxas');
test.skipIf(!ptxas)(ptxas ? 'ptxas accepts them' : 'ptxas accepts them (skipped: no ptxas)', () => {
  const rejected: string[] = [];
  // Programs whose mistake is the host's share their kernels.
  const sources = new Map(programs.map(({ name }) => [ask('fault-ptx', name), name]));
  sources.set(ask('driver-ptx'), 'the checks of the driver');
  for (const [text, name] of sources) {
    const source = join(scratch, 'fault.ptx');
    writeFileSync(source, text);
    const done = spawnSync(ptxas!, ['-arch=sm_80', source, '-o', '/dev/null'], { encoding: 'utf8' });
    // It may crash without a word.
    if (done.status !== 0) rejected.push(`${name}: ${done.status} ${done.stderr}`);
  }
  expect(rejected).toEqual([]);
});
