/**
 * Random configurations of the layer against the float64 reference, and what must hold for every configuration: no
 * expert over its capacity, nothing kept that was not selected, no better token dropped for a worse one, and so on. The
 * invariants are checked on what the layer reports, without the reference.
 */

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Device, MoEStats } from '../lib/index.js';
import type { Case } from './cases.js';
import { expectClose, expectSame } from './compare.js';
import { compareWithReference } from './compare-case.js';
import { onEachDevice } from './devices.js';
import { full, onCuda } from './extent.js';
import { choices, makeProblem, type Problem } from './problem.js';
import { cases, expertChoiceCases, sizes } from './random-cases.js';
import { makeLayer, type Observed, observe } from './run-case.js';

/** The short run always draws the same configurations; the full run draws new ones and names the seed on failure. */
const RUNS = full ? { numRuns: onCuda ? 300 : 1500 } : { numRuns: 120, seed: 20170123 };
const TIMEOUT = 1_200_000;

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

/** Every expert has C different tokens, or all that it may have; nobody takes a masked one. */
function expectFilled(
  { config, tokens }: Case,
  { mask, tokenTypes }: Problem,
  { indices, kept, stats }: Observed,
): void {
  const { numExperts: E, router } = config;
  const C = indices.length / E;
  for (let e = 0; e < E; e++) {
    const own = [...indices.subarray(e * C, (e + 1) * C)].filter((t) => t >= 0);
    const open = Array.from({ length: tokens }, (_, t) => t).filter(
      (t) => mask?.[t] !== 0 && (router?.allowedExperts?.[tokenTypes![t]!]?.includes(e) ?? true),
    );
    expect(new Set(own).size, `tokens of expert ${e}`).toBe(own.length);
    expect(own.length, `tokens of expert ${e}`).toBe(Math.min(C, open.length));
    for (const t of own) expect(open, `expert ${e}`).toContain(t);
    expect(stats.kept[e], `rows of expert ${e}`).toBe(own.length);
  }
  expectSame('kept', kept, indices.map((t) => (t >= 0 ? 1 : 0)) as Int32Array);
}

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
    compareWithReference(testCase, problem, observed, true);
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
