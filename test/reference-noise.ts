/**
 * The float64 reference of the noise: Philox4x32-10 from its paper (Salmon et al., "Parallel random numbers: as easy as
 * 1, 2, 3", SC 2011) and exact transforms of its bits. That the library keys its draws as written here is part of what a
 * seed means: see the doc comment of `draws`.
 */

import type { Vector } from './reference-math.js';

const WORD = 0xffffffffn;

/** 128 bits from a counter of four words and a key of two. */
export function philox(counter: readonly bigint[], key: readonly bigint[]): number[] {
  let [c0, c1, c2, c3] = counter as [bigint, bigint, bigint, bigint];
  let [k0, k1] = key as [bigint, bigint];
  for (let round = 0; round < 10; round++) {
    const a = 0xd2511f53n * c0;
    const b = 0xcd9e8d57n * c2;
    [c0, c1, c2, c3] = [(b >> 32n) ^ c1 ^ k0, b & WORD, (a >> 32n) ^ c3 ^ k1, a & WORD];
    k0 = (k0 + 0x9e3779b9n) & WORD;
    k1 = (k1 + 0xbb67ae85n) & WORD;
  }
  return [c0, c1, c2, c3].map(Number);
}

export type NoisePurpose =
  | 'router noise'
  | 'queue'
  | 'second choice'
  | 'hash'
  | 'expert'
  | 'expert dropout'
  | 'shared dropout';
const PURPOSES: Record<NoisePurpose, bigint> = {
  'router noise': 1n,
  queue: 2n,
  'second choice': 3n,
  hash: 4n,
  expert: 5n,
  'expert dropout': 6n,
  'shared dropout': 7n,
};

export interface NoiseKey {
  seed: number | bigint;
  /** The layer's count of training forwards. */
  step: number;
  purpose: NoisePurpose;
  /** The number of the first token. */
  tokenOffset: number;
}

const low = (value: bigint): bigint => value & WORD;
const high = (value: bigint): bigint => (value >> 32n) & WORD;

/**
 * The seed and the step make a key: words 0 and 1 of Philox at the counter (step low, step high, purpose, 1) under the key
 * (seed low, seed high).
 */
function philoxKey({ seed, step, purpose }: NoiseKey): bigint[] {
  const s = BigInt(seed);
  const forward = BigInt(step);
  return philox([low(forward), high(forward), PURPOSES[purpose], 1n], [low(s), high(s)])
    .slice(0, 2)
    .map(BigInt);
}

/**
 * 32 random bits for each of `width` columns of a token: under its key, the counter (token low, token high, block, 2) has
 * those of four neighbouring columns, the first four at block `block`.
 */
function tokenDraws(key: readonly bigint[], token: bigint, block: number, width: number): number[] {
  const fours = Array.from({ length: Math.ceil(width / 4) }, (_, i) =>
    philox([low(token), high(token), BigInt(block + i), 2n], key),
  );
  return fours.flat().slice(0, width);
}

/** 32 random bits for every token and column. */
export function draws(
  tokens: number,
  width: number,
  noise: NoiseKey,
  /** [T], in place of the tokens' numbers. */
  ids?: ArrayLike<number>,
): Uint32Array {
  const key = philoxKey(noise);
  const bits = new Uint32Array(tokens * width);
  for (let t = 0; t < tokens; t++) {
    const token = BigInt.asUintN(64, BigInt(ids ? ids[t]! : noise.tokenOffset + t));
    bits.set(tokenDraws(key, token, 0, width), t * width);
  }
  return bits;
}

/**
 * What dropout multiplies the `width` activations of an expert by, for one token: 0 where the bits are below
 * probability · 2^32, 1/(1 - probability) elsewhere. The experts' columns lie side by side, each in whole fours.
 */
export function dropoutFactors(
  probability: number,
  width: number,
  token: number,
  expert: number,
  noise: NoiseKey,
): Vector {
  const bits = tokenDraws(philoxKey(noise), BigInt(noise.tokenOffset + token), expert * Math.ceil(width / 4), width);
  const threshold = Math.floor(probability * 2 ** 32);
  return Float64Array.from(bits, (b) => (b < threshold ? 0 : 1 / (1 - probability)));
}

/** In (0, 1). */
export const unit = (bits: number): number => (bits + 0.5) / 2 ** 32;

/** U[1-ε, 1+ε] (Switch Transformer's input jitter). */
export function jitters(bits: Uint32Array, epsilon: number): Vector {
  return Float64Array.from(bits, (b) => 1 - epsilon + 2 * epsilon * unit(b));
}

/** Normal(0, 1) by Box and Muller: neighbouring columns 2i and 2i+1 are the two coordinates of one point. */
export function normals(tokens: number, width: number, key: NoiseKey): Vector {
  const evenWidth = width + (width % 2);
  const bits = draws(tokens, evenWidth, key);
  const points = Float64Array.from(bits, (_, i) => {
    const first = i - (i % 2);
    const radius = Math.sqrt(-2 * Math.log(unit(bits[first]!)));
    const angle = (2 * Math.PI * bits[first + 1]!) / 2 ** 32;
    return radius * (i % 2 === 0 ? Math.cos(angle) : Math.sin(angle));
  });
  return points.filter((_, i) => i % evenWidth < width);
}

/** -ln(-ln u), u from the 23 highest bits. */
export function gumbels(bits: Uint32Array): Vector {
  return Float64Array.from(bits, (b) => -Math.log(-Math.log(((b >>> 9) + 0.5) / 2 ** 23)));
}
