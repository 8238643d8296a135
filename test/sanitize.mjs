// Runs the suites that drive native code with the addon under GCC's sanitizers: on the CPU, and under `address` the host
// side of the CUDA backend as well, on the software GPU, where nvcc is found. It happens in a copy of the sources
// (build/sanitize-*), so that the addon in use stays as it is:
//
//   npm run test:sanitize [-- address|thread [vitest's arguments]]     both, unless one is named
//
// A fault that the software GPU finds fails the run, as a sanitizer's does.
// Node and the software GPU are not instrumented: leaks, and races inside them, are not looked for.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { answerOf, buildCopy, copySources, inPackage, root } from './copy.mjs';
import { build, buildFolder, cudaTool } from './softgpu/build.mjs';
import { faultsInFolder } from './softgpu/faults.mjs';
import { fileOf, ofNativeCode } from './suites.mjs';

const sanitizers = {
  address: {
    instrument: 'address,undefined',
    library: 'libasan.so',
    cuda: true,
    options: {
      // What is refused for its size must be refused, not end the process.
      ASAN_OPTIONS: 'detect_leaks=0:allocator_may_return_null=1',
      UBSAN_OPTIONS: 'halt_on_error=1:print_stacktrace=1',
    },
  },
  thread: {
    instrument: 'thread',
    library: 'libtsan.so',
    // Where the software GPU has its memory, this sanitizer has its own.
    cuda: false,
    // A report without an instrumented frame is about Node's own threads.
    options: { TSAN_OPTIONS: 'exitcode=66:halt_on_error=1:ignore_noninstrumented_modules=1:report_signal_unsafe=0' },
  },
};

function run(name, words) {
  const { instrument, library, cuda, options } = sanitizers[name];
  const folder = join(root, 'build', `sanitize-${name}`);
  copySources(folder);
  buildCopy(folder, { sanitize: instrument, cuda });
  const find = (file) => answerOf('g++', [`-print-file-name=${file}`]).trim();
  // libstdc++ beside it: otherwise an exception thrown by the addon is not seen as one.
  const env = { ...process.env, ...options, LD_PRELOAD: `${find(library)} ${find('libstdc++.so.6')}` };
  const projects = ['--project', 'cpu'];
  const reports = mkdtempSync(join(tmpdir(), 'switchyard-'));
  if (cuda && cudaTool('nvcc')) {
    build();
    env.SWITCHYARD_TEST_CUDA = 'softgpu';
    env.SWITCHYARD_TEST_REPORTS = reports;
    env.LD_LIBRARY_PATH = [buildFolder, process.env.LD_LIBRARY_PATH].filter(Boolean).join(':');
    projects.push('--project', 'cuda 8.0 *');
  }
  console.error(`Under -fsanitize=${instrument}:`);
  const chosen = words.length > 0 ? words : ofNativeCode.map(fileOf);
  const vitest = [inPackage('vitest', 'vitest.mjs'), 'run', ...projects, '--testTimeout', '1200000', ...chosen];
  const { error, status } = spawnSync(process.execPath, vitest, { cwd: folder, env, stdio: 'inherit' });
  const faults = faultsInFolder(reports);
  rmSync(reports, { recursive: true });
  if (error) throw error;
  if (faults.length > 0) console.error(`The software GPU found faults:\n  ${faults.join('\n  ')}`);
  if (status !== 0 || faults.length > 0) process.exit(status || 1);
}

const [name, ...words] = process.argv.slice(2);
if (name === undefined) for (const each of Object.keys(sanitizers)) run(each, []);
else if (name in sanitizers) run(name, words);
else {
  console.error(`test:sanitize takes ${Object.keys(sanitizers).join(' or ')}, not "${name}"`);
  process.exit(2);
}
