// Runs the suites that drive native code with the addon under GCC's sanitizers: on the CPU, and under `address` the host
// side of the CUDA backend as well, on the software GPU, where nvcc is found. It happens in a copy of the sources
// (build/sanitize-*), so that the addon in use stays as it is:
//
//   npm run test:sanitize [-- address|thread [vitest's arguments]]     both, unless one is named
//
// Node and the software GPU are not instrumented: leaks, and races inside them, are not looked for.
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, rmSync, symlinkSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build, buildFolder, cudaTool } from './softgpu/build.mjs';

const require = createRequire(import.meta.url);
const root = fileURLToPath(new URL('..', import.meta.url));
const inPackage = (name, file) => join(require.resolve(`${name}/package.json`), '..', file);

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

/** The suites that drive native code in their own process; the others are about files, types and child processes. */
const suites = [
  'checkpoint',
  'cross-device',
  'cuda',
  'cuda-lost',
  'determinism',
  'dtype',
  'errors',
  'failure',
  'grow',
  'initial',
  'modules',
  'moe-layer',
  'ops',
  'optim',
  'out-of-memory',
  'presets',
  'properties',
  'router-state',
  'tensor',
  'tidy',
];

const sources = [
  'CMakeLists.txt',
  'package.json',
  'tsconfig.json',
  'tsconfig.build.json',
  'vitest.config.ts',
  'native',
  'cuda',
  'lib',
  'test',
];

function must(command, words, options) {
  const done = spawnSync(command, words, { stdio: 'inherit', ...options });
  if (done.error) throw done.error;
  if (done.status !== 0) process.exit(done.status ?? 1);
  return done.stdout;
}

const answerOf = (command, words) =>
  must(command, words, { cwd: root, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] });

/** The sources in a folder of their own; unchanged files keep their times, so that only what changed is built again. */
function copySources(folder) {
  mkdirSync(folder, { recursive: true });
  const files = answerOf('git', ['ls-files', '--cached', '--others', '--exclude-standard', '-z', ...sources]);
  for (const file of files.split('\0').filter((name) => name && existsSync(join(root, name)))) {
    mkdirSync(dirname(join(folder, file)), { recursive: true });
    cpSync(join(root, file), join(folder, file), { preserveTimestamps: true });
  }
  rmSync(join(folder, 'node_modules'), { force: true });
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'));
}

function buildCopy(folder, instrument, cuda) {
  const cmake = (command, ...words) =>
    must(process.execPath, [inPackage('cmake-js', 'bin/cmake-js'), command, '--directory', folder, ...words]);
  cmake(
    'configure',
    `--CDSWITCHYARD_SANITIZE=${instrument}`,
    `--CDSWITCHYARD_CUDA=${cuda ? 'AUTO' : 'OFF'}`,
    '--CDSWITCHYARD_CUDA_ARCHITECTURES=ptx',
  );
  cmake('build');
  must(process.execPath, [inPackage('typescript', 'bin/tsc'), '-p', 'tsconfig.build.json'], { cwd: folder });
}

function run(name, words) {
  const { instrument, library, cuda, options } = sanitizers[name];
  const folder = join(root, 'build', `sanitize-${name}`);
  copySources(folder);
  buildCopy(folder, instrument, cuda);
  const find = (file) => answerOf('g++', [`-print-file-name=${file}`]).trim();
  // libstdc++ beside it: otherwise an exception thrown by the addon is not seen as one.
  const env = { ...process.env, ...options, LD_PRELOAD: `${find(library)} ${find('libstdc++.so.6')}` };
  const projects = ['--project', 'cpu'];
  if (cuda && cudaTool('nvcc')) {
    build();
    env.SWITCHYARD_TEST_CUDA = 'softgpu';
    env.LD_LIBRARY_PATH = [buildFolder, process.env.LD_LIBRARY_PATH].filter(Boolean).join(':');
    projects.push('--project', 'cuda 8.0 *');
  }
  console.error(`Under -fsanitize=${instrument}:`);
  const chosen = words.length > 0 ? words : suites.map((suite) => `test/${suite}.test.ts`);
  const vitest = [inPackage('vitest', 'vitest.mjs'), 'run', ...projects, '--testTimeout', '1200000', ...chosen];
  must(process.execPath, vitest, { cwd: folder, env });
}

const [name, ...words] = process.argv.slice(2);
if (name === undefined) for (const each of Object.keys(sanitizers)) run(each, []);
else if (name in sanitizers) run(name, words);
else {
  console.error(`test:sanitize takes ${Object.keys(sanitizers).join(' or ')}, not "${name}"`);
  process.exit(2);
}
