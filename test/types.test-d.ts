// What TypeScript must accept and refuse of the public names. Checked by `npm run types`; it never runs.
import {
  AdamW,
  type CapacityConfig,
  crossEntropy,
  type Device,
  Embedding,
  expandExperts,
  type ForwardOptions,
  Linear,
  type loadCheckpoint,
  type Module,
  type MoEConfig,
  MoELayer,
  type MoEPass,
  type MoEStats,
  openDevice,
  ops,
  type Parameter,
  type Pass,
  presets,
  RMSNorm,
  saveCheckpoint,
  schedules,
  type Tensor,
  upcycle,
} from '../lib/index.js';

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
const same = <A, B>(_: Same<A, B>): void => {};

export async function accepted(config: MoEConfig, options: ForwardOptions): Promise<void> {
  using device: Device = openDevice({ kind: 'auto', threads: 2 });
  using layer = new MoELayer(device, config);
  const complete: Readonly<Required<MoEConfig>> = layer.config;
  using again = new MoELayer(device, complete);
  const modules: Record<string, Module> = {
    layer,
    again,
    linear: new Linear(device, { inFeatures: 1, outFeatures: 2, bias: false }),
    embedding: new Embedding(device, { count: 1, size: 2, seed: 3n }),
    norm: new RMSNorm(device, { size: 2 }),
  };
  using input: Tensor = device.tensor([1, 2], [2, 1]);
  using pass: MoEPass = layer.forward(input, options);
  same<typeof pass.routingWeightsGrad, Tensor | undefined>(true);
  const gradient: Tensor = pass.backward(pass.output, { lossScale: 2 });
  same<Awaited<ReturnType<typeof pass.stats>>, MoEStats>(true);
  same<Awaited<ReturnType<typeof gradient.data>>, Float32Array | Int32Array>(true);
  const dense: Pass = (modules.linear as Linear).forward(input);
  dense.dispose();
  using loss = crossEntropy(input, device.zeros([2], 'int32'));
  loss.backward();
  const preset: MoEConfig = presets.deepseekV3({ hiddenSize: 4, seed: 1n });
  using small = new MoELayer(device, preset);
  small.zeroGrad();
  using sparse: MoELayer = upcycle([{ up: input, down: input }], preset, { noise: 0.1, granularity: 2 });
  using larger: MoELayer = expandExperts(sparse, 8, { noise: 0.1 });
  larger.zeroGrad();
  const map: ReadonlyMap<string, Parameter> = layer.parameters();
  using optimizer = new AdamW(map.values(), { learningRate: 1e-3, betas: [0.9, 0.95] });
  optimizer.learningRate = schedules.cosine(1e-3, 0, 100)(3);
  const schedule: schedules.Schedule = schedules.denseToSparse(8, 2, 100);
  optimizer.step({ maxGradNorm: schedule(0) });
  await saveCheckpoint('a', { modules, optimizer, metadata: { a: 'b' } });
  same<ReturnType<typeof loadCheckpoint>, Promise<Record<string, string>>>(true);
  const plan: ops.DispatchPlan = ops.plan(pass.routing.indices, pass.routing.weights, 4, { type: 'fixed', slots: 2 });
  const { rows, backward } = ops.dispatch(input, plan);
  same<typeof rows, Tensor>(true);
  backward(rows);
  same<ReturnType<typeof device.tidy<{ a: Tensor }>>, { a: Tensor }>(true);
}

export function refused(device: Device, layer: MoELayer, tensor: Tensor): void {
  // @ts-expect-error topK is missing
  new MoELayer(device, { hiddenSize: 1, ffnSize: 1, numExperts: 1 });
  // @ts-expect-error a typo
  new MoELayer(device, { hiddenSize: 1, ffnSize: 1, numExperts: 1, topk: 1 });
  // @ts-expect-error an unknown activation
  new MoELayer(device, { hiddenSize: 1, ffnSize: 1, numExperts: 1, topK: 1, experts: { activation: 'swish' } });
  // @ts-expect-error a factor belongs to a fixed capacity
  const capacity: CapacityConfig = { type: 'dropless', factor: 1 };
  // @ts-expect-error the configuration is read-only
  layer.config.topK = 3;
  // @ts-expect-error so is a shape
  tensor.shape[0] = 3;
  // @ts-expect-error tensors are made by devices
  const fake: Tensor = { shape: [1], dtype: 'float32', size: 1 };
  // @ts-expect-error a seed is needed
  device.randn([1], {});
  // @ts-expect-error write takes typed arrays
  tensor.write([1]);
  void [capacity, fake];
}
