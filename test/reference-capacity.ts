/**
 * The float64 reference of expert capacity: how many assignments an expert takes, in which order they queue, and who gets
 * in. An assignment is the number t·K + k: choice k of token t.
 *
 * Sources: Switch Transformer and GShard (capacity factor, queue by position, first choices first, groups, no token left
 * behind), V-MoE (batch-prioritised routing), DeepSpeed-MoE and Megatron-LM (each assignment queues by its own score;
 * random token selection).
 */

import { sum, type Vector } from './reference-math.js';

export type Priority = 'position' | 'score' | 'random';

export type Overflow = 'drop' | 'next-choice' | 'residual';

export type CapacityOptions =
  | { type: 'dropless' }
  | {
      type: 'fixed';
      factor?: number;
      slots?: number;
      evalFactor?: number;
      min?: number;
      multipleOf?: number;
      priority?: Priority;
      firstChoicesFirst?: boolean;
      overflow?: Overflow;
      buffer?: number;
      groupSize?: number;
    }
  | { type: 'dynamic'; targetDropRate: number; maxFactor: number; priority?: Priority; overflow?: Overflow };

/** T counts all tokens of the call, masked ones too: a padded batch keeps its shape-derived capacity. */
export interface CapacityCall {
  tokens: number;
  topK: number;
  numExperts: number;
  training: boolean;
  capacityFactor?: number | undefined;
}

/** What the queue is made of besides the choices. */
export interface Queue {
  /** [T,K], before renormalisation and scale. */
  scores: Vector;
  /** [T,K], by the caller. */
  priorities?: Vector | undefined;
  /** [T,E], for 'random'. */
  draws?: Uint32Array | undefined;
  /** [T], second choices that ask for no slot. */
  withheld?: readonly boolean[] | undefined;
  /** [E] of a token: what its choice compared; absent where nobody knows. */
  compared?: ((token: number) => Vector) | undefined;
}

/** What another implementation decided, which settles near-ties: reference-adopt.ts. */
export interface Theirs {
  /** [T,K], −1 where dropped. */
  used: ArrayLike<number>;
  /** The largest difference that is a near-tie, of scores that queue; undefined where they are exact. */
  ofScores: number | undefined;
  /** The same of the values that choices compare. */
  ofCompared: number | undefined;
}

/** Slots per expert and group, 0 for no token; null without a limit; the most there may be where they are dynamic. */
export function capacityOf(options: CapacityOptions, call: CapacityCall): number | null {
  if (options.type === 'dropless') return null;
  if (call.tokens === 0) return 0;
  if (options.type === 'dynamic') return Math.ceil((options.maxFactor * call.topK * call.tokens) / call.numExperts);
  const configured = call.training ? options.factor : (options.evalFactor ?? options.factor);
  const factor = call.capacityFactor ?? configured;
  const tokens = options.groupSize ?? call.tokens;
  const product = factor === undefined ? 0 : Math.ceil((factor * call.topK * tokens) / call.numExperts);
  const wanted = Math.max(call.capacityFactor === undefined ? (options.slots ?? product) : product, options.min ?? 0);
  const multiple = options.multipleOf ?? 1;
  return Math.ceil(wanted / multiple) * multiple;
}

/** The fewest slots, up to `most`, that drop at most the wanted share of the assignments. */
export function dynamicSlots(queued: Int32Array, numExperts: number, most: number, targetDropRate: number): number {
  const counts = Array.from({ length: numExperts }, (_, e) => queued.filter((i) => i === e).length);
  const dropped = (slots: number) => sum(counts.map((count) => Math.max(0, count - slots)));
  let slots = 0;
  while (slots < most && dropped(slots) > targetDropRate * sum(counts)) slots++;
  return slots;
}

/** The key an assignment queues by: a smaller rank first, then a larger order, then the smaller assignment. */
export interface QueueKey {
  rank: number;
  order: number;
  assignment: number;
}

/**
 * By score and with first choices first, tokens queue within each rank by their best score (V-MoE); otherwise each
 * assignment queues by its own. By the caller's priorities and at random each assignment queues by its own, too.
 */
export function queueKey(
  assignment: number,
  topK: number,
  indices: Int32Array,
  { scores, priorities, draws }: Queue,
  options: CapacityOptions,
): QueueKey {
  const token = Math.floor(assignment / topK);
  const priority = options.type === 'dropless' ? 'position' : (options.priority ?? 'position');
  const firstChoicesFirst = options.type === 'fixed' ? (options.firstChoicesFirst ?? true) : true;
  const key = { rank: firstChoicesFirst ? assignment % topK : 0, order: 0, assignment };
  if (priorities) return { ...key, order: priorities[assignment]! };
  if (priority === 'random') {
    const numExperts = (draws!.length * topK) / indices.length;
    return { ...key, order: draws![token * numExperts + indices[assignment]!]! };
  }
  if (priority === 'position') return key;
  if (!firstChoicesFirst) return { ...key, order: scores[assignment]! };
  const own = Array.from({ length: topK }, (_, k) => token * topK + k).filter((a) => indices[a]! >= 0);
  return { ...key, order: Math.max(...own.map((a) => scores[a]!)) };
}

/** Keys in order. Of neighbours of one rank that are near-ties, those go first that the others let in. */
function settled(keys: QueueKey[], ofScores: number | undefined, isLetIn: (assignment: number) => boolean): QueueKey[] {
  if (ofScores === undefined) return keys;
  const runs: QueueKey[][] = [];
  keys.forEach((key, i) => {
    const before = keys[i - 1];
    if (before?.rank === key.rank && before.order - key.order <= ofScores) runs.at(-1)!.push(key);
    else runs.push([key]);
  });
  const first = (key: QueueKey): boolean => isLetIn(key.assignment);
  return runs.flatMap((run) => [...run.filter(first), ...run.filter((key) => !first(key))]);
}

/** Which expert each assignment gets, −1 where it is dropped or there is none. */
export function admit(
  indices: Int32Array,
  numExperts: number,
  queue: Queue,
  topK: number,
  capacity: number | null,
  options: CapacityOptions,
  theirs?: Theirs,
): Int32Array {
  const actual = new Int32Array(indices.length).fill(-1);
  const { groupSize = indices.length / topK, buffer = 0 } = options.type === 'fixed' ? options : {};
  for (let start = 0; start < indices.length; start += groupSize * topK) {
    const group = Array.from({ length: Math.min(groupSize * topK, indices.length - start) }, (_, i) => start + i)
      .filter((assignment) => asksForSlot(assignment, topK, indices, queue))
      .map((assignment) => queueKey(assignment, topK, indices, queue, options));
    group.sort((a, b) => a.rank - b.rank || b.order - a.order || a.assignment - b.assignment);
    const taken = new Int32Array(numExperts);
    const rejected: QueueKey[] = [];
    let spare = Math.ceil(buffer * (numExperts * (capacity ?? 0)));
    for (const key of settled(group, theirs?.ofScores, (a) => theirs!.used[a] === indices[a])) {
      const expert = indices[key.assignment]!;
      if (capacity !== null && taken[expert]! >= capacity && spare-- <= 0) {
        rejected.push(key);
        continue;
      }
      taken[expert]! += 1;
      actual[key.assignment] = expert;
    }
    if (options.type !== 'dropless' && options.overflow === 'next-choice' && queue.compared)
      takeNextChoices(rejected, actual, indices, queue, topK, taken, capacity!, theirs);
  }
  return actual;
}

/** Masked tokens have index −1 and never queue, nor does a second choice that was given up. */
export function asksForSlot(assignment: number, topK: number, indices: Int32Array, { withheld }: Queue): boolean {
  const isWithheld = assignment % topK === 1 && withheld?.[Math.floor(assignment / topK)] === true;
  return indices[assignment]! >= 0 && !isWithheld;
}

/**
 * In rounds: each rejected assignment asks the best expert, among those with room at the start of the round, that no
 * choice of its token has asked before. Slots are given in queue order; who finds his taken asks again in the next round.
 */
function takeNextChoices(
  rejected: readonly QueueKey[],
  actual: Int32Array,
  indices: Int32Array,
  queue: Queue,
  topK: number,
  taken: Int32Array,
  capacity: number,
  theirs: Theirs | undefined,
): void {
  const asked = new Map<number, Set<number>>();
  const askedBy = (token: number): Set<number> => {
    const own = Array.from({ length: topK }, (_, k) => token * topK + k);
    const first = own.filter((a) => asksForSlot(a, topK, indices, queue)).map((a) => indices[a]!);
    if (!asked.has(token)) asked.set(token, new Set(first));
    return asked.get(token)!;
  };
  /** Undefined: nobody is left to ask. */
  const nextOf = (assignment: number, open: readonly number[]): number | undefined => {
    const token = Math.floor(assignment / topK);
    const values = queue.compared!(token);
    const [best, ...others] = open
      .filter((e) => values[e]! > -Infinity && !askedBy(token).has(e))
      .sort((a, b) => values[b]! - values[a]! || a - b);
    const used = theirs?.ofCompared === undefined ? -1 : theirs.used[assignment]!;
    return others.includes(used) && values[best!]! - values[used]! <= theirs!.ofCompared! ? used : best;
  };
  let waiting = rejected;
  while (waiting.length > 0) {
    const open = [...taken.keys()].filter((e) => taken[e]! < capacity);
    const asking = new Map<number, QueueKey[]>(open.map((e) => [e, []]));
    for (const key of waiting) {
      const next = nextOf(key.assignment, open);
      if (next === undefined) continue;
      askedBy(Math.floor(key.assignment / topK)).add(next);
      asking.get(next)!.push(key);
    }
    const answered = new Set<QueueKey>();
    for (const [expert, keys] of asking) {
      const inOrder = settled(keys, theirs?.ofScores, (a) => theirs!.used[a] === expert);
      for (const key of inOrder.slice(0, capacity - taken[expert]!)) {
        actual[key.assignment] = expert;
        taken[expert]! += 1;
        answered.add(key);
      }
    }
    const rest = new Set([...asking.values()].flat().filter((key) => !answered.has(key)));
    waiting = waiting.filter((key) => rest.has(key));
  }
}
