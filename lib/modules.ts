// What a language model needs around its MoE layers: Linear, Embedding, RMSNorm, crossEntropy, add.
import { native, type PassHandle } from './binding.js';
import { checkBoolean, checkNumber, checkOptions, checkSeed, checkSize, invalid } from './checks.js';
import { contextOf, type DeviceContext } from './context.js';
import type { Device } from './device.js';
import { MoEError } from './errors.js';
import { checkFloatDType, type DType } from './host-data.js';
import {
  constantInitial,
  drawSeed,
  type Parameter,
  ParameterSet,
  type ParameterShape,
  scaledNormal,
} from './parameter.js';
import { Scoped } from './scope.js';
import { checkRows, checkShaped, checkTensor, Tensor, tensorContext } from './tensor.js';

/** What checkpoints, optimizers and summaries need of a layer. */
export interface Module extends Disposable {
  parameters(): ReadonlyMap<string, Parameter>;
  zeroGrad(): void;
  dispose(): void;
}

/** One forward of a dense layer: its output, and the gradient of its input. Disposing it disposes the output. */
export class Pass extends Scoped {
  readonly output: Tensor;
  readonly #name: string;
  readonly #context: DeviceContext;
  readonly #handle: PassHandle;
  readonly #inputShape: readonly number[];
  #disposed = false;

  /** @internal */
  constructor(
    name: string,
    context: DeviceContext,
    [handle, output]: ReturnType<typeof native.linearForward>,
    shapes: { input: readonly number[]; output: readonly number[] },
  ) {
    super();
    this.#name = name;
    this.#context = context;
    this.#handle = handle;
    this.#inputShape = shapes.input;
    this.output = new Tensor(context, output, shapes.output, 'float32', this);
    context.track(this);
  }

  /**
   * Queues the backward: accumulates into the parameters' gradients and returns the gradient of the input, for an
   * Embedding an empty tensor of shape [0]. Runs once: ERR_STALE_PASS a second time, or when the input or a parameter was
   * written since forward.
   */
  backward(gradOutput: Tensor): Tensor {
    const name = `${this.#name}.backward()`;
    this.#context.handle(name);
    if (this.#disposed) throw new MoEError('ERR_DISPOSED', `${name}: the pass has been disposed`);
    const handle = checkShaped('gradOutput', gradOutput, this.#context, 'float32', this.output.shape, "the output's");
    const gradInput = native.passBackward(this.#handle, handle, 1);
    if (gradInput) return new Tensor(this.#context, gradInput, this.#inputShape, 'float32');
    return this.#context.device.zeros([0]);
  }

  /** May be called again. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.scope?.remove(this);
    if (this.output.owner === this) this.output.dispose();
    native.passRelease(this.#handle);
  }
}

/** A module's parameters and life. */
abstract class DenseModule implements Module {
  /** @internal */
  protected readonly own: ParameterSet;

  /** @internal */
  constructor(name: string, device: Device, seed: number | bigint, shapes: ParameterShape[]) {
    this.own = new ParameterSet(contextOf(device), name, seed, shapes);
  }

  parameters(): ReadonlyMap<string, Parameter> {
    return this.own.map;
  }

  zeroGrad(): void {
    this.own.zeroGrad();
  }

  dispose(): void {
    this.own.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

const linearOptions = new Set(['inFeatures', 'outFeatures', 'bias', 'dtype', 'seed']);

function seedOf(value: unknown): number | bigint {
  return value === undefined ? drawSeed() : checkSeed('options.seed', value);
}

/** output = input · weightᵀ + bias. 'weight' [out,in] starts as Normal(0, 1/√in), 'bias' [out] as 0. */
export class Linear extends DenseModule {
  readonly inFeatures: number;
  readonly outFeatures: number;
  readonly #bias: boolean;

  /** bias defaults to true, the seed to one drawn from the system. */
  constructor(
    device: Device,
    options: { inFeatures: number; outFeatures: number; bias?: boolean; dtype?: DType; seed?: number | bigint },
  ) {
    const given = checkOptions('options', options, linearOptions);
    const inFeatures = checkSize('options.inFeatures', given.inFeatures);
    const outFeatures = checkSize('options.outFeatures', given.outFeatures);
    const bias = checkBoolean('options.bias', given.bias ?? true);
    checkFloatDType('options.dtype', given.dtype ?? 'float32');
    const shapes: ParameterShape[] = [['weight', [outFeatures, inFeatures], scaledNormal(inFeatures)]];
    if (bias) shapes.push(['bias', [outFeatures], constantInitial(0)]);
    super('Linear', device, seedOf(given.seed), shapes);
    this.inFeatures = inFeatures;
    this.outFeatures = outFeatures;
    this.#bias = bias;
  }

  /** [..., in] → [..., out] */
  forward(input: Tensor): Pass {
    const context = this.own.open('forward()');
    const handle = checkTensor('input', input, context, 'float32');
    checkRows('input', input, this.inFeatures, 'inFeatures');
    const bias = this.#bias ? this.own.handle('bias') : null;
    const made = native.linearForward(handle, this.own.handle('weight'), bias, this.inFeatures, this.outFeatures);
    const output = [...input.shape.slice(0, -1), this.outFeatures];
    return new Pass('Linear', context, made, { input: input.shape, output });
  }
}

const embeddingOptions = new Set(['count', 'size', 'dtype', 'seed']);

/** A table of vectors. 'weight' [count,size] starts as Normal(0, 1). */
export class Embedding extends DenseModule {
  readonly count: number;
  readonly size: number;

  constructor(device: Device, options: { count: number; size: number; dtype?: DType; seed?: number | bigint }) {
    const given = checkOptions('options', options, embeddingOptions);
    const count = checkSize('options.count', given.count);
    const size = checkSize('options.size', given.size);
    checkFloatDType('options.dtype', given.dtype ?? 'float32');
    super('Embedding', device, seedOf(given.seed), [['weight', [count, size], { std: 1 }]]);
    this.count = count;
    this.size = size;
  }

  /** int32 [...] → [..., size]. An index outside 0 … count - 1 poisons the output: its reads say which. */
  forward(indices: Tensor): Pass {
    const context = this.own.open('forward()');
    const handle = checkTensor('indices', indices, context, 'int32');
    const made = native.embeddingForward(handle, this.own.handle('weight'), this.count, this.size);
    return new Pass('Embedding', context, made, { input: [0], output: [...indices.shape, this.size] });
  }
}

const rmsNormOptions = new Set(['size', 'epsilon', 'dtype']);

/** x / √(mean(x²) + epsilon) · weight over the last dimension (Zhang & Sennrich 2019). 'weight' [size] starts as 1. */
export class RMSNorm extends DenseModule {
  readonly size: number;
  readonly epsilon: number;

  /** epsilon defaults to 1e-6. */
  constructor(device: Device, options: { size: number; epsilon?: number; dtype?: DType }) {
    const given = checkOptions('options', options, rmsNormOptions);
    const size = checkSize('options.size', given.size);
    const epsilon = checkNumber('options.epsilon', given.epsilon ?? 1e-6, { min: 0 });
    checkFloatDType('options.dtype', given.dtype ?? 'float32');
    super('RMSNorm', device, 0, [['weight', [size], constantInitial(1)]]);
    this.size = size;
    this.epsilon = epsilon;
  }

  /** [..., size] → [..., size] */
  forward(input: Tensor): Pass {
    const context = this.own.open('forward()');
    const handle = checkTensor('input', input, context, 'float32');
    checkRows('input', input, this.size, 'size');
    const made = native.rmsNormForward(handle, this.own.handle('weight'), this.size, this.epsilon);
    return new Pass('RMSNorm', context, made, { input: input.shape, output: input.shape });
  }
}

/** The loss of one crossEntropy() call. Disposing it disposes `loss`. */
export class CrossEntropyPass extends Scoped {
  /** A scalar, shape []. */
  readonly loss: Tensor;
  readonly #context: DeviceContext;
  readonly #handle: PassHandle;
  readonly #shape: readonly number[];
  #disposed = false;

  /** @internal */
  constructor(
    context: DeviceContext,
    [handle, loss]: ReturnType<typeof native.crossEntropyForward>,
    shape: readonly number[],
  ) {
    super();
    this.#context = context;
    this.#handle = handle;
    this.#shape = shape;
    this.loss = new Tensor(context, loss, [], 'float32', this);
    context.track(this);
  }

  /** scale · dloss/dlogits, of the logits' shape. Runs once. */
  backward(scale = 1): Tensor {
    this.#context.handle('crossEntropy.backward()');
    if (this.#disposed) throw new MoEError('ERR_DISPOSED', 'crossEntropy.backward(): the pass has been disposed');
    const gradLogits = native.passBackward(this.#handle, null, checkNumber('scale', scale));
    return new Tensor(this.#context, gradLogits!, this.#shape, 'float32');
  }

  /** May be called again. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.scope?.remove(this);
    if (this.loss.owner === this) this.loss.dispose();
    native.passRelease(this.#handle);
  }
}

/**
 * Mean negative log-likelihood of `targets` int32 [...] under softmax(`logits`) float32 [..., classes], over the targets
 * that are not -1; 0 when there are none. Another target outside the classes poisons the loss: its reads say which.
 */
export function crossEntropy(logits: Tensor, targets: Tensor): CrossEntropyPass {
  const context = tensorContext('logits', logits);
  const handle = checkTensor('logits', logits, context, 'float32');
  const classes = logits.shape[logits.shape.length - 1];
  if (classes === undefined || classes === 0)
    throw invalid('logits', 'shape [..., classes] with at least one class', logits.shape, 'ERR_SHAPE');
  const targetsHandle = checkShaped(
    'targets',
    targets,
    context,
    'int32',
    logits.shape.slice(0, -1),
    "the logits' rows",
  );
  return new CrossEntropyPass(context, native.crossEntropyForward(handle, targetsHandle, classes), logits.shape);
}

/** a + b, element by element; both float32 and of one shape. Its backward is the gradient itself, for both. */
export function add(a: Tensor, b: Tensor): Tensor {
  const context = tensorContext('a', a);
  const first = checkTensor('a', a, context, 'float32');
  const second = checkShaped('b', b, context, 'float32', a.shape, "a's");
  return new Tensor(context, native.add(first, second), a.shape, 'float32');
}
