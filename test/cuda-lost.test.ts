// A kernel that faults loses its GPU, as CUDA's own errors do: every later call says so, nothing aborts, and other devices
// go on. The software GPU lets a launch of one's choice fail.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import {
  AdamW,
  add,
  crossEntropy,
  type Device,
  Embedding,
  Linear,
  loadCheckpoint,
  type MoEConfig,
  MoELayer,
  openDevice,
  ops,
  RMSNorm,
  saveCheckpoint,
} from '../lib/index.js';

const onSoftGpu = process.env.SWITCHYARD_TEST_CUDA === 'softgpu';
const config: MoEConfig = { hiddenSize: 6, ffnSize: 5, numExperts: 3, topK: 2, seed: 1 };
const LOST = { code: 'ERR_DEVICE_LOST', message: expect.stringContaining('CUDA_ERROR_ILLEGAL_ADDRESS') };

type Disposables = { dispose(): void }[];

/** The n-th launch from now on faults; 0: none does. Only while the GPU is idle. */
function faultAt(n: number): void {
  process.env.SOFTGPU_FAIL_LAUNCH = String(n);
}

async function outputOf(device: Device): Promise<Float32Array | Int32Array> {
  using layer = new MoELayer(device, config);
  using input = device.randn([4, 6], { seed: 2 });
  using pass = layer.forward(input);
  return pass.output.data();
}

/** Answers what the lost devices, disposed by then, leave behind. */
async function loseAt(launch: number): Promise<Disposables> {
  faultAt(0);
  const folder = mkdtempSync(join(tmpdir(), 'switchyard-lost-'));
  const path = join(folder, 'layer.safetensors');
  const cpu = openDevice('cpu');
  const expected = await outputOf(cpu);

  const device = openDevice('cuda');
  const twin = openDevice('cuda');
  const twinTensor = twin.zeros([3]);
  const layer = new MoELayer(device, config);
  const linear = new Linear(device, { inFeatures: 6, outFeatures: 4, seed: 3 });
  const embedding = new Embedding(device, { count: 4, size: 6, seed: 3 });
  const norm = new RMSNorm(device, { size: 6 });
  const optimizer = new AdamW(layer.parameters().values(), { learningRate: 0.1 });
  const input = device.randn([4, 6], { seed: 2 });
  const indices = device.zeros([4], 'int32');
  const frozen = new MoELayer(device, config);
  const untouched = frozen.forward(input);
  const linearPass = linear.forward(input);
  const routed = ops.route(input, layer.parameters().get('router.weight')!.value, { topK: 2 });
  const plan = ops.plan(routed.indices, routed.weights, 3);
  const entropy = crossEntropy(linearPass.output, indices);
  await saveCheckpoint(path, { modules: { layer } });
  await device.synchronize();
  await twin.synchronize();

  faultAt(launch);
  const training = async () => {
    using pass = layer.forward(input);
    using gradInput = pass.backward(pass.output);
    optimizer.step({ maxGradNorm: 1 });
    await Promise.all([gradInput.data(), layer.parameters().get('experts.up')!.value.data()]);
  };
  const step = async (steps: number): Promise<void> => {
    await training();
    if (steps > 1) await step(steps - 1);
  };
  await expect(step(5)).rejects.toMatchObject(LOST);
  faultAt(0);

  const throwing: Record<string, () => unknown> = {
    zeros: () => device.zeros([3]),
    tensor: () => device.tensor(Float32Array.of(1, 2), [2]),
    randn: () => device.randn([3], { seed: 1 }),
    write: () => input.write(new Float32Array(24)),
    dataSync: () => input.dataSync(),
    clone: () => input.clone(),
    'to a dtype': () => input.to('float16'),
    'to another device': () => input.to(cpu),
    'from another device': () => cpu.zeros([2]).to(device),
    MoELayer: () => new MoELayer(device, config),
    Linear: () => new Linear(device, { inFeatures: 2, outFeatures: 2 }),
    AdamW: () => new AdamW(linear.parameters().values(), { learningRate: 1 }),
    forward: () => layer.forward(input),
    backward: () => untouched.backward(untouched.output),
    'Linear.forward': () => linear.forward(input),
    'Linear.backward': () => linearPass.backward(linearPass.output),
    'Embedding.forward': () => embedding.forward(indices),
    'RMSNorm.forward': () => norm.forward(input),
    crossEntropy: () => crossEntropy(linearPass.output, indices),
    'crossEntropy.backward': () => entropy.backward(),
    add: () => add(input, input),
    step: () => optimizer.step(),
    'ops.route': () => ops.route(input, layer.parameters().get('router.weight')!.value, { topK: 2 }),
    'ops.plan': () => ops.plan(routed.indices, routed.weights, 3),
    'ops.dispatch': () => ops.dispatch(input, plan),
  };
  for (const [name, call] of Object.entries(throwing)) {
    let thrown: unknown = 'nothing';
    try {
      call();
    } catch (error) {
      thrown = error;
    }
    expect(thrown, name).toMatchObject(LOST);
  }
  const rejecting: Record<string, () => Promise<unknown>> = {
    data: () => input.data(),
    stats: () => untouched.stats(),
    synchronize: () => device.synchronize(),
    gradNorm: () => optimizer.gradNorm(),
    skippedSteps: () => optimizer.skippedSteps(),
    expertRows: () => plan.expertRows(),
    saveCheckpoint: () => saveCheckpoint(join(folder, 'lost.safetensors'), { modules: { layer } }),
    loadCheckpoint: () => loadCheckpoint(path, { modules: { layer } }),
    measureLimits: () => device.measureLimits(),
    'of the same GPU, opened before': () => twinTensor.data(),
  };
  for (const [name, call] of Object.entries(rejecting)) {
    const outcome = await (async () => call())().then(
      () => 'nothing',
      (error) => error,
    );
    expect(outcome, name).toMatchObject(LOST);
  }
  expect(device.memory().allocated).toBeGreaterThan(0);
  expect(await outputOf(cpu)).toEqual(expected);

  for (const open of [device, twin, cpu]) open.dispose();
  rmSync(folder, { recursive: true });
  return [optimizer, layer, frozen, linear, embedding, norm, plan, entropy, input, untouched, linearPass, twinTensor];
}

describe.skipIf(!onSoftGpu)('a GPU that is lost', () => {
  it.each([1, 9, 17])(
    'by a fault of launch %i of training says so in every later call, and can be opened again',
    async (launch) => {
      const kept = await loseAt(launch);
      using device = openDevice('cuda');
      using cpu = openDevice('cpu');
      const [actual, expected] = [await outputOf(device), await outputOf(cpu)];
      actual.forEach((value, i) => {
        expect(value).toBeCloseTo(expected[i]!, 5);
      });
      // What is left of the lost device is let go while another has its GPU.
      for (const thing of kept) thing.dispose();
      expect(await outputOf(device)).toEqual(actual);
    },
  );
});
