/**
 * The vector arithmetic under the float64 reference: row-major arrays, plain loops, nothing clever.
 * It is not fast, and it shares no code with the library it judges.
 */

export type Vector = Float64Array;

/** Row `index` of a row-major matrix, as a view: writing to it writes to the matrix. */
export function row(matrix: Vector, index: number, width: number): Vector {
  return matrix.subarray(index * width, (index + 1) * width);
}

export function sum(values: Iterable<number>): number {
  let total = 0;
  for (const value of values) total += value;
  return total;
}

export function dot(a: Vector, b: Vector): number {
  let total = 0;
  for (let i = 0; i < a.length; i++) total += a[i]! * b[i]!;
  return total;
}

/** y += scale·x */
export function addScaled(y: Vector, scale: number, x: Vector): void {
  for (let i = 0; i < y.length; i++) y[i]! += scale * x[i]!;
}

/** matrix·x for a matrix [out, in]: PyTorch's nn.Linear layout. */
export function matVec(matrix: Vector, x: Vector): Vector {
  const result = new Float64Array(matrix.length / x.length);
  for (let i = 0; i < result.length; i++) result[i] = dot(row(matrix, i, x.length), x);
  return result;
}

/** dx += matrixᵀ·dy, the input gradient of matVec. */
export function addMatVecInputGrad(dx: Vector, matrix: Vector, dy: Vector): void {
  for (let i = 0; i < dy.length; i++) addScaled(dx, dy[i]!, row(matrix, i, dx.length));
}

/** dMatrix += dy·xᵀ, the weight gradient of matVec. */
export function addMatVecWeightGrad(dMatrix: Vector, dy: Vector, x: Vector): void {
  for (let i = 0; i < dy.length; i++) addScaled(row(dMatrix, i, x.length), dy[i]!, x);
}

export function logSumExp(values: Vector): number {
  const max = values.reduce((a, b) => Math.max(a, b), -Infinity);
  return max + Math.log(sum(values.map((v) => Math.exp(v - max))));
}

export function softmax(values: Vector): Vector {
  const lse = logSumExp(values);
  return values.map((v) => Math.exp(v - lse));
}

/** The gradient of the values whose softmax is p: p_i·(dp_i − Σ_j dp_j·p_j). */
export function softmaxBackward(p: Vector, dp: Vector): Vector {
  const mean = dot(p, dp);
  return p.map((v, i) => v * (dp[i]! - mean));
}

export function sigmoid(x: number): number {
  return x >= 0 ? 1 / (1 + Math.exp(-x)) : Math.exp(x) / (1 + Math.exp(x));
}

/** ln(1 + e^x) */
export function softplus(x: number): number {
  return Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));
}

/**
 * erf by the series 2/√π · e^(−x²) · Σ 2ⁿ·x^(2n+1)/(1·3·5···(2n+1)) (Abramowitz & Stegun 7.1.6), whose terms all have
 * one sign, so nothing cancels. Past 6 it is ±1 to the last bit.
 */
export function erf(x: number): number {
  if (Math.abs(x) > 6) return Math.sign(x);
  let term = x;
  let total = x;
  for (let n = 1; Math.abs(term) > 1e-18 * Math.abs(total); n++) {
    term *= (2 * x * x) / (2 * n + 1);
    total += term;
  }
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * total;
}

/** Φ, the normal distribution function. Below −6 erf has no digits left; the continued fraction of erfc has them. */
export function normalCdf(x: number): number {
  if (x > -5) return 0.5 * (1 + erf(x / Math.SQRT2));
  // Φ(−x) = φ(x)/(x + 1/(x + 2/(x + 3/(x + …)))) (Abramowitz & Stegun 26.2.14)
  let tail = -x;
  for (let n = 60; n > 0; n--) tail = -x + n / tail;
  return Math.exp(-0.5 * x * x) / (Math.sqrt(2 * Math.PI) * tail);
}
