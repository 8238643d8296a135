// Builds the software GPU, and compiles kernels for its tests. Plain Node, so that run.mjs works before any TypeScript
// is compiled.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
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

/** Configures once, then builds what changed. Several processes may ask at once: one builds, the others wait. */
export function build() {
  mkdirSync(buildFolder, { recursive: true });
  const cmake = `[ -e ${JSON.stringify(join(buildFolder, 'CMakeCache.txt'))} ] || cmake -S "$1" -B "$2" && cmake --build "$2" -j 2`;
  const words = ['sh', '-c', cmake, 'build', home, buildFolder];
  if (spawnSync('flock', ['--version']).status === 0) words.unshift('flock', `${buildFolder}/.lock`);
  must(words[0], words.slice(1));
}

/** The path of a tool of the CUDA toolkit, or undefined. The usual folder counts where no variable names another. */
export function cudaTool(name) {
  const named = [process.env.CUDA_HOME, process.env.CUDA_PATH].filter(Boolean);
  const folders = named.length > 0 ? named : ['/usr/local/cuda'];
  const places = [
    ...folders.map((f) => join(f, 'bin', name)),
    ...(process.env.PATH ?? '').split(':').map((p) => join(p, name)),
  ];
  return places.find((p) => existsSync(p));
}

/**
 * Runs nvcc and returns the path of what it made. The same sources with the same options are compiled once: the result
 * is kept in the build folder, under a name that depends on both.
 */
export function nvcc(options, sources, extension) {
  const compiler = cudaTool('nvcc');
  const hash = createHash('sha256').update(JSON.stringify([must(compiler, ['--version']), options]));
  for (const source of sources) hash.update(readFileSync(source));
  const folder = join(buildFolder, 'compiled');
  const target = join(
    folder,
    `${basename(sources[0]).replace(/\.\w+$/, '')}-${hash.digest('hex').slice(0, 16)}${extension}`,
  );
  if (existsSync(target)) return target;
  mkdirSync(folder, { recursive: true });
  const partial = `${target}.${process.pid}`;
  must(compiler, ['-O3', '-std=c++17', ...options, ...sources, '-o', partial]);
  renameSync(partial, target);
  return target;
}

export function compileToPtx(source, architecture = 'sm_80') {
  return nvcc(['-ptx', `-arch=${architecture}`], [source], '.ptx');
}

/** The program that calls CUB's device-wide algorithms, with PTX for both capabilities that the tests run at. */
export function cubProgram() {
  const targets = ['80', '90'].map((a) => `-gencode=arch=compute_${a},code=compute_${a}`);
  const link = ['-L', buildFolder, '-lcuda'];
  const sources = ['device.cu', 'runtime.cpp'].map((name) => join(home, 'cub', name));
  return nvcc(['-O0', ...targets, '-cudart=none', '--compress-mode=none', ...link], sources, '');
}
