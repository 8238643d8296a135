/** Central differences of a float64 function, element by element: the proof of the reference's gradients. */

const STEP = 1e-5;

/**
 * Compares `gradient` with the central differences of `objective` in `values` (changed in place, and restored), to 1e-7
 * of the gradient's largest entry and 1e-8 absolutely: what is left of float64 after the division by the step.
 */
export function expectGradient(
  label: string,
  values: Float64Array,
  gradient: Float64Array,
  objective: () => number,
): void {
  if (gradient.length !== values.length) throw new Error(`${label}: ${gradient.length} gradients of ${values.length}`);
  const largest = gradient.reduce((max, g) => Math.max(max, Math.abs(g)), 0);
  for (let i = 0; i < values.length; i++) {
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
