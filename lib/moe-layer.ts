// The layer and its passes. Arguments are checked here and in config*.ts; what happens to the numbers is native/core/layer.cpp.
import { type LayerHandle, type MoEPassHandle, type NativeMoEForward, native } from './binding.js';
import { checkNumber, checkOptions, invalid } from './checks.js';
import { type MoEConfig, nativeConfig, type ResolvedConfig, resolveConfig } from './config.js';
import { activationOf } from './config-experts.js';
import { type ForwardOptions, resolveForward } from './config-forward.js';
import { contextOf, type DeviceContext } from './context.js';
import type { Device } from './device.js';
import { MoEError } from './errors.js';
import { constantInitial, type Parameter, ParameterSet, type ParameterShape, scaledNormal } from './parameter.js';
import { Scoped } from './scope.js';
import { checkRows, checkShaped, checkTensor, Tensor } from './tensor.js';

/** Of one forward, over the tokens that its mask leaves. All zero for T = 0. */
export interface MoEStats {
  /** Tokens that are not masked. */
  tokens: number;
  /** Unscaled values of the losses that were taken, and the sum of all after their coefficients. */
  losses: { loadBalance?: number; importance?: number; load?: number; z?: number; total: number };
  /** [E] assignments per expert before drops. */
  assigned: Int32Array;
  /** [E] assignments per expert that were computed. */
  kept: Int32Array;
  /** Slots per expert; null when dropless. */
  capacity: number | null;
  droppedAssignments: number;
  /** Tokens that lost all their experts. */
  droppedTokens: number;
  /** Maximum over mean of `assigned`. */
  imbalance: number;
  /** Of the mean router probability, in nats; at most ln E. 0 with the caller's own weights. */
  routerEntropy: number;
  /** The share of experts with a token. */
  utilization: number;
}

/** What the router decided. */
export interface Routing {
  /** [T,K] int32, the best expert first, before drops; -1 for masked tokens. */
  readonly indices: Tensor;
  /** [T,K] float32, the final weights; 0 where dropped. */
  readonly weights: Tensor;
  /** [T,K] int32, 1 where the assignment was computed. */
  readonly kept: Tensor;
  /** [T,E] float32, after bias and before temperature; absent with the caller's own weights. */
  readonly logits?: Tensor;
}

const backwardOptions = new Set(['lossScale']);

function parameterShapes(config: ResolvedConfig): ParameterShape[] {
  const { hiddenSize: H, ffnSize: F, numExperts: E, router, experts } = config;
  const { gated } = activationOf(experts);
  const shapes: ParameterShape[] = [['router.weight', [E, H], scaledNormal(H)]];
  if (router.bias) shapes.push(['router.bias', [E], constantInitial(0)]);
  if (gated) shapes.push(['experts.gate', [E, F, H], scaledNormal(H)]);
  shapes.push(['experts.up', [E, F, H], scaledNormal(H)], ['experts.down', [E, H, F], scaledNormal(F)]);
  if (experts.bias) {
    if (gated) shapes.push(['experts.gateBias', [E, F], constantInitial(0)]);
    shapes.push(['experts.upBias', [E, F], constantInitial(0)], ['experts.downBias', [E, H], constantInitial(0)]);
  }
  if (experts.shared) {
    const S = experts.shared.ffnSize;
    if (gated) shapes.push(['shared.gate', [S, H], scaledNormal(H)]);
    shapes.push(['shared.up', [S, H], scaledNormal(H)], ['shared.down', [H, S], scaledNormal(S)]);
    if (experts.shared.gate === 'sigmoid') shapes.push(['shared.outputGate', [1, H], scaledNormal(H)]);
  }
  return shapes;
}

/**
 * A mixture-of-experts layer: a router sends each token to topK of numExperts feed-forward experts.
 *
 * Parameters, those that the configuration calls for: 'router.weight' [E,H], 'router.bias' [E], 'experts.gate' and
 * 'experts.up' [E,F,H], 'experts.down' [E,H,F], 'experts.gateBias' and 'experts.upBias' [E,F], 'experts.downBias' [E,H],
 * 'shared.gate' and 'shared.up' [S,H], 'shared.down' [H,S], 'shared.outputGate' [1,H]. Matrices start as
 * Normal(0, 1/√in), biases as 0.
 */
export class MoELayer implements Disposable {
  /** The configuration with every default filled in; frozen. */
  readonly config: Readonly<ResolvedConfig>;
  readonly device: Device;
  readonly #parameters: ParameterSet;
  readonly #handle: LayerHandle;
  #temperature: number;

  /** ERR_INVALID_ARGUMENT names what is wrong in `config`; ERR_UNSUPPORTED what this version does not compute. */
  constructor(device: Device, config: MoEConfig) {
    const context = contextOf(device);
    this.device = device;
    this.config = resolveConfig(config);
    this.#temperature = this.config.router.temperature;
    this.#parameters = new ParameterSet(context, 'MoELayer', this.config.seed, parameterShapes(this.config));
    const handles = Object.fromEntries(
      [...this.#parameters.map.keys()].map((name) => [name, this.#parameters.handle(name)]),
    );
    this.#handle = native.layerCreate(context.handle('device'), nativeConfig(this.config), handles);
  }

  /** In a fixed order. A parameter with trainable = false costs no gradient work. */
  parameters(): ReadonlyMap<string, Parameter> {
    return this.#parameters.map;
  }

  /**
   * Queues the forward of `input` [..., H] float32, whose leading dimensions are tokens. Writing to the input or to a
   * parameter before the pass's backward makes the pass stale.
   *
   * A token whose logits are not finite poisons the pass: its reads reject with ERR_NON_FINITE naming the token.
   */
  forward(input: Tensor, options: ForwardOptions = {}): MoEPass {
    const context = this.#parameters.open('forward()');
    const handle = checkTensor('input', input, context, 'float32');
    const tokens = checkRows('input', input, this.config.hiddenSize, 'H');
    const call = resolveForward(options, this.config, context, tokens, this.#temperature);
    const { sequenceLength } = this.config.losses.loadBalance ?? {};
    if (sequenceLength !== undefined && tokens % sequenceLength !== 0) {
      const expected = `a multiple of losses.loadBalance.sequenceLength (${sequenceLength}) tokens`;
      throw invalid('input', expected, input.shape, 'ERR_SHAPE');
    }
    const topK = call.topK ?? this.config.topK;
    return new MoEPass(context, native.layerForward(this.#handle, handle, call), {
      input,
      topK,
      experts: this.config.numExperts,
      losses: {
        loadBalance: call.loadBalance ?? this.config.losses.loadBalance?.coefficient,
        importance: call.importance ?? this.config.losses.importance?.coefficient,
        z: call.z ?? this.config.losses.z,
      },
      ranRouter: call.routingWeights === undefined,
    });
  }

  /** For the forwards from here on. */
  setTemperature(value: number): void {
    this.#parameters.open('setTemperature()');
    this.#temperature = checkNumber('temperature', value, { above: 0 });
  }

  /** Steps the selection bias of the router, which this version does not have: ERR_UNSUPPORTED. */
  updateSelectionBias(): void {
    this.#parameters.open('updateSelectionBias()');
    throw new MoEError(
      'ERR_UNSUPPORTED',
      'updateSelectionBias(): router.selectionBias is not supported yet by this version',
    );
  }

  zeroGrad(): void {
    this.#parameters.zeroGrad();
  }

  /** Frees the parameters; passes that are still open keep what they need. */
  dispose(): void {
    this.#parameters.dispose();
    native.layerRelease(this.#handle);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** @internal The count of training forwards, which keys every random draw and belongs in checkpoints. */
  static step(layer: MoELayer): number {
    return native.layerStep(layer.#handle);
  }

  /** @internal */
  static setStep(layer: MoELayer, step: number): void {
    native.layerSetStep(layer.#handle, step);
  }

  /** @internal */
  static temperature(layer: MoELayer): number {
    return layer.#temperature;
  }
}

interface PassFacts {
  readonly input: Tensor;
  readonly topK: number;
  readonly experts: number;
  readonly losses: { loadBalance?: number | undefined; importance?: number | undefined; z?: number | undefined };
  readonly ranRouter: boolean;
}

/**
 * One forward and what its backward needs. Several may be alive at once (micro-batches, a layer used twice). Disposing
 * the pass disposes its output and routing too, unless they were kept or returned through tidy.
 */
export class MoEPass extends Scoped {
  /** Of the input's shape. */
  readonly output: Tensor;
  readonly routing: Routing;
  readonly #context: DeviceContext;
  readonly #handle: MoEPassHandle;
  readonly #shape: readonly number[];
  readonly #weightsShape: readonly number[];
  readonly #logitsShape: readonly number[];
  readonly #experts: number;
  readonly #losses: PassFacts['losses'];
  #routingWeightsGrad: Tensor | undefined;
  #routingLogitsGrad: Tensor | undefined;
  #disposed = false;

  /** @internal */
  constructor(context: DeviceContext, made: NativeMoEForward, facts: PassFacts) {
    super();
    this.#context = context;
    this.#handle = made.pass;
    this.#shape = facts.input.shape;
    const tokens = facts.input.size / (facts.input.shape[facts.input.shape.length - 1] as number);
    this.#weightsShape = [tokens, facts.topK];
    this.#logitsShape = [tokens, facts.experts];
    this.#experts = facts.experts;
    this.#losses = facts.ranRouter ? facts.losses : {};
    this.output = new Tensor(context, made.output, this.#shape, 'float32', this);
    const routing: { indices: Tensor; weights: Tensor; kept: Tensor; logits?: Tensor } = {
      indices: new Tensor(context, made.indices, this.#weightsShape, 'int32', this),
      weights: new Tensor(context, made.weights, this.#weightsShape, 'float32', this),
      kept: new Tensor(context, made.kept, this.#weightsShape, 'int32', this),
    };
    if (made.logits) routing.logits = new Tensor(context, made.logits, this.#logitsShape, 'float32', this);
    this.routing = routing;
    context.track(this);
  }

  /** After backward, when the caller gave routing weights: [T,K], 0 where dropped. */
  get routingWeightsGrad(): Tensor | undefined {
    return this.#routingWeightsGrad;
  }

  /** After backward, when the caller gave logits: [T,E]. */
  get routingLogitsGrad(): Tensor | undefined {
    return this.#routingLogitsGrad;
  }

  /**
   * Queues the backward: adds coefficient · loss of every configured loss, accumulates into the parameters' gradients and
   * returns the gradient of the input. Runs once and frees what forward kept: ERR_STALE_PASS a second time, after
   * `training: false`, or when the input, the routing or a parameter was written since forward.
   *
   * @param gradOutput of the output's shape
   * @param options lossScale multiplies the balancing losses' gradients only; default 1
   */
  backward(gradOutput: Tensor, options: { lossScale?: number } = {}): Tensor {
    this.#open('backward()');
    const { lossScale = 1 } = checkOptions('options', options, backwardOptions) as { lossScale?: number };
    const scale = checkNumber('options.lossScale', lossScale);
    const handle = checkShaped('gradOutput', gradOutput, this.#context, 'float32', this.#shape, "the output's");
    const made = native.moePassBackward(this.#handle, handle, scale);
    if (made.routingWeights)
      this.#routingWeightsGrad = new Tensor(this.#context, made.routingWeights, this.#weightsShape, 'float32', this);
    if (made.routingLogits)
      this.#routingLogitsGrad = new Tensor(this.#context, made.routingLogits, this.#logitsShape, 'float32', this);
    return new Tensor(this.#context, made.input, this.#shape, 'float32');
  }

  /** The statistics of this forward, once it has been computed. */
  async stats(): Promise<MoEStats> {
    this.#open('stats()');
    const { ints, floats } = await native.moePassStats(this.#handle);
    const experts = this.#experts;
    const assigned = ints.slice(0, experts);
    const kept = ints.slice(experts, 2 * experts);
    const [tokens = 0, droppedAssignments = 0, droppedTokens = 0, capacity = -1] = ints.subarray(2 * experts);
    const [loadBalance = 0, importance = 0, z = 0, entropy = 0, total = 0] = floats;
    const losses: MoEStats['losses'] = { total };
    if (this.#losses.loadBalance !== undefined) losses.loadBalance = loadBalance;
    if (this.#losses.importance !== undefined) losses.importance = importance;
    if (this.#losses.z !== undefined) losses.z = z;
    let sum = 0;
    let most = 0;
    let used = 0;
    for (const count of assigned) {
      sum += count;
      if (count > most) most = count;
      if (count > 0) used++;
    }
    return {
      tokens,
      losses,
      assigned,
      kept,
      capacity: capacity < 0 ? null : capacity,
      droppedAssignments,
      droppedTokens,
      imbalance: sum > 0 ? (most * experts) / sum : 0,
      routerEntropy: entropy,
      utilization: used / experts,
    };
  }

  /** May be called again. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.scope?.remove(this);
    const { indices, weights, kept, logits } = this.routing;
    for (const tensor of [
      this.output,
      indices,
      weights,
      kept,
      logits,
      this.#routingWeightsGrad,
      this.#routingLogitsGrad,
    ])
      if (tensor?.owner === this) tensor.dispose();
    native.moePassRelease(this.#handle);
  }

  #open(call: string): void {
    this.#context.handle(`MoEPass.${call}`);
    if (this.#disposed) throw new MoEError('ERR_DISPOSED', `MoEPass.${call}: the pass has been disposed`);
  }
}
