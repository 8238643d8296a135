// Timing of one task against the device's own limits, measured in between: on a shared machine only the ratio holds.
import { Bench } from 'tinybench';
import type { Device } from '../lib/index.js';

export interface Figures {
  milliseconds: { median: number; min: number; p25: number; p75: number };
  gflops: number;
  /** Of the multiply-add peak measured right before and after, on a scale of 100. */
  percentOfPeak: number;
  peakGflops: number;
  samples: number;
}

/** `task` queues work; each sample ends when the device has done it. */
export async function measure(device: Device, flops: number, milliseconds: number, task: () => void): Promise<Figures> {
  const before = await device.measureLimits();
  const bench = new Bench({ time: milliseconds, warmupTime: milliseconds / 4, retainSamples: true, throws: true });
  bench.add('task', async () => {
    task();
    await device.synchronize();
  });
  await bench.run();
  const result = bench.tasks[0]?.result;
  if (result?.state !== 'completed') throw new Error('the benchmark did not complete');
  const samples = [...(result.latency.samples ?? [])].sort((a, b) => a - b);
  const after = await device.measureLimits();
  const quantile = (q: number) => samples[Math.min(samples.length - 1, Math.floor(q * samples.length))] ?? Number.NaN;
  const median = quantile(0.5);
  const peakGflops = (before.flopsPerSecond + after.flopsPerSecond) / 2e9;
  const gflops = flops / median / 1e6;
  return {
    milliseconds: { median, min: quantile(0), p25: quantile(0.25), p75: quantile(0.75) },
    gflops,
    percentOfPeak: (100 * gflops) / peakGflops,
    peakGflops,
    samples: samples.length,
  };
}
