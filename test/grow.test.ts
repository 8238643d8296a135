/**
 * Growing a model: the layer that comes of dense networks, or of a smaller layer, computes the same function, and the
 * optimizer goes on as if nothing had happened. Fine-tuning with parts frozen costs nothing for them.
 */

import { describe, expect, it } from 'vitest';
import {
  AdamW,
  type Device,
  expandExperts,
  type MoEConfig,
  MoELayer,
  type RouterConfig,
  type Tensor,
  upcycle,
} from '../lib/index.js';
import { expectClose, expectSame } from './compare.js';
import { onEachDevice, openFirst } from './devices.js';
import { failure } from './failure.js';
import { integers, normals } from './random.js';
import { type Activation, ffnForward, isGated } from './reference-experts.js';
import { FLOAT_DTYPES, roundedAll } from './rounding.js';

const [T, H, D] = [37, 14, 24];
const input = normals(1, T * H);

interface Network {
  gate?: Float32Array;
  up: Float32Array;
  down: Float32Array;
}

function network(seed: number, activation: Activation = 'swiglu'): Network {
  const matrix = (s: number, fanIn: number) => normals(10 * seed + s, D * H, 1 / Math.sqrt(fanIn));
  const own = { up: matrix(1, H), down: matrix(2, D) };
  return isGated(activation) ? { gate: matrix(3, H), ...own } : own;
}

function onDevice(device: Device, { gate, up, down }: Network) {
  const tensors = { up: device.tensor(up, [D, H]), down: device.tensor(down, [H, D]) };
  return gate ? { gate: device.tensor(gate, [D, H]), ...tensors } : tensors;
}

/** [T,H] of the dense network, in float64. */
function dense(network: Network, activation: Activation = 'swiglu'): Float64Array {
  const ffn = {
    gate: network.gate && Float64Array.from(network.gate),
    up: Float64Array.from(network.up),
    down: Float64Array.from(network.down),
  };
  const output = new Float64Array(T * H);
  for (let t = 0; t < T; t++)
    output.set(ffnForward(ffn, activation, Float64Array.from(input.subarray(t * H, (t + 1) * H))), t * H);
  return output;
}

async function outputOf(layer: MoELayer, x: Tensor): Promise<Float32Array> {
  using pass = layer.forward(x, { training: false });
  return (await pass.output.data()) as Float32Array;
}

/** The largest difference over the largest value. */
function distance(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  let [most, max] = [0, 0];
  for (let i = 0; i < expected.length; i++) {
    most = Math.max(most, Math.abs(actual[i]! - expected[i]!));
    max = Math.max(max, Math.abs(expected[i]!));
  }
  return most / max;
}

onEachDevice((device) => {
  const x = () => device().tensor(input, [T, H]);

  describe('upcycle', () => {
    const base = { hiddenSize: H, ffnSize: D, numExperts: 6, topK: 2, seed: 3 };

    it.each<[string, Partial<MoEConfig>, number, Activation?]>([
      ['renormalised', { router: { renormalize: true } }, 1],
      ['renormalised, scaled', { router: { renormalize: true, weightScale: 2.5, bias: true } }, 1],
      ['of the logits', { router: { selectBy: 'logits' } }, 1],
      ['K = E', { topK: 6 }, 1],
      ['not renormalised', {}, 1],
      ['an L2 norm', { router: { renormalize: { p: 2 } } }, 1],
      ['a low temperature', { router: { temperature: 1e-3 } }, 1],
      ['weights of the input', { router: { applyWeightTo: 'input', renormalize: true } }, 1],
      ['weights of the input, K = 1', { topK: 1, router: { applyWeightTo: 'input', renormalize: true } }, 1],
      ['with a shared expert', { router: { renormalize: true }, experts: { shared: { ffnSize: 5 } } }, 1],
      ['not gated', { router: { renormalize: true }, experts: { activation: 'gelu', bias: true } }, 1, 'gelu'],
      ['halves', { ffnSize: D / 2, topK: 4, router: { renormalize: true } }, 2],
      ['thirds, not renormalised', { ffnSize: D / 3, topK: 3 }, 3],
      ['halves, of the logits', { ffnSize: D / 2, topK: 2, router: { selectBy: 'logits' } }, 2],
      ['K = 1', { topK: 1 }, 1],
      ['sigmoid', { router: { scoring: 'sigmoid' } }, 1],
      ['sigmoid, renormalised', { router: { scoring: 'sigmoid', renormalize: true, weightScale: 2.5 } }, 1],
      ['a selection bias', { router: { scoring: 'sigmoid', selectionBias: { rate: 0.1 }, renormalize: true } }, 1],
      ['groups', { router: { groups: { count: 3, keep: 2, score: 'max' } } }, 1],
      [
        'groups of halves',
        { ffnSize: D / 2, topK: 4, router: { renormalize: true, groups: { count: 3, keep: 2, score: 'top2-sum' } } },
        2,
      ],
      ['renormalised after drops', { router: { renormalizeAfterDrop: true, weightScale: 0.5 } }, 1],
      ['several gates', { gates: 3 }, 1],
      ['several gates, sigmoid', { gates: 2, topK: 3, router: { scoring: 'sigmoid' } }, 1],
      ['balanced experts', { router: { type: 'sinkhorn' } }, 1],
      ['experts at random', { router: { type: 'random' } }, 1],
    ])('%s: the same function', async (_, change, granularity, activation = 'swiglu') => {
      const network0 = network(1, activation);
      using layer = upcycle(onDevice(device(), network0), { ...base, ...change }, { granularity });
      using at = x();
      for (let gate = 0; gate < layer.config.gates; gate++) {
        using pass = layer.forward(at, { training: false, gate });
        expect(distance(await pass.output.data(), dense(network0, activation))).toBeLessThan(2e-5);
        const { assigned } = await pass.stats();
        // Every copy has tokens, and the slices of a copy the same number.
        expect(Math.min(...assigned)).toBeGreaterThan(0);
        for (let e = 0; e < 6; e++) expect(assigned[e]).toBe(assigned[e - (e % granularity)]);
      }
    });

    it.each(FLOAT_DTYPES)('rounds once to %s', async (dtype) => {
      const network0 = network(1);
      const config = { ...base, dtype, router: { renormalize: true } };
      using layer = upcycle(onDevice(device(), network0), config);
      const up = await layer.parameters().get('experts.up')!.value.data();
      for (let e = 0; e < 6; e++)
        expectSame('up', up.subarray(e * D * H, (e + 1) * D * H), roundedAll(dtype, network0.up));
    });

    it('of several: each token the mean, by its weights, of the networks it is sent to', async () => {
      const networks = [network(1), network(2), network(3)];
      using layer = upcycle(
        networks.map((one) => onDevice(device(), one)),
        { ...base, router: { renormalize: true } },
      );
      using pass = layer.forward(x());
      const [indices, weights] = [await pass.routing.indices.data(), await pass.routing.weights.data()];
      const outputs = networks.map((one) => dense(one));
      const expected = Float64Array.from({ length: T * H }, (_, i) => {
        const t = Math.floor(i / H);
        return [0, 1].reduce((sum, k) => {
          const expert = indices[2 * t + k]!;
          return sum + weights[2 * t + k]! * outputs[expert >> 1]![i]!;
        }, 0);
      });
      expectClose('output', await pass.output.data(), expected, H);
    });

    it('noise is relative to each matrix, and other for every expert', async () => {
      const network0 = network(1);
      const config = { ...base, router: { renormalize: true } };
      using layer = upcycle(onDevice(device(), network0), config, { noise: 0.1 });
      using again = upcycle(onDevice(device(), network0), config, { noise: 0.1 });
      for (const [name, matrix] of [
        ['experts.gate', network0.gate!],
        ['experts.up', network0.up],
        ['experts.down', network0.down],
      ] as const) {
        const values = await layer.parameters().get(name)!.value.data();
        expectSame(name, await again.parameters().get(name)!.value.data(), values);
        const rms = (list: ArrayLike<number>) =>
          Math.sqrt(Array.from(list).reduce((s, v) => s + v * v, 0) / list.length);
        const added = Array.from(values, (v, i) => v - matrix[i % matrix.length]!);
        const share = rms(added) / rms(matrix);
        expect(share).toBeGreaterThan(0.09);
        expect(share).toBeLessThan(0.11);
        expect(new Set(added.map((v) => v.toFixed(5))).size).toBeGreaterThan(0.5 * added.length);
      }
      using at = x();
      const off = distance(await outputOf(layer, at), dense(network0));
      expect(off).toBeGreaterThan(0.01);
      expect(off).toBeLessThan(0.5);
    });

    it('trains from there', async () => {
      const network0 = network(1);
      using layer = upcycle(onDevice(device(), network0), { ...base, ffnSize: D / 2, topK: 4 }, { granularity: 2 });
      using optimizer = new AdamW(layer.parameters().values(), { learningRate: 1e-2 });
      using at = x();
      using goal = device().randn([T, H], { seed: 9 });
      const target = await goal.data();
      const loss = (output: ArrayLike<number>) =>
        Array.from(output).reduce((sum, v, i) => sum + (v - target[i]!) ** 2, 0);
      const losses: number[] = [];
      for (let step = 0; step < 12; step++) {
        using pass = layer.forward(at);
        const output = await pass.output.data();
        losses.push(loss(output));
        using gradient = device().tensor(output.map((v, i) => v - target[i]!) as Float32Array, [T, H]);
        pass.backward(gradient).dispose();
        optimizer.step();
      }
      expect(losses.at(-1)).toBeLessThan(0.7 * losses[0]!);
    });

    it('refuses what has no such function', () => {
      const one = onDevice(device(), network(1));
      const message = (change: Partial<MoEConfig>, options = {}, given: unknown = one) =>
        failure(() => upcycle(given as never, { ...base, ...change }, options)).message;
      expect(message({ ffnSize: 10 })).toMatch(/^dense\.up: expected shape \[10, 14\] .*got \[24, 14\]$/);
      expect(message({ experts: { activation: 'relu' } })).toMatch(/^dense\.gate: expected none/);
      expect(message({}, {}, [one, { up: one.up, down: one.down }])).toMatch(/^dense\[1\]\.gate: expected a matrix/);
      expect(message({}, {}, [])).toMatch(/^dense: expected at least one network/);
      expect(message({ ffnSize: D / 2, topK: 3 }, { granularity: 2 })).toMatch(
        /^config\.topK: .*multiple.*\(2\), got 3/,
      );
      expect(message({ ffnSize: D / 2 }, { granularity: 3 })).toMatch(/^options\.granularity: .*topK \(2\), got 3/);
      expect(message({ numExperts: 2 }, {}, [one, one, one])).toMatch(/^dense: expected at most 2 networks.*got/);
      expect(message({ router: { allowedExperts: [[0, 1], [2]] } })).toMatch(/^config\.router\.allowedExperts/);
      expect(message({}, { noise: -1 })).toMatch(/^options\.noise/);
      expect(message({}, {}, { ...one, up: [1] })).toMatch(/^dense\.up: expected a tensor, got \[1\]/);
      expect(message({ router: { weightScale: 0 } })).toMatch(/^config\.router\.weightScale: .*got 0$/);
      expect(message({ ffnSize: D / 2, router: { type: 'hash' } }, { granularity: 2 })).toMatch(
        /^options\.granularity: expected 1 .*'hash'.*got 2$/,
      );
      one.down.dispose();
      expect(message({})).toMatch(/^dense\.down: the tensor has been disposed/);
    });
  });

  describe('expandExperts', () => {
    const base = { hiddenSize: H, ffnSize: 11, numExperts: 4, topK: 2, seed: 5 };
    const sigmoid: RouterConfig = {
      scoring: 'sigmoid',
      selectionBias: { rate: 0.01 },
      renormalize: true,
      groups: { count: 2, keep: 1, score: 'top2-sum' },
    };
    const cases: [string, Partial<MoEConfig>, number][] = [
      ['by default', {}, 6],
      ['twice as many', { router: { renormalize: true } }, 8],
      ['of the logits, a temperature', { router: { selectBy: 'logits', temperature: 3, bias: true } }, 7],
      ['K = 1', { topK: 1 }, 5],
      ['K = E', { topK: 4 }, 9],
      ['biases, a shared expert', { experts: { bias: true, shared: { ffnSize: 6, gate: 'sigmoid' } } }, 6],
      ['a capacity', { capacity: { type: 'fixed', factor: 0.75, priority: 'score' } }, 6],
      ['sigmoid, groups and a selection bias', { numExperts: 6, router: sigmoid }, 10],
      ['a selection bias over a softmax', { router: { selectionBias: { rate: 0.1 } } }, 6],
      [
        'a selection bias over many, renormalised',
        { numExperts: 12, topK: 4, router: { renormalize: true, selectionBias: { rate: 0.1 } } },
        19,
      ],
      [
        'token types',
        {
          router: {
            allowedExperts: [
              [0, 1],
              [2, 3, 1],
            ],
          },
        },
        7,
      ],
      ['a dynamic capacity', { capacity: { type: 'dynamic', targetDropRate: 0.1, maxFactor: 1.5 } }, 6],
      ['two gates with selection biases', { gates: 2, router: sigmoid }, 8],
    ];

    it('computes the same function', async () => {
      for (const [name, change, numExperts] of cases) {
        using layer = new MoELayer(device(), { ...base, ...change });
        for (const [parameter, { value }] of layer.parameters())
          if (/[bB]ias$/.test(parameter)) value.write(normals(7, value.size, 0.05));
        using grown = expandExperts(layer, numExperts);
        expect(grown.config.numExperts, name).toBe(numExperts);
        const options = change.router?.allowedExperts ? { tokenTypes: device().tensor(integers(8, T, 0, 1), [T]) } : {};
        using at = x();
        using before = layer.forward(at, options);
        using after = grown.forward(at, options);
        expect(distance(await after.output.data(), await before.output.data()), name).toBeLessThan(2e-6);
        const [old, now] = [await before.stats(), await after.stats()];
        expect(now.droppedAssignments, name).toBe(old.droppedAssignments);
        expect(now.capacity, name).toBe(old.capacity);
        expect(now.utilization, name).toBeCloseTo((old.utilization * layer.config.numExperts) / numExperts, 6);
        using gradient = device().randn([T, H], { seed: 4 });
        using gradOld = before.backward(gradient);
        using gradNew = after.backward(gradient);
        expect(distance(await gradNew.data(), await gradOld.data()), name).toBeLessThan(5e-6);
      }
    });

    it.each(FLOAT_DTYPES)('in %s: training goes on as if the layer had not grown', async (dtype) => {
      const config: MoEConfig = { ...base, dtype, experts: { bias: true }, losses: { z: 0.01 } };
      using small = new MoELayer(device(), config);
      using twin = new MoELayer(device(), config);
      // Another module of each optimizer, whose state must stay.
      const other: MoEConfig = { ...base, dtype, numExperts: 1, topK: 1, seed: 9 };
      using head = new MoELayer(device(), other);
      using twinHead = new MoELayer(device(), other);
      const optimizerOf = (...layers: MoELayer[]) =>
        new AdamW(
          layers.flatMap((layer) => [...layer.parameters().values()]),
          { learningRate: 1e-2 },
        );
      using optimizer = optimizerOf(small, head);
      using twinOptimizer = optimizerOf(twin, twinHead);
      using at = device().tensor(input, [T, H], dtype);
      using gradient = device().randn([T, H], { seed: 4, dtype });
      small.setTemperature(1.5);
      twin.setTemperature(1.5);
      const train = (its: AdamW, ...layers: MoELayer[]) => {
        for (const layer of layers) {
          using pass = layer.forward(at);
          pass.backward(gradient).dispose();
        }
        its.step({ maxGradNorm: 30 });
      };
      for (let step = 0; step < 3; step++) {
        train(optimizer, small, head);
        train(twinOptimizer, twin, twinHead);
      }
      small.parameters().get('experts.gate')!.trainable = false;
      twin.parameters().get('experts.gate')!.trainable = false;
      using grown = expandExperts(small, 7, { optimizer });
      expect(grown.parameters().get('experts.gate')!.trainable).toBe(false);
      small.dispose();
      for (let step = 0; step < 3; step++) {
        train(optimizer, grown, head);
        train(twinOptimizer, twin, twinHead);
      }
      expect(await optimizer.skippedSteps()).toBe(0);
      for (const [name, { value }] of twin.parameters()) {
        const now = (await grown.parameters().get(name)!.value.data()).subarray(0, value.size);
        expect(distance(now, await value.data()), name).toBeLessThan(dtype === 'float32' ? 1e-5 : 5e-3);
      }
      const bias = await grown.parameters().get('router.bias')!.value.data();
      expect([...bias]).toEqual([0, 0, 0, 0, -30, -30, -30]);
    });

    it('copies start with the moments of their originals, and noise of their own', async () => {
      using small = new MoELayer(device(), base);
      using optimizer = new AdamW(small.parameters().values(), { learningRate: 1e-2 });
      using at = x();
      using gradient = device().randn([T, H], { seed: 4 });
      const train = (layer: MoELayer) => {
        using pass = layer.forward(at);
        pass.backward(gradient).dispose();
        optimizer.step();
      };
      train(small);
      using grown = expandExperts(small, 8, { noise: 0.2, optimizer });
      const up = async () => (await grown.parameters().get('experts.up')!.value.data()) as Float32Array;
      const size = 11 * H;
      const before = await up();
      expectSame('old', before.subarray(0, 4 * size), await small.parameters().get('experts.up')!.value.data());
      for (let e = 4; e < 8; e++) {
        const copy = before.subarray(e * size, (e + 1) * size);
        const off = distance(copy, before.subarray((e - 4) * size, (e - 3) * size));
        expect(off).toBeGreaterThan(0.01);
      }
      // Without gradient, AdamW's next step is the decay and what the first moment says: the same for copy and original.
      train(grown);
      const after = await up();
      const moved = (e: number) =>
        Array.from({ length: size }, (_, i) => after[e * size + i]! - before[e * size + i]! * (1 - 1e-2 * 0.01));
      const idle = moved(4).map((v) => Math.abs(v));
      expect(Math.max(...idle)).toBeGreaterThan(1e-3);
      expect(Math.max(...idle)).toBeLessThan(1.1e-2);
    });

    it('copies take part once their bias lets them', async () => {
      using layer = new MoELayer(device(), { ...base, router: { renormalize: true } });
      using grown = expandExperts(layer, 8, { noise: 0.1 });
      using at = x();
      const bias = grown.parameters().get('router.bias')!;
      bias.value.write(new Float32Array(8));
      using pass = grown.forward(at);
      const { assigned } = await pass.stats();
      expect(Math.min(...assigned.subarray(4))).toBeGreaterThan(0);
    });

    it('leaves the slots of an expert what they were where they come out whole', async () => {
      using at = device().randn([3, H], { seed: 3 });
      using layer = new MoELayer(device(), { ...base, numExperts: 6, capacity: { type: 'fixed', factor: 1 } });
      using grown = expandExperts(layer, 7);
      using pass = grown.forward(at);
      expect((await pass.stats()).capacity).toBe(1);
      using doubled = expandExperts(layer, 12);
      expect(doubled.config.capacity).toMatchObject({ factor: 2 });
    });

    it('carries the counts of every gate to the next step of its bias', async () => {
      if (device().kind === 'cuda') return;
      using layer = new MoELayer(device(), { ...base, gates: 2, router: { selectionBias: { rate: 0.1 } } });
      using at = x();
      using pass = layer.forward(at, { gate: 1 });
      const { assigned } = await pass.stats();
      using grown = expandExperts(layer, 6);
      grown.updateSelectionBias();
      const biasOf = (gate: number) => grown.parameters().get(`router.${gate}.selectionBias`)!.value.data();
      expect(await biasOf(0)).toEqual(Float32Array.of(0, 0, 0, 0, -2, -2));
      const counts = [...assigned, 0, 0];
      const mean = (T * base.topK) / 6;
      expect(await biasOf(1)).toEqual(
        Float32Array.from(counts, (count, e) => Math.fround(0.1) * Math.sign(mean - count) - (e < 4 ? 0 : 2)),
      );
    });

    it('keeps copies out of the sum of tokens that may use fewer experts than K', async () => {
      if (device().kind === 'cuda') return;
      const router: RouterConfig = {
        scoring: 'sigmoid',
        selectionBias: { rate: 0.1 },
        allowedExperts: [[1], [2, 3, 1]],
      };
      using layer = new MoELayer(device(), { ...base, router });
      using grown = expandExperts(layer, 8);
      using at = x();
      using tokenTypes = device().tensor(integers(8, T, 0, 1), [T]);
      using before = layer.forward(at, { tokenTypes });
      using after = grown.forward(at, { tokenTypes });
      expect(distance(await after.output.data(), await before.output.data())).toBeLessThan(2e-6);
    });

    it('carries the state of the layer', async () => {
      using layer = new MoELayer(device(), { ...base, experts: { dropout: 0.5 } });
      using at = x();
      layer.forward(at).dispose();
      layer.forward(at).dispose();
      using grown = expandExperts(layer, 5);
      expect(grown.config.seed).toBe(5);
      // The draws go by the count of forwards: with that, both drop the same.
      using next = layer.forward(at);
      using same = grown.forward(at);
      expect(distance(await same.output.data(), await next.output.data())).toBeLessThan(2e-6);
    });

    it('refuses what cannot grow', () => {
      using layer = new MoELayer(device(), base);
      using other = new MoELayer(device(), base);
      using optimizer = new AdamW(other.parameters().values(), { learningRate: 1 });
      const message = (body: () => unknown) => failure(body).message;
      expect(message(() => expandExperts(layer, 4))).toMatch(/^numExperts: expected an integer from 5 .*got 4$/);
      expect(message(() => expandExperts({} as never, 8))).toMatch(/^layer: expected a MoELayer/);
      expect(message(() => expandExperts(layer, 8, { optimizer: {} as never }))).toMatch(/^options\.optimizer/);
      expect(message(() => expandExperts(layer, 8, { optimizer }))).toMatch(
        /^options\.optimizer: expected .*parameters/,
      );
      expect(message(() => expandExperts(layer, 8, { noise: Number.NaN }))).toMatch(/^options\.noise/);
      using grouped = new MoELayer(device(), {
        ...base,
        router: { groups: { count: 2, keep: 1, score: 'max' } },
      });
      const capacity = { type: 'fixed', factor: 1, overflow: 'next-choice' } as const;
      using overflowing = new MoELayer(device(), { ...base, capacity });
      expect(message(() => expandExperts(overflowing, 8))).toMatch(/^layer\.config\.capacity\.overflow: .*'residual'/);
      using single = new MoELayer(device(), {
        ...base,
        router: { groups: { count: 4, keep: 2, score: 'top2-sum' } },
      });
      expect(message(() => expandExperts(single, 8))).toMatch(/^layer\.config\.router\.groups\.score: .*'max'/);
      expect(message(() => expandExperts(grouped, 7))).toMatch(
        /^numExperts: .*multiple of router\.groups\.count \(2\)/,
      );
      layer.dispose();
      expect(failure(() => expandExperts(layer, 8)).code).toBe('ERR_DISPOSED');
    });
  });

  describe('fine-tuning', () => {
    const config: MoEConfig = {
      hiddenSize: 64,
      ffnSize: 96,
      numExperts: 4,
      topK: 2,
      seed: 5,
      losses: { loadBalance: 0.1 },
    };
    const [tokens, H] = [128, 64];

    /** Bytes that are there after a step, and the most there were in its backward. */
    const step = async (frozen: RegExp | undefined) => {
      // Of its own: on the other one the garbage collector may free what earlier tests forgot.
      using open = openFirst();
      const before = open.memory().allocated;
      using layer = new MoELayer(open, config);
      const sizes = { frozen: 0, trained: 0 };
      for (const [name, parameter] of layer.parameters()) {
        parameter.trainable = !frozen?.test(name);
        sizes[parameter.trainable ? 'trained' : 'frozen'] += 4 * parameter.value.size;
      }
      using at = open.randn([tokens, H], { seed: 1 });
      const pass = layer.forward(at);
      await open.synchronize();
      open.resetPeakMemory();
      const held = open.memory().allocated;
      pass.backward(pass.output).dispose();
      await open.synchronize();
      const peak = open.memory().peak - held;
      pass.dispose();
      at.dispose();
      return { sizes, left: open.memory().allocated - before, peak };
    };

    it.each([
      ['experts', /^experts\./],
      ['the router', /^router\./],
    ])('with %s frozen holds no memory for their gradients', async (_, frozen) => {
      const [all, some] = [await step(undefined), await step(frozen)];
      expect(some.sizes.frozen).toBeGreaterThan(0);
      expect(all.left - some.left).toBeGreaterThanOrEqual(some.sizes.frozen);
      expect(all.peak - some.peak).toBeGreaterThanOrEqual(some.sizes.frozen);
    });
  });
});
