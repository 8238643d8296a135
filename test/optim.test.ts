/**
 * AdamW against the float64 reference. A Linear layer without its output being used is a convenient source of gradients:
 * they are dyᵀ·x whatever the weights are, so what is compared is the optimizer alone. Of 16-bit parameters the reference
 * has the masters: what is compared with their rounding.
 */

import { describe, expect, it } from 'vitest';
import { AdamW, type Device, Linear, RMSNorm } from '../lib/index.js';
import type { Case } from './cases.js';
import { expectClose, expectSame } from './compare.js';
import { referenceFor, referenceGradients } from './compare-case.js';
import { onEachDType } from './devices.js';
import { makeProblem, referenceParameters } from './problem.js';
import { normals } from './random.js';
import { parameterShapes } from './reference.js';
import { type AdamWOptions, linearBackward, ReferenceAdamW } from './reference-modules.js';
import { type FloatDType, rounded, roundedAll } from './rounding.js';
import { makeLayer, runBackward, runForward } from './run-case.js';

const [ROWS, IN, OUT] = [6, 17, 5];

/** A Linear layer in the library and its weights in float64, given the same gradients. */
class Pair {
  readonly layer: Linear;
  private readonly dtype: FloatDType;
  readonly values: Record<string, Float64Array>;
  private readonly device: Device;
  private batch = 0;
  private grads: Record<string, Float64Array> = {};

  constructor(device: Device, dtype: FloatDType) {
    this.device = device;
    this.dtype = dtype;
    this.layer = new Linear(device, { inFeatures: IN, outFeatures: OUT, bias: true, seed: 1, dtype });
    this.values = { weight: new Float64Array(OUT * IN), bias: new Float64Array(OUT) };
    this.write('weight', normals(1, OUT * IN));
    this.write('bias', normals(2, OUT));
  }

  write(name: 'weight' | 'bias', values: Float32Array): void {
    this.parameter(name).value.write(values);
    this.values[name]!.set(roundedAll(this.dtype, values));
  }

  parameter(name: 'weight' | 'bias') {
    return this.layer.parameters().get(name)!;
  }

  /** One backward; gradients add until takeGrads(). */
  accumulate(scale = 1): void {
    this.batch += 1;
    const x = roundedAll(this.dtype, normals(10 * this.batch, ROWS * IN));
    const dy = roundedAll(this.dtype, normals(10 * this.batch + 1, ROWS * OUT, scale));
    using pass = this.layer.forward(this.device.tensor(x, [ROWS, IN], this.dtype));
    pass.backward(this.device.tensor(dy, [ROWS, OUT], this.dtype)).dispose();
    const { weight, bias } = linearBackward(this.values.weight!, Float64Array.from(x), Float64Array.from(dy), IN);
    for (const [name, gradient] of Object.entries({ weight, bias })) {
      this.grads[name] = gradient.map((g, i) => g + (this.grads[name]?.[i] ?? 0));
    }
  }

  takeGrads(): Record<string, Float64Array> {
    const taken = this.grads;
    this.grads = {};
    return taken;
  }

  async expectSameValues(label: string): Promise<void> {
    await this.expectSame(label, 'weight', IN);
    await this.expectSame(label, 'bias', OUT);
  }

  private async expectSame(label: string, name: 'weight' | 'bias', width: number): Promise<void> {
    const [actual, expected] = [await this.parameter(name).value.data(), this.values[name]!];
    // A master that has the reference's value but for float32's rounding may lie across the middle between two values.
    const [low, high] = [1 - 1e-5, 1 + 1e-5].map((factor) => expected.map((x) => rounded(this.dtype, factor * x)));
    const nearest = expected.map((x, i) => (actual[i] === low![i] || actual[i] === high![i] ? actual[i]! : x));
    if (this.dtype === 'float32') expectClose(`${label}: ${name}`, actual, expected, width);
    else expectSame(`${label}: ${name}`, actual, nearest);
  }
}

onEachDType((device, dtype) => {
  describe('AdamW', () => {
    const variants: AdamWOptions[] = [
      { learningRate: 1e-2 },
      { learningRate: 1e-2, weightDecay: 0 },
      { learningRate: 0.1, betas: [0.8, 0.95], epsilon: 1e-3, weightDecay: 0.3 },
    ];
    it.each(variants.map((options) => [JSON.stringify(options), options] as const))('%s', async (_, options) => {
      const pair = new Pair(device(), dtype);
      const optimizer = new AdamW(pair.layer.parameters().values(), options);
      const reference = new ReferenceAdamW(pair.values, options);
      for (let step = 1; step <= 8; step++) {
        pair.accumulate();
        optimizer.step();
        reference.step(pair.takeGrads());
        await pair.expectSameValues(`step ${step}`);
      }
      expectClose('norm', [await optimizer.gradNorm()], [reference.gradNorm], 1);
      expect(await optimizer.skippedSteps()).toBe(0);
      optimizer.dispose();
    });

    it('takes a new learning rate at any step', async () => {
      const pair = new Pair(device(), dtype);
      const optimizer = new AdamW(pair.layer.parameters().values(), { learningRate: 1e-3 });
      const options = { learningRate: 1e-3 };
      const reference = new ReferenceAdamW(pair.values, options);
      for (const learningRate of [0.1, 0.01, 0.05, 0]) {
        optimizer.learningRate = learningRate;
        options.learningRate = learningRate;
        pair.accumulate();
        optimizer.step();
        reference.step(pair.takeGrads());
        await pair.expectSameValues(`learning rate ${learningRate}`);
      }
    });

    it('clips the global norm over all parameters, only when it is larger', async () => {
      const pair = new Pair(device(), dtype);
      const options = { learningRate: 0.05, epsilon: 0.1 }; // Adam ignores scale; a large epsilon shows it
      const optimizer = new AdamW(pair.layer.parameters().values(), options);
      const reference = new ReferenceAdamW(pair.values, options);
      for (const [scale, maxGradNorm] of [
        [1, 0.5],
        [0.001, 0.5],
        [10, 3],
        [1, 1e9],
      ] as const) {
        pair.accumulate(scale);
        optimizer.step({ maxGradNorm });
        reference.step(pair.takeGrads(), maxGradNorm);
        expectClose('norm before clipping', [await optimizer.gradNorm()], [reference.gradNorm], 1);
        await pair.expectSameValues(`scale ${scale}, at most ${maxGradNorm}`);
      }
    });

    it('steps on the sum of several backwards, and clears it', async () => {
      const pair = new Pair(device(), dtype);
      const optimizer = new AdamW(pair.layer.parameters().values(), { learningRate: 0.05 });
      const reference = new ReferenceAdamW(pair.values, { learningRate: 0.05 });
      for (const backwards of [2, 1, 3]) {
        for (let i = 0; i < backwards; i++) pair.accumulate();
        optimizer.step();
        reference.step(pair.takeGrads());
        await pair.expectSameValues(`${backwards} backwards`);
      }
    });

    it.each([Number.NaN, Number.POSITIVE_INFINITY])(
      'skips a step whose gradient is %d, whole, and counts it',
      async (bad) => {
        const pair = new Pair(device(), dtype);
        const optimizer = new AdamW(pair.layer.parameters().values(), { learningRate: 0.05 });
        const reference = new ReferenceAdamW(pair.values, { learningRate: 0.05 });
        pair.accumulate();
        optimizer.step({ maxGradNorm: 1 });
        reference.step(pair.takeGrads(), 1);

        const before = await pair.parameter('weight').value.data();
        pair.accumulate(bad);
        optimizer.step({ maxGradNorm: 1 });
        pair.takeGrads();
        expectSame('weight', await pair.parameter('weight').value.data(), before);
        expect(await optimizer.skippedSteps()).toBe(1);
        expect(await optimizer.gradNorm()).not.toSatisfy(Number.isFinite);

        // Neither moments nor step count have moved, and the bad gradient is gone.
        pair.accumulate();
        optimizer.step({ maxGradNorm: 1 });
        reference.step(pair.takeGrads(), 1);
        await pair.expectSameValues('after the skipped step');
        expect(await optimizer.skippedSteps()).toBe(1);
      },
    );

    it('keeps what a step is too small to change in 16 bits', async () => {
      const pair = new Pair(device(), dtype);
      const options = { learningRate: 1e-4, weightDecay: 0 };
      const optimizer = new AdamW(pair.layer.parameters().values(), options);
      const reference = new ReferenceAdamW(pair.values, options);
      const before = await pair.parameter('weight').value.data();
      for (let step = 1; step <= 60; step++) {
        pair.accumulate();
        optimizer.step();
        reference.step(pair.takeGrads());
      }
      await pair.expectSameValues('after 60 small steps');
      const after = await pair.parameter('weight').value.data();
      expect(after.filter((x, i) => x !== before[i]).length).toBeGreaterThan(0);
    });

    it('goes on from a value that was written', async () => {
      const pair = new Pair(device(), dtype);
      const optimizer = new AdamW(pair.layer.parameters().values(), { learningRate: 0.01 });
      const reference = new ReferenceAdamW(pair.values, { learningRate: 0.01 });
      for (let step = 1; step <= 6; step++) {
        if (step % 3 === 0) pair.write('weight', normals(100 + step, OUT * IN));
        pair.accumulate();
        optimizer.step();
        reference.step(pair.takeGrads());
        await pair.expectSameValues(`step ${step}`);
      }
    });

    it('leaves frozen parameters alone, decay included', async () => {
      const pair = new Pair(device(), dtype);
      pair.parameter('bias').trainable = false;
      const options = { learningRate: 0.05, weightDecay: 0.5 };
      const optimizer = new AdamW(pair.layer.parameters().values(), options);
      const reference = new ReferenceAdamW(pair.values, options);
      for (let step = 0; step < 3; step++) {
        pair.accumulate();
        optimizer.step({ maxGradNorm: 1 });
        reference.step({ weight: pair.takeGrads().weight! }, 1);
      }
      await pair.expectSameValues('frozen bias');
      expectClose('norm', [await optimizer.gradNorm()], [reference.gradNorm], 1);
    });

    it('leaves a parameter alone that is frozen with a gradient, until it is trained again', async () => {
      const pair = new Pair(device(), dtype);
      const options = { learningRate: 0.05, weightDecay: 0.5 };
      const optimizer = new AdamW(pair.layer.parameters().values(), options);
      const reference = new ReferenceAdamW(pair.values, options);
      pair.accumulate();
      const { weight, bias } = pair.takeGrads();
      pair.parameter('bias').trainable = false;
      optimizer.step();
      reference.step({ weight: weight! });
      await pair.expectSameValues('frozen bias');
      pair.parameter('bias').trainable = true;
      optimizer.step();
      reference.step({ bias: bias! });
      await pair.expectSameValues('trained again');
    });

    it('skips parameters without a gradient since the last clear, decay included', async () => {
      const [used, unused] = [new Pair(device(), dtype), new Pair(device(), dtype)];
      const options = { learningRate: 0.05, weightDecay: 0.5 };
      const both = [...used.layer.parameters().values(), ...unused.layer.parameters().values()];
      const optimizer = new AdamW(both, options);
      const [usedReference, unusedReference] = [
        new ReferenceAdamW(used.values, options),
        new ReferenceAdamW(unused.values, options),
      ];
      for (const turn of ['used', 'used', 'both', 'none'] as const) {
        if (turn !== 'none') used.accumulate();
        if (turn === 'both') unused.accumulate();
        optimizer.step();
        usedReference.step(used.takeGrads());
        unusedReference.step(unused.takeGrads());
        await used.expectSameValues(`used, turn ${turn}`);
        await unused.expectSameValues(`unused, turn ${turn}`);
      }
    });

    it('is not moved by reading a cleared gradient, before the first backward, after zeroGrad() or after a step', async () => {
      const pair = new Pair(device(), dtype);
      const options = { learningRate: 0.05, weightDecay: 0.5 };
      const optimizer = new AdamW(pair.layer.parameters().values(), options);
      const reference = new ReferenceAdamW(pair.values, options);
      const zeros = new Float32Array(OUT * IN);
      const readAndStep = async (label: string): Promise<void> => {
        expectSame(`gradient ${label}`, await pair.parameter('weight').grad.data(), zeros);
        optimizer.step();
        await pair.expectSameValues(label);
      };
      await readAndStep('before the first backward');
      pair.accumulate();
      pair.takeGrads();
      pair.layer.zeroGrad();
      await readAndStep('after zeroGrad()');
      pair.accumulate();
      optimizer.step();
      reference.step(pair.takeGrads());
      await readAndStep('after a step');
    });

    it('takes a gradient that was written', async () => {
      const pair = new Pair(device(), dtype);
      const optimizer = new AdamW(pair.layer.parameters().values(), { learningRate: 0.05 });
      const reference = new ReferenceAdamW(pair.values, { learningRate: 0.05 });
      const gradient = normals(9, OUT * IN);
      pair.parameter('weight').grad.write(gradient);
      optimizer.step();
      reference.step({ weight: Float64Array.from(gradient) });
      await pair.expectSameValues('a written gradient');
    });
  });

  it('takes more parameters than a launch has room for', async () => {
    const [count, size] = [100, 3];
    const modules = Array.from({ length: count }, () => new RMSNorm(device(), { size, dtype }));
    const parameters = modules.map((module) => module.parameters().get('weight')!);
    const names = parameters.map((_, i) => `weight ${i}`);
    const values = Object.fromEntries(names.map((name) => [name, new Float64Array(size).fill(1)]));
    const options = { learningRate: 0.05, epsilon: 0.1 }; // Adam ignores scale; a large epsilon shows it
    const optimizer = new AdamW(parameters, options);
    const reference = new ReferenceAdamW(values, options);
    const zeros = new Float64Array(size);
    for (const step of [1, 2]) {
      // Each has a gradient and a number of updates of its own; every third has none in the second step.
      const gradients = Object.fromEntries(
        names.flatMap((name, i) => (step === 2 && i % 3 === 0 ? [] : [[name, normals(200 * step + i, size)] as const])),
      );
      for (const [i, name] of names.entries()) if (gradients[name]) parameters[i]!.grad.write(gradients[name]);
      optimizer.step({ maxGradNorm: 5 });
      const wide = Object.entries(gradients).map(
        ([name, gradient]) => [name, zeros.map((_, j) => gradient[j]!)] as const,
      );
      reference.step(Object.fromEntries(wide), 5);
      expectClose('norm', [await optimizer.gradNorm()], [reference.gradNorm], 1);
      const actual = await Promise.all(parameters.map(({ value }) => value.data()));
      for (const [i, name] of names.entries())
        expectClose(`step ${step}: ${name}`, actual[i]!, values[name]!, size, { dtype });
    }
    for (const module of modules) module.dispose();
  });

  it('trains a layer as the reference does', async () => {
    const testCase: Case = {
      name: 'training',
      tokens: 31,
      config: {
        hiddenSize: 17,
        ffnSize: 13,
        numExperts: 5,
        topK: 2,
        router: { renormalize: true, bias: true },
        experts: { activation: 'geglu', bias: true, shared: { ffnSize: 7, gate: 'sigmoid' } },
        losses: { loadBalance: 0.1, z: 0.01 },
      },
    };
    const problem = makeProblem(testCase, 1, dtype);
    const options = { learningRate: 0.02, epsilon: 1e-3 };
    const values = referenceParameters(problem);
    const reference = new ReferenceAdamW(values, options);
    using layer = makeLayer(device(), testCase, problem);
    const optimizer = new AdamW(layer.parameters().values(), options);
    for (let step = 1; step <= 4; step++) {
      const batch = { ...makeProblem(testCase, step + 1, dtype), parameters: problem.parameters };
      using pass = runForward(layer, testCase, batch);
      runBackward(pass, testCase, batch).dispose();
      optimizer.step({ maxGradNorm: 1 });
      const decisions = { indices: await pass.routing.indices.data(), kept: await pass.routing.kept.data() };
      const used = Object.entries(values).map(([name, masters]) => {
        const layers = name.startsWith('router.') ? 'float32' : dtype;
        return [name, masters.map((x) => rounded(layers, x))] as const;
      });
      const forward = referenceFor(testCase, batch, decisions, Object.fromEntries(used));
      reference.step(referenceGradients(forward, testCase, batch).parameters, 1);
      for (const [name, shape] of Object.entries(parameterShapes(testCase.config))) {
        const actual = await layer.parameters().get(name)!.value.data();
        expectClose(`step ${step}: ${name}`, actual, values[name]!, shape.at(-1)!, { dtype });
      }
    }
  });
});
