/**
 * Growing a model: the layer that comes of dense networks computes what they compute (a layer with more experts:
 * expand.test.ts). Fine-tuning with parts frozen costs nothing for them.
 */

import { describe, expect, it } from 'vitest';
import { AdamW, type Device, type MoEConfig, MoELayer, type Tensor, upcycle } from '../lib/index.js';
import { expectClose, expectSame } from './compare.js';
import { onEachDevice, openFirst } from './devices.js';
import { distance } from './distance.js';
import { failure } from './failure.js';
import { normals } from './random.js';
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
