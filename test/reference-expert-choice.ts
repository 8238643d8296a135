/**
 * The float64 reference of experts that choose tokens (Zhou et al. 2022): each takes its C best by their scores. Inside
 * the reference a token then has E choices, of which those that were not made are −1.
 */

import type { Call, LayerConfig } from './reference.js';
import { capacityOf } from './reference-capacity.js';
import { row, type Vector } from './reference-math.js';
import { type RouterOptions, scoreAll } from './reference-router.js';

/** C, at most the number of tokens. */
export function expertSlots({ capacity, numExperts, topK }: LayerConfig, call: Call, tokens: number): number {
  const limited = capacity?.type === 'fixed' ? capacity : { type: 'fixed' as const, factor: 1 };
  const { capacityFactor, training = true } = call;
  const options = { tokens, topK: call.topK ?? topK, numExperts, training, capacityFactor };
  return Math.min(tokens, capacityOf(limited, options)!);
}

/** Tokens [E,C], best first, between equals the lower; −1 behind the last. v [T,E] has −∞ where an expert may not be. */
export function chosenTokens(
  v: Vector,
  live: readonly boolean[],
  E: number,
  C: number,
  router: RouterOptions,
): Int32Array {
  const scores = live.map((isLive, t) => isLive && scoreAll(row(v, t, E), router));
  const chosen = new Int32Array(E * C).fill(-1);
  for (let e = 0; e < E; e++) {
    const tokens = [...live.keys()].filter((t) => live[t] && v[t * E + e]! > -Infinity);
    const scoreOf = (t: number): number => (scores[t] as Vector)[e]!;
    tokens.sort((a, b) => scoreOf(b) - scoreOf(a) || a - b);
    chosen.set(tokens.slice(0, C), e * C);
  }
  return chosen;
}

/** Takes foreign choices over that differ from ours by near-ties alone. */
export function adoptTokens(
  foreign: ArrayLike<number>,
  ours: Int32Array,
  v: Vector,
  E: number,
  router: RouterOptions,
): Int32Array {
  if (foreign.length !== ours.length) throw new Error(`adopt: ${foreign.length} tokens for ${ours.length} slots`);
  const C = ours.length / E;
  ours.forEach((t, slot) => {
    const e = Math.floor(slot / C);
    const other = foreign[slot]!;
    if (other === t) return;
    const scoreOf = (token: number): number => scoreAll(row(v, token, E), router)[e]!;
    if (other < 0 || t < 0 || !(Math.abs(scoreOf(t) - scoreOf(other)) <= 1e-5))
      throw new Error(`adopt: expert ${e} takes token ${other}, not ${t}`);
  });
  return Int32Array.from(foreign);
}

/** [E,C] → [T,E], the experts that took each token. */
export function takersOf(chosen: Int32Array, tokens: number, E: number): Int32Array {
  const takers = new Int32Array(tokens * E).fill(-1);
  chosen.forEach((t, slot) => {
    const e = Math.floor((slot * E) / chosen.length);
    if (t >= 0) takers[t * E + e] = e;
  });
  return takers;
}

/** What [T,E] has for the slots [E,C]; 0 where nobody was chosen. */
export function bySlot(values: Vector, chosen: Int32Array, E: number): Vector {
  return Float64Array.from(chosen, (t, slot) => (t < 0 ? 0 : values[t * E + Math.floor((slot * E) / chosen.length)]!));
}
