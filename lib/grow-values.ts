// The values of parameters that a layer grows by: rows of experts moved about, and noise.
import type { Device } from './device.js';
import type { Parameter } from './parameter.js';

/** Where the experts of a grown layer come from. */
export interface Sources {
  /** The old expert that each one is, or is a copy of. */
  readonly of: readonly number[];
  readonly isNew: readonly boolean[];
}

/** Row `of[e]` of the experts at every place e; what has no rows of experts as it is. */
export function placedRows(values: Float32Array, rows: number, { of }: Sources): Float32Array {
  if (rows === 0) return values;
  const width = values.length / rows;
  const placed = new Float32Array(of.length * width);
  for (const [e, source] of of.entries()) placed.set(values.subarray(source * width, (source + 1) * width), e * width);
  return placed;
}

function rootMeanSquare(values: Float32Array): number {
  let squares = 0;
  for (const value of values) squares += value * value;
  return Math.sqrt(squares / values.length);
}

/** Keys the noise of each matrix, apart from its initial values. */
const noiseSeed: Record<string, bigint> = { 'experts.gate': 1n, 'experts.up': 2n, 'experts.down': 3n };

/** Adds Normal(0, noise · root mean square of each expert's matrix), to the experts marked in `rows`, or to all. */
export function addNoise(
  device: Device,
  { name, value }: Parameter,
  values: Float32Array,
  { noise, seed, rows }: { noise: number; seed: number | bigint; rows?: readonly boolean[] },
): void {
  if (noise === 0) return;
  const own = BigInt.asUintN(64, BigInt(seed) + noiseSeed[name]! * 0x9e3779b97f4a7c15n);
  const tensor = device.randn(value.shape, { seed: own });
  const draws = tensor.dataSync();
  tensor.dispose();
  const E = value.shape[0]!;
  const size = values.length / E;
  for (let e = 0; e < E; e++) {
    if (rows && !rows[e]) continue;
    const scale = noise * rootMeanSquare(values.subarray(e * size, (e + 1) * size));
    for (let i = e * size; i < (e + 1) * size; i++) values[i]! += scale * draws[i]!;
  }
}
