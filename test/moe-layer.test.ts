/**
 * The layer against the float64 reference: the whole table of cases (outputs, routing, losses, statistics, every
 * gradient), and what spans several passes. Error handling and random configurations have their own suites.
 */

import { describe, expect, it } from 'vitest';
import { type Device, MoELayer } from '../lib/index.js';
import { CASES, type Case } from './cases.js';
import { expectClose, expectSame } from './compare.js';
import {
  compareParameterGradients,
  compareWithReference,
  type Reference,
  referenceFor,
  referenceGradients,
  referenceOf,
} from './compare-case.js';
import { onEachDevice, onEachDType } from './devices.js';
import { takenBy } from './extent.js';
import { makeProblem, type Problem } from './problem.js';
import { integers, normals } from './random.js';
import { type Gradients, parameterShapes } from './reference.js';
import type { Activation } from './reference-experts.js';
import type { FloatDType } from './rounding.js';
import { makeLayer, type Observed, observe, readParameterGradients, runBackward, runForward } from './run-case.js';

/** Only a hang should meet it. */
const TIMEOUT = 1_200_000;

/** Most of what a layer can have at once. */
const RICH: Case = {
  name: 'rich',
  tokens: 23,
  config: {
    hiddenSize: 17,
    ffnSize: 13,
    numExperts: 7,
    topK: 2,
    router: { bias: true, renormalize: true },
    capacity: { type: 'fixed', factor: 0.8 },
    experts: { bias: true, shared: { ffnSize: 9, gate: 'sigmoid' } },
    losses: { loadBalance: 0.5, importance: 0.3, z: 0.1 },
  },
};

const references = new Map<string, Reference>();

/** Of a case of the table: computed once for all devices that choose alike. */
function knownReference(testCase: Case, problem: Problem, observed: Observed): Reference {
  const key = [problem.dtype, testCase.name, observed.indices, observed.kept, observed.actual].join(' ');
  const reference = references.get(key) ?? referenceOf(testCase, problem, observed);
  references.set(key, reference);
  return reference;
}

/** Sizes past the tiles and blocks of every loop; caller's weights, so that no score has to be exact. */
const EXACT_CASES: Case[] = (
  [
    ['relu', 37, { hiddenSize: 17, ffnSize: 13, numExperts: 3, topK: 2 }, 'relu'],
    ['reglu', 70, { hiddenSize: 33, ffnSize: 70, numExperts: 4, topK: 2 }, 'reglu'],
    ['reglu, wide', 130, { hiddenSize: 300, ffnSize: 132, numExperts: 2, topK: 1 }, 'reglu'],
    // Every product is deeper than twice the stages of the GPU's pipeline, and ends within a tile in every dimension.
    ['relu, deep, whole vectors', 597, { hiddenSize: 296, ffnSize: 280, numExperts: 2, topK: 1 }, 'relu'],
    ['reglu, deep, odd widths', 597, { hiddenSize: 299, ffnSize: 277, numExperts: 2, topK: 1 }, 'reglu'],
    // The same in the flat tiles that few rows get, whose stages are twice as deep: at 16 bits, for the sake of time.
    ['reglu, deep and flat, whole vectors', 20, { hiddenSize: 520, ffnSize: 528, numExperts: 1, topK: 1 }, 'reglu'],
    ['reglu, deep and flat, odd widths', 20, { hiddenSize: 523, ffnSize: 521, numExperts: 1, topK: 1 }, 'reglu'],
  ] as const
).map(([name, tokens, sizes, activation]) => ({
  name,
  tokens,
  routing: 'weights',
  config: { ...sizes, experts: { activation, bias: true, shared: { ffnSize: 22 } } },
}));

const ones = (length: number): Int32Array => new Int32Array(length).fill(1);

/** The case with -1, 0 and 1 for every number, of the weights about six that are not 0 in every row. */
function wholeNumbers(testCase: Case, dtype: FloatDType): Problem {
  const problem = makeProblem(testCase, 1, dtype);
  const fill = (seed: number, values: Float32Array, range: number): void =>
    values.set(integers(seed, values.length, -range, range).map((x) => (Math.abs(x) === 1 ? x : 0)));
  fill(1, problem.input, 1);
  fill(2, problem.gradOutput, 2);
  fill(3, problem.weights!, 1);
  for (const [i, [name, shape]] of Object.entries(parameterShapes(testCase.config)).entries())
    if (!name.startsWith('router.')) fill(4 + i, problem.parameters[name]!, Math.max(1, Math.round(shape.at(-1)! / 6)));
  return problem;
}

/** The gradients of one problem, by the reference, with the layer's choices. */
async function expectedGradients(layer: MoELayer, testCase: Case, problem: Problem): Promise<Gradients> {
  using pass = runForward(layer, testCase, problem);
  const decisions = { indices: await pass.routing.indices.data(), kept: await pass.routing.kept.data() };
  return referenceGradients(referenceFor(testCase, problem, decisions), testCase, problem);
}

/** Two batches for the same parameters. */
function twoProblems(testCase: Case): [Problem, Problem] {
  const first = makeProblem(testCase, 1);
  return [first, { ...makeProblem(testCase, 2), parameters: first.parameters }];
}

function sumOf(a: Gradients, b: Gradients): Record<string, Float64Array> {
  const entries = Object.entries(a.parameters);
  return Object.fromEntries(entries.map(([name, g]) => [name, g.map((v, i) => v + b.parameters[name]![i]!)]));
}

onEachDType((device, dtype) => {
  describe('the table', () => {
    it.each(takenBy(dtype, CASES).map((testCase) => [testCase.name, testCase] as const))(
      '%s',
      async (_, testCase) => {
        const problem = makeProblem(testCase, 1, dtype);
        using layer = makeLayer(device(), testCase, problem);
        const observed = await observe(layer, testCase, problem);
        const reference = knownReference(testCase, problem, observed);
        compareWithReference(testCase, problem, observed, false, reference);
        if (testCase.distribution === 'ties') {
          // Whole numbers: adoption is not needed, and would let a tie go to the wrong expert.
          expectSame('indices', observed.indices, ownChoices(reference.pass.routing.u, testCase));
        }
      },
      TIMEOUT,
    );
  });

  const exact = takenBy(dtype, EXACT_CASES).filter(({ name }) => dtype !== 'float32' || !name.includes('flat'));
  it.each(exact.map((testCase) => [testCase.name, testCase] as const))(
    'is exact on small whole numbers: %s',
    async (_, testCase) => {
      const problem = wholeNumbers(testCase, dtype);
      using layer = makeLayer(device(), testCase, problem);
      const { output, gradients } = await observe(layer, testCase, problem);
      const pass = referenceFor(testCase, problem, { indices: problem.indices!, kept: ones(problem.indices!.length) });
      const expected = referenceGradients(pass, testCase, problem);
      // Beyond 256 not every whole number is a bfloat16; and zeros would prove nothing.
      for (const values of [pass.output, expected.input]) {
        expect(values.reduce((max, x) => Math.max(max, Math.abs(x)), 0)).toBeLessThan(257);
        expect(values.filter((x) => x !== 0).length).toBeGreaterThan(values.length / 2);
      }
      expectSame('output', output, pass.output);
      expectSame('input gradient', gradients!.input, expected.input);
      expectSame('gradient of routing.weights', gradients!.weights!, expected.routingWeights!);
      for (const [name, values] of Object.entries(expected.parameters))
        expectSame(`gradient of ${name}`, gradients!.parameters[name]!, values);
    },
  );
});

onEachDevice((device) => {
  it.each(CASES.map((testCase) => [testCase.name, testCase] as const).filter((_, i) => i % 5 === 0))(
    'has exactly the parameters its configuration calls for: %s',
    (_, testCase) => {
      const { config } = testCase;
      using layer = new MoELayer(device(), config);
      const shapes = Object.fromEntries([...layer.parameters()].map(([name, { value }]) => [name, [...value.shape]]));
      expect(shapes).toEqual(parameterShapes(config));
      for (const [name, parameter] of layer.parameters()) {
        expect(parameter.name).toBe(name);
        expect(parameter.trainable).toBe(!name.endsWith('.selectionBias'));
        expect(parameter.grad.shape).toEqual(parameter.value.shape);
      }
    },
  );

  it('takes leading dimensions as tokens', async () => {
    const testCase = { ...RICH, tokens: 12 };
    const problem = makeProblem(testCase);
    using layer = makeLayer(device(), testCase, problem);
    const flat = await observe(layer, testCase, problem);
    using pass = layer.forward(device().tensor(problem.input, [2, 3, 2, 17]));
    const inputGradient = pass.backward(device().tensor(problem.gradOutput, [2, 3, 2, 17]));
    expect(pass.output.shape).toEqual([2, 3, 2, 17]);
    expect(inputGradient.shape).toEqual([2, 3, 2, 17]);
    expect(pass.routing.indices.shape).toEqual([12, 2]);
    expect(await pass.output.data()).toEqual(flat.output);
    expect(await inputGradient.data()).toEqual(flat.gradients!.input);
  });

  it('says a capacity that is rounded up past 2^31 as the largest there is', async () => {
    const capacity = { type: 'fixed', slots: 2 ** 31 - 1, multipleOf: 2 } as const;
    using layer = new MoELayer(device(), { ...RICH.config, capacity });
    using pass = layer.forward(device().zeros([3, 17]));
    expect((await pass.stats()).capacity).toBe(2 ** 31 - 1);
  });

  it('takes any number of tokens with weights by the caller, who leaves no loss to be taken per sequence', async () => {
    const losses = { loadBalance: { coefficient: 1, scope: 'sequence', sequenceLength: 4 } } as const;
    using layer = new MoELayer(device(), { hiddenSize: 4, ffnSize: 3, numExperts: 3, topK: 1, losses, seed: 1 });
    const routing = { indices: device().zeros([5, 1], 'int32'), weights: device().zeros([5, 1]) };
    using pass = layer.forward(device().zeros([5, 4]), { routing });
    expectSame('output', await pass.output.data(), new Float32Array(20));
  });

  it.each<[string, Activation, number[], number[]]>([
    ['relu', 'relu', [], [0, 0, 0]],
    ['reglu', 'reglu', [0, 0, 0], [1, -1, 2]],
    ['clamped-swiglu', { type: 'clamped-swiglu', alpha: 1.5, limit: 2 }, [2, 2, 1], [1, 2, -2]],
  ])('takes the agreed side of the kinks of %s', async (name, activation, gates, ups) => {
    // Matrices of 0: the pre-activations are the biases.
    const sizes = { hiddenSize: 17, ffnSize: 3, numExperts: 1, topK: 1 };
    const testCase: Case = { name, tokens: 5, gain: 0, config: { ...sizes, experts: { activation, bias: true } } };
    const problem = makeProblem(testCase);
    if (gates.length > 0) problem.parameters['experts.gateBias'] = Float32Array.from(gates);
    problem.parameters['experts.upBias'] = Float32Array.from(ups);
    using layer = makeLayer(device(), testCase, problem);
    const vanishing = ['router.weight'];
    compareWithReference({ ...testCase, vanishing }, problem, await observe(layer, testCase, problem));
  });

  it('divides logits by the temperature that was set', async () => {
    const problem = makeProblem(RICH);
    using layer = makeLayer(device(), RICH, problem);
    layer.setTemperature(0.3);
    const observed = await observe(layer, RICH, problem);
    compareWithReference({ ...RICH, call: { temperature: 0.3 } }, problem, observed);
  });

  describe('passes and gradients', () => {
    it('adds the gradients of two passes, and starts over after zeroGrad()', async () => {
      const [first, second] = twoProblems(RICH);
      using layer = makeLayer(device(), RICH, first);
      const a = await expectedGradients(layer, RICH, first);
      const b = await expectedGradients(layer, RICH, second);
      for (const problem of [first, second]) {
        using pass = runForward(layer, RICH, problem);
        runBackward(pass, RICH, problem).dispose();
      }
      compareParameterGradients(RICH, await readParameterGradients(layer), sumOf(a, b));
      layer.zeroGrad();
      for (const [name, gradient] of Object.entries(await readParameterGradients(layer))) {
        expectSame(name, gradient, new Float32Array(gradient.length));
      }
      using pass = runForward(layer, RICH, second);
      runBackward(pass, RICH, second).dispose();
      compareParameterGradients(RICH, await readParameterGradients(layer), b.parameters);
    });

    it.each([[[0, 1]], [[1, 0]]])('keeps several passes alive, backward in order %j', async (order) => {
      const problems = twoProblems(RICH);
      using layer = makeLayer(device(), RICH, problems[0]);
      const expected = [
        await expectedGradients(layer, RICH, problems[0]),
        await expectedGradients(layer, RICH, problems[1]),
      ] as const;
      const passes = problems.map((problem) => runForward(layer, RICH, problem));
      for (const i of order) {
        using gradient = runBackward(passes[i]!, RICH, problems[i]!);
        expectClose(`input gradient of pass ${i}`, await gradient.data(), expected[i]!.input, RICH.config.hiddenSize);
      }
      compareParameterGradients(RICH, await readParameterGradients(layer), sumOf(expected[0], expected[1]));
      for (const pass of passes) pass.dispose();
    });

    it('an evaluation pass between forward and backward changes nothing', async () => {
      const [first, second] = twoProblems(RICH);
      using layer = makeLayer(device(), RICH, first);
      const alone = await observe(layer, RICH, first);
      layer.zeroGrad();
      using pass = runForward(layer, RICH, first);
      using evaluation = runForward(layer, { ...RICH, call: { training: false } }, second);
      runBackward(pass, RICH, first).dispose();
      expect(await readParameterGradients(layer)).toEqual(alone.gradients!.parameters);
      expect(evaluation.output.shape).toEqual([23, 17]);
    });

    it('copies its input tensors: changing the arrays afterwards changes nothing', async () => {
      const problem = makeProblem(RICH);
      using layer = makeLayer(device(), RICH, problem);
      const copy = { ...problem, input: problem.input.slice() };
      using pass = runForward(layer, RICH, copy);
      copy.input.fill(0);
      expectSame('output', await pass.output.data(), (await observe(layer, RICH, problem)).output);
    });

    it.each(Object.keys(parameterShapes(RICH.config)))(
      'frozen %s gets no gradient, the others the same',
      async (name) => {
        const problem = makeProblem(RICH);
        using layer = makeLayer(device(), RICH, problem);
        const { gradients: all } = await observe(layer, RICH, problem);
        layer.zeroGrad();
        layer.parameters().get(name)!.trainable = false;
        const { gradients: some } = await observe(layer, RICH, problem);
        expectSame(name, some!.parameters[name]!, new Float32Array(all!.parameters[name]!.length));
        expectSame('input gradient', some!.input, all!.input);
        for (const [other, gradient] of Object.entries(all!.parameters)) {
          if (other !== name) expectSame(other, some!.parameters[other]!, gradient);
        }
      },
    );

    it('a layer frozen whole still passes the gradient of its input on', async () => {
      const problem = makeProblem(RICH);
      using layer = makeLayer(device(), RICH, problem);
      const { gradients: all } = await observe(layer, RICH, problem);
      layer.zeroGrad();
      for (const parameter of layer.parameters().values()) parameter.trainable = false;
      const { gradients: none } = await observe(layer, RICH, problem);
      expectSame('input gradient', none!.input, all!.input);
    });

    it('a layer frozen whole makes no gradients', () => {
      using layer = new MoELayer(device(), RICH.config);
      for (const parameter of layer.parameters().values()) parameter.trainable = false;
      using input = device().randn([23, 17], { seed: 1 });
      using pass = layer.forward(input);
      const before = device().memory().allocated;
      using gradInput = pass.backward(pass.output);
      // What forward saved goes at the same time.
      expect(device().memory().allocated).toBeLessThan(before + 4 * gradInput.size);
    });
  });

  it('goes through a layer used twice in a chain', async () => {
    const testCase: Case = { ...RICH, config: { ...RICH.config, capacity: { type: 'dropless' } } };
    const problem = makeProblem(testCase);
    using layer = makeLayer(device(), testCase, problem);
    await expectChain(device(), layer, testCase, problem);
  });
});

/** K best per token of float64 scores, without adoption. */
function ownChoices(u: Float64Array, { config: { numExperts, topK } }: Case): number[] {
  return Array.from({ length: u.length / numExperts }, (_, t) => {
    const row = Array.from(u.subarray(t * numExperts, (t + 1) * numExperts), (score, e) => ({ score, e }));
    return row.sort((a, b) => b.score - a.score || a.e - b.e).slice(0, topK);
  }).flatMap((best) => best.map(({ e }) => e));
}

/** y = layer(layer(x)): both passes alive, gradients of both uses summed. */
async function expectChain(device: Device, layer: MoELayer, testCase: Case, problem: Problem): Promise<void> {
  const H = testCase.config.hiddenSize;
  using inner = runForward(layer, testCase, problem);
  using outer = layer.forward(inner.output);
  using gradMiddle = outer.backward(device.tensor(normals(5, testCase.tokens * H), [testCase.tokens, H]));
  using gradInput = inner.backward(gradMiddle);

  const read = async (pass: typeof inner) => ({
    indices: await pass.routing.indices.data(),
    kept: await pass.routing.kept.data(),
  });
  // The reference takes the layer's own middle values, so that float32 rounding of the first does not route the second.
  const middle: Problem = { ...problem, input: Float32Array.from(await inner.output.data()) };
  const second = referenceGradients(referenceFor(testCase, middle, await read(outer)), testCase, {
    ...problem,
    gradOutput: normals(5, testCase.tokens * H),
  });
  const first = referenceGradients(referenceFor(testCase, problem, await read(inner)), testCase, {
    ...problem,
    gradOutput: Float32Array.from(await gradMiddle.data()),
  });
  expectClose('gradient of the middle', await gradMiddle.data(), second.input, H);
  expectClose('gradient of the input', await gradInput.data(), first.input, H);
  compareParameterGradients(testCase, await readParameterGradients(layer), sumOf(first, second));
}
