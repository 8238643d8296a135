// Parameters: a named trainable tensor and its gradient, how they are initialised, and the set of them that a module owns.
import { randomInt } from 'node:crypto';
import { dtypeCode, native, type ParameterHandle, type TensorHandle } from './binding.js';
import { checkBoolean, invalid, sizeOf } from './checks.js';
import type { DeviceContext } from './context.js';
import { MoEError } from './errors.js';
import { bytesOf, type FloatDType } from './host-data.js';
import { Tensor } from './tensor.js';

/**
 * What keys the generator besides the seed, so that no two parameters of a module share their draws. The numbers are
 * part of what a seed means and never change.
 */
const purposes: Record<string, number> = {
  'router.weight': 1,
  'router.bias': 2,
  'experts.gate': 3,
  'experts.up': 4,
  'experts.down': 5,
  'experts.gateBias': 6,
  'experts.upBias': 7,
  'experts.downBias': 8,
  'shared.gate': 9,
  'shared.up': 10,
  'shared.down': 11,
  'shared.outputGate': 12,
  weight: 13,
  bias: 14,
  'router.noise': 15,
  'router.selectionBias': 16,
};

/** Of several gates each has numbers of its own: 1,000 and up for the first, 2,000 and up for the second. */
function purposeOf(name: string): number {
  const gate = /^router\.(\d+)\.(.*)$/.exec(name);
  if (!gate) return purposes[name] ?? 0;
  return 1000 * (Number(gate[1]) + 1) + purposes[`router.${gate[2]}`]!;
}

/** How a parameter starts: Normal(0, std), or `mean` everywhere when std is 0. */
export interface Initial {
  readonly std: number;
  readonly mean?: number;
}

/** Normal(0, 1/√in), for a product over `fanIn` inputs. */
export const scaledNormal = (fanIn: number): Initial => ({ std: 1 / Math.sqrt(fanIn) });
export const constantInitial = (mean: number): Initial => ({ std: 0, mean });

/** A seed from the system, small enough to survive JSON. */
export const drawSeed = (): number => randomInt(2 ** 48 - 1);

export interface ParameterOptions {
  readonly name: string;
  readonly shape: readonly number[];
  readonly dtype: FloatDType;
  readonly initial: Initial;
  /** Never trained: no gradient, and trainable stays false. */
  readonly frozen?: boolean;
}

/** A trainable tensor of a module and its gradient; never disposed by tidy or a pass, only with the module. */
export class Parameter {
  readonly name: string;
  readonly #context: DeviceContext;
  readonly #handle: ParameterHandle;
  readonly #shape: readonly number[];
  readonly #dtype: FloatDType;
  #value: Tensor | undefined;
  #grad: Tensor | undefined;
  #trainable = true;
  readonly #frozen: boolean;
  #disposed = false;

  /** @internal */
  constructor(
    context: DeviceContext,
    { name, shape, dtype, initial, frozen = false }: ParameterOptions,
    seed: number | bigint,
  ) {
    this.name = name;
    this.#context = context;
    this.#shape = Object.freeze([...shape]);
    this.#dtype = dtype;
    this.#handle = native.parameterCreate(context.handle(name), dtypeCode[dtype], sizeOf(shape), {
      mean: initial.mean ?? 0,
      std: initial.std,
      seed: BigInt(seed),
      purpose: purposeOf(name),
    });
    if (frozen) this.trainable = false;
    this.#frozen = frozen;
  }

  /** Of the module's dtype; a router's is float32. Writing to it makes passes that used it stale. */
  get value(): Tensor {
    if (!this.#value || this.#value.isDisposed)
      this.#value = this.#tensor(native.parameterValue(this.#open('value')), this.#dtype);
    return this.#value;
  }

  /**
   * float32, of the value's shape; zeros while it is cleared. The first backward after zeroGrad() or step() writes it,
   * later ones add.
   */
  get grad(): Tensor {
    if (!this.#grad || this.#grad.isDisposed)
      this.#grad = this.#tensor(native.parameterGrad(this.#open('grad')), 'float32');
    return this.#grad;
  }

  /** A parameter that is not trainable costs no gradient work, and no optimizer changes it. Default true. */
  get trainable(): boolean {
    return this.#trainable;
  }

  set trainable(value: boolean) {
    const trainable = checkBoolean(`${this.name}.trainable`, value);
    if (trainable && this.#frozen) throw invalid(`${this.name}.trainable`, 'false: it is never trained', trainable);
    native.parameterSetTrainable(this.#open('trainable'), trainable);
    this.#trainable = trainable;
  }

  #tensor(handle: TensorHandle, dtype: FloatDType): Tensor {
    return new Tensor(this.#context, handle, this.#shape, dtype, 'held');
  }

  #open(what: string): ParameterHandle {
    this.#context.handle(`${this.name}.${what}`);
    if (this.#disposed)
      throw new MoEError('ERR_DISPOSED', `${this.name}.${what}: the parameter has been disposed with its module`);
    return this.#handle;
  }

  /** @internal */
  static isParameter(value: unknown): value is Parameter {
    return typeof value === 'object' && value !== null && #handle in value;
  }

  /** @internal The native handle; `name` is the call or argument that wants it. */
  static handleOf(parameter: Parameter, name: string): ParameterHandle {
    parameter.#context.handle(name);
    if (parameter.#disposed)
      throw new MoEError('ERR_DISPOSED', `${name}: the parameter ${parameter.name} has been disposed with its module`);
    return parameter.#handle;
  }

  /** @internal */
  static contextOf(parameter: Parameter): DeviceContext {
    return parameter.#context;
  }

  /** @internal */
  static shapeOf(parameter: Parameter): readonly number[] {
    return parameter.#shape;
  }

  /** @internal */
  static dispose(parameter: Parameter): void {
    if (parameter.#disposed) return;
    parameter.#disposed = true;
    parameter.#value?.dispose();
    parameter.#grad?.dispose();
    native.parameterRelease(parameter.#handle);
  }
}

/** Refuses a module whose parameters alone cannot fit, before any of them is made. */
function checkMemory(context: DeviceContext, module: string, wanted: readonly ParameterOptions[]): void {
  const bytes = wanted.reduce((sum, { shape, dtype }) => sum + bytesOf(dtype) * sizeOf(shape), 0);
  if (bytes <= context.memoryLimit) return;
  throw new MoEError(
    'ERR_OUT_OF_MEMORY',
    `${module}: its parameters take ${bytes} bytes, more than the ${context.memoryLimit} bytes that the device may use`,
    'Choose smaller sizes, or raise options.memoryLimit of openDevice().',
  );
}

/** The parameters that a module owns, in the order they were added, which is that of parameters(). */
export class ParameterSet {
  readonly map: ReadonlyMap<string, Parameter>;
  readonly #parameters = new Map<string, Parameter>();
  readonly #context: DeviceContext;
  readonly #module: string;
  #disposed = false;

  /** Makes all of them, or none when the memory does not suffice. */
  constructor(context: DeviceContext, module: string, seed: number | bigint, parameters: Iterable<ParameterOptions>) {
    this.map = this.#parameters;
    this.#context = context;
    this.#module = module;
    const wanted = [...parameters];
    checkMemory(context, module, wanted);
    try {
      for (const options of wanted) this.#parameters.set(options.name, new Parameter(context, options, seed));
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  get isDisposed(): boolean {
    return this.#disposed;
  }

  /** The context of a module that is still there; `call` is the method that asks. */
  open(call: string): DeviceContext {
    this.#context.handle(`${this.#module}.${call}`);
    if (this.#disposed) throw new MoEError('ERR_DISPOSED', `${this.#module}.${call}: the module has been disposed`);
    return this.#context;
  }

  handle(name: string): ParameterHandle {
    return Parameter.handleOf(this.#parameters.get(name)!, name);
  }

  zeroGrad(): void {
    this.open('zeroGrad()');
    for (const parameter of this.#parameters.values())
      native.parameterZeroGrad(Parameter.handleOf(parameter, parameter.name));
  }

  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    for (const parameter of this.#parameters.values()) Parameter.dispose(parameter);
  }
}
