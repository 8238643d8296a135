/**
 * The same configuration, seed, weights and inputs give the same bits: on a fresh device each time, twice over, and on
 * the CPU with any number of threads. No tolerance here; how right the numbers are is for the other suites.
 */

import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { AdamW } from '../lib/index.js';
import type { Case } from './cases.js';
import { type TestDevice, testDevices } from './devices.js';
import { repeatedDTypes } from './extent.js';
import { makeProblem, type Problem } from './problem.js';
import { makeLayer, readParameterGradients, runBackward, runForward } from './run-case.js';

/** Only a hang should meet it. */
const TIMEOUT = 1_200_000;

/** Large enough for every worker of seven to have something to do, and ragged. */
const RUNS: Case[] = [
  {
    name: 'dropless, all losses',
    tokens: 521,
    distribution: 'skewed',
    config: {
      hiddenSize: 65,
      ffnSize: 131,
      numExperts: 9,
      topK: 3,
      router: { renormalize: true, bias: true },
      experts: { bias: true, shared: { ffnSize: 77, gate: 'sigmoid' } },
      losses: { loadBalance: 0.5, importance: 0.2, z: 0.1 },
    },
  },
  {
    name: 'fixed capacity by score, mask',
    tokens: 300,
    mask: 'scattered',
    config: {
      hiddenSize: 48,
      ffnSize: 96,
      numExperts: 7,
      topK: 2,
      capacity: { type: 'fixed', factor: 0.9, priority: 'score' },
      experts: { activation: 'gelu' },
      losses: { loadBalance: { coefficient: 0.5, scope: 'sequence', sequenceLength: 50 } },
    },
  },
  {
    name: 'dropout, weights of the input',
    tokens: 400,
    distribution: 'skewed',
    config: {
      hiddenSize: 52,
      ffnSize: 98,
      numExperts: 5,
      topK: 2,
      router: { applyWeightTo: 'input' },
      experts: { bias: true, dropout: 0.2, shared: { ffnSize: 37 } },
    },
  },
  {
    name: 'next choices of random order, second choices at random',
    tokens: 300,
    distribution: 'skewed',
    config: {
      hiddenSize: 40,
      ffnSize: 33,
      numExperts: 7,
      topK: 3,
      router: { renormalizeAfterDrop: true, secondChoice: { type: 'random', threshold: 0.3 } },
      capacity: { type: 'fixed', factor: 0.6, priority: 'random', overflow: 'next-choice' },
      losses: { importance: 0.1 },
    },
  },
  ...(['expert-choice', 'sinkhorn'] as const).map((type) => ({
    name: type,
    tokens: 300,
    distribution: 'skewed' as const,
    config: { hiddenSize: 40, ffnSize: 33, numExperts: 7, topK: 2, router: { type }, losses: { z: 0.1 } },
  })),
  {
    name: 'one token, wide',
    tokens: 1,
    config: { hiddenSize: 257, ffnSize: 350, numExperts: 2, topK: 1 },
  },
];

/** Everything two steps of training produce, as digests of the bits. */
async function train(
  open: TestDevice['open'],
  threads: number,
  testCase: Case,
  problem: Problem,
): Promise<Record<string, string>> {
  const device = open({ threads });
  const bits: Record<string, string> = {};
  const record = (name: string, values: Float32Array | Int32Array): void => {
    const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    bits[name] = createHash('sha256').update(bytes).digest('hex');
  };
  const layer = makeLayer(device, testCase, problem);
  const optimizer = new AdamW(layer.parameters().values(), { learningRate: 0.01 });
  for (let step = 0; step < 2; step++) {
    using pass = runForward(layer, testCase, problem);
    using inputGradient = runBackward(pass, testCase, problem);
    record(`output ${step}`, await pass.output.data());
    record(`weights ${step}`, await pass.routing.weights.data());
    record(`kept ${step}`, await pass.routing.kept.data());
    record(`input gradient ${step}`, await inputGradient.data());
    record(`losses ${step}`, Float32Array.from(Object.values((await pass.stats()).losses)));
    for (const [name, gradient] of Object.entries(await readParameterGradients(layer)))
      record(`${name} ${step}`, gradient);
    optimizer.step({ maxGradNorm: 0.5 });
    record(`norm ${step}`, Float32Array.of(await optimizer.gradNorm()));
  }
  for (const [name, { value }] of layer.parameters()) record(`trained ${name}`, await value.data());
  optimizer.dispose();
  layer.dispose();
  device.dispose();
  return bits;
}

/** Names what differs; the digests themselves would say nothing to a reader. */
function differences(a: Record<string, string>, b: Record<string, string>): string[] {
  return Object.keys(a).filter((name) => a[name] !== b[name]);
}

describe.each(testDevices())('$name', ({ kind, open }) => {
  const threads = kind === 'cpu' ? [1, 1, 2, 2, 7, 7] : [1, 1];
  it.each(repeatedDTypes.flatMap((dtype) => RUNS.map((testCase) => [dtype, testCase.name, testCase] as const)))(
    '%s: %s',
    async (dtype, _, testCase) => {
      const bits: Record<string, string>[] = [];
      const problem = makeProblem(testCase, 1, dtype);
      for (const count of threads) bits.push(await train(open, count, testCase, problem));
      bits.forEach((run, i) => {
        expect(differences(bits[0]!, run), `run ${i}, ${threads[i]} threads`).toEqual([]);
      });
    },
    TIMEOUT,
  );
});
