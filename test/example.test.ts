/** What a newcomer runs: the language-model example, in a short form, and the README's training loop. */
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { stripVTControlCharacters } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ProgressDisplay } from '../examples/language-model/progress.js';
import { type Outcome, root, run, succeed } from './command.js';
import { lossesIn, readmeLoop } from './readme.js';

// Nothing of the software GPU: by default the example and the loop train on a GPU where there is one.
const env = { ...process.env, LD_LIBRARY_PATH: '' };
const example = (args: string[], options?: Parameters<typeof run>[2]) =>
  run(process.execPath, ['--import', 'tsx', 'examples/language-model/main.ts', ...args], { env, ...options });

interface Result {
  validBitsPerByte: number;
  gzipBitsPerByte: number;
  unigramBitsPerByte: number;
  steps: number;
  tokens: number;
  seconds: number;
  firstBitsPerByte: number;
  lastBitsPerByte: number;
  load: number[][];
  ablation?: { block: number; expert: number; bitsPerByte: number; increase: number }[];
}

/** Standard output must be that one line and nothing else. */
function resultOf({ code, stdout, stderr }: Outcome): Result {
  expect(code, stderr).toBe(0);
  expect(stdout).toMatch(/^\{.*\}\n$/);
  return JSON.parse(stdout);
}

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'switchyard example '));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe('the language-model example', () => {
  const short = ['--steps', '200', '--eval-bytes', '4096', '--json'];
  let straight: Result;

  it('learns, and reports what it learned on one line', async () => {
    const checkpoint = join(folder, 'made', 'straight.safetensors');
    straight = resultOf(await example([...short, '--ablate', '--checkpoint', checkpoint]));
    expect(existsSync(checkpoint)).toBe(true);
    expect(straight.steps).toBe(200);
    expect(straight.tokens % 200).toBe(0);
    expect(straight.seconds).toBeGreaterThan(0);
    expect(straight.lastBitsPerByte).toBeLessThan(straight.firstBitsPerByte - 2);
    expect(straight.validBitsPerByte).toBeLessThan(straight.unigramBitsPerByte);
    expect(straight.gzipBitsPerByte).toBeGreaterThan(1);
    for (const counts of straight.load) expect(counts.reduce((a, b) => a + b)).toBe(2 * 4096);
    expect(straight.ablation).toHaveLength(16);
  });

  it('saves on Ctrl-C, and goes on with --resume bit for bit', async () => {
    const checkpoint = join(folder, 'interrupted.safetensors');
    const args = [...short, '--checkpoint', checkpoint];
    let sent = false;
    const interrupted = await example(args, {
      onStderr(text, interrupt) {
        if (sent || !text.includes('held out')) return;
        sent = true;
        setTimeout(interrupt, 1000);
      },
    });
    expect(interrupted.code, interrupted.stderr).toBe(0);
    expect(interrupted.stdout).toBe('');
    expect(Number(interrupted.stderr.match(/Interrupted at step (\d+)/)?.[1])).toBeLessThan(200);
    expect(existsSync(checkpoint)).toBe(true);

    const resumed = resultOf(await example(['--resume', '--checkpoint', checkpoint, '--eval-bytes', '4096', '--json']));
    expect(resumed.steps).toBe(200);
    expect(resumed.validBitsPerByte).toBe(straight.validBitsPerByte);
    expect(resumed.load).toEqual(straight.load);
  });

  it.each([
    [['--stpes', '5'], /--stpes/],
    [['--steps', 'many'], /--steps must be a positive integer, but is "many"/],
    [['--minutes', '0'], /--minutes must be a positive number, but is "0"/],
    [['--minutes', '1', '--steps', '1'], /exclude each other/],
    [['--seed', '-1'], /--seed/],
    [['--device', 'tpu'], /--device must be auto, cpu or cuda, but is "tpu"/],
    [['--checkpoint', ''], /--checkpoint must be the path of a file, but is ""/],
    [['--checkpoint', tmpdir()], /--checkpoint .* cannot be written: it is a folder/],
    [['--checkpoint', join(root, 'package.json', 'x')], /--checkpoint .* cannot be written: /],
    [['--resume', '--checkpoint', '/nowhere/at-all'], /no checkpoint at/],
  ])('rejects %j with a message and exit code 1', async (args, message) => {
    const { code, stdout, stderr } = await example(args);
    expect(code).toBe(1);
    expect(stdout).toBe('');
    expect(stderr).toMatch(message);
    expect(stderr).not.toMatch(/\n\s+at /);
  });
});

describe('the progress display', () => {
  const halfway = { step: 54_321, seconds: 754, fraction: 0.5, loss: 1.5 };

  /** What the display writes, a line for each time that the cursor comes to the first column. */
  function written(isTTY: boolean) {
    const parts: string[] = [];
    const stream = Object.assign(new Writable(), { isTTY, columns: 80, write: (part: string) => parts.push(part) > 0 });
    const shown = new ProgressDisplay({ kind: 'minutes', amount: 25 }, { step: 0, seconds: 0 }, stream);
    shown.step(halfway);
    shown.say('Saving');
    shown.stop(false);
    return parts
      .join('')
      .replaceAll('\x1b[1G', '\n')
      .split('\n')
      .map(stripVTControlCharacters)
      .filter((line) => line !== '');
  }

  it('fits a terminal of 80 columns with every figure on it', () => {
    const lines = written(true);
    for (const line of lines) expect(line.length).toBeLessThan(80);
    expect(lines.at(-2)).toMatch(/^█{10}░{10} 50 % {2}12:34 of 25:00 {2}step 54,321 {2}\S+ tokens\/s$/);
    expect(lines.at(-1)).toMatch(/^loss 1\.500 {2}2\.164 bits\/byte {2}imbalance \S+ {2}dropped 0$/);
    expect(lines).toContain('Saving');
  });

  it('writes plain lines elsewhere', () => {
    const lines = written(false);
    expect(lines).toContain('Saving');
    expect(lines.filter((line) => /^loss 1\.500 .* dropped 0$/.test(line)).length).toBeGreaterThan(0);
  });
});

describe('the README', () => {
  it('has a training loop that runs and learns', async () => {
    // Inside the package, so that 'switchyard' means this one.
    const file = join(root, 'build', 'readme-loop.ts');
    writeFileSync(file, readmeLoop());
    const { stdout } = await succeed(process.execPath, ['--import', 'tsx', file], { env });
    const losses = lossesIn(stdout);
    expect(losses).toHaveLength(6);
    expect(losses.at(-1)).toBeLessThan(0.6 * losses[0]!);
  });
});
