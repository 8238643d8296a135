/**
 * What a router keeps between calls and what it draws: the selection bias and its counts, the keys of the noise, token
 * types. Values of single calls are the table's (moe-layer.test.ts).
 */

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import {
  type Device,
  type ForwardOptions,
  loadCheckpoint,
  type MoEConfig,
  MoELayer,
  saveCheckpoint,
} from '../lib/index.js';
import { writeSafetensors } from '../lib/safetensors.js';
import type { Case } from './cases.js';
import { expectClose, expectSame } from './compare.js';
import { referenceFor, referenceGradients } from './compare-case.js';
import { onEachDevice } from './devices.js';
import { failure } from './failure.js';
import { makeProblem } from './problem.js';
import { integers, normals as testNormals } from './random.js';
import { draws, gumbels, normals, philox } from './reference-noise.js';
import { rounded } from './rounding.js';

const NOISES_OF_16_BITS = [
  { noise: { type: 'jitter', epsilon: 0.2 } },
  { noise: { type: 'learned' }, scoring: 'sigmoid' },
  { groups: { count: 4, keep: 2, score: 'top2-sum' }, selectionBias: { rate: 1 } },
] as const;

const sizes = { hiddenSize: 5, ffnSize: 3, numExperts: 4, topK: 2, seed: 7 };
const T = 40;

const inputOf = (device: Device, seed = 1) => device.tensor(testNormals(seed, T * 5), [T, 5]);

describe('the reference draws', () => {
  it('Philox4x32-10, at the known answers of its authors', () => {
    // kat_vectors of Random123, https://github.com/DEShawResearch/random123
    expect(philox([0n, 0n, 0n, 0n], [0n, 0n])).toEqual([0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
    const ones = 0xffffffffn;
    expect(philox([ones, ones, ones, ones], [ones, ones])).toEqual([0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
  });

  it('have the moments of their distributions', () => {
    const key = { seed: 3, step: 0, purpose: 'router noise', tokenOffset: 0 } as const;
    const moments = (values: Float64Array) => {
      const mean = values.reduce((a, b) => a + b, 0) / values.length;
      return [mean, values.reduce((a, b) => a + (b - mean) ** 2, 0) / values.length] as const;
    };
    const [normalMean, normalVariance] = moments(normals(4000, 8, key));
    expect(Math.abs(normalMean)).toBeLessThan(0.03);
    expect(Math.abs(normalVariance - 1)).toBeLessThan(0.05);
    const [gumbelMean, gumbelVariance] = moments(gumbels(draws(4000, 8, key)));
    expect(Math.abs(gumbelMean - 0.5772)).toBeLessThan(0.04);
    expect(Math.abs(gumbelVariance - Math.PI ** 2 / 6)).toBeLessThan(0.1);
  });
});

onEachDevice((device) => {
  describe('routers that draw', () => {
    const many = 4000;
    const idsOf = (layer: MoELayer) =>
      layer.device.tensor(
        Int32Array.from({ length: many }, (_, t) => t % 500),
        [many],
      );
    const choicesOf = async (layer: MoELayer, options: ForwardOptions = {}) => {
      using pass = layer.forward(device().zeros([many, sizes.hiddenSize]), { tokenIds: idsOf(layer), ...options });
      return (await pass.routing.indices.data()) as Int32Array;
    };

    it.each(['hash', 'random'] as const)('%s: load every expert alike, none twice for a token', async (type) => {
      using layer = new MoELayer(device(), { ...sizes, router: { type } });
      const chosen = await choicesOf(layer);
      for (let e = 0; e < 4; e++) expect(chosen.filter((c) => c === e).length / chosen.length).toBeCloseTo(0.25, 1);
      for (let t = 0; t < many; t++) expect(chosen[2 * t]).not.toBe(chosen[2 * t + 1]);
    });

    it('hash goes by the id and the seed alone', async () => {
      using layer = new MoELayer(device(), { ...sizes, router: { type: 'hash' } });
      const first = await choicesOf(layer);
      expectSame('the next forward', await choicesOf(layer, { tokenOffset: 3 }), first);
      for (let a = 1000; a < first.length; a++) expect(first[a]).toBe(first[a % 1000]);
      using other = new MoELayer(device(), { ...sizes, seed: 8, router: { type: 'hash' } });
      expect(await choicesOf(other)).not.toEqual(first);
    });

    it('random draws anew for every training forward, and the same for a named one', async () => {
      using layer = new MoELayer(device(), { ...sizes, router: { type: 'random' } });
      const first = await choicesOf(layer);
      expect(await choicesOf(layer)).not.toEqual(first);
      expectSame('again', await choicesOf(layer, { noiseStep: 0 }), first);
    });

    it('ask for ids, and take no logits', () => {
      using layer = new MoELayer(device(), { ...sizes, router: { type: 'hash' } });
      using input = device().zeros([3, sizes.hiddenSize]);
      const message = (options?: ForwardOptions) => failure(() => layer.forward(input, options)).message;
      expect(message()).toMatch(/^options\.tokenIds: expected the id of every token/);
      expect(message({ logits: device().zeros([3, 4]), tokenIds: device().zeros([3], 'int32') })).toMatch(
        /^options\.logits: expected none: experts are drawn with router\.type 'hash'/,
      );
    });
  });

  it('a Sinkhorn router balances what would all go to one expert', async () => {
    const logits = testNormals(5, T * 4).map((l, i) => l + (i % 4 === 0 ? 6 : 0));
    const imbalance = async (type: 'top-k' | 'sinkhorn') => {
      using layer = new MoELayer(device(), { ...sizes, topK: 1, router: { type } });
      using pass = layer.forward(inputOf(device()), { logits: device().tensor(logits, [T, 4]) });
      return (await pass.stats()).imbalance;
    };
    expect(await imbalance('top-k')).toBeGreaterThan(3.5);
    expect(await imbalance('sinkhorn')).toBeLessThan(1.5);
  });

  it('experts that choose all take C tokens, equal ones the lower first', async () => {
    using layer = new MoELayer(device(), { ...sizes, router: { type: 'expert-choice' } });
    // Every token is there twice.
    const logits = testNormals(6, (T / 2) * 4);
    const twice = device().tensor([...logits, ...logits], [T, 4]);
    using pass = layer.forward(inputOf(device()), { logits: twice });
    const { indices, kept, weights } = pass.routing;
    expect(indices.shape).toEqual([4, T / 2]);
    const chosen = await indices.data();
    expect((await kept.data()).every((flag) => flag === 1)).toBe(true);
    const share = await weights.data();
    for (let e = 0; e < 4; e++) {
      const own = [...chosen.subarray((e * T) / 2, ((e + 1) * T) / 2)];
      expect(new Set(own).size).toBe(T / 2);
      own.forEach((t, c) => {
        if (c > 0) expect(share[(e * T) / 2 + c]).toBeLessThanOrEqual(share[(e * T) / 2 + c - 1]!);
        if (t >= T / 2) expect(own.slice(0, c)).toContain(t - T / 2);
      });
    }
    const stats = await pass.stats();
    expect(stats).toMatchObject({ capacity: T / 2, imbalance: 1, utilization: 1, droppedAssignments: 0 });
    expect(stats.droppedTokens).toBe(T - new Set(chosen).size);
  });

  it('several gates start apart, are trained apart, and count apart', async () => {
    const config = { ...sizes, gates: 2, router: { selectionBias: { rate: 0.5 } } };
    using layer = new MoELayer(device(), config);
    const parameters = layer.parameters();
    const readOf = (name: string, from = layer) => from.parameters().get(name)!.value.data();
    expect([...parameters.keys()].filter((name) => name.startsWith('router.'))).toEqual([
      'router.0.weight',
      'router.0.selectionBias',
      'router.1.weight',
      'router.1.selectionBias',
    ]);
    expect(await readOf('router.0.weight')).not.toEqual(await readOf('router.1.weight'));
    using pass = layer.forward(inputOf(device()), { gate: 1 });
    // The other gate is no part of the pass.
    parameters.get('router.0.weight')!.value.write(new Float32Array(20));
    pass.backward(pass.output).dispose();
    expect((await parameters.get('router.1.weight')!.grad.data()).some((g) => g !== 0)).toBe(true);
    expectSame('gradient', await parameters.get('router.0.weight')!.grad.data(), new Float32Array(20));

    const folder = await mkdtemp(join(tmpdir(), 'switchyard-'));
    try {
      const path = join(folder, 'layer.safetensors');
      await saveCheckpoint(path, { modules: { layer } });
      using resumed = new MoELayer(device(), { ...config, seed: 8 });
      await loadCheckpoint(path, { modules: { layer: resumed } });
      for (const each of [layer, resumed]) {
        each.updateSelectionBias();
        expectSame('bias of gate 0', await readOf('router.0.selectionBias', each), new Float32Array(4));
        expect((await readOf('router.1.selectionBias', each)).some((b) => b !== 0)).toBe(true);
      }
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  it('a random second choice is kept as often as its weight says', async () => {
    const secondChoice = { type: 'random', threshold: 0.8 } as const;
    using layer = new MoELayer(device(), { ...sizes, router: { renormalize: true, secondChoice } });
    const tokens = 4000;
    // Every second weight is 1/(1 + e), which is 0.269.
    const logits = Float32Array.from({ length: 4 * tokens }, (_, i) => [1, 0, -9, -9][i % 4]!);
    using pass = layer.forward(device().zeros([tokens, sizes.hiddenSize]), {
      logits: device().tensor(logits, [tokens, 4]),
    });
    const kept = await pass.routing.kept.data();
    const seconds = kept.filter((_, a) => a % 2 === 1);
    expect(kept.filter((_, a) => a % 2 === 0).every((flag) => flag === 1)).toBe(true);
    const share = seconds.filter((flag) => flag === 1).length / tokens;
    expect(Math.abs(share - 0.2689 / 0.8)).toBeLessThan(0.03);
  });

  it('takes priorities that are numbers, [T,K], and nothing else', async () => {
    using layer = new MoELayer(device(), { ...sizes, capacity: { type: 'fixed', slots: 1 } });
    const forward = (values: number[], shape: number[]) =>
      layer.forward(device().zeros([3, sizes.hiddenSize]), { priorities: device().tensor(values, shape) });
    expect(failure(() => forward([1, 2, 3], [3])).message).toMatch(/options\.priorities.*\[T,K\]/);
    const width = sizes.topK;
    const ranked = Array.from({ length: 3 * width }, (_, i) => i);
    const withNaN = ranked.map((value, i) => (i === width ? Number.NaN : value));
    await expect(forward(withNaN, [3, width]).output.data()).rejects.toMatchObject({
      code: 'ERR_NON_FINITE',
      message: expect.stringContaining('priorities of token 1'),
    });
    // The larger the earlier: the last token gets the slots.
    const { kept } = forward(ranked, [3, width]).routing;
    expect([...(await kept.data())].slice(-width)).toEqual(new Array(width).fill(1));
  });

  describe('the selection bias', () => {
    const config: MoEConfig = { ...sizes, router: { scoring: 'sigmoid', selectionBias: { rate: 0.125 } } };

    it('goes by the sign of the imbalance of all training forwards since its last step', async () => {
      using layer = new MoELayer(device(), config);
      const bias = layer.parameters().get('router.selectionBias')!;
      const expected = new Float32Array(4);
      for (const forwards of [1, 3, 0, 2]) {
        const counts = [0, 0, 0, 0];
        for (let i = 0; i < forwards; i++) {
          using pass = layer.forward(inputOf(device(), 10 * forwards + i));
          const { assigned } = await pass.stats();
          assigned.forEach((n, e) => {
            counts[e]! += n;
          });
        }
        // Neither of these is a training forward of its own.
        using _evaluation = layer.forward(inputOf(device(), 99), { training: false });
        using _again = layer.forward(inputOf(device(), 98), { noiseStep: 0 });
        layer.updateSelectionBias();
        const mean = (forwards * T * 2) / 4;
        counts.forEach((n, e) => {
          expected[e]! += 0.125 * Math.sign(mean - n);
        });
        expectSame(`bias after ${forwards}`, await bias.value.data(), expected);
      }
      expect(expected.some((b) => b !== 0)).toBe(true);
    });

    it('balances a skewed router without touching the weights of the chosen', async () => {
      using layer = new MoELayer(device(), {
        ...config,
        router: { scoring: 'sigmoid', selectionBias: { rate: 0.02 } },
      });
      layer
        .parameters()
        .get('router.weight')!
        .value.write(
          Float32Array.from({ length: 20 }, (_, i) =>
            i % 5 === 0 ? 0.5 - 0.4 * Math.floor(i / 5) : 0.3 * Math.sin(i),
          ),
        );
      const data = testNormals(1, T * 5).map((x, i) => (i % 5 === 0 ? 1 : x));
      const imbalances: number[] = [];
      for (let step = 0; step < 60; step++) {
        using pass = layer.forward(device().tensor(data, [T, 5]));
        imbalances.push((await pass.stats()).imbalance);
        layer.updateSelectionBias();
      }
      expect(imbalances[0]).toBeGreaterThan(1.5);
      expect(imbalances.at(-1)).toBeLessThan(1.2);
      using pass = layer.forward(device().tensor(data, [T, 5]));
      const logits = await pass.routing.logits!.data();
      const weights = await pass.routing.weights.data();
      (await pass.routing.indices.data()).forEach((e, a) => {
        expect(weights[a]).toBeCloseTo(1 / (1 + Math.exp(-logits[Math.floor(a / 2) * 4 + e]!)), 6);
      });
    });

    it('is never trained, and steps of it make no pass stale', async () => {
      using layer = new MoELayer(device(), config);
      const bias = layer.parameters().get('router.selectionBias')!;
      expect(
        failure(() => {
          bias.trainable = true;
        }).message,
      ).toBe('router.selectionBias.trainable: expected false: it is never trained, got true');
      using pass = layer.forward(inputOf(device()));
      layer.updateSelectionBias();
      using gradient = pass.backward(pass.output);
      expect(gradient.shape).toEqual([T, 5]);
      expectSame('gradient', await bias.grad.data(), new Float32Array(4));
    });

    it('is asked for a layer that has one', () => {
      using layer = new MoELayer(device(), sizes);
      expect(failure(() => layer.updateSelectionBias())).toMatchObject({
        code: 'ERR_INVALID_ARGUMENT',
        message: expect.stringMatching(/^config\.router\.selectionBias: expected \{ rate \}/),
      });
    });

    it('continues from a checkpoint, and from a file that knows nothing of counts', async () => {
      const folder = await mkdtemp(join(tmpdir(), 'switchyard-'));
      try {
        const path = join(folder, 'layer.safetensors');
        using layer = new MoELayer(device(), config);
        layer.forward(inputOf(device())).dispose();
        await saveCheckpoint(path, { modules: { layer } });
        using resumed = new MoELayer(device(), { ...config, seed: 8 });
        resumed.forward(inputOf(device(), 5)).dispose();
        await loadCheckpoint(path, { modules: { layer: resumed } });
        for (const each of [layer, resumed]) {
          each.forward(inputOf(device(), 2)).dispose();
          each.updateSelectionBias();
        }
        const biasOf = (each: MoELayer) => each.parameters().get('router.selectionBias')!.value.data();
        expectSame('bias', await biasOf(resumed), await biasOf(layer));
        expect((await biasOf(layer)).some((b) => b !== 0)).toBe(true);

        // The parameters alone, as another tool would write them: counts start from 0.
        const tensors = [...layer.parameters()].map(async ([name, { value }]) => {
          const data = (await value.data()) as Float32Array;
          return [`layer.${name}`, { dtype: 'F32', shape: value.shape, data }] as const;
        });
        await writeSafetensors(path, new Map(await Promise.all(tensors)), {});
        await loadCheckpoint(path, { modules: { layer: resumed } });
        layer.forward(inputOf(device(), 3)).dispose();
        resumed.forward(inputOf(device(), 4)).dispose();
        await loadCheckpoint(path, { modules: { layer: resumed } });
        resumed.forward(inputOf(device(), 3)).dispose();
        for (const each of [layer, resumed]) each.updateSelectionBias();
        expectSame('bias', await biasOf(resumed), await biasOf(layer));
      } finally {
        await rm(folder, { recursive: true });
      }
    });
  });

  describe('noise', () => {
    const config: MoEConfig = { ...sizes, router: { noise: { type: 'gaussian', std: 1 } } };
    const weightsOf = async (layer: MoELayer, options?: object, input = inputOf(device())) => {
      using pass = layer.forward(input, options);
      return [...(await pass.routing.indices.data()), ...(await pass.routing.weights.data())];
    };

    it('is another one in every training forward, and the same for the same seed and forward', async () => {
      using layer = new MoELayer(device(), config);
      const first = await weightsOf(layer);
      const second = await weightsOf(layer);
      expect(second).not.toEqual(first);
      expect(await weightsOf(layer, { noiseStep: 0 })).toEqual(first);
      expect(await weightsOf(layer, { noiseStep: 1 })).toEqual(second);
      using same = new MoELayer(device(), config);
      await weightsOf(same, { training: false });
      expect(await weightsOf(same)).toEqual(first);
      using other = new MoELayer(device(), { ...config, seed: 8 });
      other
        .parameters()
        .get('router.weight')!
        .value.write(Float32Array.from(await layer.parameters().get('router.weight')!.value.data()));
      expect(await weightsOf(other)).not.toEqual(first);
    });

    it('follows the number of the token, so that a batch may be cut', async () => {
      using layer = new MoELayer(device(), config);
      const data = testNormals(4, T * 5);
      const whole = await weightsOf(layer, { noiseStep: 3 }, device().tensor(data, [T, 5]));
      const tail = device().tensor(data.slice(25 * 5), [T - 25, 5]);
      const part = await weightsOf(layer, { noiseStep: 3, tokenOffset: 25 }, tail);
      expect(part).toEqual([...whole.slice(50, 2 * T), ...whole.slice(2 * T + 50)]);
    });

    it('is refused where it is not finite', async () => {
      using layer = new MoELayer(device(), config);
      const noise = device().tensor(new Float32Array(T * 4).fill(Number.NaN, 4 * 17, 4 * 17 + 1), [T, 4]);
      using pass = layer.forward(inputOf(device()), { noise });
      await expect(pass.output.data()).rejects.toMatchObject({
        code: 'ERR_NON_FINITE',
        message: expect.stringContaining('token 17'),
      });
      await device()
        .synchronize()
        .catch(() => {});
    });
  });

  describe('token types', () => {
    const config: MoEConfig = { ...sizes, router: { allowedExperts: [[0, 1], [2, 3], [3]] } };

    it('are needed, and name the token that has none of them', async () => {
      using layer = new MoELayer(device(), config);
      expect(failure(() => layer.forward(inputOf(device())))).toMatchObject({
        code: 'ERR_INVALID_ARGUMENT',
        message: expect.stringMatching(/^options\.tokenTypes: expected the type of every token/),
      });
      for (const bad of [3, -1]) {
        const tokenTypes = device().tensor(new Int32Array(T).fill(bad, 12, 13), [T]);
        using pass = layer.forward(inputOf(device()), { tokenTypes });
        await expect(pass.output.data()).rejects.toMatchObject({
          code: 'ERR_INVALID_ARGUMENT',
          message: expect.stringContaining(`tokenTypes of token 12 must be in [0, 3), got ${bad}`),
        });
      }
      await device()
        .synchronize()
        .catch(() => {});
    });

    it('keep each token to its experts', async () => {
      using layer = new MoELayer(device(), config);
      const types = integers(5, T, 0, 2);
      using pass = layer.forward(inputOf(device()), { tokenTypes: device().tensor(types, [T]) });
      const indices = await pass.routing.indices.data();
      const allowed = [
        [0, 1],
        [2, 3],
        [3, -1],
      ];
      types.forEach((type, t) => {
        const chosen = [...indices.subarray(2 * t, 2 * t + 2)];
        expect(type === 2 ? chosen : chosen.sort(), `token ${t}`).toEqual(allowed[type]);
      });
      const { assigned, droppedAssignments } = await pass.stats();
      expect(assigned.reduce((a, b) => a + b)).toBe(indices.filter((e) => e >= 0).length);
      expect(droppedAssignments).toBe(0);
    });
  });

  // The gradient of the output is 0: what comes back is the losses', through float32 alone until the input's own rounding.
  it.for((['bfloat16', 'float16'] as const).flatMap((dtype) => NOISES_OF_16_BITS.map((router) => ({ dtype, router }))))(
    'routes 16-bit tokens in float32: $dtype, $router',
    async ({ dtype, router }) => {
      const testCase: Case = {
        name: '16 bits',
        tokens: 21,
        config: {
          hiddenSize: 17,
          ffnSize: 3,
          numExperts: 8,
          topK: 2,
          router,
          losses: {
            loadBalance: 1,
            importance: 1,
            z: 0.3,
            ...('noise' in router && router.noise.type === 'learned' && { load: 1 }),
          },
        },
      };
      const problem = makeProblem(testCase);
      problem.input = problem.input.map((x) => rounded(dtype, x));
      problem.gradOutput.fill(0);
      using layer = new MoELayer(device(), { ...testCase.config, dtype, seed: 1 } as MoEConfig);
      for (const [name, { value }] of layer.parameters()) value.write(problem.parameters[name]!);
      using input = device().tensor(problem.input, [21, 17], dtype);
      using pass = layer.forward(input);
      using gradInput = pass.backward(device().zeros([21, 17], dtype));
      const read = { indices: await pass.routing.indices.data(), kept: await pass.routing.kept.data() };
      const reference = referenceFor(testCase, problem, read);
      const gradients = referenceGradients(reference, testCase, problem);
      expectClose('logits', await pass.routing.logits!.data(), reference.logits!, 8);
      expectClose('weights', await pass.routing.weights.data(), reference.weights, 2);
      for (const name of ['router.weight', 'router.noise']) {
        const parameter = layer.parameters().get(name);
        if (parameter) expectClose(name, await parameter.grad.data(), gradients.parameters[name]!, 17);
      }
      // Two roundings at most: the product with the router's weight, and that with the noise's.
      const unit = dtype === 'bfloat16' ? 2 ** -8 : 2 ** -11;
      const largest = gradients.input.reduce((max, g) => Math.max(max, Math.abs(g)), 0);
      (await gradInput.data()).forEach((g, i) => {
        expect(Math.abs(g - gradients.input[i]!), `gradient ${i}`).toBeLessThan(2 * unit * largest);
      });
    },
  );
});
