/**
 * Adoption: float32 and float64 may order two nearly equal scores differently, and after that nothing compares. So the
 * reference can take over the choices of the layer under test, after proving that each differs from its own only between
 * near-ties: scores that lie within 1e-5 of the range of all scores of the call's live tokens. Everything else throws;
 * and what is not computed but given or drawn has no near-ties.
 */

import { admit, asksForSlot, type CapacityOptions, type Queue } from './reference-capacity.js';
import type { Vector } from './reference-math.js';
import { type RouterOptions, restrictToGroups, topK } from './reference-router.js';

const NEAR_TIE = 1e-5;

/** Decisions of another implementation, all [T,K]: experts before drops (−1 where there is none), 0/1, experts used. */
export interface Decisions {
  indices: ArrayLike<number>;
  kept: ArrayLike<number>;
  actual?: ArrayLike<number> | undefined;
}

function range(values: Iterable<number>): number {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  return high > low ? high - low : 0;
}

/** The largest difference of a near-tie among values that spread like these. */
export function nearTie(values: Iterable<number>): number {
  return NEAR_TIE * range([...values].filter(Number.isFinite));
}

/**
 * Checks foreign indices [T,K] against what the choice of each token compared [E]. `tolerance`: of a near-tie; undefined
 * where there is none.
 */
export function adoptIndices(
  foreign: ArrayLike<number>,
  comparedBy: (token: number) => Vector,
  live: readonly boolean[],
  numExperts: number,
  k: number,
  router: RouterOptions,
  tolerance: number | undefined,
): Int32Array {
  const compared = live.map((isLive, t) => isLive && comparedBy(t));
  if (foreign.length !== live.length * k) throw new Error(`adopt: ${foreign.length} indices for ${live.length}×${k}`);
  compared.forEach((all, t) => {
    const theirs = Array.from({ length: k }, (_, i) => foreign[t * k + i]!);
    if (!all) {
      if (theirs.some((e) => e !== -1)) throw new Error(`adopt: masked token ${t} is routed to ${theirs}`);
      return;
    }
    const chosen = theirs.filter((e) => e >= 0);
    const values = restrictToGroups(all, router, (scores) => {
      // Groups that the other implementation used win near-ties.
      const used = new Set(chosen.map((e) => Math.floor(e / (numExperts / scores.length))));
      return scores.map((score, g) => (used.has(g) ? score + (tolerance ?? 0) : score));
    });
    const ours = topK(values, k);
    if (new Set(chosen).size !== chosen.length) throw new Error(`adopt: token ${t} chooses an expert twice: ${theirs}`);
    theirs.forEach((expert, i) => {
      if (expert === ours[i]) return;
      const gap = Math.abs((values[ours[i]!] ?? Number.NaN) - (values[expert] ?? Number.NaN));
      if (tolerance === undefined || !(gap <= tolerance)) {
        throw new Error(`adopt: token ${t} choice ${i} is expert ${expert}, not ${ours[i]}: scores differ by ${gap}`);
      }
    });
  });
  return Int32Array.from(foreign);
}

/**
 * Checks foreign slots [T,K]: they must be those that the reference gives where, of two assignments in the queue or two
 * experts of a token that are near-ties, the others' choice goes first. `near`: whether the scores are computed, and the
 * largest difference of a near-tie of what is compared. Returns the experts used [T,K].
 */
export function adoptKept(
  { kept, actual }: Decisions,
  indices: Int32Array,
  numExperts: number,
  queue: Queue,
  k: number,
  capacity: number | null,
  options: CapacityOptions,
  near: { scored: boolean; compared: number | undefined },
): Int32Array {
  if (kept.length !== indices.length) throw new Error(`adopt: ${kept.length} kept flags for ${indices.length}`);
  const used = indices.map((expert, a) => (kept[a] === 1 ? (actual?.[a] ?? expert) : -1));
  if (actual && used.some((expert, a) => expert !== actual[a]))
    throw new Error('adopt: kept flags are not of `actual`');
  const byScore = near.scored && options.type !== 'dropless' && options.priority === 'score' && !queue.priorities;
  const scores = queue.scores.filter((_, a) => asksForSlot(a, k, indices, queue));
  const ours = admit(indices, numExperts, queue, k, capacity, options, {
    used,
    ofScores: byScore ? nearTie(scores) : undefined,
    ofCompared: near.compared,
  });
  const wrong = ours.findIndex((expert, a) => expert !== used[a]);
  if (wrong >= 0) {
    const named = (expert: number): string => (expert < 0 ? 'is dropped' : `gets expert ${expert}`);
    throw new Error(`adopt: assignment ${wrong} ${named(used[wrong]!)}; it ${named(ours[wrong]!)} by the reference`);
  }
  return used;
}

/**
 * Which second choices [T] are given up: drawn in [0, 1), times the threshold, against their weights; those of the other
 * implementation where that is a near-tie and it kept one.
 */
export function adoptWithheld(
  drawn: readonly number[],
  seconds: readonly number[],
  kept: ArrayLike<number> | undefined,
  k: number,
): boolean[] {
  const tolerance = nearTie([0, ...seconds]);
  return drawn.map((draw, t) => {
    const isNear = kept !== undefined && Math.abs(draw - seconds[t]!) <= tolerance;
    return isNear ? kept[t * k + 1] === 0 : draw >= seconds[t]!;
  });
}
