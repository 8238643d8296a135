// Runs the tests:
//
//   npm test [-- vitest's arguments]     on the CPU, and the CUDA suites on the software GPU (test/softgpu)
//   npm run test:full                    the same with more cases
//   npm run test:gpu                     the CUDA suites alone, on this machine's GPU
//
// The dynamic loader reads LD_LIBRARY_PATH when a process starts, so the software GPU must be in place before vitest is.
// Every process of the CUDA suites writes a report; a fault in any of them fails the run, also one found at exit.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { build, buildFolder, cudaTool } from './softgpu/build.mjs';
import { faultsInFolder } from './softgpu/faults.mjs';

const require = createRequire(import.meta.url);

/** Why the CUDA suites cannot run, or ''. */
function missing() {
  const { build: addon } = require('bindings')('switchyard');
  if (!addon.cuda) return addon.cudaReason;
  return cudaTool('nvcc') ? '' : 'nvcc was not found (set CUDA_HOME, or put it on PATH)';
}

const words = process.argv.slice(2);
const onGpu = words[0] === '--gpu';
const skipped = missing();
if (skipped) console.error(`The CUDA suites are skipped: ${skipped}`);
if (skipped && (onGpu || process.env.SWITCHYARD_TEST_REQUIRE_CUDA)) process.exit(1);

const env = {
  ...process.env,
  SWITCHYARD_TEST_CUDA: skipped ? '' : onGpu ? 'gpu' : 'softgpu',
  SWITCHYARD_TEST_CUDA_SKIPPED: skipped,
};
const reports = mkdtempSync(join(tmpdir(), 'switchyard-'));
if (env.SWITCHYARD_TEST_CUDA === 'softgpu') {
  build();
  env.LD_LIBRARY_PATH = [buildFolder, process.env.LD_LIBRARY_PATH].filter(Boolean).join(':');
  env.SWITCHYARD_TEST_REPORTS = reports;
}
const vitest = join(require.resolve('vitest/package.json'), '..', 'vitest.mjs');
const done = spawnSync(process.execPath, [vitest, 'run', ...words.slice(onGpu ? 1 : 0)], { stdio: 'inherit', env });
const faults = faultsInFolder(reports);
rmSync(reports, { recursive: true });
if (faults.length > 0) console.error(`The software GPU found faults:\n  ${faults.join('\n  ')}`);
process.exitCode = done.status !== 0 ? (done.status ?? 1) : faults.length > 0 ? 1 : 0;
