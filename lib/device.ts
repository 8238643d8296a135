// Devices: opening one, making tensors on it, waiting for it, and its memory.
import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { type DeviceHandle, type DeviceLimits, dtypeCode, type KernelTime, native } from './binding.js';
import {
  checkInteger,
  checkNumber,
  checkOneOf,
  checkOptions,
  checkSeed,
  checkShape,
  invalid,
  isThenable,
  orDefault,
  sizeOf,
} from './checks.js';
import { DeviceContext } from './context.js';
import { MoEError } from './errors.js';
import { Graph } from './graph.js';
import { checkDType, checkUint16, type DType, toHostArray } from './host-data.js';
import { Tensor } from './tensor.js';

export type DeviceKind = 'cpu' | 'cuda';

export interface DeviceOptions {
  /** 'auto' (default): CUDA where a driver, a GPU and kernels for it can be used, else the CPU. */
  kind?: DeviceKind | 'auto';
  /** CUDA ordinal; the CPU is 0. */
  index?: number;
  /**
   * CPU worker threads, 1 to 1024, of no meaning to a GPU; default: the cores this process may use. Results never
   * depend on it.
   */
  threads?: number;
  /** The most bytes that the device's tensors may take; default: the machine's memory. Past it: ERR_OUT_OF_MEMORY. */
  memoryLimit?: number;
}

/** One entry of listDevices(). */
export interface DeviceInfo {
  kind: DeviceKind;
  index: number;
  name: string;
  usable: boolean;
  /** Why not, when it is not usable. */
  reason?: string;
  /**
   * `memoryBytes`; for the CPU `threads` and `isa` (the vector instructions in use), for a GPU `computeCapability`,
   * `multiprocessors` and `driverVersion`.
   */
  details: Record<string, string | number>;
}

const deviceKinds = ['auto', 'cpu', 'cuda'] as const;
const deviceOptions = new Set(['kind', 'index', 'threads', 'memoryLimit']);
const randnOptions = new Set(['seed', 'std', 'dtype']);

function cpuDevice(): DeviceInfo {
  const { name, isa, memoryBytes } = native.cpuInfo();
  return { kind: 'cpu', index: 0, name, usable: true, details: { threads: availableParallelism(), isa, memoryBytes } };
}

function cudaDevices(tryThem: boolean): DeviceInfo[] {
  const { reason, driverVersion, gpus } = native.cudaDevices(tryThem);
  if (gpus.length === 0) return [{ kind: 'cuda', index: 0, name: 'CUDA', usable: false, reason, details: {} }];
  const broken = damagedKernels();
  return gpus.map(({ name, reason, ...details }, index) => {
    const why = reason || broken;
    const info = { kind: 'cuda' as const, index, name, usable: why === '', details: { ...details, driverVersion } };
    return why === '' ? info : { ...info, reason: why };
  });
}

/** Kernels of another build read their parameters wrong: why these are not the addon's own, or ''. */
function damagedKernels(): string {
  const { cudaFolder, cudaChecksums } = native.build;
  for (const [name, expected] of Object.entries(cudaChecksums)) {
    const file = join(cudaFolder, name);
    if (!existsSync(file)) return `the CUDA kernels are missing: cannot read ${file}. Run "npx switchyard build".`;
    const found = createHash('sha256').update(readFileSync(file)).digest('hex');
    if (found !== expected) return `${file} does not belong to this build of the addon. Run "npx switchyard build".`;
  }
  return '';
}

/** Every device this process could open, and for each one that cannot be used, why not. Tries each GPU. */
export function listDevices(): DeviceInfo[] {
  return [cpuDevice(), ...cudaDevices(true)];
}

/**
 * Opens a device. Each call opens one of its own, with its own queue, threads and memory pool; tensors of one cannot be
 * used on another (`tensor.to(device)` copies).
 *
 * ERR_DEVICE_UNAVAILABLE when `kind` is 'cuda' and it cannot be used; the message says why. ERR_OUT_OF_MEMORY when the GPU has
 * no room for it.
 */
export function openDevice(options: DeviceKind | 'auto' | DeviceOptions = 'auto'): Device {
  const given = typeof options === 'string' ? { kind: options } : checkOptions('options', options, deviceOptions);
  const { index = 0, threads = availableParallelism(), memoryLimit } = given as DeviceOptions;
  const kind = checkOneOf(
    typeof options === 'string' ? 'device' : 'options.kind',
    orDefault(given.kind, 'auto'),
    deviceKinds,
  );
  checkInteger('options.index', index, 0, 1023);
  checkInteger('options.threads', threads, 1, 1024);
  if (memoryLimit !== undefined) checkInteger('options.memoryLimit', memoryLimit, 1, Number.MAX_SAFE_INTEGER);
  if (kind === 'cuda') return openCuda(index, memoryLimit);
  const gpu = kind === 'auto' ? usableCuda(index, memoryLimit) : undefined;
  if (gpu) return gpu;
  if (index !== 0) throw invalid('options.index', '0, the only CPU device', index);
  const info = cpuDevice();
  const limit = memoryLimit ?? Number(info.details.memoryBytes);
  return new Device(info, native.cpuOpen(threads, limit), limit);
}

function openCuda(index: number, memoryLimit: number | undefined): Device {
  const unavailable = (why: string | undefined, hint?: string) =>
    new MoEError(
      'ERR_DEVICE_UNAVAILABLE',
      `options.kind: CUDA cannot be used: ${why}`,
      hint ?? "openDevice('cpu') always works; listDevices() says what there is.",
    );
  const gpus = cudaDevices(false);
  const info = gpus[index];
  if (!info) throw unavailable(`there is no GPU ${index}, only 0 to ${gpus.length - 1}`);
  if (!info.usable) throw unavailable(info.reason);
  const limit = memoryLimit ?? Number(info.details.memoryBytes);
  try {
    return new Device(info, native.cudaOpen(index, limit), limit);
  } catch (error) {
    throw error instanceof MoEError && error.code !== 'ERR_OUT_OF_MEMORY'
      ? unavailable(error.message, error.hint)
      : error;
  }
}

function usableCuda(index: number, memoryLimit: number | undefined): Device | undefined {
  try {
    return openCuda(index, memoryLimit);
  } catch (error) {
    const without = error instanceof MoEError && ['ERR_DEVICE_UNAVAILABLE', 'ERR_OUT_OF_MEMORY'].includes(error.code);
    if (without) return undefined;
    throw error;
  }
}

/**
 * A device and its in-order queue, made by openDevice().
 *
 * Calls return at once with handles while the work runs off the JavaScript thread; past 1,024 queued jobs a call blocks
 * until one finishes. Shape, argument and out-of-memory errors throw from the call itself. What fails later (a NaN
 * router, say) poisons the outputs of that operation, and whatever depends on them does nothing, so that weights stay as
 * they were; reads of poisoned tensors reject with the operation that failed.
 */
export class Device implements Disposable {
  readonly kind: DeviceKind;
  readonly index: number;
  /** The model of the processor or GPU. */
  readonly name: string;
  readonly #context: DeviceContext;
  #profiling = false;

  /** @internal */
  constructor({ kind, index, name }: DeviceInfo, handle: DeviceHandle, memoryLimit: number) {
    this.kind = kind;
    this.index = index;
    this.name = name;
    this.#context = new DeviceContext(this, handle, memoryLimit);
  }

  get isDisposed(): boolean {
    return this.#context.isClosed;
  }

  /**
   * A tensor of `data`, copied before this returns. dtype defaults to float32, and to int32 for an Int32Array. Numbers
   * that are not whole or do not fit are an error in int32; 16-bit floats are rounded to nearest even. Uint16Array, the
   * bits of 16-bit floats, needs a dtype.
   * ERR_SHAPE when `shape` does not have as many elements as `data`.
   */
  tensor(
    data: Float32Array | Int32Array | Uint16Array | ArrayLike<number>,
    shape: readonly number[],
    dtype?: DType,
  ): Tensor {
    const handle = this.#context.handle('tensor()');
    const dims = checkShape('shape', shape);
    checkUint16(data, dtype);
    const type = checkDType('dtype', orDefault(dtype, data instanceof Int32Array ? 'int32' : 'float32'));
    const host = toHostArray(data, type, dims, sizeOf(dims));
    return new Tensor(this.#context, native.tensorFrom(handle, dtypeCode[type], host), dims, type);
  }

  zeros(shape: readonly number[], dtype: DType = 'float32'): Tensor {
    const handle = this.#context.handle('zeros()');
    const dims = checkShape('shape', shape);
    const type = checkDType('dtype', dtype);
    return new Tensor(this.#context, native.tensorZeros(handle, dtypeCode[type], sizeOf(dims)), dims, type);
  }

  /**
   * Normal(0, std), std 1 by default, from the counter-based generator: the same values on every device for a seed, rounded
   * from float32 to a narrower dtype.
   */
  randn(shape: readonly number[], options: { seed: number | bigint; std?: number; dtype?: DType }): Tensor {
    const handle = this.#context.handle('randn()');
    const dims = checkShape('shape', shape);
    const { seed, std = 1, dtype = 'float32' } = checkOptions('options', options, randnOptions);
    const bits = BigInt(checkSeed('options.seed', seed));
    const deviation = checkNumber('options.std', std, { min: 0 });
    const type = checkDType('options.dtype', dtype);
    if (type === 'int32') throw invalid('options.dtype', 'a float dtype', dtype, 'ERR_DTYPE');
    const drawn = native.tensorNormal(handle, dtypeCode[type], sizeOf(dims), bits, deviation);
    return new Tensor(this.#context, drawn, dims, type);
  }

  /** Resolves when all work queued so far is done; rejects with the first failure that nothing has reported yet. */
  async synchronize(): Promise<void> {
    await native.deviceSynchronize(this.#context.handle('synchronize()'));
  }

  /**
   * What this device can do at best, measured now in about a tenth of a second: float32 multiply-adds from registers, the
   * same of bfloat16 (dot products of pairs, or tensor cores; without either those of float32), and reads of main memory.
   * For the roofline of a benchmark.
   */
  async measureLimits(): Promise<DeviceLimits> {
    // Awaited, not returned: a device that is forgotten meanwhile must not be collected.
    return await native.deviceMeasureLimits(this.#context.handle('measureLimits()'));
  }

  /**
   * Times what `body` queues, in its order: on a GPU every kernel, by events around it (one that the GPU does faster than
   * the host launches it may read as long as its launch), a replay of a graph as a whole; on the CPU every stage.
   * ERR_INVALID_ARGUMENT when `body` returns a promise.
   */
  async profile(body: () => void): Promise<KernelTime[]> {
    const handle = this.#context.handle('profile()');
    if (typeof body !== 'function') throw invalid('body', 'a function', body);
    if (this.#profiling) throw invalid('profile(body)', 'no profile() inside of the body of another', body);
    native.deviceTimeKernels(handle);
    try {
      this.#runProfiled(body);
    } catch (error) {
      await native.deviceKernelTimes(handle).catch(() => {});
      throw error;
    }
    // Awaited, not returned: a device that is forgotten meanwhile must not be collected.
    return await native.deviceKernelTimes(handle);
  }

  #runProfiled(body: () => void): void {
    this.#profiling = true;
    try {
      const result: unknown = body();
      if (!isThenable(result)) return;
      // Nobody will see how it ends.
      result.then(undefined, () => {});
      throw invalid('profile(body)', 'a body that returns no promise: what it queues later is not timed', result);
    } finally {
      this.#profiling = false;
    }
  }

  /**
   * Runs `step` once, then records it: replay() queues all of it again, on a GPU as one CUDA graph. Replays give the bits
   * that calling `step` again would give. They work on the tensors that the step used: write new data into those before
   * replay(). What is fixed by the recording: shapes, the parameters that are trainable, the options of each call. What is
   * not: the learning rate and the other numbers of an optimizer, step counts, the temperature that layer.setTemperature()
   * set, and the draws of noise and dropout, which go on from replay to replay.
   * Of other devices nothing is recorded. On a GPU a poisoned tensor from outside poisons all that the step writes, on the CPU
   * what depends on it. Passes and tensors that the step makes and does not dispose hold, and stats() reads, what the
   * last replay has left in them; before the first one reading them is ERR_STALE_PASS.
   *
   * ERR_INVALID_ARGUMENT when `step` brings data to the device, reads, makes layers, parameters or optimizers, or returns a
   * promise.
   */
  graph(step: () => void): Graph {
    this.#context.handle('graph()');
    if (typeof step !== 'function') throw invalid('step', 'a function', step);
    return Graph.record(this.#context, step);
  }

  /**
   * Cancels what is queued, waits for what runs and frees everything, also the memory of tensors that are still there. May
   * be called again; every other use of the device or of what was made on it is ERR_DISPOSED from then on. A GPU that was
   * lost can be opened again when every device opened on it is disposed.
   */
  dispose(): void {
    this.#context.close();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /**
   * Runs `body` and disposes every tensor, pass and plan made on this device inside it, except what it returns: directly,
   * in arrays or in plain objects, however deep. May be nested. When `body` throws everything is disposed. A body that
   * returns a promise is ERR_INVALID_ARGUMENT. Parameters, gradients and optimizer state are never tidied.
   */
  tidy<R>(body: () => R): R {
    this.#context.handle('tidy()');
    if (typeof body !== 'function') throw invalid('body', 'a function', body);
    return this.#context.tidy(body);
  }

  /** Bytes: held by live tensors and saved activations, the highest that has been, and kept from the system in the pool. */
  memory(): { allocated: number; peak: number; reserved: number } {
    const [allocated, peak, reserved] = native.deviceMemory(this.#context.handle('memory()'));
    return { allocated, peak, reserved };
  }

  resetPeakMemory(): void {
    native.deviceResetPeak(this.#context.handle('resetPeakMemory()'));
  }
}
