// Tensors: a shape and a handle on device memory. Everything here queues or reads; no arithmetic.
import { dtypeCode, type HostArray, native, type TensorHandle } from './binding.js';
import { checkOptions, describe, invalid, sameShape, sizeOf } from './checks.js';
import { contextOf, type DeviceContext, isDevice } from './context.js';
import type { Device } from './device.js';
import { MoEError } from './errors.js';
import { checkDType, checkWritten, type DType, type FloatDType, hostArray, storedArray } from './host-data.js';
import { Scoped } from './scope.js';

/** Where a tensor's disposal comes from besides its own dispose(). */
export type Lifetime =
  /** The innermost tidy, if there is one. */
  | 'scope'
  /** Its parameter or optimizer: never tidied. */
  | 'held';

const readOptions = new Set(['signal']);

/**
 * A dense tensor on a device, made by `device.tensor` and the like or by an operation. A handle: work that fills it may
 * still be queued. Several handles may share a storage (`reshape`).
 */
export class Tensor extends Scoped {
  /** Dimensions, outermost first; frozen. `[]` is a scalar. */
  readonly shape: readonly number[];
  readonly dtype: DType;
  /** The number of elements. */
  readonly size: number;
  readonly #context: DeviceContext;
  #handle: TensorHandle | undefined;

  /** @internal */
  constructor(
    context: DeviceContext,
    handle: TensorHandle,
    shape: readonly number[],
    dtype: DType,
    lifetime: Lifetime | Scoped = 'scope',
  ) {
    super();
    this.#context = context;
    this.#handle = handle;
    this.shape = Object.isFrozen(shape) ? shape : Object.freeze([...shape]);
    this.dtype = dtype;
    this.size = sizeOf(shape);
    if (lifetime === 'scope') context.track(this);
    else if (lifetime !== 'held') this.owner = lifetime;
  }

  get device(): Device {
    return this.#context.device;
  }

  /** Whether this handle, or its whole device, has been disposed. */
  get isDisposed(): boolean {
    return this.#handle === undefined || this.#context.isClosed;
  }

  /**
   * A copy in JavaScript, once all work queued so far is done: a Float32Array, to which 16-bit floats are widened, or an
   * Int32Array for int32.
   * Rejects with the failure of the operation that should have filled the tensor, with ERR_DISPOSED, and with the
   * signal's reason when `signal` aborts first.
   */
  async data(options: { signal?: AbortSignal } = {}): Promise<Float32Array | Int32Array> {
    const { signal } = checkOptions('options', options, readOptions);
    if (signal !== undefined && !(signal instanceof AbortSignal))
      throw invalid('options.signal', 'an AbortSignal', signal);
    signal?.throwIfAborted();
    const handle = this.#open('data()');
    const into = hostArray(this.dtype, this.size);
    const read = native.tensorRead(handle, into);
    await (signal ? abortable(read, signal) : read);
    return into;
  }

  /** The only element. ERR_SHAPE when there is not exactly one; otherwise as data(). */
  async item(): Promise<number> {
    if (this.size !== 1)
      throw new MoEError('ERR_SHAPE', `item(): expected a tensor of 1 element, got shape ${describe(this.shape)}`);
    return (await this.data())[0]!;
  }

  /** The same as data(), blocking the JavaScript thread: for REPLs and synchronous frameworks. */
  dataSync(): Float32Array | Int32Array {
    const handle = this.#open('dataSync()');
    const into = hostArray(this.dtype, this.size);
    native.tensorReadSync(handle, into);
    return into;
  }

  /**
   * Replaces the contents, in the order of the queue; all views of the storage see it. Copies `data` before it returns.
   * ERR_DTYPE unless `data` is the kind of array that data() gives or, for 16-bit floats, a Uint16Array of their bits;
   * ERR_SHAPE unless it has `size` elements. A Float32Array is rounded to nearest even where the tensor has 16 bits.
   */
  write(data: Float32Array | Int32Array | Uint16Array): void {
    const handle = this.#open('write()');
    native.tensorWrite(handle, checkWritten(data, this.dtype, this.size));
  }

  /** A view of the same storage in another shape; one dimension may be -1 and follows from the others. */
  reshape(shape: readonly number[]): Tensor {
    const handle = this.#open('reshape()');
    const resolved = resolveShape(shape, this.size);
    return new Tensor(this.#context, native.tensorAlias(handle), resolved, this.dtype);
  }

  /**
   * A copy on another device, or of another dtype. To int32 is towards zero and saturates, NaN gives 0; to a 16-bit float
   * is to nearest even, infinity where it is too large. To what it already is: a copy too.
   */
  to(target: Device | DType): Tensor {
    const handle = this.#open('to()');
    if (isDevice(target)) {
      const context = contextOf(target, 'target');
      if (context === this.#context) return this.clone();
      context.receiveFrom(this.#context);
      return new Tensor(context, native.tensorTransfer(handle, context.handle('target')), this.shape, this.dtype);
    }
    if (typeof target !== 'string') throw invalid('target', 'a device or a dtype', target);
    const dtype = checkDType('target', target);
    if (dtype === this.dtype) return this.clone();
    return new Tensor(this.#context, native.tensorConvert(handle, dtypeCode[dtype]), this.shape, dtype);
  }

  /** A copy on storage of its own. */
  clone(): Tensor {
    return new Tensor(this.#context, native.tensorClone(this.#open('clone()')), this.shape, this.dtype);
  }

  /** Drops this handle; may be called again. The storage lives on while other handles, queued work or a pass need it. */
  dispose(): void {
    if (this.#handle === undefined) return;
    const handle = this.#handle;
    this.#handle = undefined;
    this.scope?.remove(this);
    this.owner = undefined;
    native.tensorRelease(handle);
  }

  /** Exempts the tensor from its pass's and from tidy's disposal: from here on its holder disposes it. */
  keep(): this {
    this.#open('keep()');
    this.scope?.remove(this);
    this.owner = undefined;
    return this;
  }

  #open(name: string): TensorHandle {
    this.#context.handle(name);
    if (this.#handle === undefined) throw new MoEError('ERR_DISPOSED', `${name}: the tensor has been disposed`);
    return this.#handle;
  }

  /** @internal The elements as they are stored: the bits of 16-bit floats in a Uint16Array. */
  static async bitsOf(tensor: Tensor): Promise<HostArray> {
    const into = storedArray(tensor.dtype, tensor.size);
    await native.tensorRead(tensor.#open('data()'), into);
    return into;
  }

  /** @internal Whether `value` is a tensor of `context`; see checkTensor. */
  static handleOf(name: string, value: unknown, context: DeviceContext | undefined): TensorHandle {
    if (!(typeof value === 'object' && value !== null && #handle in value)) throw invalid(name, 'a Tensor', value);
    if (value.#handle === undefined) throw new MoEError('ERR_DISPOSED', `${name}: the tensor has been disposed`);
    value.#context.handle(name);
    if (context && value.#context !== context) {
      throw new MoEError(
        'ERR_DEVICE_MISMATCH',
        `${name}: expected a tensor of the device that this call runs on, got one of another device`,
        'Copy it there with tensor.to(device).',
      );
    }
    return value.#handle;
  }

  /** @internal */
  static contextOf(tensor: Tensor): DeviceContext {
    return tensor.#context;
  }
}

// ---------------------------------------------------------------- checks of tensors given to an operation

/** The native handle of a tensor given as `name`: live, of this device and dtype. */
export function checkTensor(
  name: string,
  value: unknown,
  context: DeviceContext | undefined,
  dtype: DType,
): TensorHandle {
  const handle = Tensor.handleOf(name, value, context);
  const tensor = value as Tensor;
  if (tensor.dtype !== dtype) throw wrongDType(name, dtype, tensor);
  return handle;
}

function wrongDType(name: string, expected: string, { dtype }: Tensor): MoEError {
  const hint =
    expected === 'int32' || dtype === 'int32' ? undefined : 'tensor.to(dtype) makes a copy of another dtype.';
  return new MoEError('ERR_DTYPE', `${name}: expected a tensor of dtype ${expected}, got one of ${dtype}`, hint);
}

/** The dtype of an operation's first tensor, a float's, which its others then have to share. */
export function checkFloatTensor(name: string, value: unknown, context: DeviceContext | undefined): FloatDType {
  Tensor.handleOf(name, value, context);
  const tensor = value as Tensor;
  if (tensor.dtype === 'int32') throw wrongDType(name, 'float32, bfloat16 or float16', tensor);
  return tensor.dtype;
}

/** The same for an exact shape; `symbols` says what its dimensions are. */
export function checkShaped(
  name: string,
  value: unknown,
  context: DeviceContext | undefined,
  dtype: DType,
  shape: readonly number[],
  symbols: string,
): TensorHandle {
  const handle = checkTensor(name, value, context, dtype);
  if (!sameShape((value as Tensor).shape, shape)) {
    throw new MoEError(
      'ERR_SHAPE',
      `${name}: expected shape ${symbols} = ${describe(shape)}, got ${describe((value as Tensor).shape)}`,
    );
  }
  return handle;
}

/** Any number of leading dimensions, then exactly `last`; answers the number of rows. */
export function checkRows(name: string, tensor: Tensor, last: number, symbol: string): number {
  const { shape } = tensor;
  if (shape.length === 0 || shape[shape.length - 1] !== last)
    throw new MoEError('ERR_SHAPE', `${name}: expected shape [..., ${symbol} = ${last}], got ${describe(shape)}`);
  return tensor.size / last;
}

/** The context that the first tensor of an operation without a device of its own decides. */
export function tensorContext(name: string, value: unknown): DeviceContext {
  Tensor.handleOf(name, value, undefined);
  return Tensor.contextOf(value as Tensor);
}

// ---------------------------------------------------------------- helpers

function resolveShape(shape: unknown, size: number): readonly number[] {
  if (!Array.isArray(shape)) throw invalid('shape', 'an array of dimensions', shape);
  const free = shape.indexOf(-1);
  const others = shape.filter((_, i) => i !== free);
  const whole = others.every((dimension) => Number.isSafeInteger(dimension) && dimension >= 0);
  const resolved = whole ? shape.map((dimension, i) => (i === free ? size / sizeOf(others) : dimension)) : shape;
  if (!whole || sizeOf(resolved) !== size || !Number.isSafeInteger(resolved[free] ?? 0))
    throw invalid(
      'shape',
      `whole dimensions, at most one of them -1, of ${size} elements together`,
      shape,
      'ERR_SHAPE',
    );
  return resolved;
}

/** Settles as `work` does, or rejects with the signal's reason when that comes first. The work itself goes on. */
function abortable<Result>(work: Promise<Result>, signal: AbortSignal): Promise<Result> {
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal.reason);
    signal.addEventListener('abort', abort, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
  });
}
