// Timing of one task against the device's own limits, measured in between: on a shared machine only the ratio holds.
import { Bench } from 'tinybench';
import type { Device } from '../lib/index.js';

export const dtypes = ['float32', 'bfloat16'] as const;
export type BenchDType = (typeof dtypes)[number];

/** What a task must do at least. */
export interface Work {
  flops: number;
  /** Of main memory. */
  bytes: number;
  dtype: BenchDType;
}

export interface Quantiles {
  median: number;
  min: number;
  p25: number;
  p75: number;
}

export interface Limits {
  gflops: number;
  gigabytes: number;
}

export interface Figures {
  milliseconds: Quantiles;
  gflops: number;
  /** Of the multiply-add peak of the dtype, measured right before and after, on a scale of 100. */
  percentOfPeak: number;
  peakGflops: number;
  /** Of the read bandwidth measured right before and after, on a scale of 100. */
  percentOfBandwidth: number;
  peakGigabytes: number;
  samples: number;
}

export function quantiles(samples: readonly number[]): Quantiles {
  const sorted = [...samples].sort((a, b) => a - b);
  const at = (q: number) => sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? Number.NaN;
  return { median: at(0.5), min: at(0), p25: at(0.25), p75: at(0.75) };
}

async function limitsOf(device: Device, dtype: BenchDType): Promise<Limits> {
  const { flopsPerSecond, bfloat16FlopsPerSecond, readBytesPerSecond } = await device.measureLimits();
  const flops = dtype === 'float32' ? flopsPerSecond : bfloat16FlopsPerSecond;
  return { gflops: flops / 1e9, gigabytes: readBytesPerSecond / 1e9 };
}

/** `body` between two measurements of the limits: their mean. */
export async function between<T>(device: Device, dtype: BenchDType, body: () => Promise<T>): Promise<[T, Limits]> {
  const before = await limitsOf(device, dtype);
  const result = await body();
  const after = await limitsOf(device, dtype);
  const mean = (key: keyof Limits) => (before[key] + after[key]) / 2;
  return [result, { gflops: mean('gflops'), gigabytes: mean('gigabytes') }];
}

export function figures(samples: readonly number[], work: Work, limits: Limits): Figures {
  const milliseconds = quantiles(samples);
  const gflops = work.flops / milliseconds.median / 1e6;
  const gigabytes = work.bytes / milliseconds.median / 1e6;
  return {
    milliseconds,
    gflops,
    percentOfPeak: (100 * gflops) / limits.gflops,
    peakGflops: limits.gflops,
    percentOfBandwidth: (100 * gigabytes) / limits.gigabytes,
    peakGigabytes: limits.gigabytes,
    samples: samples.length,
  };
}

/** Milliseconds of every sample of `task`, ten at least, after a warm-up of a quarter of the time. */
export async function sample(milliseconds: number, task: () => Promise<void>): Promise<number[]> {
  // Few iterations at least: a sample of a slow task may take seconds.
  const least = { iterations: 10, warmupIterations: 2 };
  const times = { time: milliseconds, warmupTime: milliseconds / 4 };
  const bench = new Bench({ ...least, ...times, retainSamples: true, throws: true });
  bench.add('task', task);
  await bench.run();
  const result = bench.tasks[0]?.result;
  if (result?.state !== 'completed') throw new Error('the benchmark did not complete');
  return [...(result.latency.samples ?? [])];
}

/** `task` queues work; each sample ends when the device has done it. */
export async function measure(device: Device, work: Work, milliseconds: number, task: () => void): Promise<Figures> {
  const [samples, limits] = await between(device, work.dtype, () =>
    sample(milliseconds, async () => {
      task();
      await device.synchronize();
    }),
  );
  return figures(samples, work, limits);
}
