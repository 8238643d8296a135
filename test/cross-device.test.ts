// A forward on one device, its backward on the other, both ways: each stage's backward on one device is fed what the other
// device's forward has saved for it, and must give the gradients of a chain that never leaves its device.
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it, onTestFinished, vi } from 'vitest';
import { dtypeCode, native } from '../lib/binding.js';
import { contextOf } from '../lib/context.js';
import {
  type CapacityConfig,
  type Device,
  type ForwardOptions,
  type MoEConfig,
  MoELayer,
  openDevice,
  ops,
  type RouterConfig,
} from '../lib/index.js';
import { Tensor } from '../lib/tensor.js';
import { expectClose, expectSame } from './compare.js';
import { full, shortened } from './extent.js';
import { normals } from './random.js';
import { FLOAT_DTYPES, type FloatDType } from './rounding.js';
import type { Read } from './run-case.js';

const [T, H, F, E, K] = [70, 34, 22, 5, 2];
const capacity = { type: 'fixed', factor: 0.9 } as const;

type Tensors = Record<'input' | 'routerWeight' | 'up' | 'down' | 'gradOutput', Tensor>;

function makeTensors(device: Device, dtype: FloatDType): Tensors {
  return {
    input: device.tensor(normals(1, T * H), [T, H], dtype),
    routerWeight: device.tensor(normals(2, E * H, 0.3), [E, H]),
    up: device.tensor(normals(3, E * F * H, 0.2), [E, F, H], dtype),
    down: device.tensor(normals(4, E * H * F, 0.2), [E, H, F], dtype),
    gradOutput: device.tensor(normals(5, T * H), [T, H], dtype),
  };
}

/** What the stages of a forward save for their backwards. */
function saveForward(device: Device, { input, routerWeight, up, down }: Tensors): Tensor[] {
  const { indices, weights, logits } = ops.route(input, routerWeight, { topK: K });
  const plan = ops.plan(indices, weights, E, capacity);
  const { rows } = ops.dispatch(input, plan);
  const hidden = ops.groupedGemm(rows, up, plan).output;
  const out = ops.groupedGemm(hidden, down, plan).output;
  expect(out.device).toBe(device);
  return [indices, weights, logits, rows, hidden, out];
}

/** Backward from saved tensors that may come from anywhere. */
function backward(device: Device, tensors: Tensors, saved: Tensor[]): Record<string, Tensor> {
  const [indices, weights, , rows, hidden, out] = saved.map((tensor) => tensor.to(device)) as [
    Tensor,
    Tensor,
    Tensor,
    Tensor,
    Tensor,
    Tensor,
  ];
  const { input, routerWeight, up, down, gradOutput } = tensors;
  const plan = ops.plan(indices, weights, E, capacity);
  const combined = ops.combine(out, plan).backward(gradOutput);
  const outer = ops.groupedGemm(hidden, down, plan).backward(combined.rows);
  const inner = ops.groupedGemm(rows, up, plan).backward(outer.rows);
  const gathered = ops.dispatch(input, plan).backward(inner.rows);
  const routed = ops.route(input, routerWeight, { topK: K }).backward(combined.weights);
  return { gathered, routed: routed.input, router: routed.weight, up: inner.weight, down: outer.weight };
}

async function readAll(tensors: Record<string, Tensor>): Promise<Map<string, Read>> {
  const read = Object.entries(tensors).map(async ([name, tensor]) => [name, await tensor.data()] as const);
  return new Map(await Promise.all(read));
}

describe.skipIf(!process.env.SWITCHYARD_TEST_CUDA)('what a forward saved on one device feeds the backward', () => {
  let devices: Record<'cpu' | 'cuda', Device>;
  beforeAll(() => {
    devices = { cpu: openDevice('cpu'), cuda: openDevice('cuda') };
  });
  afterAll(() => {
    devices.cpu.dispose();
    devices.cuda.dispose();
  });

  const ways = FLOAT_DTYPES.flatMap(
    (dtype) =>
      [
        ['cpu', 'cuda', dtype],
        ['cuda', 'cpu', dtype],
      ] as const,
  );

  it.each(ways)('of the stages: from %s to %s, %s', async (from, to, dtype) => {
    const source = makeTensors(devices[from], dtype);
    const saved = saveForward(devices[from], source);
    const stayed = await readAll(backward(devices[from], source, saved));
    const crossed = await readAll(backward(devices[to], makeTensors(devices[to], dtype), saved));
    const widths: Record<string, number> = { gathered: H, routed: H, router: H, up: H, down: F };
    for (const [name, values] of crossed) {
      expect(values.some((x) => x !== 0)).toBe(true);
      expectClose(name, values, stayed.get(name)!, widths[name]!, { dtype });
    }
  });

  it.each(ways)('of the layer’s router: from %s to %s, %s', async (from, to, dtype) => {
    const config = { hiddenSize: H, ffnSize: F, numExperts: E, topK: K, dtype, seed: 7, capacity } as const;
    const run = async (device: Device, chosen?: { indices: Tensor; logits: Tensor }) => {
      using layer = new MoELayer(device, { ...config, losses: { loadBalance: 0.1, z: 0.1 } });
      const { input, gradOutput } = makeTensors(device, dtype);
      const pass = layer.forward(
        input,
        chosen && { routing: { indices: chosen.indices.to(device) }, logits: chosen.logits.to(device) },
      );
      const gradInput = pass.backward(gradOutput);
      const { indices, kept, weights, logits } = pass.routing;
      const gradients = Object.fromEntries(
        [...layer.parameters()]
          .filter(([name]) => name.startsWith('experts.'))
          .map(([name, { grad }]) => [name, grad.clone()]),
      );
      const gradLogits = pass.routingLogitsGrad;
      const read = await readAll({ kept, weights, output: pass.output, ...gradients });
      // The input's gradient holds the router's own part only where the router's own logits were used.
      const routed = chosen ? await readAll({ gradInput, gradLogits: gradLogits! }) : new Map<string, Read>();
      return { indices, logits: logits!, read, routed };
    };
    const widths: Record<string, number> = { 'experts.down': F, weights: K, kept: K, gradLogits: E };
    const exact = new Set(['weights', 'kept']);
    const compare = (crossed: Map<string, Read>, stayed: Map<string, Read>) => {
      expect([...crossed.keys()]).toEqual([...stayed.keys()]);
      for (const [name, values] of crossed) {
        expect(values.some((x) => x !== 0)).toBe(true);
        expectClose(name, values, stayed.get(name)!, widths[name] ?? H, { dtype: exact.has(name) ? 'float32' : dtype });
      }
    };
    const there = await run(devices[from]);
    const [here, back] = [await run(devices[to], there), await run(devices[from], there)];
    expectSame('indices', await here.indices.data(), await there.indices.data());
    compare(here.read, there.read);
    compare(here.routed, back.routed);
  });

  // What nobody sees of a pass: the experts' pre-activations, the sums of the losses, the noise, the shared experts' own.
  const plain = { hiddenSize: H, ffnSize: F, numExperts: E, topK: K, seed: 7 } as const;
  const losses = { loadBalance: 0.1, importance: 0.1, z: 0.1 };
  const layers: Record<string, { config: MoEConfig; saved: string[] }> = {
    plain: { config: { ...plain, experts: { activation: 'relu' }, losses }, saved: ['savedUp', 'scores', 'lossState'] },
    gated: { config: plain, saved: ['savedGate', 'savedUp', 'scores'] },
    'with shared experts': {
      config: { ...plain, experts: { shared: { ffnSize: 18, gate: 'sigmoid' } } },
      saved: ['savedGate', 'savedUp', 'scores', 'sharedGates', 'sharedSavedGate', 'sharedSavedUp'],
    },
    'with learned noise': {
      config: { ...plain, router: { noise: { type: 'learned' } }, losses: { ...losses, load: 0.1 } },
      saved: ['savedGate', 'savedUp', 'scores', 'lossState', 'noisy', 'noiseLogits'],
    },
  };

  /** A pass of the named layer, what it has saved, and its backward. */
  async function open(device: Device, name: string, dtype: FloatDType) {
    const layer = new MoELayer(device, { ...layers[name]!.config, dtype });
    const { input, gradOutput } = makeTensors(device, dtype);
    const forward = vi.spyOn(native, 'layerForward');
    onTestFinished(() => forward.mockRestore());
    const pass = layer.forward(input);
    const inside = native.moePassSaved(forward.mock.results.at(-1)!.value.pass);
    const saved = Object.entries(inside).map(([name, { tensor, dtype, size }]) => {
      const type = FLOAT_DTYPES.find((type) => dtypeCode[type] === dtype)!;
      return [name, new Tensor(contextOf(device), tensor, [size], type)] as const;
    });
    const indices = await pass.routing.indices.data();
    const backward = () => {
      const input = pass.backward(gradOutput);
      const gradients = [...layer.parameters()].map(([name, { grad }]) => [name, grad] as const);
      return readAll({ input, ...Object.fromEntries(gradients) });
    };
    // A write to the input would make the pass stale.
    return { saved: new Map(saved.filter(([name]) => name !== 'input')), indices, backward };
  }

  it.each(Object.keys(layers).flatMap((name) => ways.map((way) => [name, ...way] as const)))(
    'of a layer, inside: %s, from %s to %s, %s',
    async (name, from, to, dtype) => {
      const there = await open(devices[from], name, dtype);
      const here = await open(devices[to], name, dtype);
      expectSame('indices', here.indices, there.indices);
      expect([...here.saved.keys()].sort()).toEqual(layers[name]!.saved.sort());
      for (const [name, tensor] of here.saved) tensor.write(await Tensor.bitsOf(there.saved.get(name)!));
      const [crossed, stayed] = [await here.backward(), await there.backward()];
      const widths: Record<string, number> = { 'experts.down': F, 'shared.down': 18 };
      for (const [name, values] of stayed) {
        expect(values.some((x) => x !== 0)).toBe(true);
        expectClose(name, crossed.get(name)!, values, widths[name] ?? H, { dtype });
      }
    },
  );

  it.each(['cpu', 'cuda'] as const)('a backward goes by what was saved, on %s', async (kind) => {
    const { saved, backward } = await open(devices[kind], 'plain', 'float32');
    const preActivations = saved.get('savedUp')!;
    preActivations.write(new Float32Array(preActivations.size).fill(-1));
    const gradients = await backward();
    for (const name of ['experts.up', 'experts.down'])
      expect(new Set(gradients.get(name)!.map(Math.abs))).toEqual(new Set([0]));
  });

  // Logits of 0 leave the choice of experts to the draws, as do features of 1, each an expert's logit, under jitter.
  const tokens = 2000;
  const drawn: Record<string, Partial<MoEConfig>> = {
    'gaussian noise': { router: { noise: { type: 'gaussian', std: 1 } } },
    'learned noise': { router: { noise: { type: 'learned' } } },
    'gumbel noise': { router: { noise: { type: 'gumbel' } } },
    jitter: { router: { noise: { type: 'jitter', epsilon: 0.5 } } },
    'noise of balanced experts': { router: { type: 'sinkhorn', noise: { type: 'gaussian', std: 1 } } },
    'noise of experts that choose': { router: { type: 'expert-choice', noise: { type: 'gumbel' } } },
    'experts at random': { router: { type: 'random' } },
    'experts by hash': { router: { type: 'hash' } },
    'second choices': { router: { noise: { type: 'gumbel' }, secondChoice: { type: 'random', threshold: 0.4 } } },
    'the order of a queue': {
      router: { type: 'hash' },
      capacity: { type: 'fixed', factor: 0.7, priority: 'random' },
    },
  };

  /** All logits are 0; or, for jitter, the features, which are 1. */
  async function drawnOn(device: Device, config: MoEConfig, count: number, options: ForwardOptions) {
    using layer = new MoELayer(device, config);
    const { hiddenSize, numExperts: experts, router } = config;
    const isDiagonal = (i: number): boolean => i % hiddenSize === Math.floor(i / hiddenSize);
    const weight = Float32Array.from({ length: experts * hiddenSize }, (_, i) =>
      router?.noise?.type === 'jitter' && isDiagonal(i) ? 1 : 0,
    );
    layer.parameters().get('router.weight')?.value.write(weight);
    const ones = device.tensor(new Float32Array(count * hiddenSize).fill(1), [count, hiddenSize]);
    const tokenIds = Int32Array.from({ length: count }, (_, t) => 7 * t);
    const hashed = router?.type === 'hash' ? { tokenIds: device.tensor(tokenIds, [count]) } : {};
    using pass = layer.forward(ones, { ...options, ...hashed });
    const { indices, kept } = pass.routing;
    return { indices: await indices.data(), kept: await kept.data(), output: await pass.output.data() };
  }

  it.each(Object.keys(drawn))('draws are the same on both: %s', async (name) => {
    const config: MoEConfig = { hiddenSize: 16, ffnSize: 1, numExperts: 16, topK: 3, seed: 11, ...drawn[name] };
    const [onCpu, onCuda] = await Promise.all(
      [devices.cpu, devices.cuda].map((device) => drawnOn(device, config, tokens, { noiseStep: 5 })),
    );
    expectSame('indices', onCuda!.indices, onCpu!.indices);
    expectSame('kept', onCuda!.kept, onCpu!.kept);
    // Not by chance: nothing but the draws tells the tokens apart.
    expect(new Set(onCpu!.indices).size).toBeGreaterThanOrEqual(16);
  });

  it('draws are the same on both, whatever they are keyed by', async () => {
    const noise = fc.constantFrom<NonNullable<RouterConfig['noise']>>(
      { type: 'gaussian', std: 0.7 },
      { type: 'learned' },
      { type: 'gumbel' },
      { type: 'jitter', epsilon: 0.5 },
    );
    const router = fc.oneof(
      fc.constantFrom<RouterConfig>({ type: 'hash' }, { type: 'random' }),
      fc.record<RouterConfig>({ noise }),
      fc.record<RouterConfig>({ noise, secondChoice: fc.constant({ type: 'random', threshold: 0.4 }) }),
    );
    const config = fc
      .record({
        seed: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
        numExperts: fc.integer({ min: 4, max: 40 }),
        topK: fc.integer({ min: 1, max: 4 }),
        router,
        capacity: fc.constantFrom<CapacityConfig>(
          { type: 'dropless' },
          { type: 'fixed', factor: 0.7, priority: 'random' },
        ),
        experts: fc.constantFrom({}, { dropout: 0.3 }),
      })
      .map((options): MoEConfig => ({ hiddenSize: options.numExperts, ffnSize: 3, ...options }));
    const keys = fc.record({
      noiseStep: fc.maxSafeNat(),
      tokenOffset: fc.nat({ max: 2 ** 31 - 1 }).map((n) => n * 4097),
    });
    const property = fc.asyncProperty(config, keys, async (drawnConfig, options) => {
      const [onCpu, onCuda] = await Promise.all(
        [devices.cpu, devices.cuda].map((device) => drawnOn(device, drawnConfig, 200, options)),
      );
      expectSame('indices', onCuda!.indices, onCpu!.indices);
      expectSame('kept', onCuda!.kept, onCpu!.kept);
      // One activation kept that should be dropped is far off.
      expectClose('output', onCuda!.output, onCpu!.output, onCpu!.output.length);
    });
    await fc.assert(property, full ? { numRuns: 60 } : { numRuns: shortened ? 4 : 12, seed: 20170123 });
  });
});
