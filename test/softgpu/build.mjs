// Builds the software GPU, and compiles kernels to PTX for its tests. Plain Node, so that run.mjs works before any
// TypeScript is compiled.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const home = dirname(fileURLToPath(import.meta.url));
export const buildFolder = join(home, '..', '..', 'build', 'softgpu');
export const runner = join(buildFolder, 'softgpu-runner');

function must(command, words) {
  const done = spawnSync(command, words, { encoding: 'utf8', maxBuffer: 1 << 28 });
  if (done.error) throw new Error(`${command}: ${done.error.message}`);
  if (done.status !== 0) throw new Error(`${command} ${words.join(' ')} failed:\n${done.stdout}${done.stderr}`);
  return done.stdout;
}

/** Configures once, then builds what changed. */
export function build() {
  mkdirSync(buildFolder, { recursive: true });
  if (!existsSync(join(buildFolder, 'CMakeCache.txt'))) must('cmake', ['-S', home, '-B', buildFolder]);
  must('cmake', ['--build', buildFolder, '-j', '2']);
}

/** The path of a tool of the CUDA toolkit, or undefined. */
export function cudaTool(name) {
  const folders = [process.env.CUDA_HOME, process.env.CUDA_PATH, '/usr/local/cuda'].filter(Boolean);
  const places = [
    ...folders.map((f) => join(f, 'bin', name)),
    ...(process.env.PATH ?? '').split(':').map((p) => join(p, name)),
  ];
  return places.find((p) => existsSync(p));
}

export function compileToPtx(source, target, extra = [], architecture = 'sm_80') {
  must(cudaTool('nvcc'), ['-O3', '-std=c++17', '-ptx', `-arch=${architecture}`, ...extra, source, '-o', target]);
}
