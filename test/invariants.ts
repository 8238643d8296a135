/**
 * What must hold for every configuration, checked on what the layer reports, without the reference: no expert over its
 * capacity, nothing kept that was not selected, no better token dropped for a worse one, and so on.
 */

import { expect } from 'vitest';
import type { MoEStats } from '../lib/index.js';
import type { Case } from './cases.js';
import { expectSame } from './compare.js';
import { choices, type Problem } from './problem.js';
import type { Observed } from './run-case.js';

/**
 * Without noise: softmax(l/τ), that of the selected logits, or σ(l/τ): the score an assignment queues by, from what the
 * layer reports.
 */
function reportedScores(testCase: Case, problem: Problem, observed: Observed): Float64Array {
  const { numExperts: E, router = {} } = testCase.config;
  const K = choices(testCase);
  const tau = testCase.call?.temperature ?? router.temperature ?? 1;
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

export function expectInvariants(testCase: Case, problem: Problem, observed: Observed): void {
  const { config } = testCase;
  const K = choices(testCase);
  const { indices, kept, weights, stats } = observed;
  const { actual = indices } = observed;
  const perExpert = new Int32Array(config.numExperts);
  kept.forEach((flag, a) => {
    if (flag === 1) perExpert[actual[a]!]! += 1;
    if (indices[a]! < 0) expect(flag, `assignment ${a} is masked`).toBe(0);
    if (flag === 0) expect(weights[a], `weight of dropped assignment ${a}`).toBe(0);
  });
  expectSame('stats.kept', stats.kept, perExpert);
  problem.mask?.forEach((m, t) => {
    if (m !== 0) return;
    expectSame(`indices of masked token ${t}`, indices.subarray(t * K, (t + 1) * K), new Array(K).fill(-1));
  });
  if (observed.actual) expectNextChoices(testCase, observed);
  // Second choices that are given up are dropped whether there is room or not.
  const drawsSecond = typeof config.router?.secondChoice === 'object' && K > 1 && testCase.routing !== 'weights';
  if ((config.capacity?.type ?? 'dropless') === 'dropless') {
    expect(stats.capacity).toBeNull();
    indices.forEach((e, a) => {
      if (!drawsSecond || a % K !== 1) expect(kept[a], `assignment ${a}`).toBe(e >= 0 ? 1 : 0);
    });
  } else if (config.capacity && config.capacity.type !== 'dropless' && stats.tokens > 0) {
    expectSlots(testCase, observed, (a) => !drawsSecond || a % K !== 1);
    if (config.capacity.type === 'dynamic' && !drawsSecond) expectFewSlots(config.capacity, testCase, stats);
    const { groupSize, buffer } = config.capacity.type === 'fixed' ? config.capacity : {};
    if (
      !groupSize &&
      !buffer &&
      !drawsSecond &&
      !observed.actual &&
      config.capacity.priority === 'score' &&
      observed.logits &&
      (config.router?.type ?? 'top-k') === 'top-k' &&
      !config.router?.noise &&
      !testCase.ownNoise &&
      !testCase.ownPriorities &&
      !isUnreported(testCase)
    )
      expectFairDrops(testCase, problem, observed);
  }
}

/**
 * In each group of tokens an expert has at most its slots and what it took of the buffer; and it leaves nobody who
 * `asks` without one while it has slots, or the buffer has: those of masked tokens are not taken.
 */
function expectSlots(testCase: Case, observed: Observed, asks: (assignment: number) => boolean): void {
  const { tokens, config } = testCase;
  const { capacity: slots } = observed.stats;
  const { groupSize = tokens, buffer = 0 } = config.capacity?.type === 'fixed' ? config.capacity : {};
  const spare = Math.ceil(buffer * (config.numExperts * slots!));
  const { indices, kept, actual = indices } = observed;
  const width = groupSize * choices(testCase);
  for (let start = 0; start < indices.length; start += width) {
    const group = Array.from({ length: Math.min(width, indices.length - start) }, (_, i) => start + i);
    const rows = new Int32Array(config.numExperts);
    for (const a of group) if (kept[a] === 1) rows[actual[a]!]! += 1;
    const taken = rows.reduce((sum, count) => sum + Math.max(0, count - slots!), 0);
    expect(taken, `slots of the buffer in the group of assignment ${start}`).toBeLessThanOrEqual(spare);
    for (const a of group) {
      const expert = indices[a]!;
      if (expert < 0 || !asks(a) || (kept[a] === 1 && actual[a] === expert)) continue;
      expect(rows[expert], `expert ${expert} has room for assignment ${a}`).toBeGreaterThanOrEqual(slots!);
      expect(taken, `the buffer has room for assignment ${a}`).toBe(spare);
    }
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
export function expectFilled(
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
