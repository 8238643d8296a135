/**
 * Adoption: float32 and float64 may order two nearly equal scores differently, and after that nothing compares. So the
 * reference can take over the choices of the layer under test, after proving that each differs from its own only between
 * near-ties: scores that lie within 1e-5 of the range of all scores of the call. Everything else throws.
 */

import { admit, type CapacityOptions, type Queue, queueKey } from './reference-capacity.js';
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

/**
 * Checks foreign indices [T,K] against what the choice of each token compared [E]. `terms`: the values whose range says
 * what a near-tie is, where those compared are sums that may all but cancel; otherwise those themselves.
 */
export function adoptIndices(
  foreign: ArrayLike<number>,
  comparedBy: (token: number) => Vector,
  live: readonly boolean[],
  numExperts: number,
  k: number,
  router: RouterOptions = {},
  terms?: Vector,
): Int32Array {
  const compared = live.map((isLive, t) => isLive && comparedBy(t));
  const spread = terms ? [...terms] : compared.flatMap((values) => (values ? [...values] : []));
  const tolerance = NEAR_TIE * range(spread.filter(Number.isFinite));
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
      return scores.map((score, g) => (used.has(g) ? score + tolerance : score));
    });
    const ours = topK(values, k);
    if (new Set(chosen).size !== chosen.length) throw new Error(`adopt: token ${t} chooses an expert twice: ${theirs}`);
    theirs.forEach((expert, i) => {
      if (expert === -1 && ours[i] === -1) return;
      const gap = Math.abs((values[ours[i]!] ?? Number.NaN) - (values[expert] ?? Number.NaN));
      if (!(gap <= tolerance)) {
        throw new Error(`adopt: token ${t} choice ${i} is expert ${expert}, not ${ours[i]}: scores differ by ${gap}`);
      }
    });
  });
  return Int32Array.from(foreign);
}

/**
 * Checks foreign kept flags [T,K] for the given indices: the same number per expert, and no swap except at the cut.
 * Returns the experts used [T,K].
 */
export function adoptKept(
  { kept: foreign, actual }: Decisions,
  indices: Int32Array,
  numExperts: number,
  queue: Queue,
  k: number,
  capacity: number | null,
  options: CapacityOptions,
): Int32Array {
  const experts = admit(indices, numExperts, queue, k, capacity, options);
  if (actual) return adoptActual(actual, foreign, experts, queue, indices.length / k, numExperts);
  const ours = experts.map((expert) => (expert >= 0 ? 1 : 0));
  const tolerance = NEAR_TIE * range(queue.scores);
  if (foreign.length !== ours.length) throw new Error(`adopt: ${foreign.length} kept flags for ${ours.length}`);
  const swapped = new Map<number, { dropped: number[]; admitted: number[] }>();
  ours.forEach((flag, assignment) => {
    if (foreign[assignment] === flag) return;
    const expert = indices[assignment]!;
    if (expert < 0) throw new Error(`adopt: assignment ${assignment} of a masked token is kept`);
    const group = swapped.get(expert) ?? { dropped: [], admitted: [] };
    swapped.set(expert, group);
    (flag === 1 ? group.dropped : group.admitted).push(assignment);
  });
  for (const [expert, { dropped, admitted }] of swapped) {
    if (dropped.length !== admitted.length) {
      throw new Error(`adopt: expert ${expert} keeps ${admitted.length - dropped.length} assignments too many`);
    }
    for (const d of dropped) {
      for (const a of admitted) {
        const better = queueKey(d, k, indices, queue, options);
        const worse = queueKey(a, k, indices, queue, options);
        const byScore = options.type !== 'dropless' && options.priority === 'score' && !queue.priorities;
        if (!byScore || better.rank !== worse.rank || Math.abs(better.order - worse.order) > tolerance) {
          throw new Error(
            `adopt: expert ${expert} keeps assignment ${a} (score ${worse.order}) and drops ${d} (${better.order})`,
          );
        }
      }
    }
  }
  return indices.map((expert, a) => (foreign[a] === 1 ? expert : -1));
}

/** One near-tie moves everybody behind it: next choices are the same, unless two values are nearly equal somewhere. */
function adoptActual(
  theirs: ArrayLike<number>,
  kept: ArrayLike<number>,
  ours: Int32Array,
  { scores, compared }: Queue,
  tokens: number,
  numExperts: number,
): Int32Array {
  const values = Array.from({ length: tokens }, (_, t) => [...(compared?.(t) ?? [])].filter(Number.isFinite));
  const isClose = (sorted: number[], tolerance: number): boolean =>
    sorted.sort((a, b) => a - b).some((x, i) => i > 0 && x - sorted[i - 1]! <= tolerance);
  const nearTie =
    values.some((row) => isClose(row, NEAR_TIE * range(values.flat()))) ||
    isClose([...scores], NEAR_TIE * range(scores));
  ours.forEach((expert, a) => {
    const other = theirs[a]!;
    if (other >= numExperts || other >= 0 !== (kept[a] === 1))
      throw new Error(`adopt: assignment ${a} uses expert ${other}, kept ${kept[a]}`);
    if (other !== expert && !nearTie) throw new Error(`adopt: assignment ${a} uses expert ${other}, not ${expert}`);
  });
  return Int32Array.from(theirs);
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
  const tolerance = NEAR_TIE * range([0, ...seconds]);
  return drawn.map((draw, t) => {
    const isNear = kept !== undefined && Math.abs(draw - seconds[t]!) <= tolerance;
    return isNear ? kept[t * k + 1] === 0 : draw >= seconds[t]!;
  });
}
