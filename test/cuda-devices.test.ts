// Why a CUDA device cannot be used: each reason as listDevices() and openDevice('cuda') word it, with what to do about it.
// Every case is a process of its own, since a process looks for its driver once.
import { cpSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { DeviceInfo } from '../lib/index.js';
import { root, run, succeed } from './command.js';
import { cudaTool } from './softgpu/build.mjs';

const simulated = process.env.SWITCHYARD_TEST_CUDA === 'softgpu';
const release = join(root, 'build', 'Release');

const script = `
  import { listDevices, openDevice } from 'switchyard';
  const of = (open) => {
    try {
      open().dispose();
      return '';
    } catch ({ name, code, message, hint }) {
      return { name, code, message, hint };
    }
  };
  const devices = listDevices();
  const opened = of(() => openDevice('cuda'));
  console.log(JSON.stringify({ devices, opened, byDefault: openDevice().kind }));
`;

interface Outcome {
  devices: DeviceInfo[];
  opened: '' | { name: string; code: string; message: string; hint: string };
  byDefault: string;
}

describe.skipIf(!simulated)(simulated ? 'a CUDA device' : 'a CUDA device (skipped: needs the software GPU)', () => {
  let scratch = '';
  beforeAll(() => {
    scratch = mkdtempSync(join(tmpdir(), 'switchyard-'));
    install('whole', (kernels) => symlinkSync(join(release, 'cuda'), kernels));
  });
  afterAll(() => rmSync(scratch, { recursive: true, force: true }));

  /** An installed package with kernels of its own. */
  function install(project: string, addKernels: (folder: string) => void) {
    const modules = join(scratch, project, 'node_modules');
    const installed = join(modules, 'switchyard');
    for (const part of ['dist', 'package.json']) cpSync(join(root, part), join(installed, part), { recursive: true });
    for (const name of ['bindings', 'file-uri-to-path'])
      cpSync(join(root, 'node_modules', name), join(modules, name), { recursive: true });
    const addon = join(installed, 'build', 'Release');
    mkdirSync(addon, { recursive: true });
    cpSync(join(release, 'switchyard.node'), join(addon, 'switchyard.node'));
    addKernels(join(addon, 'cuda'));
  }

  async function outcome(env: Record<string, string>, project = 'whole'): Promise<Outcome> {
    const { stdout } = await succeed(process.execPath, ['--input-type=module', '-e', script], {
      cwd: join(scratch, project),
      env: { ...process.env, ...env },
    });
    const found: Outcome = JSON.parse(stdout);
    expect(found.byDefault).toBe(found.opened === '' ? 'cuda' : 'cpu');
    return found;
  }

  /** The CPU can be used all the same, and both ways of asking say the same of CUDA. */
  async function reason(env: Record<string, string>, project?: string): Promise<string> {
    const { devices, opened } = await outcome(env, project);
    expect(devices).toMatchObject([
      { kind: 'cpu', usable: true },
      { kind: 'cuda', index: 0, usable: false },
    ]);
    expect(opened).toMatchObject({
      name: 'MoEError',
      code: 'ERR_DEVICE_UNAVAILABLE',
      hint: expect.stringMatching(/.\.$/),
    });
    return devices[1]!.reason!;
  }

  test.each(['8.0', '8.6', '8.9', '9.0', '10.0', '12.0'])('of capability %s is usable', async (capability) => {
    const { devices, opened } = await outcome({ SOFTGPU_CC: capability });
    expect(opened).toBe('');
    expect(devices[1]).toMatchObject({ usable: true, details: { computeCapability: capability } });
    expect(devices[1]).not.toHaveProperty('reason');
  });

  test('without a driver', async () => {
    expect(await reason({ LD_LIBRARY_PATH: '' })).toMatch(
      /^no CUDA driver: libcuda\.so\.1: cannot open .*\. Install NVIDIA's driver for this machine's GPU\.$/,
    );
  });

  test('with a driver that is no driver', async () => {
    const folder = join(scratch, 'other driver');
    mkdirSync(folder);
    writeFileSync(join(folder, 'libcuda.so.1'), 'This is no library.');
    expect(await reason({ LD_LIBRARY_PATH: folder })).toMatch(/^no CUDA driver: .*libcuda\.so\.1.* Install/);
  });

  test('with a driver that is too old', async () => {
    expect(await reason({ SOFTGPU_DRIVER_VERSION: '11.8' })).toMatch(
      /^the CUDA driver is too old: it supports CUDA 11\.8, the kernels were made by CUDA \d+\.\d+\. Install a newer driver\.$/,
    );
  });

  test('without a GPU', async () => {
    expect(await reason({ SOFTGPU_DEVICES: '0' })).toMatch(
      /^the CUDA driver finds no GPU\. .*nvidia-smi.*CUDA_VISIBLE_DEVICES/,
    );
  });

  test('with a driver that does not start', async () => {
    expect(await reason({ SOFTGPU_ORDER: 'sometimes' })).toMatch(
      /^the CUDA driver does not start: CUDA_ERROR_UNKNOWN \(.+\)\. nvidia-smi may say more\.$/,
    );
  });

  test('that is older than any kernel', async () => {
    expect(await reason({ SOFTGPU_CC: '7.5' })).toBe(
      'no kernel image for this GPU: its compute capability is 7.5, the kernels need 8.0 or later. Use another GPU, or the CPU.',
    );
  });

  test.each([
    ['context', 'SOFTGPU_MEMORY', '1000000', 'cuDevicePrimaryCtxRetain'],
    ['first kernels', 'SOFTGPU_FAIL_ALLOC', '1+', 'cuModuleLoadData'],
    ['second kernels', 'SOFTGPU_FAIL_ALLOC', '2', 'cuModuleLoadData'],
  ])('without memory for the %s', async (_, name, value, call) => {
    const { devices, opened } = await outcome({ [name]: value });
    expect(devices[1]).toMatchObject({
      usable: false,
      reason: `the GPU is out of memory: ${call}: CUDA_ERROR_OUT_OF_MEMORY (out of memory). Dispose what this process has on it, or end other processes that use it: nvidia-smi lists them.`,
    });
    // One refusal alone is over when the device is opened.
    if (value === '2') expect(opened).toBe('');
    else expect(opened).toMatchObject({ code: 'ERR_OUT_OF_MEMORY', message: expect.stringContaining(call) });
  });

  test('whose kernels are missing', async () => {
    install('missing', () => {});
    expect(await reason({}, 'missing')).toMatch(
      /^the CUDA kernels are missing: cannot read .*\.fatbin\. .*npx switchyard build/,
    );
  });

  test('whose kernels are those of another build', async () => {
    install('damaged', (kernels) => {
      cpSync(join(release, 'cuda'), kernels, { recursive: true });
      cpSync(join(kernels, 'memory.fatbin'), join(kernels, 'route.fatbin'));
    });
    expect(await reason({}, 'damaged')).toMatch(/route\.fatbin does not belong to this build.*npx switchyard build/);
  });

  test('that no kernel was made for', async () => {
    const source = join(scratch, 'empty.cu');
    writeFileSync(source, '__global__ void empty() {}\n');
    const image = join(scratch, 'empty.fatbin');
    await succeed(cudaTool('nvcc')!, ['-fatbin', '-gencode=arch=compute_90,code=sm_90', source, '-o', image]);
    install('other', (kernels) => {
      for (const name of readdirSync(join(release, 'cuda'))) cpSync(image, join(kernels, name));
    });
    expect(await reason({}, 'other')).toMatch(
      /^no kernel image for this GPU in .*CUDA_ERROR_NO_BINARY_FOR_GPU .*"npx switchyard build" on the machine with this GPU/,
    );
  });

  test('of an addon that was built where nvcc does not work', async () => {
    const folder = join(scratch, 'configured');
    const compiler = join(scratch, 'nvcc');
    writeFileSync(compiler, '#!/bin/sh\necho "unsupported GNU version" >&2; exit 1\n', { mode: 0o755 });
    const without = await run('cmake', ['-S', root, '-B', folder, `-DSWITCHYARD_NVCC=${compiler}`]);
    expect(without.stdout + without.stderr).toContain(
      `switchyard was built without CUDA: ${compiler} does not work (unsupported GNU version)`,
    );
    const required = await run('cmake', [
      '-S',
      root,
      '-B',
      `${folder}-on`,
      '-DSWITCHYARD_CUDA=ON',
      `-DSWITCHYARD_NVCC=${compiler}`,
    ]);
    expect(required.code).not.toBe(0);
  });
});
