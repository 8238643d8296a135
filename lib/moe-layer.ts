// The MoE layer as users hold it: parameters, forward, and the pass with its backward and statistics. The stages
// themselves are native; the options are config*.ts.
import {
  dtypeCode,
  type LayerHandle,
  type MoEPassHandle,
  type NativeMoEForward,
  native,
  type TensorHandle,
} from './binding.js';
import { checkNumber, checkOptions, invalid, orDefault } from './checks.js';
import { deepFreeze, type MoEConfig, nativeConfig, type ResolvedConfig, resolveConfig } from './config.js';
import { activationOf } from './config-experts.js';
import { type ForwardOptions, forwardCall } from './config-forward.js';
import { drawsExperts } from './config-router.js';
import { contextOf, type DeviceContext } from './context.js';
import type { Device } from './device.js';
import type { FloatDType } from './host-data.js';
import type { Module } from './modules.js';
import {
  constantInitial,
  type Initial,
  type Parameter,
  type ParameterOptions,
  ParameterSet,
  scaledNormal,
} from './parameter.js';
import { OwningPass } from './pass.js';
import { decodeStats, type MoEStats } from './stats.js';
import { checkRows, checkShaped, checkTensor, Tensor } from './tensor.js';

/** The router decides in float32 whatever the layer's dtype. */
function* parametersOf(config: ResolvedConfig): Generator<ParameterOptions> {
  for (const [name, shape, initial] of parameterShapes(config))
    yield {
      name,
      shape,
      initial,
      dtype: name.startsWith('router.') ? 'float32' : config.dtype,
      frozen: name.endsWith('.selectionBias'),
    };
}

type ParameterShape = readonly [name: string, shape: readonly number[], initial: Initial];

/** The parameters a configuration calls for; see MoELayer.parameters. */
function* parameterShapes(config: ResolvedConfig): Generator<ParameterShape> {
  const { hiddenSize: H, ffnSize: F, numExperts: E, router, experts } = config;
  const { gated } = activationOf(experts);
  for (let gate = 0; gate < config.gates; gate++) {
    const prefix = config.gates === 1 ? 'router' : `router.${gate}`;
    if (!drawsExperts(router.type)) yield [`${prefix}.weight`, [E, H], scaledNormal(H)];
    if (router.bias) yield [`${prefix}.bias`, [E], constantInitial(0)];
    if (router.noise?.type === 'learned') yield [`${prefix}.noise`, [E, H], constantInitial(0)];
    if (router.selectionBias) yield [`${prefix}.selectionBias`, [E], constantInitial(0)];
  }
  if (gated) yield ['experts.gate', [E, F, H], scaledNormal(H)];
  yield ['experts.up', [E, F, H], scaledNormal(H)];
  yield ['experts.down', [E, H, F], scaledNormal(F)];
  if (experts.bias) {
    if (gated) yield ['experts.gateBias', [E, F], constantInitial(0)];
    yield ['experts.upBias', [E, F], constantInitial(0)];
    yield ['experts.downBias', [E, H], constantInitial(0)];
  }
  if (!experts.shared) return;
  const S = experts.shared.ffnSize;
  if (gated) yield ['shared.gate', [S, H], scaledNormal(H)];
  yield ['shared.up', [S, H], scaledNormal(H)];
  yield ['shared.down', [H, S], scaledNormal(S)];
  if (experts.shared.gate === 'sigmoid') yield ['shared.outputGate', [1, H], scaledNormal(H)];
}

/** int32 [types,E], 1 where a token of the type may use the expert. */
function allowedTable(context: DeviceContext, { numExperts, router }: ResolvedConfig): TensorHandle | null {
  const { allowedExperts } = router;
  if (!allowedExperts) return null;
  const table = new Int32Array(allowedExperts.length * numExperts);
  for (const [type, experts] of allowedExperts.entries())
    for (const expert of experts) table[type * numExperts + expert] = 1;
  return native.tensorFrom(context.handle('MoELayer'), dtypeCode.int32, table);
}

/** What a layer has besides its parameters; checkpoints carry it. */
export interface LayerState {
  readonly seed: number | bigint;
  readonly step: number;
  readonly temperature: number;
}

/** A mixture-of-experts feed-forward layer: each token goes to K of E experts. */
export class MoELayer implements Module {
  readonly device: Device;
  readonly #context: DeviceContext;
  readonly #parameters: ParameterSet;
  readonly #handle: LayerHandle;
  #config: ResolvedConfig;
  #temperature: number;

  /**
   * ERR_INVALID_ARGUMENT for a configuration that makes no sense, ERR_UNSUPPORTED for more experts than a GPU can count,
   * ERR_OUT_OF_MEMORY when the parameters do not fit.
   */
  constructor(device: Device, config: MoEConfig) {
    this.#context = contextOf(device);
    this.device = device;
    this.#config = resolveConfig(config);
    this.#context.checkExperts('config.numExperts', this.#config.numExperts);
    this.#temperature = this.#config.router.temperature;
    this.#parameters = new ParameterSet(this.#context, 'MoELayer', this.#config.seed, parametersOf(this.#config));
    try {
      this.#handle = this.#create();
    } catch (error) {
      this.#parameters.dispose();
      throw error;
    }
  }

  #create(): LayerHandle {
    const handles = [...this.#parameters.map.keys()].map((name) => [name, this.#parameters.handle(name)] as const);
    const table = allowedTable(this.#context, this.#config);
    try {
      return native.layerCreate(
        this.#context.handle('MoELayer'),
        nativeConfig(this.#config, table),
        Object.fromEntries(handles),
        BigInt(this.#config.seed),
      );
    } finally {
      if (table) native.tensorRelease(table);
    }
  }

  /** The configuration with every default filled in, the drawn seed included; frozen. */
  get config(): Readonly<Required<MoEConfig>> {
    return this.#config;
  }

  /**
   * Those of these that the configuration calls for, of its dtype but for 'router.*', which are float32:
   * 'router.weight' [E,H], 'router.bias' [E], 'router.noise' [E,H], 'router.selectionBias' [E], 'experts.gate' [E,F,H],
   * 'experts.up' [E,F,H], 'experts.down' [E,H,F], 'experts.gateBias' [E,F], 'experts.upBias' [E,F], 'experts.downBias' [E,H],
   * 'shared.gate' [S,H], 'shared.up' [S,H], 'shared.down' [H,S], 'shared.outputGate' [1,H]. With several gates 'router.0.weight',
   * 'router.1.weight' and so on.
   *
   * Matrices start from Normal(0, 1/√in), in being their last dimension, biases and 'router.noise' from 0; draws are keyed
   * by the layer's seed and the parameter's name. A parameter with trainable = false costs no gradient work; the selection
   * bias is never trainable.
   */
  parameters(): ReadonlyMap<string, Parameter> {
    return this.#parameters.map;
  }

  /**
   * input [..., H] of the layer's dtype → a pass with output [..., H]; the leading dimensions are T tokens, T = 0 included.
   * A token whose logits are not finite is ERR_NON_FINITE when the output is read, and poisons what depends on it.
   */
  forward(input: Tensor, options?: ForwardOptions): MoEPass {
    const context = this.#parameters.open('forward()');
    const handle = checkTensor('input', input, context, this.#config.dtype);
    const tokens = checkRows('input', input, this.#config.hiddenSize, 'hiddenSize');
    const call = forwardCall(context, this.#config, tokens, options);
    const { losses } = this.#config;
    const router = call.routingWeights === undefined && !drawsExperts(this.#config.router.type);
    return new MoEPass(context, native.layerForward(this.#handle, handle, call), {
      shape: input.shape,
      dtype: this.#config.dtype,
      tokens,
      topK: call.topK ?? this.#config.topK,
      numExperts: this.#config.numExperts,
      training: call.training,
      choosesTokens: this.#config.router.type === 'expert-choice',
      loadBalance: router && (call.loadBalance ?? losses.loadBalance) !== undefined,
      importance: router && (call.importance ?? losses.importance) !== undefined,
      load: router && (call.load ?? losses.load) !== undefined,
      z: router && (call.z ?? losses.z) !== undefined,
    });
  }

  /** Divides the logits from the next forward on, unless its options say otherwise. Above 0. */
  setTemperature(value: number): void {
    this.#parameters.open('setTemperature()');
    const temperature = checkNumber('value', value, { above: 0 });
    native.layerSetTemperature(this.#handle, temperature);
    this.#temperature = temperature;
  }

  /**
   * Adds config.router.selectionBias.rate to the bias of every expert that got less than the mean of the assignments of all
   * training forwards since the last call, before drops, and subtracts it from those that got more. Queued like a forward:
   * passes made before are not stale.
   */
  updateSelectionBias(): void {
    this.#parameters.open('updateSelectionBias()');
    if (!this.#config.router.selectionBias)
      throw invalid('config.router.selectionBias', '{ rate } for layer.updateSelectionBias()', undefined);
    native.layerUpdateSelectionBias(this.#handle);
  }

  /** Clears the gradients, poisoned ones included; costs no memory traffic. */
  zeroGrad(): void {
    this.#parameters.zeroGrad();
  }

  /** Frees the parameters; open passes keep what they need. May be called again. */
  dispose(): void {
    if (this.#parameters.isDisposed) return;
    this.#parameters.dispose();
    native.layerRelease(this.#handle);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** @internal */
  static stateOf(layer: MoELayer): LayerState {
    layer.#parameters.open('state');
    return { seed: layer.#config.seed, step: native.layerStep(layer.#handle), temperature: layer.#temperature };
  }

  /** @internal int32 [gates·2E], the assignments that the next step of the selection bias goes by, with one. */
  static assignedOf(layer: MoELayer): Tensor | undefined {
    const context = layer.#parameters.open('state');
    const handle = native.layerAssigned(layer.#handle);
    return handle
      ? new Tensor(context, handle, [layer.#config.gates * 2 * layer.#config.numExperts], 'int32', 'held')
      : undefined;
  }

  /** @internal */
  static restore(layer: MoELayer, state: LayerState): void {
    native.layerRestore(layer.#handle, state.step, BigInt(state.seed));
    layer.#temperature = state.temperature;
    native.layerSetTemperature(layer.#handle, state.temperature);
    layer.#config = deepFreeze({ ...layer.#config, seed: state.seed });
  }
}

/** What a pass has to know of the call that made it. */
interface Call {
  readonly shape: readonly number[];
  readonly dtype: FloatDType;
  readonly tokens: number;
  readonly topK: number;
  readonly numExperts: number;
  readonly training: boolean;
  /** Experts do, instead of tokens choosing experts. */
  readonly choosesTokens: boolean;
  readonly loadBalance: boolean;
  readonly importance: boolean;
  readonly load: boolean;
  readonly z: boolean;
}

const backwardOptions = new Set(['lossScale']);

/**
 * One forward call and what its backward needs. Several may be alive at once. dispose() disposes output, routing and the
 * gradients of the routing too, unless they were kept or returned through tidy.
 */
export class MoEPass extends OwningPass {
  /** [..., H] of the layer's dtype. */
  readonly output: Tensor;
  /**
   * The router's decisions: indices [T,K] int32 before drops (-1 for masked tokens), final weights [T,K] float32 (0 where
   * dropped), kept [T,K] int32 0/1, and the clean logits [T,E] float32, after bias and before temperature; absent when the
   * caller gave the weights and where experts are drawn. With the overflow 'next-choice': `actual` [T,K] int32, the experts used, -1 where dropped.
   * Where experts choose (router.type 'expert-choice'), indices [E,C] are token numbers, with weights and kept [E,C].
   */
  readonly routing: {
    readonly indices: Tensor;
    readonly weights: Tensor;
    readonly kept: Tensor;
    readonly logits?: Tensor;
    readonly actual?: Tensor;
  };
  readonly #context: DeviceContext;
  readonly #handle: MoEPassHandle;
  readonly #call: Call;
  #weightsGrad: Tensor | undefined;
  #logitsGrad: Tensor | undefined;

  /** @internal */
  constructor(context: DeviceContext, made: NativeMoEForward, call: Call) {
    super();
    this.#context = context;
    this.#handle = made.pass;
    this.#call = call;
    const choices = Object.freeze(call.choosesTokens ? [call.numExperts, made.expertSlots] : [call.tokens, call.topK]);
    this.output = this.own(new Tensor(context, made.output, call.shape, call.dtype, this));
    const indices = this.own(new Tensor(context, made.indices, choices, 'int32', this));
    const weights = this.own(new Tensor(context, made.weights, choices, 'float32', this));
    const kept = this.own(new Tensor(context, made.kept, choices, 'int32', this));
    const routing: { -readonly [Name in keyof MoEPass['routing']]: MoEPass['routing'][Name] } = {
      indices,
      weights,
      kept,
    };
    if (made.logits)
      routing.logits = this.own(new Tensor(context, made.logits, [call.tokens, call.numExperts], 'float32', this));
    if (made.actual) routing.actual = this.own(new Tensor(context, made.actual, choices, 'int32', this));
    this.routing = routing;
    context.track(this);
  }

  /**
   * Adds the parameters' gradients, those of every configured loss included, and returns the gradient of the input, in its
   * shape. gradOutput: of the output's shape and dtype. lossScale multiplies the balancing losses' gradients only (default 1).
   *
   * Runs once: ERR_STALE_PASS a second time, for a pass made with training: false, and when the input or a parameter was
   * written since forward.
   */
  backward(gradOutput: Tensor, options?: { lossScale?: number }): Tensor {
    this.checkOpen(this.#context, 'backward()');
    const gradient = checkShaped(
      'gradOutput',
      gradOutput,
      this.#context,
      this.#call.dtype,
      this.output.shape,
      'of the output',
    );
    let lossScale = 1;
    if (options !== undefined) {
      const given = checkOptions('options', options, backwardOptions);
      lossScale = checkNumber('options.lossScale', orDefault(given.lossScale, 1));
    }
    const { tokens, topK, numExperts, shape, dtype } = this.#call;
    const gradients = native.moePassBackward(this.#handle, gradient, lossScale);
    if (gradients.routingWeights)
      this.#weightsGrad = this.own(
        new Tensor(this.#context, gradients.routingWeights, [tokens, topK], 'float32', this),
      );
    if (gradients.routingLogits)
      this.#logitsGrad = this.own(
        new Tensor(this.#context, gradients.routingLogits, [tokens, numExperts], 'float32', this),
      );
    return new Tensor(this.#context, gradients.input, shape, dtype);
  }

  /** [T,K] float32: after backward, when the caller gave routing weights. */
  get routingWeightsGrad(): Tensor | undefined {
    return this.#weightsGrad;
  }

  /** [T,E] float32: after backward, when the caller gave logits. */
  get routingLogitsGrad(): Tensor | undefined {
    return this.#logitsGrad;
  }

  /** Statistics of this forward, once the queue gets there. Rejects like a read of the output. */
  async stats(): Promise<MoEStats> {
    this.checkOpen(this.#context, 'stats()');
    return decodeStats(await native.moePassStats(this.#handle), this.#call);
  }

  protected override releaseHandle(): void {
    native.moePassRelease(this.#handle);
  }
}
