// The driver API of the software GPU: order, memory, handles and errors; the counts of calls; and the situations in which
// a program finds no device that it can use.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { build } from './softgpu/build.mjs';
import { failures, run, scratch } from './softgpu/harness.js';

beforeAll(build, 600_000);

test.each(['latest', 'earliest', 'random:3', 'random:4'])('keeps its promises with order %s', (order) => {
  const report = run(['driver'], { SOFTGPU_ORDER: order });
  expect(failures(report)).toEqual([]);
  expect(report).toMatchObject({ status: 0, faults: [] });
});

describe('calls', () => {
  test('are counted by what they do, between two marks', () => {
    const report = run(['calls']);
    expect(report).toMatchObject({ status: 0, faults: [] });
    expect(report.records.find((r) => r.at === 'cuProfilerStop')).toEqual({
      type: 'calls',
      at: 'cuProfilerStop',
      other: 0,
      launching: 2,
      enqueueing: 2, // the record, the copy to pinned memory
      synchronising: 1,
      querying: 1,
      blockingCopy: 3, // two with pageable memory, one synchronous
      allocating: 1,
      freeing: 1,
      calls: {
        cuLaunchKernel: 2,
        cuEventRecord: 1,
        cuMemcpyDtoHAsync: 2,
        cuMemcpyHtoDAsync: 1,
        cuStreamSynchronize: 1,
        cuEventQuery: 1,
        cuMemcpyDtoH: 1,
        cuMemAllocAsync: 1,
        cuMemFreeAsync: 1,
      },
    });
  });

  test('are counted from the beginning when the context or the process ends', () => {
    const ends = run(['calls']).records.filter((r) => r.type === 'calls');
    expect(ends.map((r) => r.at)).toEqual(['cuProfilerStop', 'context end', 'exit']);
    expect((ends[2]!.calls as Record<string, number>).cuMemHostAlloc).toBe(1);
  });

  test('are traced one by one, as they are made', () => {
    const trace = join(scratch, 'trace.jsonl');
    expect(run(['calls'], { SOFTGPU_TRACE: trace }).status).toBe(0);
    const calls = readFileSync(trace, 'utf8')
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line));
    const first = calls.findIndex((c) => c.call === 'cuLaunchKernel');
    expect(calls[first]).toEqual({
      type: 'call',
      call: 'cuLaunchKernel',
      kind: 'launching',
      stream: expect.any(Number),
      kernel: 'step',
    });
    expect(calls.slice(first, first + 6).map((c) => [c.call, c.kind])).toEqual([
      ['cuLaunchKernel', 'launching'],
      ['cuLaunchKernel', 'launching'],
      ['cuEventRecord', 'enqueueing'],
      ['cuMemcpyDtoHAsync', 'enqueueing'],
      ['cuStreamSynchronize', 'synchronising'],
      ['cuEventQuery', 'querying'],
    ]);
  });
});

describe('allocations', () => {
  const calls = [
    'cuModuleLoadData',
    'cuLibraryLoadData',
    'cuMemAlloc',
    'cuMemAllocAsync',
    'cuMemAllocFromPoolAsync',
    'cuMemHostAlloc',
    'cuMemAllocHost',
    'cuMemHostRegister',
  ];
  const outcome = (refused: string) => {
    const report = run(['allocations'], { SOFTGPU_FAIL_ALLOC: refused });
    expect(report).toMatchObject({ status: 0, faults: [] });
    return report.output.trim().split('\n');
  };
  const expected = (isRefused: (n: number) => boolean) =>
    calls.map((call, k) => `${call}: CUDA_${isRefused(k + 1) ? 'ERROR_OUT_OF_MEMORY' : 'SUCCESS'}`);

  test.each(calls.map((call, k) => [k + 1, call] as const))('number %i, %s, can be refused', (n) => {
    expect(outcome(String(n))).toEqual(expected((k) => k === n));
  });

  test('with a + all that follow are refused too', () => {
    expect(outcome('4+')).toEqual(expected((k) => k >= 4));
    expect(outcome('9+')).toEqual(expected(() => false));
  });
});

test('a launch can be made to fail, which is no fault of the kernel', () => {
  const failed = run(['calls'], { SOFTGPU_FAIL_LAUNCH: '2' });
  expect(failed.status).not.toBe(0);
  expect(failed.output).toContain('CUDA_ERROR_ILLEGAL_ADDRESS');
  expect(failed.faults).toEqual([]);
  expect(run(['calls'], { SOFTGPU_FAIL_LAUNCH: '3' }).status).toBe(0);
});

describe('a device that cannot be used', () => {
  const probe = (env: Record<string, string>) => run(['probe'], env).output.trim().split('\n');

  test('is none of these', () => {
    expect(probe({})).toEqual([
      'cuDriverGetVersion: CUDA_SUCCESS',
      expect.stringMatching(/^version 1[3-9]0[0-9]0$/),
      'cuInit: CUDA_SUCCESS',
      'cuDeviceGetCount: CUDA_SUCCESS',
      'devices 1',
      'capability 8.0',
      'cuDevicePrimaryCtxRetain: CUDA_SUCCESS',
      'cuModuleLoadData: CUDA_SUCCESS',
    ]);
  });

  test('is not there', () => {
    expect(probe({ SOFTGPU_DEVICES: '0' }).at(-1)).toBe('cuInit: CUDA_ERROR_NO_DEVICE');
  });

  test('has a driver that is too old', () => {
    const lines = probe({ SOFTGPU_DRIVER_VERSION: '11.8' });
    expect(lines[1]).toBe('version 11080');
    expect(lines.at(-1)).toBe('cuModuleLoadData: CUDA_ERROR_UNSUPPORTED_PTX_VERSION');
    expect(probe({ SOFTGPU_DRIVER_VERSION: '12.0' }).at(-1)).toBe('cuModuleLoadData: CUDA_SUCCESS');
  });

  test('is too old itself', () => {
    const lines = probe({ SOFTGPU_CC: '7.5' });
    expect(lines).toContain('capability 7.5');
    expect(lines.at(-1)).toBe('cuModuleLoadData: CUDA_ERROR_NO_BINARY_FOR_GPU');
  });

  test('has no memory for a context', () => {
    expect(probe({ SOFTGPU_MEMORY: '1000000' }).at(-1)).toBe('cuDevicePrimaryCtxRetain: CUDA_ERROR_OUT_OF_MEMORY');
  });

  test('was asked for with a value that makes no sense', () => {
    for (const [name, value] of [
      ['SOFTGPU_CC', '9'],
      ['SOFTGPU_ORDER', 'sometimes'],
      ['SOFTGPU_DEVICES', '2'],
      ['SOFTGPU_DRIVER_VERSION', 'new'],
      ['SOFTGPU_MEMORY', 'much'],
      ['SOFTGPU_FAIL_ALLOC', 'x'],
      ['SOFTGPU_FAIL_LAUNCH', 'many'],
    ] as const) {
      const { output } = run(['probe'], { [name]: value });
      expect(output).toContain('cuInit: CUDA_ERROR_UNKNOWN');
      expect(output).toMatch(new RegExp(`softgpu: ${name} must be .*'${value}'`));
    }
  });
});
