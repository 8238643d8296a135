/**
 * The float64 reference of the router's arithmetic for one token: choose K experts from its logits, score them, turn the
 * scores into weights, and the way back. The GEMM and the noise before it and the capacity after it live elsewhere.
 *
 * u are the logits divided by the temperature, v those with noise; both are −∞ for an expert that the token may not use.
 * A choice that no expert is left for is −1. Sources: Mixtral (softmax, top-K, weights over their sum), Qwen2-MoE
 * (not renormalised), DBRX (weights over their L_p norm), DeepSeek-MoE (routed_scaling_factor), DeepSeek-V2 (groups by
 * their best score), DeepSeek-V3 (sigmoid, selection bias, groups by the sum of their two best), GPT-OSS (softmax over
 * the K selected logits only).
 */

import { sigmoid, softmax, softmaxBackward, sum, type Vector } from './reference-math.js';

export interface RouterOptions {
  type?: 'top-k' | 'expert-choice' | 'sinkhorn' | 'hash' | 'random';
  scoring?: 'softmax' | 'sigmoid';
  selectBy?: 'scores' | 'logits';
  renormalize?: boolean | { p?: number; epsilon?: number };
  weightScale?: number;
  /** Of the expert; where the weight multiplies. */
  applyWeightTo?: 'output' | 'input';
  bias?: boolean;
  temperature?: number;
  noise?:
    | { type: 'jitter'; epsilon: number }
    | { type: 'gaussian'; std: number }
    | { type: 'learned' }
    | { type: 'gumbel' };
  groups?: { count: number; keep: number; score: 'max' | 'top2-sum' };
  selectionBias?: { rate: number };
  allowedExperts?: readonly (readonly number[])[];
  renormalizeAfterDrop?: boolean;
  secondChoice?: 'always' | { type: 'random'; threshold: number };
}

/** Whether experts are drawn: there are no logits, and every weight is 1/K. */
export const drawsExperts = ({ type }: RouterOptions): boolean => type === 'hash' || type === 'random';

/** Sinkhorn takes the sigmoid of a single choice and the softmax of several, whatever it is told. */
export function effective(options: RouterOptions, topK: number): RouterOptions {
  if (options.type !== 'sinkhorn') return options;
  return { ...options, scoring: topK === 1 ? 'sigmoid' : 'softmax', selectBy: 'scores' };
}

// ------------------------------------------------------------------------------------------------------------ scores

const sigmoids = (u: Vector): Vector => u.map(sigmoid);

/** The scores of all experts. */
export function scoreAll(u: Vector, options: RouterOptions): Vector {
  return options.scoring === 'sigmoid' ? sigmoids(u) : softmax(u);
}

function scoreAllBackward(u: Vector, options: RouterOptions, dScores: Vector): Vector {
  if (options.scoring !== 'sigmoid') return softmaxBackward(softmax(u), dScores);
  return u.map((x, e) => dScores[e]! * sigmoid(x) * sigmoid(-x));
}

/** P of the balancing losses: softmax(u), or σ(u) over its sum. */
export function probabilities(u: Vector, options: RouterOptions): Vector {
  if (options.scoring !== 'sigmoid') return softmax(u);
  const s = sigmoids(u);
  const total = sum(s);
  return s.map((value) => value / total);
}

export function probabilitiesBackward(u: Vector, options: RouterOptions, dP: Vector): Vector {
  if (options.scoring !== 'sigmoid') return softmaxBackward(softmax(u), dP);
  const s = sigmoids(u);
  const total = sum(s);
  const mean = sum(s.map((value, e) => (value / total) * dP[e]!));
  return scoreAllBackward(
    u,
    options,
    dP.map((d) => (d - mean) / total),
  );
}

// --------------------------------------------------------------------------------------------------------- selection

/** What the choice compares: scores plus the selection bias, or logits plus it; −∞ is never chosen. */
export function comparedValues(v: Vector, options: RouterOptions, selectionBias: Vector | undefined): Vector {
  const byScores = options.selectBy !== 'logits' && (selectionBias || options.groups);
  const values = byScores ? scoreAll(v, options) : v.slice();
  return values.map((value, e) => (v[e] === -Infinity ? -Infinity : value + (selectionBias?.[e] ?? 0)));
}

/** The groups' scores [count]: their best value, or the sum of their two best. */
export function groupScores(values: Vector, groups: NonNullable<RouterOptions['groups']>): Vector {
  const size = values.length / groups.count;
  return Float64Array.from({ length: groups.count }, (_, g) => {
    const best = [...values.subarray(g * size, (g + 1) * size)].sort((a, b) => b - a).filter((x) => x > -Infinity);
    if (best.length === 0) return -Infinity;
    return groups.score === 'max' ? best[0]! : sum(best.slice(0, 2));
  });
}

/** The values with −∞ for every expert outside the `keep` best groups. */
export function restrictToGroups(
  values: Vector,
  options: RouterOptions,
  adjust: (scores: Vector) => Vector = (s) => s,
): Vector {
  if (!options.groups) return values;
  const kept = topK(adjust(groupScores(values, options.groups)), options.groups.keep);
  const size = values.length / options.groups.count;
  return values.map((value, e) => (kept.includes(Math.floor(e / size)) ? value : -Infinity));
}

/** The K largest values, best first; between equals the lower index; −1 where only −∞ is left. */
export function topK(values: Vector, k: number): number[] {
  const experts = Array.from(values, (_, e) => e).filter((e) => values[e]! > -Infinity);
  experts.sort((a, b) => values[b]! - values[a]! || a - b);
  return Array.from({ length: k }, (_, i) => experts[i] ?? -1);
}

// ----------------------------------------------------------------------------------------------- scores of the selected

function pick(values: Vector, selected: readonly number[], absent: number): Vector {
  return Float64Array.from(selected, (e) => (e < 0 ? absent : values[e]!));
}

const isOverSelected = (options: RouterOptions): boolean =>
  options.selectBy === 'logits' && options.scoring !== 'sigmoid';

/** The softmax of what is there: all 0 when every value is −∞. */
function softmaxOf(values: Vector): Vector {
  return values.every((x) => x === -Infinity) ? new Float64Array(values.length) : softmax(values);
}

/** The scores [K] of the selected experts: their score among all experts, or their softmax among the selected alone. */
export function scoreSelected(v: Vector, selected: readonly number[], options: RouterOptions): Vector {
  if (drawsExperts(options)) return Float64Array.from(selected, (e) => (e < 0 ? 0 : 1 / selected.length));
  return isOverSelected(options) ? softmaxOf(pick(v, selected, -Infinity)) : pick(scoreAll(v, options), selected, 0);
}

/** The gradient of v [E] from that of the selected scores [K]. */
export function scoreSelectedBackward(
  v: Vector,
  selected: readonly number[],
  options: RouterOptions,
  dScores: Vector,
): Vector {
  const scatter = (values: Vector): Vector => {
    const all = new Float64Array(v.length);
    selected.forEach((e, k) => {
      if (e >= 0) all[e]! += values[k]!;
    });
    return all;
  };
  if (!isOverSelected(options)) return scoreAllBackward(v, options, scatter(dScores));
  return scatter(softmaxBackward(softmaxOf(pick(v, selected, -Infinity)), dScores));
}

// ----------------------------------------------------------------------------------------------------------- weights

function norm(scores: Vector, options: RouterOptions): { p: number; norm: number; divisor: number } | undefined {
  if (!options.renormalize) return undefined;
  const { p = 1, epsilon = 1e-20 } = options.renormalize === true ? {} : options.renormalize;
  // Of shares of the largest: a high power of a small score is 0 in float64 too.
  const largest = scores.reduce((a, b) => Math.max(a, b), 0);
  const value = largest === 0 ? 0 : largest * sum(scores.map((s) => (s / largest) ** p)) ** (1 / p);
  return { p, norm: value, divisor: value + epsilon };
}

/** weight = weightScale · s / (‖s‖_p + epsilon), the division only when renormalising. */
export function weigh(scores: Vector, options: RouterOptions): Vector {
  const scale = options.weightScale ?? 1;
  const divisor = norm(scores, options)?.divisor ?? 1;
  return scores.map((s) => (scale * s) / divisor);
}

/** The gradient of the scores from that of the weights; ∂‖s‖_p/∂s_j = (s_j/‖s‖_p)^(p−1). */
export function weighBackward(scores: Vector, options: RouterOptions, dWeights: Vector): Vector {
  const scale = options.weightScale ?? 1;
  const n = norm(scores, options);
  if (!n) return dWeights.map((d) => scale * d);
  const throughNorm = sum(scores.map((s, k) => dWeights[k]! * s)) / n.divisor ** 2;
  // A missing choice has score 0, and its slope is nobody's.
  return scores.map((s, k) =>
    s === 0 ? 0 : scale * (dWeights[k]! / n.divisor - throughNorm * (s / n.norm) ** (n.p - 1)),
  );
}
