// Checks of arguments, and the wording of every message about one: parameter, expectation, value. It knows numbers,
// options and shapes; tensors check themselves (tensor.ts) and what a configuration means is in config*.ts.
import { MoEError, type MoEErrorCode } from './errors.js';

/** The largest size that any dimension of a layer may have: sizes are 32-bit integers in the native code. */
export const maxSize = 2 ** 31 - 1;

/** A value as a message shows it: short, on one line, and told apart from its string. */
export function describe(value: unknown): string {
  switch (typeof value) {
    case 'string':
      return value.length > 60 ? `${JSON.stringify(value.slice(0, 60))}…` : JSON.stringify(value);
    case 'bigint':
      return `${value}n`;
    case 'function':
      return 'a function';
    case 'symbol':
      return 'a symbol';
    case 'object':
      return value === null ? 'null' : describeObject(value);
    default:
      return String(value);
  }
}

function describeObject(value: object): string {
  if (Array.isArray(value)) {
    const shown = value.slice(0, 8).map((element) => (Array.isArray(element) ? '[…]' : describe(element)));
    return `[${shown.join(', ')}${value.length > 8 ? ', …' : ''}]`;
  }
  const name = (value as { constructor?: { name?: unknown } }).constructor?.name;
  if (typeof name !== 'string' || name === 'Object' || name === '') return 'an object';
  const named = `${/^[AEIO]/.test(name) ? 'an' : 'a'} ${name}`;
  return ArrayBuffer.isView(value) ? `${named} of ${(value as Uint8Array).length ?? value.byteLength} elements` : named;
}

/** The error for a value that is not what `name` takes. */
export function invalid(
  name: string,
  expected: string,
  value: unknown,
  code: MoEErrorCode = 'ERR_INVALID_ARGUMENT',
): MoEError {
  return new MoEError(code, `${name}: expected ${expected}, got ${describe(value)}`);
}

/** The error for an option that the contract knows and this version does not. */
export function unsupported(option: string, hint?: string): MoEError {
  return new MoEError('ERR_UNSUPPORTED', `${option} is not supported yet by this version`, hint);
}

export function disposed(name: string, what = 'it'): MoEError {
  return new MoEError('ERR_DISPOSED', `${name}: ${what} has been disposed`);
}

// ---------------------------------------------------------------- scalars

export function checkInteger(name: string, value: unknown, min: number, max: number, maxName?: string): number {
  if (Number.isInteger(value) && (value as number) >= min && (value as number) <= max) return value as number;
  throw invalid(name, `an integer from ${min} to ${maxName ? `${maxName} (${max})` : max}`, value);
}

/** A size of a layer or a module. */
export function checkSize(name: string, value: unknown): number {
  return checkInteger(name, value, 1, maxSize);
}

interface Bounds {
  /** Inclusive. */
  min?: number;
  /** Exclusive. */
  above?: number;
  /** Inclusive. */
  max?: number;
  /** Exclusive. */
  below?: number;
}

/** A number inside `bounds` that is finite, and still inside them once it is a float32, as the native code has it. */
export function checkNumber(name: string, value: unknown, bounds: Bounds = {}): number {
  const { min = -Infinity, above = -Infinity, max = Infinity, below = Infinity } = bounds;
  if (typeof value === 'number' && value >= min && value <= max) {
    const single = Math.fround(value);
    if (Number.isFinite(single) && single > above && single < below) return value;
  }
  const limits: string[] = [];
  if (above !== -Infinity) limits.push(`above ${above}`);
  if (min !== -Infinity) limits.push(`of at least ${min}`);
  if (below !== Infinity) limits.push(`below ${below}`);
  if (max !== Infinity) limits.push(`of at most ${max}`);
  throw invalid(name, ['a finite float32 number', limits.join(' and ')].filter(Boolean).join(' '), value);
}

export function checkBoolean(name: string, value: unknown): boolean {
  if (typeof value === 'boolean') return value;
  throw invalid(name, 'true or false', value);
}

export function checkOneOf<Value extends string>(name: string, value: unknown, allowed: readonly Value[]): Value {
  if (allowed.includes(value as Value)) return value as Value;
  throw invalid(name, `one of ${allowed.map((option) => `'${option}'`).join(', ')}`, value);
}

/** A seed is 64 bits; numbers are taken up to 2^53, beyond which they are no longer exact. */
export function checkSeed(name: string, value: unknown): number | bigint {
  const fits =
    typeof value === 'bigint'
      ? value >= 0n && value < 1n << 64n
      : Number.isSafeInteger(value) && (value as number) >= 0;
  if (fits) return value as number | bigint;
  throw invalid(name, 'an integer from 0 to 2^53 - 1, or a bigint from 0 to 2^64 - 1', value);
}

// ---------------------------------------------------------------- options

/** The default of an option that is absent. null is there: it is an error wherever it is no value of the option. */
export function orDefault(value: unknown, fallback: unknown): unknown {
  return value === undefined ? fallback : value;
}

export function checkObject(name: string, value: unknown): Record<string, unknown> {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  throw invalid(name, 'an object of options', value);
}

/** An object of options with no name among its own that `known` does not have: a typo is not silently a default. */
export function checkOptions(name: string, value: unknown, known: ReadonlySet<string>): Record<string, unknown> {
  const options = checkObject(name, value);
  for (const option in options) {
    if (!known.has(option) && options[option] !== undefined) throw unknownOption(name, option, known);
  }
  return options;
}

function unknownOption(name: string, option: string, known: ReadonlySet<string>): MoEError {
  const nearest = nearestName(option, known);
  return new MoEError(
    'ERR_INVALID_ARGUMENT',
    `${name}.${option}: unknown option${nearest ? `; did you mean ${nearest}?` : `; expected one of ${[...known].join(', ')}`}`,
  );
}

function nearestName(option: string, known: ReadonlySet<string>): string | undefined {
  let best: string | undefined;
  let bestDistance = Math.max(2, Math.floor(option.length / 2)) + 1;
  for (const candidate of known) {
    const distance = editDistance(option.toLowerCase(), candidate.toLowerCase());
    if (distance < bestDistance) [best, bestDistance] = [candidate, distance];
  }
  return best;
}

/** Levenshtein's distance, one row at a time. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)));
    }
    row = next;
  }
  return row[b.length]!;
}

// ---------------------------------------------------------------- shapes

/** A copy of a shape that is safe to keep. Dimensions are whole and not negative; their product is exact in a double. */
export function checkShape(name: string, value: unknown): readonly number[] {
  if (!Array.isArray(value)) throw invalid(name, 'an array of dimensions', value);
  let size = 1;
  for (const dimension of value) {
    if (!Number.isSafeInteger(dimension) || dimension < 0)
      throw invalid(name, 'whole dimensions of at least 0', value, 'ERR_SHAPE');
  }
  for (const dimension of value) {
    size *= dimension;
    if (size > Number.MAX_SAFE_INTEGER && !value.includes(0))
      throw invalid(name, 'fewer than 2^53 elements', value, 'ERR_SHAPE');
  }
  return Object.freeze([...value]);
}

export function sizeOf(shape: readonly number[]): number {
  let size = 1;
  for (const dimension of shape) size *= dimension;
  return size;
}

export function sameShape(a: readonly number[], b: readonly number[]): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

export function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === 'object' && value !== null && typeof (value as { then?: unknown }).then === 'function';
}
