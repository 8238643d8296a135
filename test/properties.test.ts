/**
 * Random configurations of the layer against the float64 reference, and what must hold for every configuration: no
 * expert over its capacity, nothing kept that was not selected, no better token dropped for a worse one, and so on. The
 * invariants are checked on what the layer reports, without the reference.
 */

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { MoEStats } from '../lib/index.js';
import type { Case } from './cases.js';
import { expectClose, expectSame } from './compare.js';
import { compareWithReference } from './compare-case.js';
import { onEachDevice } from './devices.js';
import { full, onCuda } from './extent.js';
import { choices, makeProblem, type Problem } from './problem.js';
import type { LayerConfig } from './reference.js';
import { drawsExperts } from './reference-router.js';
import { makeLayer, type Observed, observe } from './run-case.js';

/** The short run always draws the same configurations; the full run draws new ones and names the seed on failure. */
const RUNS = full ? { numRuns: onCuda ? 300 : 1500 } : { numRuns: 120, seed: 20170123 };
const TIMEOUT = 1_200_000;

/** An option that is often left out. */
function maybe<T>(value: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> {
  return fc.option(value, { nil: undefined });
}

/** Drops undefined entries: configurations distinguish absent from undefined. */
function present<T extends object>(options: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as never;
}

const sizes = fc
  .record({
    hiddenSize: fc.integer({ min: 1, max: 40 }),
    ffnSize: fc.integer({ min: 1, max: 40 }),
    numExperts: fc.integer({ min: 2, max: 12 }),
    tokens: fc.integer({ min: 0, max: 70 }),
  })
  .chain((size) => fc.record({ size: fc.constant(size), topK: fc.integer({ min: 1, max: size.numExperts }) }));

type Router = NonNullable<LayerConfig['router']>;

const noise: fc.Arbitrary<NonNullable<Router['noise']>> = fc.constantFrom(
  { type: 'jitter' as const, epsilon: 0.1 },
  { type: 'gaussian' as const, std: 0.3 },
  { type: 'learned' as const },
  { type: 'gumbel' as const },
);

/** Lists of experts for two token types, which together need not be all. */
const allowedExperts = (numExperts: number): fc.Arbitrary<number[][]> =>
  fc.array(fc.uniqueArray(fc.integer({ min: 0, max: numExperts - 1 }), { minLength: 1 }), {
    minLength: 1,
    maxLength: 3,
  });

/** Groups that leave room for K experts, if there are any. */
function groups(numExperts: number, topK: number): fc.Arbitrary<Router['groups']> {
  const fitting = Array.from({ length: numExperts }, (_, i) => i + 1)
    .filter((count) => numExperts % count === 0)
    .flatMap((count) =>
      Array.from({ length: count }, (_, i) => ({ count, keep: i + 1 })).filter(
        ({ keep }) => (keep * numExperts) / count >= topK,
      ),
    );
  return fc
    .record({ size: fc.constantFrom(...fitting), score: fc.constantFrom('max' as const, 'top2-sum' as const) })
    .map(({ size, score }) => ({ ...size, score }));
}

/** What a plain top-K of a softmax has not. */
function otherRouterOptions(numExperts: number, topK: number): fc.Arbitrary<Partial<Router>> {
  return fc
    .record({
      scoring: maybe(fc.constantFrom('softmax' as const, 'sigmoid' as const)),
      noise: maybe(noise),
      groups: maybe(groups(numExperts, topK)),
      selectionBias: maybe(fc.constant({ rate: 0.01 })),
      allowedExperts: maybe(allowedExperts(numExperts)),
      renormalizeAfterDrop: topK > 1 ? maybe(fc.boolean()) : fc.constant(undefined),
      secondChoice: maybe(fc.constantFrom({ type: 'random' as const, threshold: 0.3 }, 'always' as const)),
    })
    .map(present);
}

/** Other routers in place of top-K, without what means nothing to them. */
function typed(router: Router): fc.Arbitrary<Router> {
  const { groups: _, selectionBias: __, ...balanced } = router;
  const { bias: ___, noise: ____, ...drawn } = balanced;
  return fc.oneof(
    { weight: 4, arbitrary: fc.constant(router) },
    { weight: 1, arbitrary: fc.constant({ ...balanced, type: 'sinkhorn' as const }) },
    { weight: 1, arbitrary: fc.constantFrom('hash' as const, 'random' as const).map((type) => ({ ...drawn, type })) },
  );
}

/** With K = 1 a weight over its own norm is 1 and its gradient 0 exactly: the table has those cases. */
function routerOptions(topK: number): fc.Arbitrary<NonNullable<LayerConfig['router']>> {
  const several = topK > 1;
  return fc
    .record({
      selectBy: several ? maybe(fc.constantFrom('scores' as const, 'logits' as const)) : fc.constant(undefined),
      renormalize: several
        ? maybe(fc.constantFrom(true, false, { p: 1 }, { p: 2 }, { p: 1.5, epsilon: 0.01 }))
        : fc.constant(undefined),
      weightScale: maybe(fc.constantFrom(0.5, 2.5, 16)),
      bias: maybe(fc.boolean()),
      applyWeightTo: maybe(fc.constantFrom('output' as const, 'input' as const)),
      temperature: maybe(fc.constantFrom(0.5, 1.3, 2)),
    })
    .map(present);
}

type Capacity = NonNullable<LayerConfig['capacity']>;

const plainCapacityOptions: fc.Arbitrary<Capacity> = fc.oneof(
  fc.constant({ type: 'dropless' as const }),
  fc
    .record({
      limit: fc.oneof(
        fc.record({ factor: fc.constantFrom(0.2, 0.5, 0.9, 1, 1.25, 2) }),
        fc.record({ slots: fc.integer({ min: 1, max: 20 }) }),
      ),
      rest: fc
        .record({
          min: maybe(fc.integer({ min: 1, max: 6 })),
          multipleOf: maybe(fc.constantFrom(1, 2, 3, 8)),
          priority: maybe(fc.constantFrom('position' as const, 'score' as const)),
          firstChoicesFirst: maybe(fc.boolean()),
        })
        .map(present),
    })
    .map(({ limit, rest }) => ({ type: 'fixed' as const, ...limit, ...rest })),
);

const overflow = fc.constantFrom('drop' as const, 'next-choice' as const, 'residual' as const);

const capacityOptions: fc.Arbitrary<Capacity> = fc.oneof(
  plainCapacityOptions,
  fc
    .record({
      limit: plainCapacityOptions.filter(({ type }) => type === 'fixed'),
      rest: fc
        .record({
          priority: maybe(fc.constantFrom('random' as const, 'score' as const)),
          overflow: maybe(overflow),
          buffer: maybe(fc.constantFrom(0.1, 0.5, 2)),
          groupSize: maybe(fc.integer({ min: 1, max: 20 })),
        })
        .map(present),
    })
    .map(({ limit, rest }) => ({ ...limit, ...rest }) as Capacity),
  fc.record({
    type: fc.constant('dynamic' as const),
    targetDropRate: fc.constantFrom(0, 0.05, 0.3, 1),
    maxFactor: fc.constantFrom(0.5, 1, 3),
    priority: fc.constantFrom('position' as const, 'score' as const, 'random' as const),
    overflow,
  }),
);

const expertOptions: fc.Arbitrary<NonNullable<LayerConfig['experts']>> = fc
  .record({
    activation: maybe(
      fc.constantFrom(...(['relu', 'gelu', 'gelu-tanh', 'silu', 'swiglu', 'geglu', 'geglu-tanh', 'reglu'] as const), {
        type: 'clamped-swiglu' as const,
        alpha: 1.702,
        limit: 1,
      }),
    ),
    bias: maybe(fc.boolean()),
    dropout: maybe(fc.constantFrom(0, 0.1, 0.5)),
    shared: maybe(
      fc.record({
        ffnSize: fc.integer({ min: 1, max: 20 }),
        gate: fc.constantFrom('none' as const, 'sigmoid' as const),
      }),
    ),
  })
  .map(present);

const lossOptions: fc.Arbitrary<NonNullable<LayerConfig['losses']>> = fc
  .record({
    loadBalance: maybe(
      fc.oneof(
        fc.constant(0.1),
        fc.record({ coefficient: fc.constant(0.1), counts: fc.constantFrom('all' as const, 'first-choice' as const) }),
        fc.constant({ coefficient: 0.1, scope: 'sequence' as const, sequenceLength: 1 }),
      ),
    ),
    importance: maybe(
      fc.record({ coefficient: fc.constant(0.1), from: fc.constantFrom('gates' as const, 'softmax' as const) }),
    ),
    z: maybe(fc.constant(0.01)),
  })
  .map(present);

const distribution = fc.constantFrom(
  'random' as const,
  'one-expert' as const,
  'idle-experts' as const,
  'skewed' as const,
);

const cases: fc.Arbitrary<Case> = sizes.chain(({ size: { tokens, ...size }, topK }) =>
  fc
    .record({
      router: fc
        .tuple(routerOptions(topK), otherRouterOptions(size.numExperts, topK))
        .chain(([some, others]) => typed({ ...some, ...others })),
      capacity: capacityOptions,
      experts: expertOptions,
      losses: lossOptions,
      rest: fc
        .record({
          distribution: maybe(distribution),
          mask: maybe(fc.constantFrom('scattered' as const, 'second-half' as const)),
          lossMask: maybe(fc.constant('scattered' as const)),
          routing: fc.oneof(
            { weight: 4, arbitrary: fc.constant(undefined) },
            { weight: 1, arbitrary: fc.constantFrom('replay' as const, 'weights' as const) },
          ),
          ownLogits: maybe(fc.constant(true)),
          lossScale: maybe(fc.constantFrom(0, 1, 4)),
        })
        // The caller gives weights or logits, not both.
        .map(({ ownLogits, ...options }) => ({ ...options, ownLogits: options.routing ? undefined : ownLogits }))
        .map(present),
    })
    .map(({ rest, ...options }) => ({ name: 'random', tokens, config: { ...size, topK, ...options }, ...rest }))
    .map(withoutLogits),
);

/** Routers that draw have none, also not the caller's. */
function withoutLogits({ ownLogits, ...rest }: Case): Case {
  return drawsExperts(rest.config.router ?? {}) || !ownLogits ? rest : { ...rest, ownLogits };
}

const seeds = fc.integer({ min: 1, max: 1000 });

/**
 * Without noise: softmax(l/τ), that of the selected logits, or σ(l/τ): the score an assignment queues by, from what the
 * layer reports.
 */
function reportedScores(testCase: Case, problem: Problem, observed: Observed): Float64Array {
  const { numExperts: E, router = {} } = testCase.config;
  const K = choices(testCase);
  const tau = router.temperature ?? 1;
  return Float64Array.from(observed.indices, (expert, assignment) => {
    if (expert < 0) return 0;
    const t = Math.floor(assignment / K);
    const logits = observed.logits!.subarray(t * E, (t + 1) * E);
    if (router.scoring === 'sigmoid') return 1 / (1 + Math.exp(-logits[expert]! / tau));
    const selected = [...observed.indices.subarray(t * K, (t + 1) * K)].filter((e) => e >= 0);
    const open = router.allowedExperts?.[problem.tokenTypes![t]!] ?? Array.from(logits, (_, e) => e);
    const over = router.selectBy === 'logits' ? selected : open;
    return 1 / over.reduce((total, e) => total + Math.exp((logits[e]! - logits[expert]!) / tau), 0);
  });
}

/** A replayed expert that its token may not use has score 0, whatever the logits say. */
const isUnreported = ({ routing, config }: Case): boolean => routing !== undefined && !!config.router?.allowedExperts;

function expectInvariants(testCase: Case, problem: Problem, observed: Observed): void {
  const { config } = testCase;
  const K = choices(testCase);
  const { indices, kept, weights, stats } = observed;
  const { actual = indices } = observed;
  const perExpert = new Map<number, number>();
  kept.forEach((flag, a) => {
    if (flag === 1) perExpert.set(actual[a]!, (perExpert.get(actual[a]!) ?? 0) + 1);
    if (indices[a]! < 0) expect(flag, `assignment ${a} is masked`).toBe(0);
    if (flag === 0) expect(weights[a], `weight of dropped assignment ${a}`).toBe(0);
  });
  problem.mask?.forEach((m, t) => {
    if (m !== 0) return;
    expectSame(`indices of masked token ${t}`, indices.subarray(t * K, (t + 1) * K), new Array(K).fill(-1));
  });
  for (const [expert, count] of perExpert) {
    expect(count, `rows of expert ${expert}`).toBe(stats.kept[expert]);
    expect(count, `rows of expert ${expert}`).toBeLessThanOrEqual(mostRows(testCase, stats));
  }
  if (observed.actual) expectNextChoices(testCase, observed);
  // Second choices that are given up are dropped whether there is room or not.
  const drawsSecond = typeof config.router?.secondChoice === 'object' && K > 1 && testCase.routing !== 'weights';
  if ((config.capacity?.type ?? 'dropless') === 'dropless') {
    expect(stats.capacity).toBeNull();
    indices.forEach((e, a) => {
      if (!drawsSecond || a % K !== 1) expect(kept[a], `assignment ${a}`).toBe(e >= 0 ? 1 : 0);
    });
  } else if (config.capacity && config.capacity.type !== 'dropless' && stats.tokens > 0) {
    const shared = config.capacity.type === 'fixed' && (config.capacity.groupSize || config.capacity.buffer);
    // An expert that dropped somebody is full.
    stats.assigned.forEach((count, e) => {
      if (count > stats.kept[e]! && !shared && !drawsSecond)
        expect(stats.kept[e], `expert ${e} has room`).toBe(stats.capacity);
    });
    if (config.capacity.type === 'dynamic' && !drawsSecond) expectFewSlots(config.capacity, testCase, stats);
    if (
      !shared &&
      !drawsSecond &&
      !observed.actual &&
      config.capacity.priority === 'score' &&
      observed.logits &&
      (config.router?.type ?? 'top-k') === 'top-k' &&
      !config.router?.noise &&
      !isUnreported(testCase)
    )
      expectFairDrops(testCase, problem, observed);
  }
}

/** A token uses no expert twice, and is left behind only where no other expert has room for it. */
function expectNextChoices(testCase: Case, { indices, actual, kept, stats }: Observed): void {
  const { capacity, router } = testCase.config;
  const K = choices(testCase);
  const whole = capacity?.type === 'dynamic' || (capacity?.type === 'fixed' && !capacity.groupSize && !capacity.buffer);
  const choosesAny = !router?.allowedExperts && !router?.groups && !router?.secondChoice && !testCase.routing;
  for (let start = 0; start < indices.length; start += K) {
    const own = [...actual!.subarray(start, start + K)].filter((e) => e >= 0);
    expect(new Set(own).size, `experts of token ${start / K}`).toBe(own.length);
    for (let a = start; a < start + K; a++) {
      expect(actual![a]! >= 0, `assignment ${a}`).toBe(kept[a] === 1);
      if (!whole || !choosesAny || kept[a] === 1 || indices[a]! < 0) continue;
      stats.kept.forEach((count, e) => {
        const isOwn = own.includes(e) || indices.subarray(start, start + K).includes(e);
        if (!isOwn) expect(count, `expert ${e} has room for assignment ${a}`).toBe(stats.capacity);
      });
    }
  }
}

/** The most rows that an expert can have. */
function mostRows({ tokens, config: { capacity, numExperts } }: Case, stats: MoEStats): number {
  if (stats.capacity === null) return Number.POSITIVE_INFINITY;
  const { groupSize = Math.max(1, tokens), buffer = 0 } = capacity?.type === 'fixed' ? capacity : {};
  const spare = Math.ceil(buffer * (numExperts * stats.capacity));
  return Math.ceil(tokens / groupSize) * (stats.capacity + spare);
}

/** A dynamic capacity meets its target, unless its bound forbids, and one slot fewer would not. */
function expectFewSlots(
  { targetDropRate, maxFactor }: { targetDropRate: number; maxFactor: number },
  testCase: Case,
  { assigned, capacity, droppedAssignments }: MoEStats,
): void {
  const most = Math.ceil((maxFactor * choices(testCase) * testCase.tokens) / testCase.config.numExperts);
  const total = assigned.reduce((sum, count) => sum + count, 0);
  const dropped = (slots: number) => assigned.reduce((sum, count) => sum + Math.max(0, count - slots), 0);
  expect(capacity).toBeLessThanOrEqual(most);
  if (capacity! < most) expect(droppedAssignments).toBeLessThanOrEqual(targetDropRate * total);
  if (capacity! > 0) expect(dropped(capacity! - 1)).toBeGreaterThan(targetDropRate * total);
}

/** With priority 'score', within a queue nobody is dropped for one who is worse (beyond rounding). */
function expectFairDrops(testCase: Case, problem: Problem, observed: Observed): void {
  const { indices, kept } = observed;
  const K = choices(testCase);
  const { capacity } = testCase.config;
  const ranked = capacity?.type === 'dynamic' || (capacity?.type === 'fixed' && (capacity.firstChoicesFirst ?? true));
  const own = reportedScores(testCase, problem, observed);
  const score = (a: number): number => (ranked ? Math.max(...own.subarray(a - (a % K), a - (a % K) + K)) : own[a]!);
  indices.forEach((expert, dropped) => {
    if (expert < 0 || kept[dropped] === 1) return;
    indices.forEach((other, admitted) => {
      if (other !== expert || kept[admitted] === 0) return;
      if (ranked && dropped % K < admitted % K)
        throw new Error(`choice ${dropped} lost to the later choice ${admitted}`);
      if (ranked && dropped % K !== admitted % K) return;
      expect(score(dropped), `${dropped} dropped, ${admitted} kept`).toBeLessThanOrEqual(score(admitted) + 1e-5);
    });
  });
}

onEachDevice((device) => {
  it(
    'random configurations agree with the reference',
    async () => {
      const property = fc.asyncProperty(cases, seeds, async (testCase, seed) => {
        const problem = makeProblem(testCase, seed);
        using layer = makeLayer(device(), testCase, problem);
        const observed = await observe(layer, testCase, problem);
        expectInvariants(testCase, problem, observed);
        compareWithReference(testCase, problem, observed, true);
      });
      await fc.assert(property, RUNS);
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

  describe('masked tokens', () => {
    const slots = { type: 'fixed', slots: 3 } as const;
    it.each([slots, { ...slots, priority: 'score' } as const])('take no slot: %j', async (capacity) => {
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
