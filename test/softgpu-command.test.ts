// `npm run softgpu`: what it passes on, what it prints, and its status.
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { run as execute, root } from './command.js';
import { build, buildFolder, home, runner } from './softgpu/build.mjs';
import { scratch } from './softgpu/harness.js';

beforeAll(build, 600_000);

/** The command as npm starts it, without npm's own lines. */
async function softgpu(words: string[], env: NodeJS.ProcessEnv = {}) {
  const clean = Object.entries(process.env).filter(([name]) => !name.startsWith('SOFTGPU_'));
  const { code, stdout, stderr } = await execute(process.execPath, [join(home, 'run.mjs'), ...words], {
    env: { ...Object.fromEntries(clean), ...env },
  });
  return { status: code, out: stdout, err: stderr };
}

const shell = (script: string, ...words: string[]) => ['sh', '-c', script, ...words];
const faulty = [runner, 'fault', 'a global read beyond the end'];

describe('a command', () => {
  test('is run by npm, with everything behind its name', async () => {
    const command = shell('printf "%s|" "$SOFTGPU_CC" "$@"; exit 3', 'sh', '--cc', '--', '--order', 'x y', '');
    const words = ['run', '--silent', 'softgpu', '--', '--cc', '9.0', ...command];
    const { code, stdout, stderr } = await execute('npm', words, { cwd: root });
    expect({ code, stdout, stderr }).toEqual({ code: 3, stdout: '9.0|--cc|--|--order|x y||', stderr: '' });
  });

  test.each([
    [['--cc', '9.0', '--order', 'random:7']],
    [['--cc=9.0', '--order=random:7']],
    [['--order', 'earliest', '--cc', '9.0', '--order', 'random:7', '--']],
  ])('with %j has the software GPU in place', async (words) => {
    const script = 'echo "$SOFTGPU_CC $SOFTGPU_ORDER" "$@"; echo "$LD_LIBRARY_PATH"';
    const rest = shell(script, 'sh', '--cc', '8.0', '--', '');
    expect(await softgpu([...words, ...rest], { LD_LIBRARY_PATH: '/elsewhere' })).toEqual({
      status: 0,
      out: `9.0 random:7 --cc 8.0 -- \n${buildFolder}:/elsewhere\n`,
      err: '',
    });
  });

  test('of the same environment keeps what it says', async () => {
    const script = 'echo "$SOFTGPU_CC $SOFTGPU_DEVICES $LD_LIBRARY_PATH"';
    const env = { SOFTGPU_CC: '8.6', SOFTGPU_DEVICES: '0', LD_LIBRARY_PATH: '/elsewhere' };
    expect((await softgpu(shell(script), env)).out).toBe(`8.6 0 ${buildFolder}:/elsewhere\n`);
  });

  test('finds its device', async () => {
    const { status, out, err } = await softgpu(['--cc', '8.9', runner, 'probe']);
    expect({ status, err }).toEqual({ status: 0, err: '' });
    expect(out).toContain('capability 8.9\n');
  });

  test('has the standard streams, with nothing added', async () => {
    const { status, out, err } = await softgpu(shell('printf out; printf err >&2'));
    expect({ status, out, err }).toEqual({ status: 0, out: 'out', err: 'err' });
  });

  test.each([1, 2, 3, 127, 255])('ends with its status %i', async (status) => {
    expect(await softgpu(shell(`exit ${status}`))).toEqual({ status, out: '', err: '' });
  });

  test.each(['SIGTERM', 'SIGKILL', 'SIGABRT', 'SIGINT'] as const)('killed by %s', async (signal) => {
    const status = 128 + constants.signals[signal];
    expect(await softgpu(shell(`kill -${signal.slice(3)} $$`))).toEqual({ status, out: '', err: '' });
  });

  test('that does not exist', async () => {
    expect(await softgpu(['no-such-command', 'x'])).toEqual({
      status: 127,
      out: '',
      err: 'softgpu: no-such-command: command not found\n',
    });
  });

  test('that cannot be run', async () => {
    const file = join(scratch, 'not-executable');
    writeFileSync(file, '');
    chmodSync(file, 0o644);
    expect(await softgpu([file])).toMatchObject({
      status: 126,
      out: '',
      err: expect.stringMatching(/^softgpu: .*EACCES/),
    });
  });

  test('gets the signals that its parent gets', async () => {
    const script = 'trap "echo ended; exit 9" TERM; kill -TERM $PPID; while :; do :; done';
    expect(await softgpu(shell(script))).toEqual({ status: 9, out: 'ended\n', err: '' });
  });
});

describe('a fault', () => {
  test('is told after the output of the command, which failed', async () => {
    const { status, err } = await softgpu(faulty);
    expect(status).toBe(1);
    expect(err).toMatch(/^softgpu: out-of-bounds in .*\n(?:.*\n)*softgpu: \d+ faults? found \(out-of-bounds\)\n$/);
  });

  test('fails a command that did not notice', async () => {
    const { status, out, err } = await softgpu(shell('"$@" >/dev/null 2>&1; echo done', 'sh', ...faulty));
    expect({ status, out }).toEqual({ status: 1, out: 'done\n' });
    expect(err).toMatch(/^softgpu: \d+ faults? found \(out-of-bounds\)\n$/);
  });

  test.each([
    ['exit 42', 42],
    ['kill -KILL $$', 137],
  ])('does not hide that the command ended by %s', async (end, status) => {
    const done = await softgpu(shell(`"$@" 2>/dev/null; ${end}`, 'sh', ...faulty));
    expect(done.status).toBe(status);
    expect(done.err).toContain('(out-of-bounds)');
  });

  test('of an earlier run in the same report is not told again', async () => {
    const report = join(scratch, 'twice.jsonl');
    expect((await softgpu(['--report', report, ...faulty])).status).toBe(1);
    const before = readFileSync(report, 'utf8');
    expect(before).toContain('"fault":"out-of-bounds"');
    expect(await softgpu(['--report', report, 'true'])).toEqual({ status: 0, out: '', err: '' });
    expect(readFileSync(report, 'utf8')).toBe(before);
  });

  test('in half a line of a killed process is no reason to stop', async () => {
    const script = `printf '{"type":"launch","fau' >> "$SOFTGPU_REPORT"; exit 4`;
    expect(await softgpu(shell(script))).toEqual({ status: 4, out: '', err: '' });
  });

  test('is found where the environment names the report', async () => {
    const report = join(scratch, 'environment.jsonl');
    expect((await softgpu(faulty, { SOFTGPU_REPORT: report })).err).toContain('found (out-of-bounds)');
    expect(readFileSync(report, 'utf8')).toContain('"fault":"out-of-bounds"');
  });
});

describe('bad input', () => {
  const refused: [words: string[], message: RegExp][] = [
    [[], /no command\nusage: npm run softgpu -- \[--cc 9\.0\]/],
    [['--cc', '9.0'], /no command/],
    [['--cc', '9.0', ''], /no command/],
    [['--cc', '9', 'true'], /--cc must be a compute capability such as 9\.0; it is '9'/],
    [['--cc', 'sm_90', 'true'], /--cc must be .*'sm_90'/],
    [['--cc', '4.0', 'true'], /--cc must be .*'4\.0'/],
    [['--cc=', 'true'], /--cc must be .*''/],
    [['--cc'], /--cc needs a value/],
    [['--order', 'sometimes', 'true'], /--order must be latest, earliest or random:SEED; it is 'sometimes'/],
    [['--order', 'random', 'true'], /--order must be .*'random'/],
    [['--order', 'random:x', 'true'], /--order must be .*'random:x'/],
    [['--report'], /--report needs a value/],
    [['--report', '--cc', '9.0', 'true'], /--report must be a file; it is '--cc'/],
    [['--fast', 'true'], /unknown option --fast; there are --cc, --order, --report/],
    [['-x', 'true'], /unknown option -x/],
    [['--toString', 'true'], /unknown option --toString/],
  ];
  test.each(refused)('%j runs nothing', async (words, message) => {
    const { status, out, err } = await softgpu(words);
    expect({ status, out }).toEqual({ status: 2, out: '' });
    expect(err).toMatch(/^softgpu: /);
    expect(err).toMatch(message);
  });

  test.each([
    ['a folder that is not there', 'missing/report.jsonl', 'ENOENT'],
    ['a folder', 'folder', 'EISDIR'],
  ])('a report in %s runs nothing', async (_, name, reason) => {
    mkdirSync(join(scratch, 'folder'), { recursive: true });
    const report = join(scratch, name);
    const { status, out, err } = await softgpu(['--report', report, 'echo', 'run']);
    expect({ status, out }).toEqual({ status: 2, out: '' });
    expect(err).toContain(`--report ${report}: ${reason}`);
  });
});
