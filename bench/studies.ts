// What no time of one run tells: how a layer does with more threads, with skewed routing, in memory, and how long the
// JavaScript thread and a single token wait. Times that are compared are taken by turns.
import { add, type Device, MoELayer, openDevice } from '../lib/index.js';
import { type BenchDType, quantiles } from './measure.js';
import type { Pass } from './report.js';
import type { Workload } from './workloads.js';

export const studyNames = ['latency', 'scaling', 'skew', 'memory'] as const;
export type StudyName = (typeof studyNames)[number];

export interface StudyJob {
  workload: Workload;
  pass: Pass;
  dtype: BenchDType;
  threads: number;
  milliseconds: number;
}

/** What was measured, by its name and unit. */
export type Findings = Record<string, number>;

/** Medians of samples of each task, taken by turns: ten rounds at least, after two that do not count. */
async function byTurns(milliseconds: number, tasks: readonly (() => Promise<void>)[]): Promise<number[]> {
  const samples = tasks.map((): number[] => []);
  const end = performance.now() + milliseconds * tasks.length;
  for (let round = 0; round < 12 || performance.now() < end; round++)
    for (const [i, task] of tasks.entries()) {
      const start = performance.now();
      await task();
      if (round >= 2) samples[i]!.push(performance.now() - start);
    }
  return samples.map((own) => quantiles(own).median);
}

/** A layer with its input, and one step of it. `hot`: the share of tokens whose first choice is expert 0; else its own. */
function prepare(device: Device, { workload, pass, dtype }: StudyJob, hot?: number, ffnSize = workload.config.ffnSize) {
  const { tokens, config } = workload;
  const layer = new MoELayer(device, { ...config, ffnSize, dtype });
  const input = device.randn([tokens, config.hiddenSize], { seed: 3, dtype });
  const gradOutput = device.randn([tokens, config.hiddenSize], { seed: 4, dtype });
  const indices = hot === undefined ? undefined : device.tensor(choices(workload, hot), [tokens, config.topK], 'int32');
  const step = async () => {
    using forward = layer.forward(input, {
      training: pass === 'training',
      ...(indices && { routing: { indices } }),
    });
    if (pass === 'training') {
      forward.backward(gradOutput).dispose();
      layer.zeroGrad();
    }
    await device.synchronize();
  };
  return { step, tensors: [input, gradOutput] };
}

/** [T,K]: expert 0 first for that share of the tokens; all other choices fall evenly on the other experts. */
function choices({ tokens, config: { numExperts, topK } }: Workload, hot: number): Int32Array {
  const indices = new Int32Array(tokens * topK);
  const first = hot > 0 ? 1 : 0;
  let next = 0;
  for (let t = 0; t < tokens; t++)
    for (let k = 0; k < topK; k++) {
      const isHot = k === 0 && Math.floor((t + 1) * hot) > Math.floor(t * hot);
      indices[t * topK + k] = isHot ? 0 : first + (next++ % (numExperts - first));
    }
  return indices;
}

/** One thread against all of them. */
async function scaling(job: StudyJob): Promise<Findings> {
  using one = openDevice({ kind: 'cpu', threads: 1 });
  using all = openDevice({ kind: 'cpu', threads: job.threads });
  const [alone, together] = await byTurns(job.milliseconds, [prepare(one, job).step, prepare(all, job).step]);
  return { 'ms on one thread': alone!, 'ms on all': together!, 'times as fast': alone! / together! };
}

/** Half of all tokens on one expert, against as many rows for each. */
async function skew(job: StudyJob): Promise<Findings> {
  using device = openDevice({ kind: 'cpu', threads: job.threads });
  const [even, skewed] = await byTurns(job.milliseconds, [
    prepare(device, job, 0).step,
    prepare(device, job, 0.5).step,
  ]);
  return { 'ms even': even!, 'ms skewed': skewed!, 'times as long': skewed! / even! };
}

/**
 * The peak of a step's tensors beyond weights, gradients, inputs and results, against what the formula says is saved. The
 * panels that the threads work on are no tensors; they are bounded by the caches and the number of threads.
 */
async function memory(job: StudyJob): Promise<Findings> {
  const { tokens, config } = job.workload;
  const element = job.dtype === 'float32' ? 4 : 2;
  const matrices = config.experts.activation === 'swiglu' ? 2 : 1;
  const measured = async (ffnSize: number) => {
    using device = openDevice({ kind: 'cpu', threads: job.threads });
    const { step, tensors } = prepare(device, job, undefined, ffnSize);
    await step();
    const before = device.memory().allocated;
    device.resetPeakMemory();
    await step();
    const training = job.pass === 'training';
    const results = (training ? 2 : 1) * tensors[0]!.size * element; // the output, and the gradient of the input
    const peak = device.memory().peak - before - results;
    const saved = matrices * element * config.topK * ffnSize + 4 * config.numExperts + 64 * config.topK;
    return { peak, rest: training ? peak - tokens * saved : peak };
  };
  const [own, twice] = [await measured(config.ffnSize), await measured(2 * config.ffnSize)];
  const megabytes = (bytes: number) => bytes / 2 ** 20;
  return {
    'MiB at peak': megabytes(own.peak),
    'MiB beyond what is saved': megabytes(own.rest),
    'the same with twice the F': megabytes(twice.rest),
  };
}

/** Of the JavaScript thread for one small operation, and of a token through a layer and back. */
async function latency(threads: number, milliseconds: number): Promise<Findings> {
  using device = openDevice({ kind: 'cpu', threads });
  const [a, b] = [device.zeros([1]), device.zeros([1])];
  const batch = 100;
  const enqueue: number[] = [];
  for (const end = performance.now() + milliseconds; performance.now() < end; ) {
    const sums = [];
    const start = performance.now();
    for (let i = 0; i < batch; i++) sums.push(add(a, b));
    enqueue.push((performance.now() - start) / batch);
    for (const sum of sums) sum.dispose();
    await device.synchronize();
  }
  const layer = new MoELayer(device, { hiddenSize: 256, ffnSize: 512, numExperts: 8, topK: 2, seed: 1 });
  const token = device.randn([1, 256], { seed: 2 });
  const forward: number[] = [];
  for (const end = performance.now() + milliseconds; performance.now() < end; ) {
    const start = performance.now();
    using pass = layer.forward(token, { training: false });
    pass.output.dataSync();
    forward.push(performance.now() - start);
  }
  return {
    'µs to enqueue add': 1000 * quantiles(enqueue).median,
    'µs of a token': 1000 * quantiles(forward).median,
  };
}

const ofWorkloads = { scaling, skew, memory };

export interface StudyRow {
  study: StudyName;
  workload?: string;
  pass?: Pass;
  dtype?: BenchDType;
  findings: Findings;
}

/** One row for each study of each job; of latency there is one in all. */
export async function* runStudies(
  names: readonly StudyName[],
  jobs: readonly StudyJob[],
  { threads, milliseconds }: { threads: number; milliseconds: number },
): AsyncGenerator<StudyRow> {
  for (const study of names) {
    if (study === 'latency') {
      yield { study, findings: await latency(threads, milliseconds) };
      continue;
    }
    for (const job of jobs) {
      const { workload, pass, dtype } = job;
      yield { study, workload: workload.name, pass, dtype, findings: await ofWorkloads[study](job) };
    }
  }
}

export function studyLine({ study, workload, pass, dtype, findings }: StudyRow): string {
  const named = [study, workload, pass, dtype].filter((word) => word !== undefined).join(' ');
  const found = Object.entries(findings).map(
    ([name, value]) => `${value.toFixed(Math.abs(value) < 10 ? 3 : 1)} ${name}`,
  );
  return `${named}: ${found.join(', ')}`;
}
