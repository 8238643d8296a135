// Memory that runs out at every allocation of every call, one after the other: each throws ERR_OUT_OF_MEMORY, keeps nothing
// but gradients, and works when it is tried again. All results have the bits of a run that had enough, and every call leaves
// as much memory taken as there. First the limit of the pool makes it so, then on the software GPU the driver, which refuses
// device and page-locked memory alike.
import { describe, expect, it } from 'vitest';
import {
  AdamW,
  add,
  crossEntropy,
  type Device,
  Embedding,
  Linear,
  type MoEConfig,
  MoELayer,
  openDevice,
  ops,
  RMSNorm,
  type Tensor,
} from '../lib/index.js';
import { usableDevices } from './devices.js';
import { full, shortened } from './extent.js';
import { failure } from './failure.js';
import type { FloatDType } from './rounding.js';

// 16 bits need all that float32 does, and the optimizer's masters.
const dtypes: FloatDType[] = full ? ['float32', 'bfloat16'] : ['bfloat16'];
const [tokens, width] = [24, 9];
const memoryLimit = 1 << 18;
const smallest = 256; // bytes of the pool's smallest block

/** Runs a call, and answers what it made: at once, or only after it has failed for want of memory many times. */
type Attempt = <Made>(name: string, call: () => Made) => Made;
/** The same of a call whose answer comes later. */
type LaterAttempt = <Made>(name: string, call: () => Promise<Made>) => Promise<Made>;

/** What a program has read, and the memory that was taken after each of its calls. */
type Program = (attempt: Attempt, reading: LaterAttempt, device: Device) => Promise<Map<string, number[]>>;

/** Notes after each call, before anything can be collected, what a failure before would have left. */
function noting(attempt: Attempt, device: Device, values: Map<string, number[]>): Attempt {
  return (name, call) => {
    const made = attempt(name, call);
    values.set(`allocated after ${name}`, [device.memory().allocated]);
    return made;
  };
}

/** A training step with everything in it, and every other call that takes memory. */
async function everything(
  attempting: Attempt,
  reading: LaterAttempt,
  device: Device,
  dtype: FloatDType,
): Promise<Map<string, number[]>> {
  const values = new Map<string, number[]>();
  const attempt = noting(attempting, device, values);
  const layer = attempt('MoELayer', () => {
    const router = { bias: true, renormalize: true };
    const experts = { bias: true, shared: { ffnSize: 4, gate: 'sigmoid' } } as const;
    const losses = { loadBalance: 0.1, importance: 0.1, z: 0.1 };
    const capacity = { type: 'fixed', factor: 0.8 } as const;
    const sizes = { hiddenSize: width, ffnSize: 7, numExperts: 5, topK: 2 };
    return new MoELayer(device, { ...sizes, dtype, seed: 1, router, experts, losses, capacity });
  });
  const linear = attempt('Linear', () => new Linear(device, { inFeatures: width, outFeatures: 4, dtype, seed: 2 }));
  const embedding = attempt('Embedding', () => new Embedding(device, { count: 6, size: width, dtype, seed: 3 }));
  const norm = attempt('RMSNorm', () => new RMSNorm(device, { size: width, dtype }));
  const parameters = [layer, linear, embedding, norm].flatMap((module) => [...module.parameters().values()]);
  const optimizer = attempt('AdamW', () => new AdamW(parameters, { learningRate: 0.1 }));

  const indices = attempt('tensor', () =>
    device.tensor(
      Int32Array.from({ length: tokens }, (_, t) => t % 6),
      [tokens],
    ),
  );
  const embedded = attempt('Embedding.forward', () => embedding.forward(indices));
  const normed = attempt('RMSNorm.forward', () => norm.forward(embedded.output));
  const mixed = attempt('MoELayer.forward', () => layer.forward(normed.output));
  const evaluated = attempt('MoELayer.forward, evaluation', () => layer.forward(normed.output, { training: false }));
  const sum = attempt('add', () => add(normed.output, mixed.output));
  const projected = attempt('Linear.forward', () => linear.forward(sum));
  const targets = attempt('zeros', () => device.zeros([tokens], 'int32'));
  const entropy = attempt('crossEntropy', () => crossEntropy(projected.output, targets));
  const gradProjected = attempt('crossEntropy.backward', () => entropy.backward());
  const gradSum = attempt('Linear.backward', () => projected.backward(gradProjected));
  const gradNormed = attempt('MoELayer.backward', () => mixed.backward(gradSum));
  const gradEmbedded = attempt('RMSNorm.backward', () => normed.backward(gradNormed));
  attempt('Embedding.backward', () => embedded.backward(gradEmbedded));
  attempt('AdamW.step', () => optimizer.step({ maxGradNorm: 1 }));

  using other = openDevice('cpu');
  const foreign = other.randn([tokens], { seed: 4 });
  const routed = attempt('ops.route', () =>
    ops.route(sum, layer.parameters().get('router.weight')!.value, { topK: 2 }),
  );
  const plan = attempt('ops.plan', () => ops.plan(routed.indices, routed.weights, 5, { type: 'fixed', factor: 1 }));
  const dispatched = attempt('ops.dispatch', () => ops.dispatch(sum, plan));
  const weight = layer.parameters().get('experts.up')!.value;
  const product = attempt('ops.groupedGemm', () => ops.groupedGemm(dispatched.rows, weight, plan));
  const combined = attempt('ops.combine', () => ops.combine(product.output, plan));
  const gradCombined = attempt('ops.combine, backward', () => combined.backward(combined.output));
  const gradProduct = attempt('ops.groupedGemm, backward', () => product.backward(gradCombined.rows));
  const gradDispatched = attempt('ops.dispatch, backward', () => dispatched.backward(gradProduct.rows));
  const gradRouted = attempt('ops.route, backward', () => routed.backward(gradCombined.weights));
  const results: Record<string, Tensor> = {
    evaluated: evaluated.output,
    output: mixed.output,
    loss: entropy.loss,
    gradEmbedded,
    gradDispatched,
    gradRouted: gradRouted.input,
    gradProduct: gradProduct.weight,
    clone: attempt('clone', () => sum.clone()),
    cut: attempt('to int32', () => sum.to('int32')),
    foreign: attempt('to another device', () => foreign.to(device)),
    random: attempt('randn', () => device.randn([tokens], { seed: 5 })),
    // Larger than any block of host memory that a copy has needed so far.
    large: attempt('large zeros', () => device.zeros([3000])),
    written: attempt('large tensor', () => device.tensor(new Float32Array(9000).fill(7), [9000])),
    ...Object.fromEntries(parameters.map(({ value }, i) => [`parameter ${i}`, value])),
  };
  for (const [name, tensor] of Object.entries(results))
    values.set(name, [...(await reading(`reading ${name}`, () => tensor.data()))]);
  values.set('norm', [await optimizer.gradNorm()]);
  values.set('step', [(await mixed.stats()).losses.total]);
  await device.synchronize();
  return values;
}

/** Routers and queues with memory of their own. */
const routers: Record<string, Partial<MoEConfig>> = {
  'next choices': {
    capacity: { type: 'fixed', factor: 0.6, priority: 'random', overflow: 'next-choice', groupSize: 10, buffer: 0.1 },
    router: { renormalizeAfterDrop: true },
  },
  'experts that choose': { router: { type: 'expert-choice', noise: { type: 'gumbel' } }, losses: { z: 0.1 } },
  'balanced experts': { router: { type: 'sinkhorn', noise: { type: 'gaussian', std: 0.5 } } },
  'all that is drawn and counted': {
    router: { noise: { type: 'learned' }, selectionBias: { rate: 0.01 }, allowedExperts: [[0, 1, 2, 4]] },
    capacity: { type: 'dynamic', targetDropRate: 0.1, maxFactor: 1.5 },
    experts: { dropout: 0.2, shared: { ffnSize: 4 } },
    losses: { load: 0.1, importance: 0.1 },
  },
};

/** One layer with options of a router or a queue, there and back. */
function routed(options: Partial<MoEConfig>): Program {
  return async (attempting, reading, device) => {
    const values = new Map<string, number[]>();
    const attempt = noting(attempting, device, values);
    const sizes = { hiddenSize: width, ffnSize: 7, numExperts: 5, topK: 2, dtype: 'bfloat16', seed: 1 } as const;
    const layer = attempt('MoELayer', () => new MoELayer(device, { ...sizes, ...options }));
    const input = device.randn([tokens, width], { seed: 2, dtype: 'bfloat16' });
    const tokenTypes = options.router?.allowedExperts && device.zeros([tokens], 'int32');
    const pass = attempt('MoELayer.forward', () => layer.forward(input, tokenTypes ? { tokenTypes } : {}));
    const gradInput = attempt('MoELayer.backward', () => pass.backward(pass.output));
    const gradients = [...layer.parameters()].map(([name, parameter]) => [name, parameter.grad] as const);
    const results = { output: pass.output, gradInput, ...Object.fromEntries(gradients) };
    for (const [name, tensor] of Object.entries(results))
      values.set(name, [...(await reading(`reading ${name}`, () => tensor.data()))]);
    return values;
  };
}

interface Named {
  name: string;
  program: Program;
  /** Whether it is everything(). */
  whole: boolean;
}

// What a router takes does not depend on the capability, nor what a device takes to be opened.
const programs: Named[] = [
  ...dtypes.map((dtype) => ({
    name: `everything in ${dtype}`,
    program: ((attempt, reading, device) => everything(attempt, reading, device, dtype)) satisfies Program,
    whole: true,
  })),
  ...Object.entries(shortened ? {} : routers).map(([name, options]) => ({
    name: `a layer with ${name}`,
    program: routed(options),
    whole: false,
  })),
];

const atOnce = <Made>(_: string, call: () => Made): Made => call();

/** The driver refuses memory from the n-th allocation on, counted from now; with 0 never. */
function refuseFrom(n: number): void {
  process.env.SOFTGPU_FAIL_ALLOC = n === 0 ? '0' : `${n}+`;
}

/** Gives the pool's blocks back to the driver, by asking for more than there is. */
function emptyPool(device: Device): void {
  expect(failure(() => device.zeros([2 ** 45])).code).toBe('ERR_OUT_OF_MEMORY');
}

describe.each(usableDevices())('out of memory at every allocation of $kind:$index', ({ kind, index }) => {
  const onSoftGpu = kind === 'cuda' && process.env.SWITCHYARD_TEST_CUDA === 'softgpu';

  it.skipIf(onSoftGpu).each(programs)(
    '$name: the call throws, and works when it is tried again',
    async ({ program, whole }) => {
      using enough = openDevice({ kind, index });
      const expected = await program(atOnce, atOnce, enough);

      using device = openDevice({ kind, index, memoryLimit });
      const failures = new Map<string, number>();
      const starve: Attempt = (name, call) => {
        for (let left = 0; ; left += smallest) {
          const ballast: Tensor[] = [];
          try {
            for (;;) ballast.push(device.zeros([smallest / 4]));
          } catch {
            for (let bytes = 0; bytes < left; bytes += smallest) ballast.pop()?.dispose();
          }
          const before = device.memory().allocated;
          try {
            return call();
          } catch (error) {
            expect(error, name).toMatchObject({ code: 'ERR_OUT_OF_MEMORY' });
            failures.set(name, (failures.get(name) ?? 0) + 1);
            if (!name.includes('backward')) expect(device.memory().allocated, name).toBe(before);
          } finally {
            for (const tensor of ballast) tensor.dispose();
          }
        }
      };
      expect(await program(starve, atOnce, device)).toEqual(expected);
      // It is a test of nothing where nothing was refused; a step takes no memory but CUDA's for its tables.
      expect(failures.get('MoELayer.backward')).toBeGreaterThan(15);
      if (!whole) return;
      expect(failures.size).toBeGreaterThan(25);
      expect(failures.has('AdamW.step')).toBe(kind === 'cuda');
    },
    1_200_000,
  );

  it.skipIf(!onSoftGpu).each(programs)(
    '$name: each allocation of the driver that is refused is told, by the call or by the read that needed it',
    async ({ program, whole }) => {
      refuseFrom(0);
      using enough = openDevice({ kind, index });
      const expected = await program(atOnce, atOnce, enough);

      using device = openDevice({ kind, index });
      const refusals = new Map<string, number>();
      const refused = (name: string, error: unknown, before: number): void => {
        refuseFrom(0);
        expect(error, name).toMatchObject({ code: 'ERR_OUT_OF_MEMORY' });
        refusals.set(name, (refusals.get(name) ?? 0) + 1);
        if (!name.includes('backward')) expect(device.memory().allocated, name).toBe(before);
      };
      const starve: Attempt = (name, call) => {
        for (let n = 1; ; n++) {
          emptyPool(device);
          const before = device.memory().allocated;
          refuseFrom(n);
          try {
            const made = call();
            refuseFrom(0);
            return made;
          } catch (error) {
            refused(name, error, before);
          }
        }
      };
      const starveReading: LaterAttempt = async (name, call) => {
        for (let n = 1; ; n++) {
          const before = device.memory().allocated;
          refuseFrom(n);
          try {
            const made = await call();
            refuseFrom(0);
            return made;
          } catch (error) {
            refused(name, error, before);
          }
        }
      };
      expect(await program(starve, starveReading, device)).toEqual(expected);
      const least = whole ? 10 : 3;
      expect(refusals.get('MoELayer')).toBeGreaterThan(least);
      expect(refusals.get('MoELayer.forward')).toBeGreaterThan(least);
      expect(refusals.get('MoELayer.backward')).toBeGreaterThan(least);
      if (!whole) return;
      // Of host memory: of the copies in and out.
      expect(refusals.get('large tensor')).toBe(2);
      expect(refusals.get('reading large')).toBe(1);
      expect(refusals.has('AdamW.step')).toBe(true);
    },
    1_200_000,
  );

  it.skipIf(!onSoftGpu || shortened)(
    'opens no device when the driver refuses any allocation of that, and opens it afterwards',
    () => {
      let n = 1;
      for (; ; n++) {
        refuseFrom(n);
        try {
          openDevice({ kind, index }).dispose();
          break;
        } catch (error) {
          expect(error).toMatchObject({ code: 'ERR_OUT_OF_MEMORY' });
        } finally {
          refuseFrom(0);
        }
      }
      expect(n).toBeGreaterThan(5);
      using device = openDevice({ kind, index });
      expect(device.zeros([3]).dataSync()).toEqual(new Float32Array(3));
    },
    1_200_000,
  );
});
