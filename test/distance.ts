/** How far apart two results are, by one number. */

/** The largest difference over the largest value. */
export function distance(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  let [most, max] = [0, 0];
  for (let i = 0; i < expected.length; i++) {
    most = Math.max(most, Math.abs(actual[i]! - expected[i]!));
    max = Math.max(max, Math.abs(expected[i]!));
  }
  return most / max;
}
