/**
 * The float64 reference of the router's arithmetic for one token: choose K experts from its logits, score them, turn the
 * scores into weights, and the way back. The GEMM before it and the capacity after it live elsewhere.
 *
 * u are the logits divided by the temperature. Sources: Mixtral (softmax, top-K, weights over their sum), Qwen2-MoE
 * (not renormalised), DBRX (weights over their L_p norm), DeepSeek-MoE (routed_scaling_factor), GPT-OSS (softmax over the
 * K selected logits only).
 */

import { softmax, softmaxBackward, sum, type Vector } from './reference-math.js';

export interface RouterOptions {
  selectBy?: 'scores' | 'logits';
  renormalize?: boolean | { p?: number; epsilon?: number };
  weightScale?: number;
  bias?: boolean;
  temperature?: number;
}

/** The K experts with the largest u, best first; between equals the lower index. */
export function topK(u: Vector, k: number): number[] {
  const experts = Array.from(u, (_, e) => e);
  experts.sort((a, b) => u[b]! - u[a]! || a - b);
  return experts.slice(0, k);
}

function pick(values: Vector, selected: readonly number[]): Vector {
  return Float64Array.from(selected, (e) => values[e]!);
}

/** The scores [K] of the selected experts: their share of the softmax over all experts, or over the selected alone. */
export function scoreSelected(u: Vector, selected: readonly number[], options: RouterOptions): Vector {
  return options.selectBy === 'logits' ? softmax(pick(u, selected)) : pick(softmax(u), selected);
}

/** The gradient of u [E] from that of the selected scores [K]. */
export function scoreSelectedBackward(
  u: Vector,
  selected: readonly number[],
  options: RouterOptions,
  dScores: Vector,
): Vector {
  const du = new Float64Array(u.length);
  if (options.selectBy === 'logits') {
    const dPicked = softmaxBackward(softmax(pick(u, selected)), dScores);
    selected.forEach((e, k) => {
      du[e]! += dPicked[k]!;
    });
    return du;
  }
  const dAll = new Float64Array(u.length);
  selected.forEach((e, k) => {
    dAll[e]! += dScores[k]!;
  });
  return softmaxBackward(softmax(u), dAll);
}

function norm(scores: Vector, options: RouterOptions): { p: number; norm: number; divisor: number } | undefined {
  if (!options.renormalize) return undefined;
  const { p = 1, epsilon = 1e-20 } = options.renormalize === true ? {} : options.renormalize;
  // Of shares of the largest: a high power of a small score is 0 in float64 too.
  const largest = scores.reduce((a, b) => Math.max(a, b), 0);
  const value = largest * sum(scores.map((s) => (s / largest) ** p)) ** (1 / p);
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
  return scores.map((s, k) => scale * (dWeights[k]! / n.divisor - throughNorm * (s / n.norm) ** (n.p - 1)));
}
