/** How much a run of the tests takes. */

import { FLOAT_DTYPES, type FloatDType } from './rounding.js';

/** `npm run test:full`: also what `npm test` leaves out because something like it is in it. */
export const full = Boolean(process.env.SWITCHYARD_TEST_FULL);

export const onCuda = (process.env.SWITCHYARD_TEST_DEVICE ?? 'cpu') === 'cuda';

/** The kernels of capability 9.0 are those of 8.0, compiled again: the short run takes less of them. */
export const shortened = !full && process.env.SOFTGPU_CC === '9.0';

/** Those that a suite of every dtype runs in. */
export const suiteDTypes: readonly FloatDType[] = shortened ? ['float32', 'bfloat16'] : FLOAT_DTYPES;

/**
 * Those of a suite about what happens again: of the kernels themselves the other suites tell, and the two of 16 bits
 * differ in conversions alone.
 */
export const repeatedDTypes: readonly FloatDType[] = shortened
  ? ['bfloat16']
  : onCuda && !full
    ? ['float32', 'bfloat16']
    : FLOAT_DTYPES;

/** Those of a table's cases that a dtype takes: in the short run at 9.0 each goes to one of the two. */
export function takenBy<T>(dtype: FloatDType, cases: readonly T[]): readonly T[] {
  return shortened ? cases.filter((_, i) => i % suiteDTypes.length === suiteDTypes.indexOf(dtype)) : cases;
}
