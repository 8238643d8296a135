/**
 * Mistakes that published implementations have made: each is made again by a patch of a copy of the sources, and a test of
 * the table must then fail. In `npm run test:full`: every one is a build.
 */

import { spawnSync } from 'node:child_process';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { buildCopy, copySources, inPackage, root } from './copy.mjs';
import { full, onCuda } from './extent.js';

interface Trap {
  name: string;
  file: string;
  right: string;
  wrong: string;
  /** Cases of the table, as vitest's -t takes them: all pass without the patch. */
  cases: string;
}

const traps: Trap[] = [
  {
    name: 'a load balance over all sequences at once, in which their imbalances cancel',
    file: 'native/binding/layer.cpp',
    right: 'losses.sequenceLength = count(object.Get("sequenceLength"));',
    wrong: 'losses.sequenceLength = 0;',
    cases: 'sequenceLength',
  },
  {
    name: 'groups that are masked by 0, which can be the largest there is',
    file: 'native/cpu/route-select.cpp',
    right: 'std::fill_n(values + g * size, size, -INFINITY);',
    wrong: 'std::fill_n(values + g * size, size, 0.0f);',
    cases: 'groups',
  },
  {
    name: 'a load loss that compares probabilities with a threshold of noisy logits',
    file: 'native/cpu/route.cpp',
    right: 'if (losses.loadOn) own.load.set(token.open(),',
    wrong: 'if (losses.loadOn) own.load.set(token.probabilities(),',
    cases: 'load excluding-self',
  },
  {
    name: 'jitter that is added',
    file: 'native/cpu/route.cpp',
    right: 'jittered[t * H + h] *= toFloat(input[t * H + h]);',
    wrong: 'jittered[t * H + h] += toFloat(input[t * H + h]);',
    cases: 'jitter of many features',
  },
  {
    name: 'gradients over the number of experts',
    file: 'native/cpu/experts-backward.cpp',
    right: 'weights ? weights[p_.plan.rowSlot[part.row + r]] : 1.0f;',
    wrong: '(weights ? weights[p_.plan.rowSlot[part.row + r]] : 1.0f) / p_.plan.E;',
    cases: 'round sizes',
  },
];

const folder = join(root, 'build', 'traps');

/** The cases of the table in float32, by the copy as it is built now. */
function runCases(cases: string) {
  const vitest = [inPackage('vitest', 'vitest.mjs'), 'run', '--project', 'cpu', 'test/moe-layer.test.ts'];
  const { status, stdout } = spawnSync(process.execPath, [...vitest, '-t', `float32 the table .*${cases}`], {
    cwd: folder,
    encoding: 'utf8',
    env: { ...process.env, SWITCHYARD_TEST_FULL: '', NO_COLOR: '1' },
  });
  const counted = (what: string): number => Number(stdout.match(new RegExp(`Tests .*?(\\d+) ${what}`))?.[1] ?? 0);
  return { status, passed: counted('passed'), failed: counted('failed') };
}

describe.skipIf(!full || onCuda)('a known mistake', () => {
  beforeAll(() => {
    // What an interrupted run has left may be patched.
    rmSync(folder, { recursive: true, force: true });
    copySources(folder);
    buildCopy(folder);
  }, 20 * 60_000);
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  it.each(traps.map((trap) => [trap.name, trap] as const))('is found: %s', (_, { file, right, wrong, cases }) => {
    const before = runCases(cases);
    expect(before).toMatchObject({ status: 0, failed: 0 });
    expect(before.passed).toBeGreaterThan(0);
    const path = join(folder, file);
    const source = readFileSync(path, 'utf8');
    expect(source.split(right)).toHaveLength(2);
    writeFileSync(
      path,
      source.replace(right, () => wrong),
    );
    buildCopy(folder);
    expect(runCases(cases).failed).toBeGreaterThan(0);
    writeFileSync(path, source);
  });
});
