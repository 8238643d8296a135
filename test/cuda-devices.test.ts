// Why a CUDA device cannot be used: each reason as listDevices() words it. Every case is a process of its own, since a
// process looks for its driver once.
import { copyFileSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { root, succeed } from './command.js';
import { cudaTool } from './softgpu/build.mjs';

const simulated = process.env.SWITCHYARD_TEST_CUDA === 'softgpu';
const release = join(root, 'build', 'Release');

interface Listed {
  reason: string;
  gpus: { name: string; reason: string }[];
}

/** What the addon at `file` says of the GPUs, with another environment. */
async function list(env: Record<string, string>, file = join(release, 'switchyard.node')): Promise<Listed> {
  const script = 'console.log(JSON.stringify(require(process.argv[1]).cudaDevices(true)))';
  const { stdout } = await succeed(process.execPath, ['-e', script, file], { env: { ...process.env, ...env } });
  return JSON.parse(stdout);
}

describe.skipIf(!simulated)(simulated ? 'a CUDA device' : 'a CUDA device (skipped: needs the software GPU)', () => {
  let scratch = '';
  beforeAll(() => {
    scratch = mkdtempSync(join(tmpdir(), 'switchyard-'));
  });
  afterAll(() => rmSync(scratch, { recursive: true, force: true }));

  /** A copy of the addon in a folder of its own, without kernels. */
  function addonAt(name: string): { addon: string; kernels: string } {
    const kernels = join(scratch, name, 'cuda');
    mkdirSync(kernels, { recursive: true });
    const addon = join(scratch, name, 'switchyard.node');
    copyFileSync(join(release, 'switchyard.node'), addon);
    return { addon, kernels };
  }

  test.each(['8.0', '8.6', '8.9', '9.0', '10.0', '12.0'])('of capability %s is usable', async (capability) => {
    const { reason, gpus } = await list({ SOFTGPU_CC: capability });
    expect({ reason, gpus }).toMatchObject({ reason: '', gpus: [{ reason: '' }] });
  });

  test('without a driver', async () => {
    expect(await list({ LD_LIBRARY_PATH: '' })).toMatchObject({
      reason: expect.stringContaining('libcuda.so.1'),
      gpus: [],
    });
  });

  test('whose kernels are missing', async () => {
    const { addon } = addonAt('missing');
    expect((await list({}, addon)).gpus[0]!.reason).toContain('the CUDA kernels are missing');
  });

  test('that no kernel was made for', async () => {
    const { addon, kernels } = addonAt('other');
    const source = join(scratch, 'empty.cu');
    writeFileSync(source, '__global__ void empty() {}\n');
    const image = join(scratch, 'empty.fatbin');
    await succeed(cudaTool('nvcc')!, ['-fatbin', '-gencode=arch=compute_90,code=sm_90', source, '-o', image]);
    for (const name of readdirSync(join(release, 'cuda'))) copyFileSync(image, join(kernels, name));
    expect((await list({}, addon)).gpus[0]!.reason).toMatch(/no kernel image for this GPU.*NO_BINARY_FOR_GPU/);
  });
});
