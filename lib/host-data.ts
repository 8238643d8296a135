// JavaScript numbers → the typed array of a dtype, with every check of the values. It knows no device.
import { dtypeCode, type HostArray } from './binding.js';
import { checkOneOf, describe, invalid, unsupported } from './checks.js';
import { MoEError } from './errors.js';

/** Element types. 16-bit floats are typed but not supported yet by this version. */
export type DType = 'float32' | 'bfloat16' | 'float16' | 'int32';

const dtypes = Object.keys(dtypeCode) as DType[];

/** A dtype that this version can compute with. */
export function checkDType(name: string, value: unknown): 'float32' | 'int32' {
  const dtype = checkOneOf(name, value, dtypes);
  if (dtype === 'bfloat16' || dtype === 'float16') throw unsupported(`${name} '${dtype}'`);
  return dtype;
}

/** The dtype of a module's parameters and activations. */
export function checkFloatDType(name: string, value: unknown): 'float32' {
  const dtype = checkOneOf(name, value, ['float32', 'bfloat16', 'float16'] as const);
  if (dtype !== 'float32') throw unsupported(`${name} '${dtype}'`);
  return dtype;
}

/** Uint16Array is the bits of 16-bit floats and nothing else, so it needs a dtype that says which. */
export function checkUint16(data: unknown, dtype: unknown): void {
  if (!(data instanceof Uint16Array) || dtype === 'bfloat16' || dtype === 'float16') return;
  if (dtype === undefined)
    throw invalid('dtype', "'bfloat16' or 'float16' for a Uint16Array, the bits of 16-bit floats", dtype);
  throw invalid('data', `numbers for a tensor of dtype ${dtype}, not the bits of 16-bit floats`, data, 'ERR_DTYPE');
}

/** The `size` values of `data` as the array of `dtype`: itself when it already is, otherwise a checked conversion. */
export function toHostArray(
  data: unknown,
  dtype: 'float32' | 'int32',
  shape: readonly number[],
  size: number,
): Float32Array | Int32Array {
  const values = arrayLike(data);
  if (values.length !== size) {
    const message = `data: expected the ${size} elements of shape ${describe(shape)}, got ${values.length}`;
    throw new MoEError('ERR_SHAPE', message);
  }
  if (dtype === 'float32' && data instanceof Float32Array) return data;
  if (dtype === 'int32' && data instanceof Int32Array) return data;
  const target = hostArray(dtype, size);
  if (dtype === 'int32') return convert(values, target, isInt32, 'a whole number that fits int32');
  return convert(values, target, isNumber, 'a number');
}

/** Zeros in JavaScript for what a tensor holds. */
export function hostArray(dtype: DType, size: number): Float32Array | Int32Array {
  try {
    return dtype === 'int32' ? new Int32Array(size) : new Float32Array(size);
  } catch (cause) {
    const message = `out of host memory: ${4 * size} bytes asked for, for ${size} numbers in JavaScript`;
    throw new MoEError('ERR_OUT_OF_MEMORY', message, undefined, { cause });
  }
}

function arrayLike(data: unknown): ArrayLike<unknown> {
  const length = typeof data === 'object' && data !== null ? (data as { length?: unknown }).length : undefined;
  if (Number.isSafeInteger(length) && (length as number) >= 0) return data as ArrayLike<unknown>;
  throw invalid('data', 'an array of numbers', data);
}

function convert<Target extends Float32Array | Int32Array>(
  values: ArrayLike<unknown>,
  target: Target,
  accepts: (value: unknown) => value is number,
  expected: string,
): Target {
  for (let i = 0; i < target.length; i++) {
    const value = values[i];
    if (!accepts(value)) throw invalid(`data[${i}]`, expected, value);
    target[i] = value;
  }
  return target;
}

const isNumber = (value: unknown): value is number => typeof value === 'number';
const isInt32 = (value: unknown): value is number => isNumber(value) && (value | 0) === value;

/** What write() takes: exactly the array that data() gives back. */
export function checkWritten(data: unknown, dtype: DType, size: number): HostArray {
  if (!(data instanceof Float32Array || data instanceof Int32Array || data instanceof Uint16Array))
    throw invalid('data', `a ${dtype === 'int32' ? 'Int32Array' : 'Float32Array'}`, data);
  const matches = dtype === 'int32' ? data instanceof Int32Array : data instanceof Float32Array;
  if (!matches)
    throw invalid(
      'data',
      `a ${dtype === 'int32' ? 'Int32Array' : 'Float32Array'} for a tensor of dtype ${dtype}`,
      data,
      'ERR_DTYPE',
    );
  if (data.length !== size) throw invalid('data', `${size} elements, as many as the tensor has`, data, 'ERR_SHAPE');
  return data;
}
