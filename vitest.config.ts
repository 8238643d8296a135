// Each file runs in a process of its own: a crash of the addon then fails one file and names it. The CUDA suites are those
// of the CPU, run again on the device that SWITCHYARD_TEST_CUDA names; test/run.mjs sets it.
import { availableParallelism } from 'node:os';
import { defineConfig, type TestProjectInlineConfiguration } from 'vitest/config';
import { fileOf, ofCudaAlone, onEachDevice } from './test/suites.mjs';

const full = Boolean(process.env.SWITCHYARD_TEST_FULL);

const cudaSuites = [...ofCudaAlone, ...onEachDevice].map(fileOf);

function cudaProject(name: string, env: Record<string, string>): TestProjectInlineConfiguration {
  return {
    extends: true,
    test: {
      name,
      include: cudaSuites,
      env: { SWITCHYARD_TEST_DEVICE: 'cuda', ...env },
      setupFiles: ['test/softgpu.setup.ts'],
    },
  };
}

function projects(): TestProjectInlineConfiguration[] {
  const cpu: TestProjectInlineConfiguration = {
    extends: true,
    test: { name: 'cpu', include: ['test/**/*.test.ts'], exclude: ofCudaAlone.map(fileOf) },
  };
  if (process.env.SWITCHYARD_TEST_CUDA === 'gpu') return [cudaProject('cuda', {})];
  if (process.env.SWITCHYARD_TEST_CUDA !== 'softgpu') return [cpu, cudaProject('cuda', {})];
  const orders = full ? ['latest', 'earliest', 'random:1'] : ['random:1'];
  const simulated = ['8.0', '9.0'].flatMap((capability) =>
    orders.map((order) => cudaProject(`cuda ${capability} ${order}`, { SOFTGPU_CC: capability, SOFTGPU_ORDER: order })),
  );
  return [cpu, ...simulated];
}

export default defineConfig({
  test: {
    projects: projects(),
    pool: 'forks',
    // One file to a core: the software GPU, which takes most of the time, uses one.
    maxWorkers: availableParallelism(),
    // SWITCHYARD_TEST_FULL is set by `npm run test:full`; the tests that read it run longer cases.
    testTimeout: full ? 20 * 60_000 : 5 * 60_000,
    hookTimeout: 5 * 60_000,
    retry: 0,
  },
});
