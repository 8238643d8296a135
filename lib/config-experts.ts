// The experts' and the losses' options: their types, defaults and checks.
import { activationCode } from './binding.js';
import {
  checkBoolean,
  checkInteger,
  checkNumber,
  checkOneOf,
  checkOptions,
  checkSize,
  invalid,
  orDefault,
} from './checks.js';

// ---------------------------------------------------------------- experts

export interface ExpertConfig {
  /**
   * Gated kinds ('…glu') have gate, up and down matrices and compute down·(act(gate·x) * up·x); the others have up and
   * down. Default 'swiglu'. clamped-swiglu (GPT-OSS): g = min(gate, limit), (clamp(up, ±limit) + 1) * g * σ(alpha·g).
   */
  activation?:
    | 'relu'
    | 'gelu'
    | 'gelu-tanh'
    | 'silu'
    | 'swiglu'
    | 'geglu'
    | 'geglu-tanh'
    | 'reglu'
    | { type: 'clamped-swiglu'; alpha: number; limit: number };
  /** Biases of the routed experts. Default false. */
  bias?: boolean;
  /**
   * Probability of dropping an activation between up and down in training, in shared experts too; what stays is divided by
   * 1 - dropout. Drawn by token, expert and feature, keyed as noise is, and drawn again in backward. Default 0.
   */
  dropout?: number;
  /** Experts every token uses, fused into one dense FFN of this width, same activation, no bias. gate: default 'none'. */
  shared?: { ffnSize: number; gate?: 'none' | 'sigmoid' };
}

export interface ResolvedExperts {
  activation: NonNullable<ExpertConfig['activation']>;
  bias: boolean;
  dropout: number;
  shared?: { ffnSize: number; gate: 'none' | 'sigmoid' };
}

const expertOptions = new Set(['activation', 'bias', 'dropout', 'shared']);
const clampedOptions = new Set(['type', 'alpha', 'limit']);
const sharedOptions = new Set(['ffnSize', 'gate']);
type NamedActivation = Exclude<ExpertConfig['activation'], object | undefined>;
const namedActivations = Object.keys(activationCode).filter((name) => name !== 'clamped-swiglu') as NamedActivation[];

export function resolveExperts(name: string, value: unknown): ResolvedExperts {
  const given = checkOptions(name, orDefault(value, {}), expertOptions);
  const resolved: ResolvedExperts = {
    activation: resolveActivation(`${name}.activation`, orDefault(given.activation, 'swiglu')),
    bias: checkBoolean(`${name}.bias`, orDefault(given.bias, false)),
    dropout: checkNumber(`${name}.dropout`, orDefault(given.dropout, 0), { min: 0, below: 1 }),
  };
  if (given.shared !== undefined) {
    const { ffnSize, gate } = checkOptions(`${name}.shared`, given.shared, sharedOptions);
    resolved.shared = {
      ffnSize: checkSize(`${name}.shared.ffnSize`, ffnSize),
      gate: checkOneOf(`${name}.shared.gate`, orDefault(gate, 'none'), ['none', 'sigmoid']),
    };
  }
  return resolved;
}

function resolveActivation(name: string, value: unknown): ResolvedExperts['activation'] {
  if (value === 'clamped-swiglu') throw invalid(name, "{ type: 'clamped-swiglu', alpha, limit }", value);
  if (typeof value !== 'object' || value === null) return checkOneOf(name, value, namedActivations);
  const { type, alpha, limit } = checkOptions(name, value, clampedOptions);
  return {
    type: checkOneOf(`${name}.type`, type, ['clamped-swiglu']),
    alpha: checkNumber(`${name}.alpha`, alpha, { above: 0 }),
    limit: checkNumber(`${name}.limit`, limit, { above: 0 }),
  };
}

/** The kind as the native code numbers it, and whether it has a gate matrix. */
export function activationOf({ activation }: ResolvedExperts): { code: number; gated: boolean } {
  const code = activationCode[typeof activation === 'object' ? activation.type : activation];
  return { code, gated: code >= activationCode.swiglu };
}

// ---------------------------------------------------------------- losses

/** A loss is on when its coefficient is given; it then adds its gradient in backward(). */
export interface LossConfig {
  /**
   * E · Σ f_e · P_e (Switch): f the share of assignments before drops, P the mean probability without noise on the logits.
   * counts: 'all' choices (default), 'first-choice' (GShard), or 'unbiased', the K best without selection bias and groups
   * (DeepSeek-V3). scope: 'batch' (default); 'sequence' (DeepSeek), the mean over stretches of sequenceLength consecutive
   * tokens; 'device' (DeepSeek), D · Σ f_d · P_d with the sums over each of D = groupsOfExperts groups of neighbours.
   */
  loadBalance?:
    | number
    | {
        coefficient: number;
        counts?: 'all' | 'first-choice' | 'unbiased';
        scope?: 'batch' | 'sequence' | 'device';
        sequenceLength?: number;
        groupsOfExperts?: number;
      };
  /** cv² of the gate weights per expert (Shazeer, default), or of the softmax of the clean logits (V-MoE). */
  importance?: number | { coefficient: number; from?: 'gates' | 'softmax' };
  /**
   * cv² of the expected number of tokens of each expert, were its own noise drawn anew; needs gaussian or learned noise.
   * threshold: what it has to beat. 'excluding-self' (Shazeer, default): the (K+1)-th noisy logit for the chosen experts,
   * the K-th for the others; 'kth' (V-MoE): the K-th for all.
   */
  load?: number | { coefficient: number; threshold?: 'kth' | 'excluding-self' };
  /** mean (logsumexp of a token's logits)² (ST-MoE). */
  z?: number;
}

export interface ResolvedLosses {
  loadBalance?: {
    coefficient: number;
    counts: 'all' | 'first-choice' | 'unbiased';
    scope: 'batch' | 'sequence' | 'device';
    sequenceLength?: number;
    groupsOfExperts?: number;
  };
  importance?: { coefficient: number; from: 'gates' | 'softmax' };
  load?: { coefficient: number; threshold: 'kth' | 'excluding-self' };
  z?: number;
}

const lossOptions = new Set(['loadBalance', 'importance', 'load', 'z']);
const loadBalanceOptions = new Set(['coefficient', 'counts', 'scope', 'sequenceLength', 'groupsOfExperts']);
const importanceOptions = new Set(['coefficient', 'from']);
const loadOptions = new Set(['coefficient', 'threshold']);

export function resolveLosses(name: string, value: unknown, numExperts: number): ResolvedLosses {
  const given = checkOptions(name, orDefault(value, {}), lossOptions);
  const resolved: ResolvedLosses = {};
  if (given.loadBalance !== undefined)
    resolved.loadBalance = resolveLoadBalance(`${name}.loadBalance`, given.loadBalance, numExperts);
  if (given.importance !== undefined) {
    const { coefficient, options } = coefficientOf(`${name}.importance`, given.importance, importanceOptions);
    const from = checkOneOf(`${name}.importance.from`, orDefault(options.from, 'gates'), ['gates', 'softmax']);
    resolved.importance = { coefficient, from };
  }
  if (given.load !== undefined) {
    const { coefficient, options } = coefficientOf(`${name}.load`, given.load, loadOptions);
    const threshold = checkOneOf(`${name}.load.threshold`, orDefault(options.threshold, 'excluding-self'), [
      'excluding-self',
      'kth',
    ]);
    resolved.load = { coefficient, threshold };
  }
  if (given.z !== undefined) resolved.z = checkCoefficient(`${name}.z`, given.z);
  return resolved;
}

export function checkCoefficient(name: string, value: unknown): number {
  return checkNumber(name, value, { min: 0 });
}

/** A loss is given as its coefficient alone or as an object that has one. */
function coefficientOf(
  name: string,
  value: unknown,
  known: ReadonlySet<string>,
): { coefficient: number; options: Record<string, unknown> } {
  if (typeof value !== 'object' || value === null) return { coefficient: checkCoefficient(name, value), options: {} };
  const options = checkOptions(name, value, known);
  return { coefficient: checkCoefficient(`${name}.coefficient`, options.coefficient), options };
}

function resolveLoadBalance(
  name: string,
  value: unknown,
  numExperts: number,
): NonNullable<ResolvedLosses['loadBalance']> {
  const { coefficient, options } = coefficientOf(name, value, loadBalanceOptions);
  const { sequenceLength, groupsOfExperts } = options;
  const resolved: NonNullable<ResolvedLosses['loadBalance']> = {
    coefficient,
    counts: checkOneOf(`${name}.counts`, orDefault(options.counts, 'all'), ['all', 'first-choice', 'unbiased']),
    scope: checkOneOf(`${name}.scope`, orDefault(options.scope, 'batch'), ['batch', 'sequence', 'device']),
  };
  if (resolved.scope === 'sequence') resolved.sequenceLength = checkSize(`${name}.sequenceLength`, sequenceLength);
  else if (sequenceLength !== undefined)
    throw invalid(`${name}.sequenceLength`, `no length for scope '${resolved.scope}'`, sequenceLength);
  if (resolved.scope === 'device') {
    const groups = checkInteger(`${name}.groupsOfExperts`, groupsOfExperts, 1, numExperts, 'numExperts');
    if (numExperts % groups !== 0)
      throw invalid(`${name}.groupsOfExperts`, `a divisor of numExperts (${numExperts})`, groups);
    resolved.groupsOfExperts = groups;
  } else if (groupsOfExperts !== undefined) {
    throw invalid(`${name}.groupsOfExperts`, `no groups for scope '${resolved.scope}'`, groupsOfExperts);
  }
  return resolved;
}
