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
  expandExperts,
  Linear,
  loadCheckpoint,
  type MoEConfig,
  MoELayer,
  openDevice,
  ops,
  RMSNorm,
  saveCheckpoint,
  type Tensor,
} from '../lib/index.js';
import { shortened } from './extent.js';
import { failure } from './failure.js';

const onSoftGpu = process.env.SWITCHYARD_TEST_CUDA === 'softgpu';
const config: MoEConfig = {
  hiddenSize: 6,
  ffnSize: 5,
  numExperts: 3,
  topK: 2,
  router: { selectionBias: { rate: 0.01 } },
  seed: 1,
};
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

/** Who is told of the loss first. */
type Finder = 'a read' | 'synchronize()';

/** Answers what the lost devices, disposed by then, leave behind. */
async function loseAt(launch: number, finder: Finder): Promise<Disposables> {
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
  const dispatched = ops.dispatch(input, plan);
  const combined = ops.combine(dispatched.rows, plan);
  const up = layer.parameters().get('experts.up')!;
  const product = ops.groupedGemm(dispatched.rows, up.value, plan);
  const embedded = embedding.forward(indices);
  const normed = norm.forward(input);
  const graph = device.graph(() => norm.forward(input).dispose());
  const entropy = crossEntropy(linearPass.output, indices);
  await saveCheckpoint(path, { modules: { layer } });
  await device.synchronize();
  await twin.synchronize();

  faultAt(launch);
  const training = async () => {
    using pass = layer.forward(input);
    using gradInput = pass.backward(pass.output);
    optimizer.step({ maxGradNorm: 1 });
    if (finder === 'a read') await Promise.all([gradInput.data(), up.value.data()]);
    else await device.synchronize();
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
    'Embedding.backward': () => embedded.backward(embedded.output),
    'RMSNorm.forward': () => norm.forward(input),
    'RMSNorm.backward': () => normed.backward(normed.output),
    crossEntropy: () => crossEntropy(linearPass.output, indices),
    'crossEntropy.backward': () => entropy.backward(),
    add: () => add(input, input),
    step: () => optimizer.step(),
    zeroGrad: () => layer.zeroGrad(),
    'zeroGrad without gradients': () => frozen.zeroGrad(),
    setTemperature: () => layer.setTemperature(2),
    updateSelectionBias: () => layer.updateSelectionBias(),
    trainable: () => {
      up.trainable = false;
    },
    expandExperts: () => expandExperts(layer, 4),
    graph: () => device.graph(() => {}),
    replay: () => graph.replay(),
    'ops.route': () => ops.route(input, layer.parameters().get('router.weight')!.value, { topK: 2 }),
    'ops.plan': () => ops.plan(routed.indices, routed.weights, 3),
    'ops.dispatch': () => ops.dispatch(input, plan),
    'ops.combine': () => ops.combine(dispatched.rows, plan),
    'ops.groupedGemm': () => ops.groupedGemm(dispatched.rows, up.value, plan),
    'backward of ops.route': () => routed.backward(routed.weights),
    'backward of ops.dispatch': () => dispatched.backward(dispatched.rows),
    'backward of ops.combine': () => combined.backward(combined.output),
    'backward of ops.groupedGemm': () => product.backward(product.output),
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
    profile: () => device.profile(() => {}),
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
  return [
    graph,
    optimizer,
    layer,
    frozen,
    linear,
    embedding,
    norm,
    plan,
    entropy,
    input,
    untouched,
    linearPass,
    twinTensor,
  ];
}

describe.skipIf(!onSoftGpu)('a GPU that is lost', () => {
  const losses: [launch: number, finder: Finder][] = [
    [1, 'a read'],
    [9, 'a read'],
    [17, 'a read'],
    [1, 'synchronize()'],
    [17, 'synchronize()'],
  ];
  it.each(shortened ? [losses.at(0)!, losses.at(-1)!] : losses)(
    'by a fault of launch %i of training that %s finds says so in every later call, and can be opened again',
    async (launch, finder) => {
      const kept = await loseAt(launch, finder);
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

  // Each finds the GPU lost by another device, and only then knows of it: what the pool has kept it would still hand out.
  it.each<[call: string, call: (device: Device, tensor: Tensor) => unknown]>([
    ['synchronize()', (device) => device.synchronize()],
    ['data()', (_, tensor) => tensor.data()],
    ['zeros() of memory that is new', (device) => device.zeros([1 << 22])],
    ['write() of data for which the staging is new', (_, tensor) => tensor.write(new Float32Array(tensor.size))],
  ])('is noted by %s', async (_, call) => {
    faultAt(0);
    using device = openDevice('cuda');
    using loser = openDevice('cuda');
    const tensor = device.zeros([1 << 20]);
    device.randn([3], { seed: 1 }).dispose();
    await device.synchronize();
    faultAt(1);
    loser.randn([3], { seed: 1 });
    await expect(loser.synchronize()).rejects.toMatchObject(LOST);
    faultAt(0);
    await expect((async () => call(device, tensor))()).rejects.toMatchObject(LOST);
    expect(failure(() => device.zeros([3]))).toMatchObject(LOST);
  });
});
