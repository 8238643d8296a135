/**
 * AdamW against the float64 reference. A Linear layer without its output being used is a convenient source of gradients:
 * they are dyᵀ·x whatever the weights are, so what is compared is the optimizer alone.
 */

import { describe, expect, it } from 'vitest';
import { AdamW, type Device, Linear } from '../lib/index.js';
import type { Case } from './cases.js';
import { expectClose, expectSame } from './compare.js';
import { referenceFor, referenceGradients } from './compare-case.js';
import { onEachDevice } from './devices.js';
import { makeProblem, referenceParameters } from './problem.js';
import { normals } from './random.js';
import { parameterShapes } from './reference.js';
import { type AdamWOptions, linearBackward, ReferenceAdamW } from './reference-modules.js';
import { makeLayer, runBackward, runForward } from './run-case.js';

const [ROWS, IN, OUT] = [6, 17, 5];

/** A Linear layer in the library and its weights in float64, given the same gradients. */
class Pair {
  readonly layer: Linear;
  readonly values: Record<string, Float64Array>;
  private readonly device: Device;
  private batch = 0;
  private grads: Record<string, Float64Array> = {};

  constructor(device: Device) {
    this.device = device;
    this.layer = new Linear(device, { inFeatures: IN, outFeatures: OUT, bias: true, seed: 1 });
    const [weight, bias] = [normals(1, OUT * IN), normals(2, OUT)];
    this.parameter('weight').value.write(weight);
    this.parameter('bias').value.write(bias);
    this.values = { weight: Float64Array.from(weight), bias: Float64Array.from(bias) };
  }

  parameter(name: 'weight' | 'bias') {
    return this.layer.parameters().get(name)!;
  }

  /** One backward; gradients add until takeGrads(). */
  accumulate(scale = 1): void {
    this.batch += 1;
    const [x, dy] = [normals(10 * this.batch, ROWS * IN), normals(10 * this.batch + 1, ROWS * OUT, scale)];
    using pass = this.layer.forward(this.device.tensor(x, [ROWS, IN]));
    pass.backward(this.device.tensor(dy, [ROWS, OUT])).dispose();
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
    expectClose(`${label}: weight`, await this.parameter('weight').value.data(), this.values.weight!, IN);
    expectClose(`${label}: bias`, await this.parameter('bias').value.data(), this.values.bias!, OUT);
  }
}

onEachDevice((device) => {
  describe('AdamW', () => {
    const variants: AdamWOptions[] = [
      { learningRate: 1e-2 },
      { learningRate: 1e-2, weightDecay: 0 },
      { learningRate: 0.1, betas: [0.8, 0.95], epsilon: 1e-3, weightDecay: 0.3 },
    ];
    it.each(variants.map((options) => [JSON.stringify(options), options] as const))('%s', async (_, options) => {
      const pair = new Pair(device());
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
      const pair = new Pair(device());
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
      const pair = new Pair(device());
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
      const pair = new Pair(device());
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
        const pair = new Pair(device());
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

    it('leaves frozen parameters alone, decay included', async () => {
      const pair = new Pair(device());
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
      const pair = new Pair(device());
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
      const [used, unused] = [new Pair(device()), new Pair(device())];
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
      const pair = new Pair(device());
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
      const pair = new Pair(device());
      const optimizer = new AdamW(pair.layer.parameters().values(), { learningRate: 0.05 });
      const reference = new ReferenceAdamW(pair.values, { learningRate: 0.05 });
      const gradient = normals(9, OUT * IN);
      pair.parameter('weight').grad.write(gradient);
      optimizer.step();
      reference.step({ weight: Float64Array.from(gradient) });
      await pair.expectSameValues('a written gradient');
    });
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
    const problem = makeProblem(testCase);
    const options = { learningRate: 0.02, epsilon: 1e-3 };
    const values = referenceParameters(problem);
    const reference = new ReferenceAdamW(values, options);
    using layer = makeLayer(device(), testCase, problem);
    const optimizer = new AdamW(layer.parameters().values(), options);
    for (let step = 1; step <= 4; step++) {
      const batch = { ...makeProblem(testCase, step + 1), parameters: problem.parameters };
      using pass = runForward(layer, testCase, batch);
      runBackward(pass, testCase, batch).dispose();
      optimizer.step({ maxGradNorm: 1 });
      const decisions = { indices: await pass.routing.indices.data(), kept: await pass.routing.kept.data() };
      const forward = referenceFor(testCase, batch, decisions, values);
      reference.step(referenceGradients(forward, testCase, batch).parameters, 1);
      for (const [name, shape] of Object.entries(parameterShapes(testCase.config))) {
        const actual = await layer.parameters().get(name)!.value.data();
        expectClose(`step ${step}: ${name}`, actual, values[name]!, shape.at(-1)!);
      }
    }
  });
});
