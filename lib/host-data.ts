// JavaScript numbers → the typed array of a dtype, with every check of the values. It knows no device.
import { dtypeCode, type HostArray } from './binding.js';
import { checkOneOf, describe, invalid } from './checks.js';
import { MoEError } from './errors.js';

/** Element types. */
export type DType = 'float32' | 'bfloat16' | 'float16' | 'int32';
export type FloatDType = Exclude<DType, 'int32'>;

const dtypes = Object.keys(dtypeCode) as DType[];

export function checkDType(name: string, value: unknown): DType {
  return checkOneOf(name, value, dtypes);
}

/** The dtype of a module's parameters and activations. */
export function checkFloatDType(name: string, value: unknown): FloatDType {
  return checkOneOf(name, value, ['float32', 'bfloat16', 'float16']);
}

export const isHalf = (dtype: unknown): dtype is 'bfloat16' | 'float16' => dtype === 'bfloat16' || dtype === 'float16';

export const bytesOf = (dtype: DType): number => (isHalf(dtype) ? 2 : 4);

/** Uint16Array is the bits of 16-bit floats and nothing else, so it needs a dtype that says which. */
export function checkUint16(data: unknown, dtype: unknown): void {
  if (!(data instanceof Uint16Array) || isHalf(dtype)) return;
  if (dtype === undefined)
    throw invalid('dtype', "'bfloat16' or 'float16' for a Uint16Array, the bits of 16-bit floats", dtype);
  throw invalid('data', `numbers for a tensor of dtype ${dtype}, not the bits of 16-bit floats`, data, 'ERR_DTYPE');
}

/** The `size` values of `data` in an array that a tensor of `dtype` takes: itself when it is one, else a checked conversion. */
export function toHostArray(data: unknown, dtype: DType, shape: readonly number[], size: number): HostArray {
  const values = arrayLike(data);
  if (values.length !== size) {
    const message = `data: expected the ${size} elements of shape ${describe(shape)}, got ${values.length}`;
    throw new MoEError('ERR_SHAPE', message);
  }
  if (isHostArray(data, dtype)) return data;
  const target = hostArray(dtype, size);
  if (dtype === 'int32') return convert(values, target, isInt32, 'a whole number that fits int32');
  return convert(values, target, isNumber, 'a number');
}

/** Zeros in JavaScript for what a tensor holds, 16-bit floats widened. */
export function hostArray(dtype: DType, size: number): Float32Array | Int32Array {
  return dtype === 'int32' ? allocated(Int32Array, size) : allocated(Float32Array, size);
}

/** The same for the elements as they are stored: 16-bit floats as their bits. */
export function storedArray(dtype: DType, size: number): HostArray {
  return isHalf(dtype) ? allocated(Uint16Array, size) : hostArray(dtype, size);
}

interface HostArrayType<Host> {
  new (size: number): Host;
  readonly BYTES_PER_ELEMENT: number;
}

function allocated<Host extends HostArray>(type: HostArrayType<Host>, size: number): Host {
  try {
    return new type(size);
  } catch (cause) {
    const message = `out of host memory: ${type.BYTES_PER_ELEMENT * size} bytes asked for, for ${size} numbers in JavaScript`;
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

/** Whether a tensor of `dtype` takes `data` as it is. */
function isHostArray(data: unknown, dtype: DType): data is HostArray {
  if (dtype === 'int32') return data instanceof Int32Array;
  return data instanceof Float32Array || (isHalf(dtype) && data instanceof Uint16Array);
}

/** What write() takes: the array that data() gives back, or the bits of 16-bit floats. */
export function checkWritten(data: unknown, dtype: DType, size: number): HostArray {
  const expected = `a ${dtype === 'int32' ? 'Int32Array' : 'Float32Array'}${isHalf(dtype) ? ', or a Uint16Array of bits,' : ''}`;
  if (!(data instanceof Float32Array || data instanceof Int32Array || data instanceof Uint16Array))
    throw invalid('data', expected, data);
  if (!isHostArray(data, dtype)) throw invalid('data', `${expected} for a tensor of dtype ${dtype}`, data, 'ERR_DTYPE');
  if (data.length !== size) throw invalid('data', `${size} elements, as many as the tensor has`, data, 'ERR_SHAPE');
  return data;
}
