// Which suites run on what, for vitest.config.ts and sanitize.mjs.

/** Of CUDA alone. */
export const ofCudaAlone = [
  'cross-device',
  'cuda',
  'cuda-bench',
  'cuda-failures',
  'cuda-lost',
  'cuda-plans',
  'cuda-sync',
  'example-cuda',
];

/** Run on the CPU, and again on CUDA. */
export const onEachDevice = [
  'checkpoint',
  'determinism',
  'dtype',
  'expand',
  'failure',
  'graph',
  'graph-state',
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
  'schedules',
  'tensor',
  'tidy',
];

/** Drive native code in their own process, from its sources; the other suites are about files, types and child processes. */
export const ofNativeCode = [...onEachDevice, 'errors', 'cross-device', 'cuda', 'cuda-failures', 'cuda-lost'];

export const fileOf = (suite) => `test/${suite}.test.ts`;
