// Copies of the sources that are built in another way than the addon in use, or changed on purpose.
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, rmSync, symlinkSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const require = createRequire(import.meta.url);
export const root = fileURLToPath(new URL('..', import.meta.url));
export const inPackage = (name, file) => join(require.resolve(`${name}/package.json`), '..', file);

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

/** What a command prints. */
export const answerOf = (command, words) =>
  must(command, words, { cwd: root, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] });

/** The sources in a folder of their own; unchanged files keep their times, so that only what changed is built again. */
export function copySources(folder) {
  mkdirSync(folder, { recursive: true });
  const files = answerOf('git', ['ls-files', '--cached', '--others', '--exclude-standard', '-z', ...sources]);
  for (const file of files.split('\0').filter((name) => name && existsSync(join(root, name)))) {
    mkdirSync(dirname(join(folder, file)), { recursive: true });
    cpSync(join(root, file), join(folder, file), { preserveTimestamps: true });
  }
  rmSync(join(folder, 'node_modules'), { force: true });
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'));
}

/** Builds such a copy. sanitize: what -fsanitize takes, or nothing; cuda: whether kernels are built too, as PTX alone. */
export function buildCopy(folder, { sanitize = '', cuda = false } = {}) {
  const cmake = (command, ...words) =>
    must(process.execPath, [inPackage('cmake-js', 'bin/cmake-js'), command, '--directory', folder, ...words]);
  cmake(
    'configure',
    `--CDSWITCHYARD_SANITIZE=${sanitize}`,
    `--CDSWITCHYARD_CUDA=${cuda ? 'AUTO' : 'OFF'}`,
    '--CDSWITCHYARD_CUDA_ARCHITECTURES=ptx',
  );
  cmake('build');
  must(process.execPath, [inPackage('typescript', 'bin/tsc'), '-p', 'tsconfig.build.json'], { cwd: folder });
}
