// AdamW: the checks of its options; the arithmetic is one native step over all parameters.
import { type AdamWHandle, native } from './binding.js';
import { checkNumber, checkOptions, invalid } from './checks.js';
import type { DeviceContext } from './context.js';
import { MoEError } from './errors.js';
import { Parameter } from './parameter.js';
import { Tensor } from './tensor.js';

export interface AdamWOptions {
  learningRate: number;
  /** Decay of the two moments, each from 0 to below 1. Default [0.9, 0.999]. */
  betas?: [number, number];
  /** Default 1e-8. */
  epsilon?: number;
  /** Default 0.01. */
  weightDecay?: number;
}

/** The tensors of an optimizer's state. */
export interface AdamWState {
  /** In the order of the parameters. */
  readonly entries: readonly { parameter: Parameter; mean: Tensor; variance: Tensor }[];
  /** int32 [2]: steps taken, steps skipped. */
  readonly counters: Tensor;
}

const adamwOptions = new Set(['learningRate', 'betas', 'epsilon', 'weightDecay']);
const stepOptions = new Set(['maxGradNorm']);

function checkBetas(value: unknown): [number, number] {
  if (!Array.isArray(value) || value.length !== 2) throw invalid('options.betas', 'two numbers', value);
  return [0, 1].map((i) => checkNumber(`options.betas[${i}]`, value[i], { min: 0, below: 1 })) as [number, number];
}

/**
 * Adam with decoupled weight decay (Loshchilov & Hutter 2019), PyTorch's defaults. Frozen parameters, and parameters
 * without a gradient since the last step or zeroGrad(), are left as they are.
 */
export class AdamW implements Disposable {
  readonly betas: readonly [number, number];
  readonly epsilon: number;
  readonly weightDecay: number;
  readonly #context: DeviceContext;
  readonly #parameters: readonly Parameter[];
  readonly #handle: AdamWHandle;
  readonly #counters: Tensor;
  readonly #gradNorm: Tensor;
  #learningRate: number;
  #disposed = false;

  /** The parameters must be distinct and of one device; its two moments take twice their memory. */
  constructor(parameters: Iterable<Parameter>, options: AdamWOptions) {
    const given = checkOptions('options', options, adamwOptions);
    this.#learningRate = checkNumber('options.learningRate', given.learningRate, { min: 0 });
    this.betas = Object.freeze(checkBetas(given.betas ?? [0.9, 0.999]));
    this.epsilon = checkNumber('options.epsilon', given.epsilon ?? 1e-8, { min: 0 });
    this.weightDecay = checkNumber('options.weightDecay', given.weightDecay ?? 0.01, { min: 0 });
    this.#parameters = checkParameters(parameters);
    this.#context = Parameter.contextOf(this.#parameters[0]!);
    const handles = this.#parameters.map((parameter, i) => Parameter.handleOf(parameter, `parameters[${i}]`));
    this.#handle = native.adamwCreate(this.#context.handle('parameters'), handles);
    const { counters, gradNorm } = native.adamwState(this.#handle);
    this.#counters = new Tensor(this.#context, counters, [2], 'int32', 'held');
    this.#gradNorm = new Tensor(this.#context, gradNorm, [], 'float32', 'held');
  }

  /** May be changed between steps. */
  get learningRate(): number {
    return this.#learningRate;
  }

  set learningRate(value: number) {
    this.#learningRate = checkNumber('learningRate', value, { min: 0 });
  }

  /**
   * Queues one update and counts the gradients as cleared. With maxGradNorm the gradients are scaled so that their global
   * norm is at most that, as torch.nn.utils.clip_grad_norm_ does. A non-finite norm skips the update and is counted;
   * poisoned gradients make the whole step do nothing.
   */
  step(options: { maxGradNorm?: number } = {}): void {
    this.#open('step()');
    const { maxGradNorm } = checkOptions('options', options, stepOptions);
    const limit = maxGradNorm === undefined ? 0 : checkNumber('options.maxGradNorm', maxGradNorm, { above: 0 });
    const [beta1, beta2] = this.betas;
    native.adamwStep(this.#handle, this.#learningRate, beta1, beta2, this.epsilon, this.weightDecay, limit);
  }

  /** The global norm that the last step saw, before clipping; 0 before the first. */
  async gradNorm(): Promise<number> {
    this.#open('gradNorm()');
    return this.#gradNorm.item();
  }

  /** How many steps a non-finite norm has skipped. */
  async skippedSteps(): Promise<number> {
    this.#open('skippedSteps()');
    return (await this.#counters.data())[1]!;
  }

  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#counters.dispose();
    this.#gradNorm.dispose();
    native.adamwRelease(this.#handle);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  #open(call: string): void {
    this.#context.handle(`AdamW.${call}`);
    if (this.#disposed) throw new MoEError('ERR_DISPOSED', `AdamW.${call}: the optimizer has been disposed`);
  }

  /** @internal Handles of their own, which the caller disposes. */
  static state(optimizer: AdamW): AdamWState {
    optimizer.#open('state');
    const { means, variances, counters } = native.adamwState(optimizer.#handle);
    const moment = (handle: (typeof means)[number], parameter: Parameter) =>
      new Tensor(optimizer.#context, handle, Parameter.shapeOf(parameter), 'float32', 'held');
    return {
      entries: optimizer.#parameters.map((parameter, i) => ({
        parameter,
        mean: moment(means[i]!, parameter),
        variance: moment(variances[i]!, parameter),
      })),
      counters: new Tensor(optimizer.#context, counters, [2], 'int32', 'held'),
    };
  }
}

function checkParameters(value: unknown): readonly Parameter[] {
  if (typeof value !== 'object' || value === null || !(Symbol.iterator in value))
    throw invalid('parameters', 'an iterable of parameters, such as layer.parameters().values()', value);
  const parameters = [...(value as Iterable<unknown>)].map((parameter, i) => {
    if (!Parameter.isParameter(parameter)) throw invalid(`parameters[${i}]`, 'a parameter of a module', parameter);
    return parameter;
  });
  if (parameters.length === 0) throw invalid('parameters', 'at least one parameter', parameters);
  const seen = new Set<Parameter>();
  for (const [i, parameter] of parameters.entries()) {
    if (seen.has(parameter))
      throw invalid(`parameters[${i}]`, `each parameter once, '${parameter.name}' comes twice`, parameter);
    seen.add(parameter);
    if (Parameter.contextOf(parameter) !== Parameter.contextOf(parameters[0]!))
      throw new MoEError(
        'ERR_DEVICE_MISMATCH',
        `parameters[${i}]: expected a parameter of the same device as the first, got '${parameter.name}' of another device`,
      );
  }
  return parameters;
}
