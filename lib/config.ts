// A layer's configuration: its type, its defaults, and every check that does not need a device. config-router, -capacity
// and -experts do their parts; config-forward does a call's options; config-unsupported has what is still missing.
import {
  countsCode,
  dtypeCode,
  type NativeCapacity,
  type NativeLayerConfig,
  type NativeRouter,
  noiseCode,
  routerCode,
  scoringCode,
  type TensorHandle,
} from './binding.js';
import { checkInteger, checkOptions, checkSeed, checkSize, invalid, maxSize, orDefault } from './checks.js';
import { type CapacityConfig, type ResolvedCapacity, resolveCapacity } from './config-capacity.js';
import {
  activationOf,
  type ExpertConfig,
  type LossConfig,
  type ResolvedExperts,
  type ResolvedLosses,
  resolveExperts,
  resolveLosses,
} from './config-experts.js';
import { type ResolvedRouter, type RouterConfig, resolveRouter } from './config-router.js';
import { checkFloatDType, type FloatDType } from './host-data.js';
import { drawSeed } from './parameter.js';

/** E experts of width F behind a router that sends each token of width H to K of them. */
export interface MoEConfig {
  /** H, the width of a token. */
  hiddenSize: number;
  /** F, the width of one expert. */
  ffnSize: number;
  /** E. */
  numExperts: number;
  /** K, at most E. */
  topK: number;
  /**
   * Weights and activations. Default 'float32'. Whatever it is, the router's parameters and scores, losses, sums, gradients
   * of parameters and optimizer state are float32.
   */
  dtype?: FloatDType;
  router?: RouterConfig;
  /** Default dropless. */
  capacity?: CapacityConfig;
  experts?: ExpertConfig;
  losses?: LossConfig;
  /**
   * Gates over the same experts, one for each task (MMoE); options.gate of a forward picks one. The router's options hold
   * for all. Default 1.
   */
  gates?: number;
  /**
   * 0 to 2^64 - 1: initialisation and every random draw. A run is a pure function of configuration, seed, weights, inputs
   * and the count of training forwards. Omitted: drawn once from the system and shown in `layer.config`.
   */
  seed?: number | bigint;
}

/** Every default filled in. */
export interface ResolvedConfig {
  hiddenSize: number;
  ffnSize: number;
  numExperts: number;
  topK: number;
  dtype: FloatDType;
  router: ResolvedRouter;
  capacity: ResolvedCapacity;
  experts: ResolvedExperts;
  losses: ResolvedLosses;
  gates: number;
  seed: number | bigint;
}

export const configOptions: ReadonlySet<string> = new Set([
  'hiddenSize',
  'ffnSize',
  'numExperts',
  'topK',
  'dtype',
  'router',
  'capacity',
  'experts',
  'losses',
  'gates',
  'seed',
]);

/** Checks a configuration and fills in its defaults; the result is deeply frozen and shares nothing with `value`. */
export function resolveConfig(value: unknown): ResolvedConfig {
  const given = checkOptions('config', value, configOptions);
  const numExperts = checkSize('config.numExperts', given.numExperts);
  const config: ResolvedConfig = {
    hiddenSize: checkSize('config.hiddenSize', given.hiddenSize),
    ffnSize: checkSize('config.ffnSize', given.ffnSize),
    numExperts,
    topK: checkInteger('config.topK', given.topK, 1, numExperts, 'numExperts'),
    dtype: checkFloatDType('config.dtype', orDefault(given.dtype, 'float32')),
    router: resolveRouter('config.router', given.router, numExperts),
    capacity: resolveCapacity('config.capacity', given.capacity),
    experts: resolveExperts('config.experts', given.experts),
    losses: resolveLosses('config.losses', given.losses, numExperts),
    gates: checkInteger('config.gates', orDefault(given.gates, 1), 1, maxSize),
    seed: given.seed === undefined ? drawSeed() : checkSeed('config.seed', given.seed),
  };
  checkGroups('config.topK', config.topK, config);
  checkExpertChoice(config);
  if (config.losses.load) checkLoad('config.losses.load', config);
  checkProducts(config);
  return deepFreeze(config);
}

/** What experts that choose cannot be asked for. */
function checkExpertChoice({ router, capacity, losses }: ResolvedConfig): void {
  if (router.type !== 'expert-choice') return;
  const where = "with router.type 'expert-choice'";
  if (capacity.type === 'dynamic')
    throw invalid('config.capacity.type', `'fixed' or 'dropless' ${where}`, capacity.type);
  if (capacity.type === 'fixed') {
    const { priority, overflow, buffer, groupSize, firstChoicesFirst } = capacity;
    if (priority !== 'position') throw invalid('config.capacity.priority', `no queue ${where}`, priority);
    if (!firstChoicesFirst) throw invalid('config.capacity.firstChoicesFirst', `no queue ${where}`, firstChoicesFirst);
    if (overflow !== 'drop') throw invalid('config.capacity.overflow', `nothing to overflow ${where}`, overflow);
    if (buffer > 0) throw invalid('config.capacity.buffer', `0 ${where}`, buffer);
    if (groupSize !== undefined) throw invalid('config.capacity.groupSize', `the whole batch ${where}`, groupSize);
  }
  for (const name of ['loadBalance', 'load'] as const) checkLossOf('config.losses', name, losses[name], router);
  if (losses.importance?.from === 'gates') checkLossOf('config.losses', 'importance', losses.importance, router);
}

/** Experts that choose are balanced: of the losses there are importance from the softmax, and z. */
export function checkLossOf(
  where: string,
  name: 'loadBalance' | 'importance' | 'load',
  value: unknown,
  { type }: ResolvedRouter,
): void {
  if (type !== 'expert-choice' || value === undefined) return;
  const expected = name === 'importance' ? "{ from: 'softmax' }" : 'no such loss';
  throw invalid(`${where}.${name}`, `${expected} with router.type 'expert-choice', which is balanced as it is`, value);
}

/** `topK` experts must fit into the groups that are kept. */
export function checkGroups(name: string, topK: number, { numExperts, router: { groups } }: ResolvedConfig): void {
  if (!groups) return;
  const most = (groups.keep * numExperts) / groups.count;
  if (topK > most) throw invalid(name, `at most the ${most} experts of router.groups.keep groups`, topK);
}

/** The load loss is about the chance of being chosen, which only noise makes one. */
export function checkLoad(name: string, { router: { noise } }: ResolvedConfig): void {
  if (noise?.type === 'learned' || (noise?.type === 'gaussian' && noise.std > 0)) return;
  throw invalid(`${name}`, "a router.noise of type 'gaussian' with a std above 0, or 'learned'", noise ?? 'no noise');
}

/** The number of elements of the largest parameter has to be exact. */
function checkProducts({ hiddenSize, ffnSize, numExperts }: ResolvedConfig): void {
  if (numExperts * ffnSize * hiddenSize <= Number.MAX_SAFE_INTEGER) return;
  throw invalid('config', 'numExperts · ffnSize · hiddenSize below 2^53', [numExperts, ffnSize, hiddenSize]);
}

export function deepFreeze<Value extends object>(value: Value): Value {
  for (const part of Object.values(value)) if (typeof part === 'object' && part !== null) deepFreeze(part);
  return Object.freeze(value);
}

// ---------------------------------------------------------------- for the native code

export function nativeRouter(router: ResolvedRouter): NativeRouter {
  return {
    type: routerCode[router.type],
    selectByLogits: router.selectBy === 'logits',
    renormalize: router.renormalize !== false,
    normP: router.renormalize ? router.renormalize.p : 1,
    normEpsilon: router.renormalize ? router.renormalize.epsilon : 0,
    weightScale: router.weightScale,
    temperature: router.temperature,
    scoring: scoringCode[router.scoring],
    noise: noiseCode[router.noise?.type ?? 'none'],
    noiseScale: noiseScaleOf(router),
    groupCount: router.groups?.count ?? 0,
    groupKeep: router.groups?.keep ?? 0,
    groupsByTop2Sum: router.groups?.score === 'top2-sum',
    renormalizeAfterDrop: router.renormalizeAfterDrop,
    secondThreshold: router.secondChoice === 'always' ? 0 : router.secondChoice.threshold,
  };
}

function noiseScaleOf({ noise }: ResolvedRouter): number {
  if (noise?.type === 'jitter') return noise.epsilon;
  return noise?.type === 'gaussian' ? noise.std : 0;
}

/** In the order of native/shared/options.h. */
const priorityCode = { position: 0, score: 1, random: 2 };
const overflowCode = { drop: 0, 'next-choice': 1, residual: 2 };

export function nativeCapacity(capacity: ResolvedCapacity): NativeCapacity {
  const fixed = capacity.type === 'fixed' ? capacity : undefined;
  const dynamic = capacity.type === 'dynamic' ? capacity : undefined;
  return {
    limited: capacity.type !== 'dropless',
    factor: dynamic?.maxFactor ?? fixed?.factor ?? 1,
    evalFactor: dynamic?.maxFactor ?? fixed?.evalFactor ?? 1,
    slots: fixed?.slots ?? 0,
    min: fixed?.min ?? 0,
    multipleOf: fixed?.multipleOf ?? 1,
    buffer: fixed?.buffer ?? 0,
    groupSize: fixed?.groupSize ?? 0,
    dynamic: dynamic !== undefined,
    targetDropRate: dynamic?.targetDropRate ?? 0,
    priority: priorityCode[capacity.type === 'dropless' ? 'position' : capacity.priority],
    overflow: overflowCode[capacity.type === 'dropless' ? 'drop' : capacity.overflow],
    firstChoicesFirst: fixed?.firstChoicesFirst ?? true,
  };
}

export function nativeConfig(config: ResolvedConfig, allowedExperts: TensorHandle | null): NativeLayerConfig {
  const { losses, experts } = config;
  const clamped = typeof experts.activation === 'object' ? experts.activation : undefined;
  return {
    dtype: dtypeCode[config.dtype],
    hiddenSize: config.hiddenSize,
    ffnSize: config.ffnSize,
    numExperts: config.numExperts,
    topK: config.topK,
    gates: config.gates,
    router: nativeRouter(config.router),
    capacity: nativeCapacity(config.capacity),
    losses: {
      loadBalance: losses.loadBalance?.coefficient ?? Number.NaN,
      importance: losses.importance?.coefficient ?? Number.NaN,
      load: losses.load?.coefficient ?? Number.NaN,
      z: losses.z ?? Number.NaN,
      counts: countsCode[losses.loadBalance?.counts ?? 'all'],
      sequenceLength: losses.loadBalance?.sequenceLength ?? 0,
      expertGroups: losses.loadBalance?.groupsOfExperts ?? 0,
      importanceFromSoftmax: losses.importance?.from === 'softmax',
      loadThresholdKth: losses.load?.threshold === 'kth',
    },
    activation: activationOf(experts).code,
    activationAlpha: clamped?.alpha ?? 0,
    activationLimit: clamped?.limit ?? 0,
    weightInput: config.router.applyWeightTo === 'input',
    dropout: experts.dropout,
    sharedSize: experts.shared?.ffnSize ?? 0,
    selectionBiasRate: config.router.selectionBias?.rate ?? 0,
    allowedExperts,
  };
}
