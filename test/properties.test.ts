/** Random configurations of the layer: against the float64 reference, and against what must hold for all of them. */

import fc from 'fast-check';
import { describe, it } from 'vitest';
import { type Device, MoELayer } from '../lib/index.js';
import type { Case } from './cases.js';
import { expectClose, expectSame, expectScalar } from './compare.js';
import { compareStats, compareWithReference, hangsOnRounding, referenceOf } from './compare-case.js';
import { onEachDevice } from './devices.js';
import { full, onCuda } from './extent.js';
import { expectFilled, expectInvariants } from './invariants.js';
import { alignedPadding, pad } from './padding.js';
import { choices, makeProblem, type Problem } from './problem.js';
import { normals } from './random.js';
import { cases, expertChoiceCases, sizes, smallCases } from './random-cases.js';
import { makeLayer, type Observed, observe, type Read } from './run-case.js';

/** The short run always draws the same configurations; the full run draws new ones and names the seed on failure. */
const RUNS = full ? { numRuns: onCuda ? 300 : 1500 } : { numRuns: 120, seed: 20170123 };
const TIMEOUT = 1_200_000;

const seeds = fc.integer({ min: 1, max: 1000 });

/** What a batch is made of in which every expert has every place in the order of as many tokens: no two values are equal. */
const balanced = fc.integer({ min: 2, max: 12 }).chain((numExperts) => {
  const places = Array.from({ length: numExperts }, (_, e) => e);
  const order = fc.shuffledSubarray(places, { minLength: numExperts });
  return fc.record({
    numExperts: fc.constant(numExperts),
    topK: fc.integer({ min: 1, max: numExperts }),
    logits: order,
    noisy: order,
    router: fc.record({
      scoring: fc.constantFrom('softmax' as const, 'sigmoid' as const),
      selectBy: fc.constantFrom('scores' as const, 'logits' as const),
      renormalize: fc.boolean(),
      temperature: fc.constantFrom(0.5, 1, 3),
    }),
    groups: fc.constantFrom(...places.map((e) => e + 1).filter((count) => numExperts % count === 0)),
    sequences: fc.constantFrom(1, 2, 3, 6),
    from: fc.constantFrom('gates' as const, 'softmax' as const),
    threshold: fc.constantFrom('kth' as const, 'excluding-self' as const),
  });
});

/** What holds without the reference, and the reference. */
function agreement(
  device: () => Device,
  drawn: fc.Arbitrary<Case>,
  expectOwn: (testCase: Case, problem: Problem, observed: Observed) => void,
) {
  return fc.asyncProperty(drawn, seeds, async (testCase, seed) => {
    const problem = makeProblem(testCase, seed);
    using layer = makeLayer(device(), testCase, problem);
    const observed = await observe(layer, testCase, problem);
    expectOwn(testCase, problem, observed);
    const reference = referenceOf(testCase, problem, observed);
    fc.pre(!hangsOnRounding(testCase, reference.pass));
    compareWithReference(testCase, problem, observed, true, reference);
  });
}

onEachDevice((device) => {
  it(
    'random configurations agree with the reference',
    async () => {
      await fc.assert(agreement(device, cases, expectInvariants), RUNS);
    },
    TIMEOUT,
  );

  it(
    'experts that choose take as many tokens as they have slots, and agree with the reference',
    async () => {
      const property = agreement(device, expertChoiceCases, expectFilled);
      await fc.assert(property, { ...RUNS, numRuns: RUNS.numRuns / 2 });
    },
    TIMEOUT,
  );

  it(
    'ties go to the lower index, duplicate experts included',
    async () => {
      const property = fc.asyncProperty(sizes, seeds, async ({ size: { tokens, ...size }, topK }, seed) => {
        const testCase: Case = { name: 'ties', tokens, distribution: 'ties', config: { ...size, topK } };
        const problem = makeProblem(testCase, seed);
        // The last expert's router row becomes a copy of the first's: equal logits for every token.
        const router = problem.parameters['router.weight']!;
        router.copyWithin((size.numExperts - 1) * size.hiddenSize, 0, size.hiddenSize);
        using layer = makeLayer(device(), testCase, problem);
        const { indices, logits } = await observe(layer, testCase, problem);
        for (let t = 0; t < tokens; t++) {
          const row = [...logits!.subarray(t * size.numExperts, (t + 1) * size.numExperts)];
          const best = [...row.keys()].sort((a, b) => row[b]! - row[a]! || a - b).slice(0, topK);
          expectSame(`token ${t}`, indices.subarray(t * topK, (t + 1) * topK), best);
        }
      });
      await fc.assert(property, { ...RUNS, numRuns: RUNS.numRuns / 4 });
    },
    TIMEOUT,
  );

  describe('at perfect balance', () => {
    const counts = ['all', 'first-choice', 'unbiased'] as const;
    const scopes = ['batch', 'sequence', 'device'] as const;

    it.each(counts.flatMap((counted) => scopes.map((scope) => [counted, scope] as const)))(
      'every loss has its value of the table: counts %s, scope %s',
      async (counted, scope) => {
        const property = fc.asyncProperty(balanced, async ({ numExperts: E, topK, router, ...drawn }) => {
          const T = 6 * E;
          // A choice that goes by a bias of its own is not balanced; the unbiased counts are, and what has no part in it.
          const isBiased = counted === 'unbiased';
          const scoped = {
            batch: {},
            sequence: { sequenceLength: T / drawn.sequences },
            device: { groupsOfExperts: drawn.groups },
          }[scope];
          using layer = new MoELayer(device(), {
            hiddenSize: 1,
            ffnSize: 1,
            numExperts: E,
            topK,
            seed: 1,
            router: {
              ...router,
              noise: { type: 'gaussian', std: 0.5 },
              ...(isBiased && { selectionBias: { rate: 0 } }),
            },
            losses: {
              // Hugging Face's, which sums over choices what this one is the mean of.
              loadBalance: { coefficient: topK, counts: counted, scope, ...scoped },
              importance: { coefficient: 3, from: isBiased ? 'softmax' : drawn.from },
              load: { coefficient: 5, threshold: drawn.threshold },
            },
          });
          layer.parameters().get('router.selectionBias')?.value.write(normals(1, E));
          // Each token has the values of the one before, moved on by one expert.
          const turned = (values: readonly number[]): Float32Array =>
            Float32Array.from({ length: T * E }, (_, i) => values[(i + Math.floor(i / E)) % E]! / 4);
          const noise = drawn.noisy.map((value, e) => value - drawn.logits[e]! / router.temperature);
          using pass = layer.forward(device().zeros([T, 1]), {
            logits: device().tensor(turned(drawn.logits), [T, E]),
            noise: device().tensor(turned(noise), [T, E]),
          });
          const { losses } = await pass.stats();
          expectScalar('load balance', losses.loadBalance, 1);
          expectScalar('importance', losses.importance, 0);
          expectScalar('load', losses.load, 0);
          expectScalar('total', losses.total, topK);
        });
        await fc.assert(property, { ...RUNS, numRuns: Math.ceil(RUNS.numRuns / 40) });
      },
      TIMEOUT,
    );
  });

  describe('masked tokens', () => {
    it(
      'take no slot, whatever the configuration',
      async () => {
        const padding = fc.record({ front: fc.integer({ min: 0, max: 2 }), back: fc.integer({ min: 1, max: 5 }) });
        const property = fc.asyncProperty(smallCases, padding, seeds, async (drawn, around, seed) => {
          const { front, back } = alignedPadding(drawn, around);
          const offset = (drawn.call?.tokenOffset ?? 0) + front;
          const testCase: Case = { ...drawn, call: { ...drawn.call, tokenOffset: offset } };
          const problem = makeProblem(testCase, seed);
          const padded = pad(testCase, problem, { front, back });
          using layer = makeLayer(device(), testCase, problem);
          const alone = await observe(layer, testCase, problem);
          using other = makeLayer(device(), padded.testCase, problem);
          const among = await observe(other, padded.testCase, padded.problem);
          const { tokens, config } = testCase;
          const own = (values: Read, width: number): Read => values.subarray(front * width, (front + tokens) * width);
          const K = choices(testCase);
          expectSame('indices', own(among.indices, K), alone.indices);
          expectSame('kept', own(among.kept, K), alone.kept);
          if (alone.actual) expectSame('actual', own(among.actual!, K), alone.actual);
          expectClose('weights', own(among.weights, K), alone.weights, K);
          expectClose('output', own(among.output, config.hiddenSize), alone.output, config.hiddenSize);
          compareStats(among.stats, alone.stats);
        });
        await fc.assert(property, { ...RUNS, numRuns: RUNS.numRuns / 4 });
      },
      TIMEOUT,
    );

    const slots = { type: 'fixed', slots: 3 } as const;
    it.each([slots, { ...slots, priority: 'score' } as const])('have no part in gradients: %j', async (capacity) => {
      const config = { hiddenSize: 17, ffnSize: 13, numExperts: 5, topK: 2, capacity };
      const testCase: Case = { name: 'masked', tokens: 31, mask: 'scattered', config };
      const problem = makeProblem(testCase);
      using layer = makeLayer(device(), testCase, problem);
      const masked = await observe(layer, testCase, problem);
      layer.zeroGrad();

      // The same tokens without the padding between them.
      const live = [...problem.mask!.keys()].filter((t) => problem.mask![t] === 1);
      const gather = <A extends Float32Array | Int32Array>(values: A, width: number): A =>
        values.filter((_, i) => problem.mask![Math.floor(i / width)] === 1) as A;
      const { mask: _, ...dense } = problem;
      dense.input = gather(problem.input, 17);
      dense.gradOutput = gather(problem.gradOutput, 17);
      const { mask: __, ...denseCase } = { ...testCase, tokens: live.length };
      const alone = await observe(layer, denseCase, dense);

      expectSame('indices', gather(masked.indices as Int32Array, 2), alone.indices);
      expectSame('kept', gather(masked.kept as Int32Array, 2), alone.kept);
      expectClose('output', gather(masked.output as Float32Array, 17), alone.output, 17);
      expectClose('input gradient', gather(masked.gradients!.input as Float32Array, 17), alone.gradients!.input, 17);
      for (const [name, gradient] of Object.entries(masked.gradients!.parameters)) {
        expectClose(name, gradient, alone.gradients!.parameters[name]!, 13);
      }
    });
  });
});
