// The tests of a machine without nvcc: the CUDA suites are reported as skipped with the reason, and where they are required
// that is a failure.
import { mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { root, run } from './command.js';

const suites = ['test/optim.test.ts', 'test/cuda.test.ts'];

interface Result {
  name: string;
  assertionResults: { status: string; fullName: string; failureMessages: string[] }[];
}

describe('without nvcc', () => {
  let scratch = '';
  beforeAll(() => {
    scratch = mkdtempSync(join(tmpdir(), 'switchyard-'));
    for (const [name, path] of [
      ['node', process.execPath],
      ['sh', '/bin/sh'],
    ] as const)
      symlinkSync(path, join(scratch, name));
  });
  afterAll(() => rmSync(scratch, { recursive: true, force: true }));

  function runTests(words: string[], env: NodeJS.ProcessEnv) {
    // Of this run only what every process has.
    const kept = Object.entries(process.env).filter(([name]) => !/^(VITEST|SWITCHYARD|SOFTGPU|CUDA_)/.test(name));
    return run(process.execPath, ['test/run.mjs', ...words], {
      cwd: root,
      env: { ...Object.fromEntries(kept), PATH: scratch, CUDA_HOME: scratch, ...env },
    });
  }

  test('every test of the CUDA suites is skipped with the reason, and the others pass', async () => {
    const report = join(scratch, 'report.json');
    const reporters = ['--reporter=verbose', '--reporter=json', `--outputFile=${report}`];
    const { code, stdout, stderr } = await runTests([...suites, ...reporters], { NO_COLOR: '1' });
    const reason = stderr.match(/^The CUDA suites are skipped: (.+)$/m)?.[1];
    expect({ code, reason }).toEqual({ code: 0, reason: expect.stringMatching(/nvcc|SWITCHYARD_CUDA/) });
    expect(stdout).toContain(`[${reason}]`);
    const { testResults } = JSON.parse(readFileSync(report, 'utf8')) as { testResults: Result[] };
    const statuses = (suite: string) =>
      testResults
        .filter(({ name }) => name.endsWith(suite))
        .map(({ assertionResults }) => [...new Set(assertionResults.map(({ status }) => status))].join())
        .sort();
    // optim.test.ts once for the CPU, once for CUDA.
    expect(statuses(suites[0]!)).toEqual(['passed', 'skipped']);
    expect(statuses(suites[1]!)).toEqual(['skipped']);
  });

  test.each([{ SWITCHYARD_TEST_REQUIRE_CUDA: '1' }])('a run that requires them fails with %j', async (env) => {
    const { code, stdout, stderr } = await runTests(suites, env);
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
    expect(stderr).toMatch(/^The CUDA suites are skipped: .+/);
  });

  test('a run on the GPU alone fails', async () => {
    const { code, stderr } = await runTests(['--gpu', ...suites], {});
    expect(code).toBe(1);
    expect(stderr).toContain('The CUDA suites are skipped: ');
  });

  test('is how continuous integration asks', () => {
    expect(readFileSync(join(root, '.ci', 'run'), 'utf8')).toMatch(/^SWITCHYARD_TEST_REQUIRE_CUDA=1 npm test /m);
  });
});
