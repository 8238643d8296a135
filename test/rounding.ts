/**
 * The 16-bit floats by arithmetic on exact numbers, for tests: what rounding to nearest even must give, and what each bit
 * pattern is worth. Shares nothing with the library, which works on bits.
 */

import type { DType } from '../lib/index.js';

export type FloatDType = Exclude<DType, 'int32'>;
export const FLOAT_DTYPES: readonly FloatDType[] = ['float32', 'bfloat16', 'float16'];

interface Format {
  /** Bits of the fraction, the leading one not counted. */
  fraction: number;
  /** Of the smallest normal number, and of the largest. */
  minExponent: number;
  maxExponent: number;
}

const FORMATS: Record<FloatDType, Format> = {
  float32: { fraction: 23, minExponent: -126, maxExponent: 127 },
  bfloat16: { fraction: 7, minExponent: -126, maxExponent: 127 },
  float16: { fraction: 10, minExponent: -14, maxExponent: 15 },
};

/** The nearest number of the format; of two equally near ones that with an even fraction. */
export function rounded(dtype: FloatDType, x: number): number {
  if (!Number.isFinite(x) || x === 0) return x;
  const { fraction, minExponent, maxExponent } = FORMATS[dtype];
  const magnitude = Math.abs(x);
  let exponent = Math.floor(Math.log2(magnitude));
  // The logarithm may round across a power of two.
  if (2 ** exponent > magnitude) exponent -= 1;
  else if (2 ** (exponent + 1) <= magnitude) exponent += 1;
  const quantum = 2 ** (Math.max(exponent, minExponent) - fraction);
  const steps = magnitude / quantum;
  const below = Math.floor(steps);
  const rest = steps - below;
  const up = rest > 0.5 || (rest === 0.5 && below % 2 === 1);
  const result = (up ? below + 1 : below) * quantum;
  return Math.sign(x) * (result >= 2 ** (maxExponent + 1) ? Number.POSITIVE_INFINITY : result);
}

export const roundedAll = (dtype: FloatDType, values: Float32Array): Float32Array =>
  dtype === 'float32' ? values : values.map((value) => rounded(dtype, value));

/** What the pattern of a 16-bit float is worth. */
export function numberOf(dtype: 'bfloat16' | 'float16', bits: number): number {
  const { fraction, minExponent } = FORMATS[dtype];
  const sign = bits & 0x8000 ? -1 : 1;
  const biased = (bits & 0x7fff) >> fraction;
  const rest = bits & (2 ** fraction - 1);
  if (biased === 2 ** (15 - fraction) - 1) return rest === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  if (biased === 0) return sign * rest * 2 ** (minExponent - fraction);
  return sign * (2 ** fraction + rest) * 2 ** (biased - 1 + minExponent - fraction);
}
