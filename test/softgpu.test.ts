// The software GPU itself: conformance of every instruction form, and the command that runs programs on it.
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { build, cudaTool, home, runner } from './softgpu/build.mjs';
import { failures, hasNvcc, kernelSource, ptxOf, run, scratch } from './softgpu/harness.js';

const ptxas = cudaTool('ptxas');

beforeAll(build, 600_000);

describe('conformance', () => {
  const accepts = 'ptxas accepts the cases of sm_%i';
  test.skipIf(!ptxas).each([80, 90])(ptxas ? accepts : `${accepts} (skipped: no ptxas)`, (target) => {
    const source = join(scratch, `cases-${target}.ptx`);
    writeFileSync(source, spawnSync(runner, ['ptx', String(target)], { encoding: 'utf8', maxBuffer: 1 << 28 }).stdout);
    const done = spawnSync(ptxas!, [`-arch=sm_${target}`, source, '-o', '/dev/null'], { encoding: 'utf8' });
    // It may crash without a word.
    expect([done.status, done.stderr + done.stdout]).toEqual([0, '']);
  });

  for (const capability of ['8.0', '9.0']) {
    test.each(['latest', 'earliest', 'random:7'])(`every case is right on ${capability} with order %s`, (order) => {
      const report = run(['conformance'], { SOFTGPU_ORDER: order, SOFTGPU_CC: capability });
      expect(failures(report)).toEqual([]);
      expect(report).toMatchObject({ status: 0, faults: [] });
    });
  }

  test('a wrong result fails, and so does a section that is of another instruction', () => {
    const report = run(['wrong-cases']);
    expect(failures(report)).toEqual([
      'FAIL mov.u32 %d, %lane; [9.7.9.3] lane 0: 0 0 0 gave 0, expected 1',
      'FAIL mov.u32 %d, 1; [9.7.1.1] no instruction of the section that it cites',
    ]);
    expect(report.status).toBe(1);
  });
});

// The kernels that are shipped, as the build has put them beside the addon.
const shipped = join(home, '..', '..', 'build', 'Release', 'cuda');
test.skipIf(!existsSync(shipped))('the shipped kernels use no form without a case', () => {
  const files = readdirSync(shipped).filter((name) => name.endsWith('.fatbin'));
  expect(files).not.toEqual([]);
  expect(run(['coverage', ...files.map((name) => join(shipped, name))]).output).toBe('');
});

test('a form without a case is named', () => {
  const source = join(scratch, 'form.ptx');
  const header = '.version 8.0\n.target sm_80\n.address_size 64\n';
  writeFileSync(
    source,
    `${header}.visible .entry k()\n{\n.reg .b32 %a;\nadd.u32 %a, %a, %a;\nadd.sat.u64 %a, %a, %a;\nret;\n}\n`,
  );
  expect(run(['coverage', source])).toMatchObject({ status: 1, output: `no case: add.sat.u64 (${source})\n` });
});

describe.skipIf(!hasNvcc)(hasNvcc ? 'programs' : 'programs (skipped: no nvcc)', () => {
  test('of a fatbin the PTX for the capability is run', () => {
    const fatbin = (name: string, code: string[]) => {
      const target = join(scratch, `${name}.fatbin`);
      const words = [
        '-fatbin',
        '--compress-mode=none',
        ...code.map((c) => `-gencode=${c}`),
        kernelSource('neighbours'),
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

  test('the bench computes the right products and counts instructions', () => {
    const { status, stdout } = spawnSync(process.execPath, [join(home, 'bench.mjs')], { encoding: 'utf8' });
    expect(status).toBe(0);
    expect(stdout).toMatch(
      /^gemm_bf16 512³: \d+\.\d+ s, right\ngemm_bf16 1024³: \d+\.\d+ s, right\nsoftmax_topk, .* s, [\d.]+ million warp instructions a second\n$/,
    );
  });

  test('the softgpu command reports faults, and else is silent', () => {
    const softgpu = (words: string[]) => {
      const done = spawnSync(process.execPath, [join(home, 'run.mjs'), ...words], { encoding: 'utf8' });
      return { status: done.status, out: done.stdout, err: done.stderr };
    };
    expect(softgpu([runner, 'kernel', 'neighbours', ptxOf('neighbours')])).toEqual({
      status: 0,
      out: 'neighbours: right\n',
      err: '',
    });
    // The program itself sees nothing wrong here.
    const mutated = ptxOf('neighbours', [{ from: '__syncthreads();', to: '' }]);
    const faulty = softgpu(['sh', '-c', `${runner} kernel neighbours ${mutated}; true`]);
    expect(faulty.status).toBe(1);
    expect(faulty.err).toMatch(/\d+ faults found \(.*shared-race/);
  });
});
