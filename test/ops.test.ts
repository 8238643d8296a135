/**
 * The stages by themselves, forward and backward: route against the float64 reference, and plan, dispatch, combine and
 * groupedGemm against what they say they do, written out in a few loops here.
 */

import { describe, expect, it } from 'vitest';
import { type CapacityConfig, type Device, ops, type Tensor } from '../lib/index.js';
import { expectClose, expectSame } from './compare.js';
import { onEachDevice, onEachDType } from './devices.js';
import { failure } from './failure.js';
import { normals, uniforms } from './random.js';
import { admit, capacityOf } from './reference-capacity.js';
import { addScaled, row } from './reference-math.js';
import { linear, linearBackward } from './reference-modules.js';
import {
  type RouterOptions,
  scoreSelected,
  scoreSelectedBackward,
  topK,
  weigh,
  weighBackward,
} from './reference-router.js';
import { type FloatDType, roundedAll } from './rounding.js';
import type { Read } from './run-case.js';

interface Assignment {
  token: number;
  expert: number;
  /** t·K + k */
  index: number;
}

interface Shape {
  T: number;
  H: number;
  E: number;
  K: number;
  /** Of the grouped product; default 19. */
  out?: number;
  /** Experts to choose from, from 0; the others stay without a token. */
  busy?: number;
  capacity?: CapacityConfig & { type: 'dropless' | 'fixed' };
}

const SHAPES: [string, Shape][] = [
  ['three tokens', { T: 3, H: 17, E: 7, K: 2 }],
  ['no token', { T: 0, H: 17, E: 7, K: 2 }],
  ['one token', { T: 1, H: 17, E: 7, K: 1 }],
  ['K = E', { T: 11, H: 5, E: 3, K: 3 }],
  ['all on one expert', { T: 40, H: 9, E: 4, K: 1, busy: 1 }],
  ['idle experts', { T: 21, H: 17, E: 9, K: 3, busy: 4 }],
  ['many rows', { T: 301, H: 33, E: 5, K: 2 }],
  ['many rows, even widths', { T: 301, H: 34, E: 5, K: 2, out: 20 }],
  ['fixed capacity', { T: 50, H: 17, E: 7, K: 2, capacity: { type: 'fixed', factor: 0.7 } }],
  [
    'groups of tokens that share a buffer',
    { T: 50, H: 17, E: 7, K: 2, capacity: { type: 'fixed', slots: 2, groupSize: 12, buffer: 0.1 } },
  ],
  ['capacity by score', { T: 50, H: 17, E: 7, K: 2, capacity: { type: 'fixed', slots: 5, priority: 'score' } }],
];

/** What a plan must be: the kept assignments, by expert, then by token. */
function expectedPlan({ T, E, K, busy = E, capacity = { type: 'dropless' } }: Shape) {
  const next = uniforms(T + 31 * E);
  const indices = new Int32Array(T * K);
  for (let t = 0; t < T; t++) {
    const keyed = Array.from({ length: busy }, (_, e) => ({ e, key: next() })).sort((a, b) => a.key - b.key);
    for (let k = 0; k < K; k++) indices[t * K + k] = keyed[k]!.e;
  }
  const weights = Float32Array.from(indices, () => 0.1 + next());
  const options = capacity as Parameters<typeof capacityOf>[0];
  const slots = capacityOf(options, { tokens: T, topK: K, numExperts: E, training: true });
  const experts = admit(indices, E, { scores: Float64Array.from(weights) }, K, slots, options);
  const kept = experts.map((expert) => (expert >= 0 ? 1 : 0));
  const rows: Assignment[] = Array.from(indices, (expert, index) => ({ token: Math.floor(index / K), expert, index }))
    .filter(({ index }) => kept[index] === 1)
    .sort((a, b) => a.expert - b.expert || a.token - b.token);
  const offsets = Array.from({ length: E + 1 }, (_, e) => rows.filter((r) => r.expert < e).length);
  return { indices, weights, kept, rows, offsets };
}

function makePlan(device: Device, shape: Shape) {
  const expected = expectedPlan(shape);
  const plan = ops.plan(
    device.tensor(expected.indices, [shape.T, shape.K]),
    device.tensor(expected.weights, [shape.T, shape.K]),
    shape.E,
    shape.capacity,
  );
  return { plan, ...expected };
}

/** [R,width] whose rows past the end hold numbers that must not matter. */
function rowsWithGarbage(values: Float32Array, maxRows: number, width: number): Float32Array {
  const all = new Float32Array(maxRows * width).fill(1e6);
  all.set(values);
  return all;
}

function padded(values: Float64Array, maxRows: number, width: number): Float64Array {
  const all = new Float64Array(maxRows * width);
  all.set(values);
  return all;
}

/** A grouped product and its gradients, of shape.H features in. */
async function expectGroupedGemm(
  device: Device,
  shape: Shape,
  outFeatures: number,
  dtype: FloatDType,
  draw: (seed: number, size: number) => Float32Array,
): Promise<void> {
  const { plan, offsets } = makePlan(device, shape);
  const { H: inFeatures, E } = shape;
  const numbers = (seed: number, size: number): Float32Array => roundedAll(dtype, draw(seed, size));
  const close = (label: string, actual: Read, expected: ArrayLike<number>, width: number): void =>
    expectClose(label, actual, expected, width, { dtype });
  const total = offsets[E]!;
  const x = numbers(9, total * inFeatures);
  const w = numbers(10, E * outFeatures * inFeatures);
  const garbage = rowsWithGarbage(x, plan.maxRows, inFeatures);
  const product = ops.groupedGemm(
    device.tensor(garbage, [plan.maxRows, inFeatures], dtype),
    device.tensor(w, [E, outFeatures, inFeatures], dtype),
    plan,
  );
  expect(product.output.shape).toEqual([plan.maxRows, outFeatures]);
  const dy = numbers(11, total * outFeatures);
  const dyGarbage = rowsWithGarbage(dy, plan.maxRows, outFeatures);
  const grads = product.backward(device.tensor(dyGarbage, [plan.maxRows, outFeatures], dtype));

  const output = new Float64Array(total * outFeatures);
  const dx = new Float64Array(total * inFeatures);
  const dw = new Float64Array(w.length);
  for (let e = 0; e < E; e++) {
    const part = (values: Float32Array, width: number): Float64Array =>
      Float64Array.from(values.subarray(offsets[e]! * width, offsets[e + 1]! * width));
    const we = Float64Array.from(w.subarray(e * outFeatures * inFeatures, (e + 1) * outFeatures * inFeatures));
    output.set(linear(we, undefined, part(x, inFeatures), inFeatures), offsets[e]! * outFeatures);
    const expected = linearBackward(we, part(x, inFeatures), part(dy, outFeatures), inFeatures);
    dx.set(expected.input, offsets[e]! * inFeatures);
    dw.set(expected.weight, e * outFeatures * inFeatures);
  }
  const R = plan.maxRows;
  close('output', await product.output.data(), padded(output, R, outFeatures), outFeatures);
  close('rows gradient', await grads.rows.data(), padded(dx, R, inFeatures), inFeatures);
  close('weight gradient', await grads.weight.data(), dw, inFeatures);
}

onEachDType((device, dtype) => {
  /** Numbers that the dtype holds, and tensors of it. */
  const numbers = (seed: number, size: number, std?: number): Float32Array =>
    roundedAll(dtype, normals(seed, size, std));
  const tensor = (values: Float32Array, shape: number[]): Tensor => device().tensor(values, shape, dtype);
  const close = (label: string, actual: Read, expected: ArrayLike<number>, width: number): void =>
    expectClose(label, actual, expected, width, { dtype });

  describe('route', () => {
    const [T, H, E] = [37, 17, 7];
    const configs: ({ topK: number } & RouterOptions)[] = [
      { topK: 2 },
      { topK: 1 },
      { topK: 7, renormalize: true },
      { topK: 3, renormalize: { p: 2 }, weightScale: 2.5, temperature: 0.7 },
      { topK: 3, selectBy: 'logits', temperature: 2 },
    ];
    it.each(configs.map((config) => [JSON.stringify(config), config] as const))('%s', async (_, config) => {
      const K = config.topK;
      const [x, w] = [numbers(1, T * H), normals(2, E * H, 0.3)];
      const dWeights = normals(3, T * K);
      const routed = ops.route(tensor(x, [T, H]), device().tensor(w, [E, H]), config);
      const [x64, w64] = [Float64Array.from(x), Float64Array.from(w)];
      const logits = linear(w64, undefined, x64, H);
      expectClose('logits', await routed.logits.data(), logits, E);

      const u = logits.map((l) => l / (config.temperature ?? 1));
      const indices = await routed.indices.data();
      const weights = new Float64Array(T * K);
      const dLogits = new Float64Array(T * E);
      for (let t = 0; t < T; t++) {
        const ut = row(u, t, E);
        const selected = topK(ut, K);
        expectSame(`indices of token ${t}`, indices.subarray(t * K, (t + 1) * K), selected);
        const scores = scoreSelected(ut, selected, config);
        row(weights, t, K).set(weigh(scores, config));
        const dScores = weighBackward(scores, config, row(Float64Array.from(dWeights), t, K));
        const du = scoreSelectedBackward(ut, selected, config, dScores);
        addScaled(row(dLogits, t, E), 1 / (config.temperature ?? 1), du);
      }
      expectClose('weights', await routed.weights.data(), weights, K);

      const grads = routed.backward(device().tensor(dWeights, [T, K]));
      const expected = linearBackward(w64, x64, dLogits, H);
      close('input gradient', await grads.input.data(), expected.input, H);
      expectClose('weight gradient', await grads.weight.data(), expected.weight, H);
    });

    it.each(['indices', 'logits'] as const)('refuses its backward after %s were written', (name) => {
      const routed = ops.route(device().zeros([3, 4]), device().zeros([5, 4]), { topK: 2 });
      const written = routed[name];
      written.write(name === 'indices' ? new Int32Array(written.size).fill(1 << 30) : new Float32Array(written.size));
      expect(failure(() => routed.backward(device().zeros([3, 2]))).code).toBe('ERR_STALE_PASS');
    });

    it('gives ties to the lower index', async () => {
      const routed = ops.route(tensor(numbers(1, 9 * 4), [9, 4]), device().zeros([5, 4]), { topK: 3 });
      expect([...(await routed.indices.data())]).toEqual(new Array(9).fill([0, 1, 2]).flat());
    });
  });

  it.each([true, false])('plan gives slots to the earlier of equal scores, firstChoicesFirst %s', async (first) => {
    // Every token wants expert 0 and then 1; all scores are equal.
    const indices = Int32Array.from({ length: 12 }, (_, i) => i % 2);
    const plan = ops.plan(
      device().tensor(indices, [6, 2]),
      device().tensor(new Float32Array(12).fill(0.5), [6, 2]),
      2,
      {
        type: 'fixed',
        slots: 2,
        priority: 'score',
        firstChoicesFirst: first,
      },
    );
    expectSame('tokens', await plan.tokens.data(), [0, 1, 0, 1]);
  });

  describe.each(SHAPES)('%s', (_, shape) => {
    const { T, H, K } = shape;

    it('plan', async () => {
      const { plan, rows, offsets } = makePlan(device(), shape);
      expect(plan.maxRows).toBeGreaterThanOrEqual(rows.length);
      expectSame('offsets', await plan.offsets.data(), offsets);
      const padding = new Array(plan.maxRows - rows.length).fill(-1);
      expectSame('tokens', await plan.tokens.data(), [...rows.map((r) => r.token), ...padding]);
      expectSame('expertRows', await plan.expertRows(), offsets);
    });

    it('dispatch', async () => {
      const { plan, rows } = makePlan(device(), shape);
      const x = numbers(5, T * H);
      const dispatched = ops.dispatch(tensor(x, [T, H]), plan);
      expect(dispatched.rows.shape).toEqual([plan.maxRows, H]);
      const expected = new Float32Array(plan.maxRows * H);
      rows.forEach(({ token }, r) => {
        expected.set(x.subarray(token * H, (token + 1) * H), r * H);
      });
      expectSame('rows', await dispatched.rows.data(), expected);

      const dRows = numbers(6, rows.length * H);
      const garbage = rowsWithGarbage(dRows, plan.maxRows, H);
      const dInput = dispatched.backward(tensor(garbage, [plan.maxRows, H]));
      const sum = new Float64Array(T * H);
      rows.forEach(({ token }, r) => {
        addScaled(row(sum, token, H), 1, row(Float64Array.from(dRows), r, H));
      });
      close('input gradient', await dInput.data(), sum, H);
    });

    it('combine', async () => {
      const { plan, rows, weights } = makePlan(device(), shape);
      const values = numbers(7, rows.length * H);
      const garbage = rowsWithGarbage(values, plan.maxRows, H);
      const combined = ops.combine(tensor(garbage, [plan.maxRows, H]), plan);
      const output = new Float64Array(T * H);
      rows.forEach(({ token, index }, r) => {
        addScaled(row(output, token, H), weights[index]!, row(Float64Array.from(values), r, H));
      });
      close('output', await combined.output.data(), output, H);

      const dOutput = Float64Array.from(numbers(8, T * H));
      const grads = combined.backward(tensor(Float32Array.from(dOutput), [T, H]));
      const dRows = new Float64Array(plan.maxRows * H);
      const dWeights = new Float64Array(T * K);
      rows.forEach(({ token, index }, r) => {
        const d = row(dOutput, token, H);
        addScaled(row(dRows, r, H), weights[index]!, d);
        dWeights[index] = d.reduce((total, v, h) => total + v * values[r * H + h]!, 0);
      });
      close('rows gradient', await grads.rows.data(), dRows, H);
      expectClose('weights gradient', await grads.weights.data(), dWeights, K);
    });

    it('groupedGemm', () => expectGroupedGemm(device(), shape, shape.out ?? 19, dtype, normals));
  });
});

onEachDevice((device) => {
  // Of one sign: what an accumulator cuts off then adds up, where that of random signs would cancel.
  describe.each([
    ['random signs', normals],
    ['one sign', (seed: number, size: number) => normals(seed, size).map(Math.abs)],
  ] as const)('groupedGemm holds float32 at a depth of 4,096, numbers of %s', (_, numbers) => {
    it.each([
      ['output', { T: 9, H: 4096, E: 2, K: 1 }, 7],
      ['rows gradient', { T: 9, H: 7, E: 2, K: 1 }, 4096],
      ['weight gradient', { T: 4096, H: 7, E: 2, K: 1, busy: 1 }, 9],
    ] as const)('%s', (_, shape, outFeatures) => expectGroupedGemm(device(), shape, outFeatures, 'float32', numbers));
  });
});
