// The host and the GPU run side by side: from the start of forward to the end of the optimizer's step no call of the driver
// waits for the GPU, asks how far it is, copies while waiting, or takes or frees memory. The software GPU traces the calls.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  AdamW,
  add,
  crossEntropy,
  type Device,
  Embedding,
  Linear,
  MoELayer,
  openDevice,
  RMSNorm,
  type Tensor,
} from '../lib/index.js';
import { failure } from './failure.js';
import { FLOAT_DTYPES, type FloatDType } from './rounding.js';

const onSoftGpu = process.env.SWITCHYARD_TEST_CUDA === 'softgpu';
const WAITING = ['synchronising', 'querying', 'blockingCopy', 'allocating', 'freeing'];
const [tokens, width, vocabulary] = [48, 16, 11];

interface Call {
  call: string;
  kind: string;
  kernel?: string;
}

function makeTraining(device: Device, dtype: FloatDType): { step(indices: Tensor, targets: Tensor): Tensor } {
  const embedding = new Embedding(device, { count: vocabulary, size: width, dtype, seed: 1 });
  const norm = new RMSNorm(device, { size: width, dtype });
  const layer = new MoELayer(device, {
    hiddenSize: width,
    ffnSize: 24,
    numExperts: 5,
    topK: 2,
    dtype,
    router: { bias: true, renormalize: true },
    capacity: { type: 'fixed', factor: 1.1, priority: 'score' },
    experts: { bias: true, shared: { ffnSize: 8, gate: 'sigmoid' } },
    losses: { loadBalance: 0.01, importance: 0.01, z: 1e-3 },
    seed: 2,
  });
  const head = new Linear(device, { inFeatures: width, outFeatures: vocabulary, dtype, seed: 3 });
  const parameters = [embedding, norm, layer, head].flatMap((module) => [...module.parameters().values()]);
  const optimizer = new AdamW(parameters, { learningRate: 1e-2 });
  const step = (indices: Tensor, targets: Tensor): Tensor =>
    device.tidy(() => {
      const embedded = embedding.forward(indices);
      const normed = norm.forward(embedded.output);
      const mixed = layer.forward(normed.output);
      const hidden = add(embedded.output, mixed.output);
      const projected = head.forward(hidden);
      const entropy = crossEntropy(projected.output, targets);
      const gradHidden = projected.backward(entropy.backward());
      const gradNormed = mixed.backward(gradHidden);
      embedded.backward(add(gradHidden, normed.backward(gradNormed)));
      optimizer.step({ maxGradNorm: 1 });
      return entropy.loss;
    });
  return { step };
}

describe.skipIf(!onSoftGpu)('a training step', () => {
  let folder: string;
  let device: Device;
  const trace = (): Call[] =>
    readFileSync(join(folder, 'trace.jsonl'), 'utf8')
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line));

  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'switchyard-trace-'));
    process.env.SOFTGPU_TRACE = join(folder, 'trace.jsonl');
    device = openDevice('cuda');
  });
  afterAll(() => {
    device.dispose();
    rmSync(folder, { recursive: true });
  });

  it.each(FLOAT_DTYPES)('in %s never waits for the GPU once one step has warmed it up', async (dtype) => {
    expect(failure(() => device.zeros([2 ** 45])).code).toBe('ERR_OUT_OF_MEMORY'); // leaves no block in the pool
    const { step } = makeTraining(device, dtype);
    const numbers = Int32Array.from({ length: tokens }, (_, t) => (t * t) % vocabulary);
    using indices = device.tensor(numbers, [tokens]);
    using targets = device.tensor(
      numbers.map((n) => (n + 1) % vocabulary),
      [tokens],
    );
    const first = step(indices, targets);
    const before = (await first.data())[0]!;
    first.dispose();

    const begin = trace().length;
    for (let i = 0; i < 2; i++) step(indices, targets).dispose();
    using last = step(indices, targets);
    const after = (await last.data())[0]!;
    const calls = trace().slice(begin);
    const ends = calls.flatMap(({ kernel }, i) => (kernel === 'adamwUpdate' ? [i] : []));
    expect(ends).toHaveLength(3);
    const within = calls.slice(0, ends.at(-1)! + 1);
    expect(within.filter(({ kind }) => kind === 'launching').length).toBeGreaterThan(3 * 20);
    expect(within.filter(({ kind }) => WAITING.includes(kind)).map(({ call }) => call)).toEqual([]);
    expect(after).toBeLessThan(before);
  });

  it('never waits for the GPU in a long run either, where the host looks at what was found', async () => {
    using embedding = new Embedding(device, { count: vocabulary, size: 1, seed: 1 });
    using indices = device.zeros([1], 'int32');
    embedding.forward(indices).dispose();
    await device.synchronize();
    const begin = trace().length;
    for (let i = 0; i < 2000; i++) embedding.forward(indices).dispose();
    using last = embedding.forward(indices);
    const value = await last.output.data();
    const calls = trace().slice(begin);
    const launches = calls.flatMap(({ kernel }, i) => (kernel?.startsWith('embedding') ? [i] : []));
    expect(launches).toHaveLength(2001);
    const within = calls.slice(0, launches.at(-1)!);
    expect(within.filter(({ call }) => call === 'cuMemcpyDtoHAsync').length).toBeGreaterThan(0);
    expect(within.filter(({ kind }) => WAITING.includes(kind)).map(({ call }) => call)).toEqual([]);
    expect(value).toHaveLength(1);
  });

  it('never waits where an optimizer has more parameters than a launch has room for', async () => {
    const norms = Array.from({ length: 50 }, () => new RMSNorm(device, { size: 2 }));
    const optimizer = new AdamW(
      norms.flatMap((norm) => [...norm.parameters().values()]),
      { learningRate: 0.1 },
    );
    using input = device.randn([1, 2], { seed: 1 });
    const step = (): void =>
      device.tidy(() => {
        for (const norm of norms) norm.forward(input).backward(input);
        optimizer.step();
      });
    step();
    await device.synchronize();

    const begin = trace().length;
    step();
    await device.synchronize();
    const calls = trace().slice(begin);
    const within = calls.slice(0, calls.findIndex(({ kernel }) => kernel === 'adamwUpdate') + 1);
    expect(within.filter(({ kernel }) => kernel === 'upload').length).toBeGreaterThan(1);
    expect(within.filter(({ kind }) => WAITING.includes(kind)).map(({ call }) => call)).toEqual([]);
  });

  it.each(FLOAT_DTYPES)('in %s is one launch of a graph, and waits as little, where it is replayed', async (dtype) => {
    const { step } = makeTraining(device, dtype);
    const numbers = Int32Array.from({ length: tokens }, (_, t) => (t * t) % vocabulary);
    using indices = device.tensor(numbers, [tokens]);
    using targets = device.tensor(numbers.slice().reverse(), [tokens]);
    const losses: Tensor[] = [];
    using graph = device.graph(() => {
      losses.push(step(indices, targets));
    });
    graph.replay();
    const before = (await losses.at(-1)!.data())[0]!;

    const begin = trace().length;
    for (let i = 0; i < 3; i++) graph.replay();
    const after = (await losses.at(-1)!.data())[0]!;
    const calls = trace().slice(begin);
    const launched = calls.flatMap(({ kind, call, kernel }, i) =>
      kind === 'launching' ? [{ i, what: kernel ?? call }] : [],
    );
    // What it reads is found good, and what it found is kept from the next replay, by a small kernel before and after.
    const replays = Array.from({ length: 3 }, () => ['inherit', 'cuGraphLaunch', 'inherit']).flat();
    expect(launched.slice(0, replays.length).map(({ what }) => what)).toEqual(replays);
    const within = calls.slice(0, launched[replays.length - 1]!.i + 1);
    expect(within.filter(({ kind }) => WAITING.includes(kind)).map(({ call }) => call)).toEqual([]);
    expect(after).toBeLessThan(before);
    for (const loss of losses) loss.dispose();
  });
});
