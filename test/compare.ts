/**
 * How close is close: every comparison of the library with the reference goes through here, so that there is one
 * tolerance. In float32 an error is at most 1e-5 of the tensor's largest value, and every row is within 1e-4 of its own
 * norm, so that no small row can be wrong unseen behind a large one. What 16-bit floats have gone into is held by the norm
 * of the whole tensor's error, relative to that of the tensor.
 */

import type { FloatDType } from './rounding.js';

const OF_NORM = { bfloat16: 1e-2, float16: 2e-3 };
const OF_MAXIMUM = 1e-5;
const OF_ROW_NORM = 1e-4;
/** Rows narrower than this may cancel to almost nothing by chance, and then float32 has no digits to be relative to. */
const NARROW = 8;
/** What float64 leaves of an exact zero, as a share of the maximum: such a row is zero, and its float32 form rounding. */
const ROUNDED_ZERO = 1e-12;
/** A computation of many roundings may be this many times as far off as one rounding of its inputs makes it. */
const NOISE_MARGIN = 20;

/** The smallest normal float32: what is below it may be 0. */
const SMALLEST = 2 ** -126;

type Numbers = ArrayLike<number>;

function largest(values: Numbers): number {
  let max = 0;
  for (let i = 0; i < values.length; i++) max = Math.max(max, Math.abs(values[i]!));
  return max;
}

function norm(values: Numbers, from: number, to: number): number {
  let squares = 0;
  for (let i = from; i < to; i++) squares += values[i]! ** 2;
  return Math.sqrt(squares);
}

export interface CloseOptions {
  /** Of what the values were computed from; default float32. */
  dtype?: FloatDType;
  /** Exactly zero in exact arithmetic: held below 1e-5, since nothing is left to be relative to. */
  vanishing?: boolean;
  /** How far the exact values move when what they are computed from moves by float32's last bit; for ill-conditioned ones. */
  noise?: number;
}

/** Compares rows of `width` values and throws the worst place in words. */
export function expectClose(
  label: string,
  actual: Numbers,
  expected: Numbers,
  width: number,
  { dtype = 'float32', vanishing = false, noise = 0 }: CloseOptions = {},
): void {
  if (actual.length !== expected.length) throw new Error(`${label}: ${actual.length} values, not ${expected.length}`);
  if (dtype !== 'float32' && !vanishing) {
    expectNormClose(label, actual, expected, OF_NORM[dtype]);
    return;
  }
  const max = largest(expected);
  const unseen = NOISE_MARGIN * noise + SMALLEST;
  const allowed = (vanishing ? OF_MAXIMUM : OF_MAXIMUM * max) + unseen;
  let worst = -1;
  let worstError = allowed;
  for (let i = 0; i < expected.length; i++) {
    const error = Math.abs(actual[i]! - expected[i]!);
    if (!(error <= worstError)) [worst, worstError] = [i, error];
    if (Number.isNaN(error)) break;
  }
  if (worst >= 0) {
    const place = `row ${Math.floor(worst / width)}, column ${worst % width}`;
    throw new Error(
      `${label}: ${place} is ${actual[worst]}, not ${expected[worst]}; off by ${worstError}, allowed ${allowed}`,
    );
  }
  if (!vanishing) expectRowsClose(label, actual, expected, width, max, unseen * Math.sqrt(width));
}

function expectNormClose(label: string, actual: Numbers, expected: Numbers, ofNorm: number): void {
  const difference = Float64Array.from(expected, (value, i) => actual[i]! - value);
  const error = norm(difference, 0, difference.length);
  const own = norm(expected, 0, expected.length);
  if (!(error <= ofNorm * own))
    throw new Error(`${label}: off by ${error}, which is ${error / own} of its norm ${own}`);
}

function expectRowsClose(
  label: string,
  actual: Numbers,
  expected: Numbers,
  width: number,
  max: number,
  noise: number,
): void {
  const difference = Float64Array.from(expected, (value, i) => actual[i]! - value);
  for (let start = 0; start < expected.length; start += width) {
    const error = norm(difference, start, start + width);
    const own = norm(expected, start, start + width);
    const isRoundedZero = own > 0 && own < ROUNDED_ZERO * max;
    const slack = (width < NARROW || isRoundedZero ? 1e-6 : 1e-8) * max;
    if (error > OF_ROW_NORM * own + slack + noise) {
      throw new Error(`${label}: row ${start / width} is off by ${error}, its norm is ${own} (tensor maximum ${max})`);
    }
  }
}

/** Numbers that are counts or choices: equal, element by element. */
export function expectSame(label: string, actual: Numbers, expected: Numbers): void {
  if (actual.length !== expected.length) throw new Error(`${label}: ${actual.length} values, not ${expected.length}`);
  for (let i = 0; i < expected.length; i++) {
    if (actual[i] !== expected[i]) throw new Error(`${label}[${i}] is ${actual[i]}, not ${expected[i]}`);
  }
}

/** One statistic. The absolute part is float32 rounding of the terms whose difference a small value is. */
export function expectScalar(label: string, actual: number | undefined, expected: number | undefined): void {
  if (actual === expected) return;
  const error = Math.abs((actual ?? Number.NaN) - (expected ?? Number.NaN));
  if (!(error <= OF_MAXIMUM * Math.abs(expected!) + 1e-6)) throw new Error(`${label} is ${actual}, not ${expected}`);
}
