// The optimizer. Its state lives on the device; step() only queues.
import { type AdamWHandle, type AdamWScalars, native, type TensorHandle } from './binding.js';
import { checkNumber, checkOptions, invalid, orDefault } from './checks.js';
import type { DeviceContext } from './context.js';
import { MoEError } from './errors.js';
import { Parameter } from './parameter.js';
import { Tensor } from './tensor.js';

/** Options of AdamW; PyTorch's defaults. */
export interface AdamWOptions {
  /** At least 0. */
  learningRate: number;
  /** Decay of the first and second moments, each in [0, 1). Default [0.9, 0.999]. */
  betas?: [number, number];
  /** Added to the root of the second moment. Default 1e-8. */
  epsilon?: number;
  /** Decoupled, times the learning rate. Default 0.01. */
  weightDecay?: number;
}

/** What an optimizer has besides its moments; checkpoints carry it. */
export interface AdamWHyperparameters {
  readonly learningRate: number;
  readonly betas: readonly [number, number];
  readonly epsilon: number;
  readonly weightDecay: number;
}

/**
 * The optimizer's tensors, in the order of its parameters. masters: the float32 values that those of 16-bit parameters are
 * rounded from, undefined for the others; steps: int32 [1] each, updates of that parameter; skipped: int32 [1].
 */
export interface AdamWState {
  readonly parameters: readonly Parameter[];
  readonly means: readonly Tensor[];
  readonly variances: readonly Tensor[];
  readonly masters: readonly (Tensor | undefined)[];
  readonly steps: readonly Tensor[];
  readonly skipped: Tensor;
}

/** What AdamW.replace() is given: which parameter takes whose place, those that are new, and what becomes of the state. */
export interface Replacement {
  readonly replaced: ReadonlyMap<Parameter, Parameter>;
  readonly added: readonly Parameter[];
  /** The float32 values of the new parameters. */
  readonly masters: ReadonlyMap<Parameter, Float32Array>;
  /** Moments of an old parameter → those of the one that takes its place. */
  readonly carry: (old: Parameter, moments: Float32Array) => Float32Array;
}

const optimizerOptions = new Set(['learningRate', 'betas', 'epsilon', 'weightDecay']);
const stepOptions = new Set(['maxGradNorm']);

/**
 * Adam with decoupled weight decay (Loshchilov & Hutter 2019). Parameters of 16 bits have float32 masters here, which are
 * what is updated; writing to such a parameter makes its master anew.
 */
export class AdamW implements Disposable {
  /** May be changed between steps; checked by step(). */
  learningRate: number;
  readonly #context: DeviceContext;
  #parameters: readonly Parameter[];
  #handle: AdamWHandle;
  #hyper: Omit<AdamWHyperparameters, 'learningRate'>;
  #tensors: (Omit<AdamWState, 'parameters'> & { gradNorm: Tensor }) | undefined;
  #disposed = false;

  /** `parameters`: at least one, each once, all of one device: `layer.parameters().values()` and the like. */
  constructor(parameters: Iterable<Parameter>, options: AdamWOptions) {
    const given = checkOptions('options', options, optimizerOptions);
    const hyper = checkHyperparameters('options', given);
    this.#parameters = checkParameters(parameters);
    this.#context = Parameter.contextOf(this.#parameters[0]!);
    const handles = this.#parameters.map((parameter, i) => Parameter.handleOf(parameter, `parameters[${i}]`));
    this.#handle = native.adamwCreate(this.#context.handle('AdamW'), handles, null);
    this.#hyper = hyper;
    this.learningRate = hyper.learningRate;
  }

  /**
   * Clips the gradients' global norm to maxGradNorm (above 0) when that is given, updates the parameters that are trainable
   * and have a gradient, and marks the gradients as cleared. A norm that is not finite skips the update and counts it; a
   * poisoned gradient does too, without counting.
   */
  step(options?: { maxGradNorm?: number }): void {
    const handle = this.#open('step()');
    let maxGradNorm = 0;
    if (options !== undefined) {
      const given = checkOptions('options', options, stepOptions);
      if (given.maxGradNorm !== undefined)
        maxGradNorm = checkNumber('options.maxGradNorm', given.maxGradNorm, { above: 0 });
    }
    for (const parameter of this.#parameters) Parameter.handleOf(parameter, 'step()');
    native.adamwStep(handle, ...this.#scalars(maxGradNorm));
    this.#context.beforeReplay(() => {
      if (this.#open('replay()') !== handle)
        throw new MoEError(
          'ERR_STALE_PASS',
          'Graph.replay(): the optimizer has other parameters than when the step was recorded',
          'Record the step again with the layer that expandExperts() has made.',
        );
      native.adamwSetScalars(handle, ...this.#scalars(maxGradNorm));
    });
  }

  /**
   * The norm over all gradients that the last step saw, before clipping; 0 before the first step. Rejects with what
   * poisoned one of them.
   */
  async gradNorm(): Promise<number> {
    return this.#state('gradNorm()').gradNorm.item();
  }

  /** How many steps found a norm that was not finite and changed nothing. */
  async skippedSteps(): Promise<number> {
    return (await this.#state('skippedSteps()').skipped.data())[0]!;
  }

  /** Frees the moments; may be called again. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#release();
  }

  #release(): void {
    if (this.#tensors) {
      const { means, variances, masters, steps, skipped, gradNorm } = this.#tensors;
      for (const tensor of [...means, ...variances, ...masters, ...steps, skipped, gradNorm]) tensor?.dispose();
      this.#tensors = undefined;
    }
    native.adamwRelease(this.#handle);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  #scalars(maxGradNorm: number): AdamWScalars {
    const { betas, epsilon, weightDecay } = this.#hyper;
    const learningRate = checkNumber('learningRate', this.learningRate, { min: 0 });
    return [learningRate, betas[0], betas[1], epsilon, weightDecay, maxGradNorm];
  }

  #open(call: string): AdamWHandle {
    this.#context.handle(`AdamW.${call}`);
    if (this.#disposed) throw new MoEError('ERR_DISPOSED', `AdamW.${call}: the optimizer has been disposed`);
    return this.#handle;
  }

  #state(call: string) {
    const handle = this.#open(call);
    if (!this.#tensors) {
      const state = native.adamwState(handle);
      const shapes = this.#parameters.map(Parameter.shapeOf);
      const held = (tensor: TensorHandle, shape: readonly number[]) =>
        new Tensor(this.#context, tensor, shape, 'float32', 'held');
      const counter = (tensor: TensorHandle) => new Tensor(this.#context, tensor, [1], 'int32', 'held');
      this.#tensors = {
        means: state.means.map((tensor, i) => held(tensor, shapes[i]!)),
        variances: state.variances.map((tensor, i) => held(tensor, shapes[i]!)),
        masters: state.masters.map((tensor, i) => (tensor ? held(tensor, shapes[i]!) : undefined)),
        steps: state.steps.map(counter),
        skipped: counter(state.skipped),
        gradNorm: held(state.gradNorm, []),
      };
    }
    return this.#tensors;
  }

  /** @internal With masters that belong to the parameters as they are now. */
  static stateOf(optimizer: AdamW): AdamWState {
    native.adamwRefreshMasters(optimizer.#open('state'));
    const { means, variances, masters, steps, skipped } = optimizer.#state('state');
    return { parameters: optimizer.#parameters, means, variances, masters, steps, skipped };
  }

  /** @internal */
  static hyperparametersOf(optimizer: AdamW): AdamWHyperparameters {
    return { learningRate: optimizer.learningRate, ...optimizer.#hyper };
  }

  /** @internal The float32 values that those of its 16-bit parameters are rounded from. */
  static mastersOf(optimizer: AdamW): Map<Parameter, Tensor> {
    const { parameters, masters } = AdamW.stateOf(optimizer);
    const found = parameters.flatMap((parameter, i) => (masters[i] ? [[parameter, masters[i]] as const] : []));
    return new Map(found);
  }

  /** @internal */
  static hasAny(optimizer: AdamW, parameters: Iterable<Parameter>): boolean {
    optimizer.#open('state');
    return [...parameters].some((parameter) => optimizer.#parameters.includes(parameter));
  }

  /** @internal Goes on with other parameters in the place of some of its own; all others keep their state. */
  static replace(optimizer: AdamW, { replaced, added, masters, carry }: Replacement): void {
    const before = AdamW.stateOf(optimizer);
    const parameters = before.parameters.map((parameter) => replaced.get(parameter) ?? parameter);
    parameters.push(...added);
    const handles = parameters.map((parameter) => Parameter.handleOf(parameter, parameter.name));
    const moments = before.parameters.map((parameter, i) => {
      if (!replaced.has(parameter)) return undefined;
      const [mean, variance, steps] = [before.means[i]!, before.variances[i]!, before.steps[i]!].map((t) =>
        t.dataSync(),
      );
      return {
        mean: carry(parameter, mean as Float32Array),
        variance: carry(parameter, variance as Float32Array),
        steps,
      };
    });
    const handle = native.adamwCreate(optimizer.#context.handle('optimizer'), handles, optimizer.#handle);
    optimizer.#release();
    optimizer.#handle = handle;
    optimizer.#parameters = parameters;
    const after = optimizer.#state('state');
    for (const [i, carried] of moments.entries()) {
      if (!carried) continue;
      after.means[i]!.write(carried.mean);
      after.variances[i]!.write(carried.variance);
      after.steps[i]!.write(carried.steps as Int32Array);
      after.masters[i]?.write(masters.get(parameters[i]!)!);
    }
    native.adamwAdoptMasters(handle);
  }

  /** @internal After parameters and state have been written. */
  static restore(optimizer: AdamW, hyper: AdamWHyperparameters): void {
    native.adamwAdoptMasters(optimizer.#open('restore'));
    optimizer.learningRate = hyper.learningRate;
    optimizer.#hyper = { betas: hyper.betas, epsilon: hyper.epsilon, weightDecay: hyper.weightDecay };
  }
}

/** Also what a checkpoint's metadata has to satisfy; `name` is where it came from. */
export function checkHyperparameters(name: string, given: Record<string, unknown>): AdamWHyperparameters {
  const betas = orDefault(given.betas, [0.9, 0.999]);
  if (!Array.isArray(betas) || betas.length !== 2) throw invalid(`${name}.betas`, 'two numbers', betas);
  return {
    learningRate: checkNumber(`${name}.learningRate`, given.learningRate, { min: 0 }),
    betas: [
      checkNumber(`${name}.betas[0]`, betas[0], { min: 0, below: 1 }),
      checkNumber(`${name}.betas[1]`, betas[1], { min: 0, below: 1 }),
    ],
    epsilon: checkNumber(`${name}.epsilon`, orDefault(given.epsilon, 1e-8), { min: 0 }),
    weightDecay: checkNumber(`${name}.weightDecay`, orDefault(given.weightDecay, 0.01), { min: 0 }),
  };
}

function checkParameters(value: unknown): readonly Parameter[] {
  if (
    typeof value !== 'object' ||
    value === null ||
    typeof (value as Partial<Iterable<unknown>>)[Symbol.iterator] !== 'function'
  )
    throw invalid('parameters', 'an iterable of parameters', value);
  const parameters: Parameter[] = [];
  const seen = new Set<Parameter>();
  for (const entry of value as Iterable<unknown>) {
    const name = `parameters[${parameters.length}]`;
    if (!Parameter.isParameter(entry))
      throw invalid(name, 'a parameter, from layer.parameters().values() for instance', entry);
    if (seen.has(entry)) throw invalid(name, `each parameter once, and '${entry.name}' has been given before`, entry);
    if (parameters.length > 0 && Parameter.contextOf(entry) !== Parameter.contextOf(parameters[0]!))
      throw new MoEError(
        'ERR_DEVICE_MISMATCH',
        `${name}: expected a parameter of the first one's device, got '${entry.name}' of another`,
      );
    seen.add(entry);
    parameters.push(entry);
  }
  if (parameters.length === 0) throw invalid('parameters', 'at least one parameter', parameters);
  return parameters;
}
