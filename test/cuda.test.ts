// What is CUDA's own: devices that explain themselves, and results against the CPU's. The stages are checked against the
// float64 reference by the same suites as the CPU's.
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { native } from '../lib/binding.js';
import { nativeCapacity } from '../lib/config.js';
import { resolveCapacity } from '../lib/config-capacity.js';
import { contextOf } from '../lib/context.js';
import {
  type Device,
  Embedding,
  Linear,
  listDevices,
  MoEError,
  MoELayer,
  openDevice,
  ops,
  type RouterConfig,
} from '../lib/index.js';
import { checkTensor } from '../lib/tensor.js';
import { failure } from './failure.js';
import { integers } from './random.js';
import { FLOAT_DTYPES } from './rounding.js';

const where = process.env.SWITCHYARD_TEST_CUDA ?? '';

describe.skipIf(!where)(where ? 'CUDA' : 'CUDA (skipped: no nvcc, or not run by npm test)', () => {
  let cuda: Device;
  let cpu: Device;
  beforeAll(() => {
    cuda = openDevice('cuda');
    cpu = openDevice('cpu');
  });
  afterAll(() => {
    cuda.dispose();
    cpu.dispose();
  });

  test('the device describes itself', () => {
    const info = listDevices().find(({ kind }) => kind === 'cuda');
    expect(info).toMatchObject({ usable: true, index: 0 });
    expect(cuda).toMatchObject({ kind: 'cuda', index: 0, name: info!.name });
    if (where === 'softgpu') expect(info!.details.computeCapability).toBe(process.env.SOFTGPU_CC);
  });

  test('there is no second device', () => {
    if (listDevices().filter(({ kind }) => kind === 'cuda').length > 1) return;
    expect(() => openDevice({ kind: 'cuda', index: 1 })).toThrow(MoEError);
  });

  test.each([1, 3, 4, 5, 1000, 70_001])('draws the same %i numbers as the CPU, bit for bit', (size) => {
    using a = cuda.randn([size], { seed: 11, std: 0.3 });
    using b = cpu.randn([size], { seed: 11, std: 0.3 });
    expect(a.dataSync()).toEqual(b.dataSync());
  });

  test.each(FLOAT_DTYPES)('draws the same tensors and initial weights in %s as the CPU, bit for bit', async (dtype) => {
    const everything = { bias: true, shared: { ffnSize: 9, gate: 'sigmoid' } } as const;
    const modules = [cuda, cpu].map((device) => ({
      layer: new MoELayer(device, {
        ...{ hiddenSize: 33, ffnSize: 21, numExperts: 5, topK: 2, dtype, seed: 2n ** 63n + 5n },
        router: { bias: true },
        experts: everything,
      }),
      linear: new Linear(device, { inFeatures: 35, outFeatures: 6, dtype, seed: 4 }),
      embedding: new Embedding(device, { count: 37, size: 10, dtype, seed: 5 }),
    }));
    const [a, b] = await Promise.all(
      modules.map(async ({ layer, linear, embedding }, i) => {
        const drawn = [cuda, cpu][i]!.randn([4099], { seed: 6, std: 3, dtype });
        const parameters = [layer, linear, embedding].flatMap((module) => [...module.parameters().values()]);
        return Promise.all([drawn, ...parameters.map(({ value }) => value)].map((tensor) => tensor.data()));
      }),
    );
    expect(a!.length).toBeGreaterThan(12);
    // Object.is tells -0 from 0, and toEqual asks it.
    expect(a).toEqual(b);
    for (const { layer, linear, embedding } of modules)
      for (const module of [layer, linear, embedding]) module.dispose();
  });

  // More page-locked memory than is kept; what is not given back is a leak, which the software GPU reports.
  test('copies more than it keeps page-locked memory for', async () => {
    using large = cuda.zeros([(1 << 24) + 1]);
    large.write(new Float32Array(large.size).fill(2));
    expect((await large.data()).at(-1)).toBe(2);
  });

  test('moves tensors in, out, across and to int32', async () => {
    const values = new Float32Array([1, -2.7, Number.NaN, 3e10, 0]);
    using tensor = cuda.tensor(values, [5]);
    using copy = tensor.clone();
    using elsewhere = copy.to(cpu);
    using back = elsewhere.to(cuda);
    using whole = back.to('int32');
    expect(await elsewhere.data()).toEqual(values);
    expect(back.dataSync()).toEqual(values);
    expect(await whole.data()).toEqual(new Int32Array([1, -2, 0, 2 ** 31 - 1, 0]));
    copy.write(new Float32Array(5).fill(7));
    expect(await copy.data()).toEqual(new Float32Array(5).fill(7));
    using zeros = cuda.zeros([0, 3]);
    expect(zeros.dataSync()).toEqual(new Float32Array(0));
  });

  test('measures what it can do', async () => {
    const { flopsPerSecond, readBytesPerSecond } = await cuda.measureLimits();
    expect(flopsPerSecond).toBeGreaterThan(0);
    expect(readBytesPerSecond).toBeGreaterThan(0);
  });

  test('times the kernels that a body queues, and those alone', async () => {
    using a = cuda.randn([64], { seed: 1 });
    const times = await cuda.profile(() => cuda.tidy(() => void a.to('bfloat16').to('float32')));
    expect(times.map(({ kernel }) => kernel)).toEqual(['convert_float32', 'convert_bfloat16']);
    for (const { milliseconds } of times) expect(milliseconds).toBeGreaterThanOrEqual(0);
    const broken = cuda.profile(() => {
      throw new Error('of the body');
    });
    await expect(broken).rejects.toThrow('of the body');
    const late = cuda.profile((async () => Promise.reject(new Error('late'))) as () => void);
    await expect(late).rejects.toThrow('profile(body): expected a body that returns no promise');
    let inner: Promise<unknown> | undefined;
    const outer = cuda.profile(() => {
      inner = cuda.profile(() => {});
    });
    await expect(inner).rejects.toThrow('profile(body): expected no profile() inside of');
    expect(await outer).toEqual([]);
    expect(await cuda.profile(() => {})).toEqual([]);
    expect(await cpu.profile(() => cpu.zeros([1]).dispose())).toEqual([]);
  });

  const shapes = [
    [3, 17, 7, 2],
    [0, 4, 3, 1],
    [1, 1, 1, 1],
    [70, 33, 64, 6],
    [100, 40, 130, 40],
    [300, 65, 9, 9],
    [40, 24, 300, 4],
  ] as const;
  const routers: Partial<RouterConfig>[] = [
    {},
    { selectBy: 'logits' },
    { renormalize: true, weightScale: 2.5 },
    { renormalize: { p: 3 }, temperature: 0.7 },
    { renormalize: { p: 2, epsilon: 1e-3 } },
    { scoring: 'sigmoid', renormalize: true, weightScale: 2.5 },
    { type: 'sinkhorn' },
  ];
  test.each(shapes)('routes like the CPU: T=%i H=%i E=%i K=%i', async (T, H, E, topK) => {
    const run = async (device: Device, router: Partial<RouterConfig>) => {
      const tensors = device.tidy(() => {
        const weight = device.randn([E, H], { seed: 2, std: 0.3 });
        const { indices, weights, logits, backward } = ops.route(device.randn([T, H], { seed: 1 }), weight, {
          topK,
          ...router,
        });
        const gradients = backward(device.randn([T, topK], { seed: 3 }));
        return [indices, weights, logits, gradients.input, gradients.weight];
      });
      return Promise.all(tensors.map(async (tensor) => Array.from(await tensor.data())));
    };
    for (const router of routers) {
      const expected = await run(cpu, router);
      const actual = await run(cuda, router);
      expected.forEach((values, i) => {
        const largest = Math.max(0, ...values.map(Math.abs));
        const error = Math.max(0, ...values.map((value, j) => Math.abs(value - actual[i]![j]!)));
        expect(error).toBeLessThanOrEqual(1e-5 * largest);
      });
    }
  });

  /** The most experts of a plan on the GPU, as the error for too many names it. */
  function mostExperts(): number {
    const refused = failure(() => new MoELayer(cuda, { hiddenSize: 1, ffnSize: 1, numExperts: 2 ** 30, topK: 1 }));
    expect(refused.code).toBe('ERR_UNSUPPORTED');
    const found = /^config\.numExperts: expected at most (\d+) experts on .*, got 1073741824$/.exec(refused.message);
    return Number(found?.[1]);
  }

  test('counts as many experts as it says it can, and refuses more', async () => {
    const most = mostExperts();
    const [T, K] = [40, 3];
    const capacities = [undefined, { type: 'fixed', slots: 1, groupSize: 20 }] as const;
    // With so many fewer than the eight warps that a block has at least where memory suffices.
    const counts = [Math.floor(0.7 * most), most];
    for (const [numExperts, capacity] of counts.flatMap((E) => capacities.map((c) => [E, c] as const))) {
      const run = (device: Device) =>
        device.tidy(() => {
          const experts = integers(1, T * K, 0, 30).map((e) => (e % 2 === 0 ? e : numExperts - 1 - e));
          const indices = device.tensor(experts, [T, K]);
          const { offsets, tokens } = ops.plan(indices, device.zeros([T, K]), numExperts, capacity);
          return [offsets.clone(), tokens.clone()];
        });
      const [expected, actual] = [run(cpu), run(cuda)];
      for (const [i, tensor] of expected.entries()) expect(await actual[i]!.data()).toEqual(await tensor.data());
    }

    using indices = cuda.zeros([T, K], 'int32');
    using weights = cuda.zeros([T, K]);
    using input = cuda.zeros([T, 1]);
    using weight = cuda.zeros([most + 1, 1]);
    const tooMany = `expected at most ${most} experts on ${cuda.name}, got ${most + 1}`;
    expect(failure(() => ops.plan(indices, weights, most + 1)).message).toBe(`numExperts: ${tooMany}`);
    expect(failure(() => ops.route(input, weight, { topK: 1 })).message).toBe(`weight.shape[0]: ${tooMany}`);
  });

  test('routes to so many experts that their losses and the kernel’s own variables take 48 KB and a bit', async () => {
    const E = (48 << 10) / 8;
    const run = (device: Device) =>
      device.tidy(() => {
        const [input, weight] = [device.randn([2, 1], { seed: 1 }), device.randn([E, 1], { seed: 2 })];
        return ops.route(input, weight, { topK: 2 }).indices.clone();
      });
    expect(await run(cuda).data()).toEqual(await run(cpu).data());
  });

  test('a launch that the driver refuses is an internal error, and loses nothing', async () => {
    const context = contextOf(cuda);
    const shape = { tokens: 4, topK: 1, numExperts: 2 * mostExperts() };
    using indices = cuda.zeros([4, 1], 'int32');
    using weights = cuda.zeros([4, 1]);
    const handles = [checkTensor('', indices, context, 'int32'), checkTensor('', weights, context, 'float32')] as const;
    const made = native.opsPlan(...handles, shape, nativeCapacity(resolveCapacity('capacity', undefined)));
    using plan = new ops.DispatchPlan(context, made, shape);
    const refused = { code: 'ERR_INTERNAL', message: expect.stringContaining('CUDA_ERROR_INVALID_VALUE') };
    await expect(plan.offsets.data()).rejects.toMatchObject(refused);
    expect(await weights.data()).toEqual(new Float32Array(4));
  });

  test('a token that is not finite is found, named, and poisons what follows, on the device alone', async () => {
    const rows = new Float32Array(40 * 8).fill(1);
    rows[13 * 8 + 2] = Number.NaN;
    rows[21 * 8] = Number.POSITIVE_INFINITY;
    using input = cuda.tensor(rows, [40, 8]);
    using weight = cuda.randn([4, 8], { seed: 1 });
    const route = ops.route(input, weight, { topK: 2 });
    using gradient = cuda.zeros([40, 2]);
    const message = 'ops.route: router logits of token 13 are not finite';
    for (const tensor of [route.weights, route.indices.clone(), route.backward(gradient).input])
      await expect(tensor.data()).rejects.toMatchObject({ code: 'ERR_NON_FINITE', message });
    await cuda.synchronize();
    ops.route(input, weight, { topK: 1 });
    await expect(cuda.synchronize()).rejects.toMatchObject({ code: 'ERR_NON_FINITE', message });
    await cuda.synchronize();
    expect(await input.data()).toEqual(rows);
  });
});
