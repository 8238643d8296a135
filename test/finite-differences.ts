/** Central differences of a float64 function, element by element: the proof of the reference's gradients. */

import { full } from './extent.js';

const STEP = 1e-5;

/** The elements of a gradient that the short run looks at, and a prime that spreads them. */
const SAMPLES = 12;
const SPREAD = 7919;

/**
 * Compares `gradient` with the central differences of `objective` in `values` (changed in place, and restored), to 1e-7
 * of the gradient's largest entry and 1e-8 absolutely: what is left of float64 after the division by the step. Every
 * element is compared in the full run, a sample of them in the short one.
 */
export function expectGradient(
  label: string,
  values: Float64Array,
  gradient: Float64Array,
  objective: () => number,
): void {
  if (gradient.length !== values.length) throw new Error(`${label}: ${gradient.length} gradients of ${values.length}`);
  const largest = gradient.reduce((max, g) => Math.max(max, Math.abs(g)), 0);
  const count = full ? values.length : Math.min(SAMPLES, values.length);
  for (let sample = 0; sample < count; sample++) {
    const i = (sample * SPREAD) % values.length;
    const value = values[i]!;
    values[i] = value + STEP;
    const above = objective();
    values[i] = value - STEP;
    const below = objective();
    values[i] = value;
    const expected = (above - below) / (2 * STEP);
    if (!(Math.abs(expected - gradient[i]!) <= 1e-7 * largest + 1e-8)) {
      throw new Error(`${label}[${i}]: gradient ${gradient[i]}, finite difference ${expected}, largest ${largest}`);
    }
  }
}
