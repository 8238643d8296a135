// The software GPU itself: conformance of every instruction form, whole kernels, and the mutation suite, in which a
// fault is injected into a correct kernel by a patch of its source and must be found by its right name.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { build, compileToPtx, cudaTool, home, runner } from './softgpu/build.mjs';

const hasNvcc = cudaTool('nvcc') !== undefined;
const ptxas = cudaTool('ptxas');
let scratch = '';

interface Outcome {
  status: number | null;
  output: string;
  faults: string[];
  launches: Record<string, number>[];
}

function run(words: string[], env: Record<string, string> = {}): Outcome {
  const report = join(scratch, `report-${Math.random()}.jsonl`);
  writeFileSync(report, '');
  const done = spawnSync(runner, words, {
    encoding: 'utf8',
    maxBuffer: 1 << 28,
    env: { ...process.env, SOFTGPU_REPORT: report, ...env },
  });
  const records = readFileSync(report, 'utf8')
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line));
  const faults = records.flatMap((r) => (r.faults ?? []).map((f: { fault: string }) => f.fault));
  return {
    status: done.status,
    output: done.stdout + done.stderr,
    faults: [...new Set<string>(faults)],
    launches: records.filter((r) => r.type === 'launch'),
  };
}

const compiled = new Map<string, string>();
/** The PTX of a kernel, with a patch of its source if there is one. */
function ptxOf(kernel: string, patch?: [from: string, to: string]): string {
  const key = kernel + JSON.stringify(patch ?? '');
  const known = compiled.get(key);
  if (known) return known;
  const original = readFileSync(join(home, 'kernels', `${kernel}.cu`), 'utf8');
  if (patch && original.split(patch[0]).length < 2) throw new Error(`${kernel}.cu has no '${patch[0]}'`);
  const source = join(scratch, `${kernel}-${compiled.size}.cu`);
  writeFileSync(source, patch ? original.replace(patch[0], patch[1]) : original);
  const target = source.replace(/cu$/, 'ptx');
  compileToPtx(source, target);
  compiled.set(key, target);
  return target;
}

beforeAll(() => {
  scratch = mkdtempSync(join(tmpdir(), 'softgpu-'));
  build();
}, 600_000);
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

describe('conformance', () => {
  test.skipIf(!ptxas).each(['80', '90'])(
    ptxas ? 'ptxas accepts the cases for sm_%s' : 'ptxas accepts the cases for sm_%s (skipped: no ptxas)',
    (capability) => {
      const source = join(scratch, `cases-${capability}.ptx`);
      writeFileSync(source, spawnSync(runner, ['ptx', capability], { encoding: 'utf8', maxBuffer: 1 << 28 }).stdout);
      const done = spawnSync(ptxas!, [`-arch=sm_${capability}`, source, '-o', '/dev/null'], { encoding: 'utf8' });
      expect(done.stderr + done.stdout).toBe('');
    },
  );

  for (const capability of ['8.0', '9.0']) {
    test.each(['latest', 'earliest', 'random:7'])(`every case is right on ${capability} with order %s`, (order) => {
      const outcome = run(['conformance'], { SOFTGPU_CC: capability, SOFTGPU_ORDER: order });
      expect(outcome.output.split('\n').filter((line) => line.startsWith('FAIL'))).toEqual([]);
      expect(outcome.faults).toEqual([]);
      expect(outcome.status).toBe(0);
    });
  }
});

test.each(['latest', 'earliest', 'random:3'])('the driver API keeps its promises with order %s', (order) => {
  const outcome = run(['driver'], { SOFTGPU_ORDER: order });
  expect(outcome.output.split('\n').filter((line) => line.startsWith('FAIL'))).toEqual([]);
  expect(outcome.status).toBe(0);
});

test('the n-th allocation can be refused', () => {
  const outcome = run(['driver'], { SOFTGPU_FAIL_ALLOC: '1' });
  expect(outcome.output).toContain('CUDA_ERROR_OUT_OF_MEMORY');
});

// The kernels that are shipped, as the build has put them beside the addon.
const shipped = join(home, '..', '..', 'build', 'Release', 'cuda');
test.skipIf(!existsSync(shipped))('the shipped kernels use no form without a case', () => {
  const files = readdirSync(shipped).filter((name) => name.endsWith('.fatbin'));
  expect(files).not.toEqual([]);
  expect(run(['coverage', ...files.map((name) => join(shipped, name))]).output).toBe('');
});

const kernels = ['gemm', 'topk', 'permute', 'neighbours', 'grid', 'cub'];

describe.skipIf(!hasNvcc)(hasNvcc ? 'kernels' : 'kernels (skipped: no nvcc)', () => {
  test.each(kernels)('%s uses no form without a case', (kernel) => {
    expect(run(['coverage', ptxOf(kernel)]).output).toBe('');
  });

  for (const order of ['latest', 'earliest', 'random:1', 'random:2']) {
    test.each(kernels)(`%s is right and raises nothing with order ${order}`, (kernel) => {
      const outcome = run(['kernel', kernel, ptxOf(kernel)], { SOFTGPU_ORDER: order });
      expect(outcome).toMatchObject({ status: 0, faults: [] });
    });
  }

  // What nvcc makes of CUDA's own libraries differs by capability.
  for (const capability of ['8.0', '9.0']) {
    test.each(['math', 'half', 'groups', 'atomics', 'copies', 'wmma', 'control'])(
      `%s is right and raises nothing on ${capability}`,
      (kernel) => {
        const target = join(scratch, `${kernel}-${capability}.ptx`);
        compileToPtx(join(home, 'kernels', `${kernel}.cu`), target, [], `sm_${capability.replace('.', '')}`);
        const outcome = run(['kernel', kernel, target], { SOFTGPU_CC: capability });
        expect(outcome).toMatchObject({ status: 0, faults: [] });
      },
    );
  }

  const mutations: [name: string, kernel: string, from: string, to: string, fault: string][] = [
    ['a barrier removed', 'neighbours', '__syncthreads();', '', 'shared-race'],
    ['a barrier replaced by one of the warp', 'neighbours', '__syncthreads();', '__syncwarp();', 'shared-race'],
    [
      'a barrier only some lanes reach',
      'neighbours',
      '__syncthreads();',
      'if (threadIdx.x % 2) __syncthreads();',
      'divergent-barrier',
    ],
    [
      'an exit before the barrier',
      'neighbours',
      '__syncthreads();',
      'if (threadIdx.x == 5) return; __syncthreads();',
      'divergent-barrier',
    ],
    ['a read guard removed', 'neighbours', 'k < n ? x[k] : 0.0f', 'x[k]', 'out-of-bounds'],
    ['a write guard removed', 'neighbours', 'if (k < n) y[k]', 'y[k]', 'out-of-bounds'],
    [
      'shared memory written only in part',
      'neighbours',
      'tile[threadIdx.x] = k',
      'if (threadIdx.x != 9) tile[threadIdx.x] = k',
      'uninitialised-shared',
    ],
    ['a shared index too large', 'neighbours', '(threadIdx.x + 1) % 64', 'threadIdx.x + 1', 'out-of-bounds'],
    ['a misaligned pointer', 'neighbours', 'y[k] = sum', '*(float*)((char*)y + 4 * k + 1) = sum', 'misaligned'],
    [
      'a spin on what nobody writes',
      'neighbours',
      '__syncthreads();',
      'while (((volatile float*)tile)[threadIdx.x] != -7.0f) {}',
      'deadlock',
    ],
    ['a trap', 'neighbours', '__syncthreads();', '__trap();', 'trap'],
    ['one wait too few', 'gemm', 'waitGroup<kStages - 2>()', 'waitGroup<kStages - 1>()', 'async-copy-not-waited'],
    ['no barrier between stages', 'gemm', '__syncthreads();', '', 'shared-race'],
    ['a copy nobody waits for', 'gemm', 'waitGroup<0>();', 'load(0, 0);', 'async-copy-at-exit'],
    ['the guard of a ragged edge removed', 'gemm', 'firstRow + row < M && k < K', 'k < K', 'out-of-bounds'],
    [
      'ldmatrix by half a warp',
      'gemm',
      'loadMatrices(fragmentA[i],',
      'if (lane < 16) loadMatrices(fragmentA[i],',
      'diverged-aligned',
    ],
    ['a histogram not zeroed', 'permute', 'local[e] = 0;', '{}', 'uninitialised-shared'],
    [
      'a lane outside its own mask',
      'topk',
      '__shfl_xor_sync(~0u, highest',
      '__shfl_xor_sync(0xffffu, highest',
      'wrong-member-mask',
    ],
  ];
  test.each(mutations)('%s (%s)', (_, kernel, from, to, fault) => {
    const outcome = run(['kernel', kernel, ptxOf(kernel, [from, to])]);
    expect(outcome.faults).toContain(fault);
    expect(outcome.status).not.toBe(0);
  });

  test('of a fatbin the PTX for the capability is run', () => {
    const fatbin = (name: string, code: string[]) => {
      const target = join(scratch, `${name}.fatbin`);
      const words = [
        '-fatbin',
        '--compress-mode=none',
        ...code.map((c) => `-gencode=${c}`),
        join(home, 'kernels/neighbours.cu'),
      ];
      expect(spawnSync(cudaTool('nvcc')!, [...words, '-o', target], { encoding: 'utf8' }).stderr).toBe('');
      return target;
    };
    const both = fatbin('both', ['arch=compute_80,code=[sm_80,compute_80]', 'arch=compute_90,code=compute_90']);
    for (const capability of ['8.0', '9.0', '12.0']) {
      expect(run(['kernel', 'neighbours', both], { SOFTGPU_CC: capability })).toMatchObject({ status: 0, faults: [] });
    }
    const newer = fatbin('newer', ['arch=compute_90,code=[sm_90,compute_90]']);
    expect(run(['kernel', 'neighbours', newer]).output).toContain('CUDA_ERROR_NO_BINARY_FOR_GPU');
    const machine = fatbin('machine', ['arch=compute_80,code=sm_80']);
    expect(run(['kernel', 'neighbours', machine]).output).toContain('CUDA_ERROR_NO_BINARY_FOR_GPU');
  });

  test('the softgpu command reports faults, and else is silent', () => {
    const softgpu = (words: string[]) => {
      const done = spawnSync(process.execPath, [join(home, 'run.mjs'), ...words], { encoding: 'utf8' });
      return { status: done.status, out: done.stdout, err: done.stderr };
    };
    expect(softgpu(['--cc', '9.0', 'sh', '-c', 'echo $SOFTGPU_CC --cc; exit 3'])).toEqual({
      status: 3,
      out: '9.0 --cc\n',
      err: '',
    });
    expect(softgpu([runner, 'kernel', 'neighbours', ptxOf('neighbours')])).toEqual({
      status: 0,
      out: 'neighbours: right\n',
      err: '',
    });
    // The program itself sees nothing wrong here.
    const faulty = softgpu([
      'sh',
      '-c',
      `${runner} kernel neighbours ${ptxOf('neighbours', ['__syncthreads();', ''])}; true`,
    ]);
    expect(faulty.status).toBe(1);
    expect(faulty.err).toMatch(/\d+ faults found \(.*shared-race/);
    expect(softgpu(['--wrong', 'true']).status).toBe(2);
  });

  test('a broken swizzle is counted as wavefronts', () => {
    const plain = run(['kernel', 'gemm', ptxOf('gemm')]).launches[0]!;
    expect(plain.sharedWavefronts).toBe(plain.sharedIdealWavefronts);
    const broken = run(['kernel', 'gemm', ptxOf('gemm', ['(chunk ^ ((row >> 1) & 3))', 'chunk'])]);
    expect(broken).toMatchObject({ status: 0, faults: [] });
    expect(broken.launches[0]!.sharedWavefronts).toBeGreaterThan(2 * broken.launches[0]!.sharedIdealWavefronts!);
  });
});
