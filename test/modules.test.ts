/** Linear, Embedding, RMSNorm, add and cross-entropy against the float64 reference, forward and backward. */

import { describe, expect, it } from 'vitest';
import {
  add,
  crossEntropy,
  Embedding,
  Linear,
  type Module,
  type Parameter,
  type Pass,
  RMSNorm,
  type Tensor,
} from '../lib/index.js';
import { expectClose, expectSame, expectScalar } from './compare.js';
import { onEachDType } from './devices.js';
import { integers, normals } from './random.js';
import * as reference from './reference-modules.js';
import { rounded, roundedAll } from './rounding.js';
import type { Read } from './run-case.js';

function parameter(module: Module, name: string): Parameter {
  const found = module.parameters().get(name);
  if (!found) throw new Error(`no parameter ${name}, only ${[...module.parameters().keys()].join(', ')}`);
  return found;
}

const wide = (values: Float32Array): Float64Array => Float64Array.from(values);

onEachDType((device, dtype) => {
  /** Numbers that the dtype holds, and tensors of it. */
  const numbers = (seed: number, size: number, std?: number): Float32Array =>
    roundedAll(dtype, normals(seed, size, std));
  const tensor = (values: Float32Array, shape: number[]): Tensor => device().tensor(values, shape, dtype);
  const close = (label: string, actual: Read, expected: ArrayLike<number>, width: number, vanishing = false): void =>
    expectClose(label, actual, expected, width, { dtype, vanishing });

  describe('Linear', () => {
    const sizes = [
      [3, 17, 13],
      [0, 5, 4],
      [1, 1, 1],
      [1, 65, 7],
      [129, 33, 130],
      [64, 64, 128],
      [131, 66, 50],
      [5000, 9, 5], // more rows than the backward takes in one go
    ] as const;
    it.each(sizes.flatMap((size) => [[...size, true] as const, [...size, false] as const]))(
      '%i rows, %i → %i, bias %s',
      async (rows, inFeatures, outFeatures, bias) => {
        using layer = new Linear(device(), { inFeatures, outFeatures, bias, seed: 1, dtype });
        const [w, b] = [numbers(1, outFeatures * inFeatures, 1 / Math.sqrt(inFeatures)), numbers(2, outFeatures)];
        const [x, dy] = [numbers(3, rows * inFeatures), numbers(4, rows * outFeatures)];
        parameter(layer, 'weight').value.write(w);
        if (bias) parameter(layer, 'bias').value.write(b);
        else expect(layer.parameters().has('bias')).toBe(false);

        using pass = layer.forward(tensor(x, [rows, inFeatures]));
        using dx = pass.backward(tensor(dy, [rows, outFeatures]));
        const y = reference.linear(wide(w), bias ? wide(b) : undefined, wide(x), inFeatures);
        const grads = reference.linearBackward(wide(w), wide(x), wide(dy), inFeatures);
        expect(pass.output.shape).toEqual([rows, outFeatures]);
        close('output', await pass.output.data(), y, outFeatures);
        close('input gradient', await dx.data(), grads.input, inFeatures);
        close('weight gradient', await parameter(layer, 'weight').grad.data(), grads.weight, inFeatures);
        if (bias) close('bias gradient', await parameter(layer, 'bias').grad.data(), grads.bias, outFeatures);
      },
    );

    it('sums a bias gradient over many rows of one sign without losing its digits', async () => {
      const [rows, value] = [20_000, rounded(dtype, Math.fround(0.1))];
      using layer = new Linear(device(), { inFeatures: 1, outFeatures: 1, seed: 1, dtype });
      using pass = layer.forward(device().zeros([rows, 1], dtype));
      pass.backward(tensor(new Float32Array(rows).fill(value), [rows, 1])).dispose();
      expectClose('bias gradient', await parameter(layer, 'bias').grad.data(), [rows * value], 1);
    });

    it('takes leading dimensions as rows, and adds gradients until zeroGrad()', async () => {
      using layer = new Linear(device(), { inFeatures: 5, outFeatures: 3, bias: false, seed: 1, dtype });
      const [x, dy] = [numbers(3, 6 * 5), numbers(4, 6 * 3)];
      for (let i = 0; i < 2; i++) {
        using pass = layer.forward(tensor(x, [2, 3, 5]));
        expect(pass.output.shape).toEqual([2, 3, 3]);
        pass.backward(tensor(dy, [2, 3, 3])).dispose();
      }
      const once = reference.linearBackward(new Float64Array(15), wide(x), wide(dy), 5).weight;
      const { grad } = parameter(layer, 'weight');
      close(
        'twice',
        await grad.data(),
        once.map((g) => 2 * g),
        5,
      );
      layer.zeroGrad();
      expectSame('cleared', await grad.data(), new Float32Array(15));
    });

    it('gives a frozen parameter no gradient', async () => {
      using layer = new Linear(device(), { inFeatures: 5, outFeatures: 3, bias: true, seed: 1, dtype });
      parameter(layer, 'weight').trainable = false;
      using pass = layer.forward(tensor(numbers(3, 20), [4, 5]));
      pass.backward(tensor(numbers(4, 12), [4, 3])).dispose();
      expectSame('weight gradient', await parameter(layer, 'weight').grad.data(), new Float32Array(15));
      expect((await parameter(layer, 'bias').grad.data()).some((g) => g !== 0)).toBe(true);
    });
  });

  describe('Embedding', () => {
    it.each([
      [11, 17, 40],
      [256, 5, 3],
      [2, 1, 9],
      [4, 8, 0],
      [2, 1030, 140], // indices that go on in later windows, in more columns than a GPU takes in one go
    ])('%i × %i, %i indices', async (count, size, length) => {
      using layer = new Embedding(device(), { count, size, seed: 1, dtype });
      const [table, dy] = [numbers(1, count * size), numbers(2, length * size)];
      const indices = integers(3, length, 0, count - 1);
      parameter(layer, 'weight').value.write(table);
      using pass = layer.forward(device().tensor(indices, [length]));
      pass.backward(tensor(dy, [length, size]))?.dispose();
      expect(pass.output.shape).toEqual([length, size]);
      expectSame('output', await pass.output.data(), reference.embedding(wide(table), indices, size));
      const expected = reference.embeddingBackward(count, indices, wide(dy), size);
      close('gradient', await parameter(layer, 'weight').grad.data(), expected, size);
    });

    it('keeps the dimensions of its indices', () => {
      using layer = new Embedding(device(), { count: 4, size: 3, seed: 1, dtype });
      using pass = layer.forward(device().tensor(Int32Array.of(0, 1, 2, 3, 0, 1), [3, 2]));
      expect(pass.output.shape).toEqual([3, 2, 3]);
    });
  });

  describe('RMSNorm', () => {
    it.each([
      [5, 17, 1e-5],
      [130, 65, 0.1],
      [1, 1, 1e-6],
      [0, 9, 1e-5],
    ])('%i rows of %i, epsilon %f', async (rows, size, epsilon) => {
      using layer = new RMSNorm(device(), { size, epsilon, dtype });
      expectSame('initial weight', await parameter(layer, 'weight').value.data(), new Float32Array(size).fill(1));
      const [w, x, dy] = [numbers(1, size), numbers(2, rows * size), numbers(3, rows * size)];
      parameter(layer, 'weight').value.write(w);
      using pass = layer.forward(tensor(x, [rows, size]));
      using dx = pass.backward(tensor(dy, [rows, size]));
      close('output', await pass.output.data(), reference.rmsNorm(wide(w), wide(x), epsilon), size);
      const grads = reference.rmsNormBackward(wide(w), wide(x), wide(dy), epsilon);
      // One value over its own root mean square is its sign: the gradient vanishes but for epsilon.
      close('input gradient', await dx.data(), grads.input, size, size === 1);
      close('weight gradient', await parameter(layer, 'weight').grad.data(), grads.weight, size);
    });

    it('has epsilon 1e-6 by default', async () => {
      using layer = new RMSNorm(device(), { size: 4 });
      const x = Float32Array.of(1e-3, -1e-3, 2e-3, 0);
      using pass = layer.forward(device().tensor(x, [1, 4]));
      const weight = new Float64Array(4).fill(1);
      expectClose('output', await pass.output.data(), reference.rmsNorm(weight, wide(x), 1e-6), 4);
    });

    it('of a row of zeros is zero', async () => {
      using layer = new RMSNorm(device(), { size: 6, epsilon: 1e-6, dtype });
      using pass = layer.forward(device().zeros([2, 6], dtype));
      expectSame('output', await pass.output.data(), new Float32Array(12));
    });
  });

  const kinds: [string, () => Module & { forward(input: Tensor): Pass }, () => Tensor][] = [
    ['Linear', () => new Linear(device(), { inFeatures: 9, outFeatures: 5, dtype, seed: 1 }), () => floats([6, 9])],
    [
      'Embedding',
      () => new Embedding(device(), { count: 3, size: 5, dtype, seed: 1 }),
      () => device().zeros([6], 'int32'),
    ],
    ['RMSNorm', () => new RMSNorm(device(), { size: 9, dtype }), () => floats([6, 9])],
  ];
  const floats = (shape: number[]) => device().randn(shape, { seed: 4, dtype });

  it.each(kinds)('%s adds the gradients of two passes, and starts over after zeroGrad()', async (_, make, input) => {
    using layer = make();
    using given = input();
    const gradients = () =>
      Promise.all([...layer.parameters().values()].map(async ({ grad }) => [...(await grad.data())]));
    const backward = () => {
      using pass = layer.forward(given);
      using gradOutput = floats([...pass.output.shape]);
      pass.backward(gradOutput).dispose();
    };
    backward();
    const once = await gradients();
    backward();
    for (const [i, gradient] of (await gradients()).entries()) {
      const twice = once[i]!.map((value) => 2 * value);
      expectClose(`gradient ${i}`, gradient, twice, gradient.length);
    }
    layer.zeroGrad();
    backward();
    expect(await gradients()).toEqual(once);
  });

  it.each(kinds)('%s frozen makes no gradient', (_, make, input) => {
    using layer = make();
    using given = input();
    for (const parameter of layer.parameters().values()) parameter.trainable = false;
    using pass = layer.forward(given);
    const before = device().memory().allocated;
    using gradInput = pass.backward(pass.output);
    expect(device().memory().allocated).toBeLessThanOrEqual(before + 4 * gradInput.size);
  });

  describe('crossEntropy', () => {
    it.each([
      ['all counted', 9, 17, 0],
      ['every third skipped', 40, 256, 3],
      ['one row', 1, 5, 0],
    ])('%s', async (_, rows, width, skip) => {
      const logits = numbers(1, rows * width, 3);
      const targets = integers(2, rows, 0, width - 1).map((target, n) => (skip && n % skip === 0 ? -1 : target));
      const expected = reference.crossEntropy(wide(logits), targets);
      using result = crossEntropy(tensor(logits, [rows, width]), device().tensor(targets, [rows]));
      expectScalar('loss', await result.loss.item(), expected.loss);
      using gradient = result.backward();
      close('gradient', await gradient.data(), expected.gradLogits, width);
    });

    it('scales its gradient, and survives large logits', async () => {
      const logits = Float32Array.of(500, -500, 0, 300, 300, -20);
      const targets = Int32Array.of(1, 0);
      const expected = reference.crossEntropy(wide(logits), targets);
      using result = crossEntropy(tensor(logits, [2, 3]), device().tensor(targets, [2]));
      expectScalar('loss', await result.loss.item(), expected.loss);
      using gradient = result.backward(0.25);
      close(
        'gradient',
        await gradient.data(),
        expected.gradLogits.map((g) => g / 4),
        3,
      );
    });

    it('is 0 with gradient 0 when no target counts', async () => {
      using result = crossEntropy(tensor(numbers(1, 10), [2, 5]), device().tensor(Int32Array.of(-1, -1), [2]));
      expect(await result.loss.item()).toBe(0);
      using gradient = result.backward();
      expectSame('gradient', await gradient.data(), new Float32Array(10));
    });
  });

  it('add', async () => {
    const [a, b] = [numbers(1, 3 * 17), numbers(2, 3 * 17)];
    using sum = add(tensor(a, [3, 17]), tensor(b, [3, 17]));
    expect(sum.shape).toEqual([3, 17]);
    expectSame(
      'sum',
      await sum.data(),
      roundedAll(
        dtype,
        a.map((v, i) => v + b[i]!),
      ),
    );
  });
});
