/**
 * The float64 reference of expert capacity: how many assignments an expert takes, in which order they queue, and who gets
 * in. An assignment is the number t·K + k: choice k of token t.
 *
 * Sources: Switch Transformer and GShard (capacity factor, queue by position, first choices first), V-MoE
 * (batch-prioritised routing), DeepSpeed-MoE and Megatron-LM (each assignment queues by its own score).
 */

import type { Vector } from './reference-math.js';

export type CapacityOptions =
  | { type: 'dropless' }
  | {
      type: 'fixed';
      factor?: number;
      slots?: number;
      evalFactor?: number;
      min?: number;
      multipleOf?: number;
      priority?: 'position' | 'score';
      firstChoicesFirst?: boolean;
      overflow?: 'drop';
    };

/** T counts all tokens of the call, masked ones too: a padded batch keeps its shape-derived capacity. */
export interface CapacityCall {
  tokens: number;
  topK: number;
  numExperts: number;
  training: boolean;
  capacityFactor?: number | undefined;
}

/** Slots per expert; null without a limit. */
export function capacityOf(options: CapacityOptions, call: CapacityCall): number | null {
  if (options.type === 'dropless') return null;
  const configured = call.training ? options.factor : (options.evalFactor ?? options.factor);
  const factor = call.capacityFactor ?? configured;
  const product = factor === undefined ? 0 : Math.ceil((factor * call.topK * call.tokens) / call.numExperts);
  const wanted = Math.max(call.capacityFactor === undefined ? (options.slots ?? product) : product, options.min ?? 0);
  const multiple = options.multipleOf ?? 1;
  return Math.ceil(wanted / multiple) * multiple;
}

/** The key an assignment queues by: a smaller rank first, then a larger score, then the smaller tie-break. */
export interface QueueKey {
  rank: number;
  score: number;
  tieBreak: number;
}

/**
 * scores [T,K] are those before renormalisation and scale. By score and with first choices first, tokens queue within each
 * rank by their best score (V-MoE); otherwise each assignment queues by its own.
 */
export function queueKey(assignment: number, topK: number, scores: Vector, options: CapacityOptions): QueueKey {
  const token = Math.floor(assignment / topK);
  const choice = assignment % topK;
  const { priority = 'position', firstChoicesFirst = true } = options.type === 'fixed' ? options : {};
  const rank = firstChoicesFirst ? choice : 0;
  if (priority === 'position') return { rank, score: 0, tieBreak: assignment };
  if (!firstChoicesFirst) return { rank, score: scores[assignment]!, tieBreak: assignment };
  const best = Math.max(...scores.subarray(token * topK, (token + 1) * topK));
  return { rank, score: best, tieBreak: token };
}

/** kept [T,K]: 1 where the assignment found a slot. Masked tokens have index −1 and never queue. */
export function admit(
  indices: Int32Array,
  scores: Vector,
  topK: number,
  capacity: number | null,
  options: CapacityOptions,
): Int32Array {
  const queue = Array.from(indices, (expert, assignment) => ({
    expert,
    assignment,
    key: queueKey(assignment, topK, scores, options),
  })).filter(({ expert }) => expert >= 0);
  queue.sort((a, b) => a.key.rank - b.key.rank || b.key.score - a.key.score || a.key.tieBreak - b.key.tieBreak);

  const kept = new Int32Array(indices.length);
  const taken = new Map<number, number>();
  for (const { expert, assignment } of queue) {
    const slot = taken.get(expert) ?? 0;
    if (capacity !== null && slot >= capacity) continue;
    taken.set(expert, slot + 1);
    kept[assignment] = 1;
  }
  return kept;
}
