// The dense layers around a MoE layer, the loss, and the sum of a residual connection.
import { native } from './binding.js';
import {
  checkBoolean,
  checkNumber,
  checkOptions,
  checkSeed,
  checkSize,
  describe,
  orDefault,
  sameShape,
} from './checks.js';
import { contextOf } from './context.js';
import type { Device } from './device.js';
import { MoEError } from './errors.js';
import { checkFloatDType, type DType, type FloatDType } from './host-data.js';
import {
  constantInitial,
  drawSeed,
  type Parameter,
  type ParameterOptions,
  ParameterSet,
  scaledNormal,
} from './parameter.js';
import { DensePass, LossPass, type Pass } from './pass.js';
import { checkFloatTensor, checkRows, checkTensor, Tensor, tensorContext } from './tensor.js';

/** What checkpoints, optimizers and summaries need of a layer. */
export interface Module {
  parameters(): ReadonlyMap<string, Parameter>;
  zeroGrad(): void;
  dispose(): void;
  [Symbol.dispose](): void;
}

/** What every layer of the library does with its parameters. */
abstract class BaseModule implements Module {
  readonly device: Device;
  /** @internal */
  protected readonly set: ParameterSet;

  /** @internal */
  protected constructor(device: Device, set: ParameterSet) {
    this.device = device;
    this.set = set;
  }

  /** The parameters by name. */
  parameters(): ReadonlyMap<string, Parameter> {
    return this.set.map;
  }

  /** Clears the gradients, poisoned ones included; costs no memory traffic. */
  zeroGrad(): void {
    this.set.zeroGrad();
  }

  /** Frees the parameters; open passes keep what they need. May be called again. */
  dispose(): void {
    this.set.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

const linearOptions = new Set(['inFeatures', 'outFeatures', 'bias', 'dtype', 'seed']);
const embeddingOptions = new Set(['count', 'size', 'dtype', 'seed']);
const rmsNormOptions = new Set(['size', 'epsilon', 'dtype']);

/** A seed given as an option, or one drawn from the system. */
const seedFrom = (value: unknown): number | bigint =>
  value === undefined ? drawSeed() : checkSeed('options.seed', value);

/**
 * output = input · weightᵀ + bias. Parameters: 'weight' [out, in], from Normal(0, 1/√in), and 'bias' [out], from 0, unless
 * `bias` is false (default true). dtype: of parameters, input and output; default float32.
 */
export class Linear extends BaseModule {
  readonly #in: number;
  readonly #out: number;
  readonly #bias: boolean;
  readonly #dtype: FloatDType;

  constructor(
    device: Device,
    options: { inFeatures: number; outFeatures: number; bias?: boolean; dtype?: DType; seed?: number | bigint },
  ) {
    const context = contextOf(device);
    const given = checkOptions('options', options, linearOptions);
    const inFeatures = checkSize('options.inFeatures', given.inFeatures);
    const outFeatures = checkSize('options.outFeatures', given.outFeatures);
    const bias = checkBoolean('options.bias', orDefault(given.bias, true));
    const dtype = checkFloatDType('options.dtype', orDefault(given.dtype, 'float32'));
    const parameters: ParameterOptions[] = [
      { name: 'weight', shape: [outFeatures, inFeatures], dtype, initial: scaledNormal(inFeatures) },
    ];
    if (bias) parameters.push({ name: 'bias', shape: [outFeatures], dtype, initial: constantInitial(0) });
    super(device, new ParameterSet(context, 'Linear', seedFrom(given.seed), parameters));
    this.#in = inFeatures;
    this.#out = outFeatures;
    this.#bias = bias;
    this.#dtype = dtype;
  }

  /** input [..., in] → output [..., out], both of the layer's dtype. */
  forward(input: Tensor): Pass {
    const context = this.set.open('forward()');
    const handle = checkTensor('input', input, context, this.#dtype);
    checkRows('input', input, this.#in, 'inFeatures');
    const bias = this.#bias ? this.set.handle('bias') : null;
    const result = native.linearForward(handle, this.set.handle('weight'), bias, this.#in, this.#out);
    return new DensePass(context, result, [...input.shape.slice(0, -1), this.#out], this.#dtype, input.shape);
  }
}

/**
 * A table of `count` rows. Parameter: 'weight' [count, size], from Normal(0, 1). dtype: of the table and the output; default
 * float32.
 */
export class Embedding extends BaseModule {
  readonly #count: number;
  readonly #size: number;
  readonly #dtype: FloatDType;

  constructor(device: Device, options: { count: number; size: number; dtype?: DType; seed?: number | bigint }) {
    const context = contextOf(device);
    const given = checkOptions('options', options, embeddingOptions);
    const count = checkSize('options.count', given.count);
    const size = checkSize('options.size', given.size);
    const dtype = checkFloatDType('options.dtype', orDefault(given.dtype, 'float32'));
    const weight = { name: 'weight', shape: [count, size], dtype, initial: { std: 1 } };
    super(device, new ParameterSet(context, 'Embedding', seedFrom(given.seed), [weight]));
    this.#count = count;
    this.#size = size;
    this.#dtype = dtype;
  }

  /**
   * indices [...] int32 → output [..., size]. An index outside [0, count) fails when the work is done: the output's reads
   * reject with ERR_INVALID_ARGUMENT naming the position. Indices have no gradient: backward() answers an empty tensor of
   * shape [0].
   */
  forward(indices: Tensor): Pass {
    const context = this.set.open('forward()');
    const handle = checkTensor('indices', indices, context, 'int32');
    const result = native.embeddingForward(handle, this.set.handle('weight'), this.#count, this.#size);
    return new DensePass(context, result, [...indices.shape, this.#size], this.#dtype, [0]);
  }
}

/**
 * output = input / √(mean(input²) + epsilon) · weight, per row (Zhang & Sennrich 2019). epsilon: default 1e-6. Parameter:
 * 'weight' [size], from 1. dtype: of weight, input and output; default float32.
 */
export class RMSNorm extends BaseModule {
  readonly #size: number;
  readonly #epsilon: number;
  readonly #dtype: FloatDType;

  constructor(device: Device, options: { size: number; epsilon?: number; dtype?: DType }) {
    const context = contextOf(device);
    const given = checkOptions('options', options, rmsNormOptions);
    const size = checkSize('options.size', given.size);
    const epsilon = checkNumber('options.epsilon', orDefault(given.epsilon, 1e-6), { min: 0 });
    const dtype = checkFloatDType('options.dtype', orDefault(given.dtype, 'float32'));
    const weight = { name: 'weight', shape: [size], dtype, initial: constantInitial(1) };
    super(device, new ParameterSet(context, 'RMSNorm', 0, [weight]));
    this.#size = size;
    this.#epsilon = epsilon;
    this.#dtype = dtype;
  }

  /** input [..., size] of the layer's dtype → output of the same shape. */
  forward(input: Tensor): Pass {
    const context = this.set.open('forward()');
    const handle = checkTensor('input', input, context, this.#dtype);
    checkRows('input', input, this.#size, 'size');
    const result = native.rmsNormForward(handle, this.set.handle('weight'), this.#size, this.#epsilon);
    return new DensePass(context, result, input.shape, this.#dtype, input.shape);
  }
}

/**
 * Mean negative log-likelihood, in nats, of targets [...] int32 under the softmax of logits [..., C] of a float dtype. The
 * loss is float32. Targets of -1 do not count; without any that does the loss is 0. Other targets outside [0, C) fail when
 * the work is done.
 */
export function crossEntropy(logits: Tensor, targets: Tensor): LossPass {
  const context = tensorContext('logits', logits);
  const dtype = checkFloatTensor('logits', logits, context);
  const scores = checkTensor('logits', logits, context, dtype);
  const wanted = checkTensor('targets', targets, context, 'int32');
  const { shape } = logits;
  const classes = shape[shape.length - 1] ?? 0;
  if (classes === 0)
    throw new MoEError('ERR_SHAPE', `logits: expected shape [..., C] with C of at least 1, got ${describe(shape)}`);
  if (!sameShape(targets.shape, shape.slice(0, -1))) {
    throw new MoEError(
      'ERR_SHAPE',
      `targets: expected the leading dimensions ${describe(shape.slice(0, -1))} of logits, got ${describe(targets.shape)}`,
    );
  }
  checkSize('logits.shape[-1]', classes);
  return new LossPass(context, native.crossEntropyForward(scores, wanted, classes), shape, dtype);
}

/** a + b, tensors of one shape and one float dtype; its gradient for both is the gradient of the sum. */
export function add(a: Tensor, b: Tensor): Tensor {
  const context = tensorContext('a', a);
  const dtype = checkFloatTensor('a', a, context);
  const left = checkTensor('a', a, context, dtype);
  const right = checkTensor('b', b, context, dtype);
  if (!sameShape(a.shape, b.shape))
    throw new MoEError('ERR_SHAPE', `b: expected the shape of a, ${describe(a.shape)}, got ${describe(b.shape)}`);
  return new Tensor(context, native.add(left, right), a.shape, dtype);
}
