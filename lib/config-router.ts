// The router's options: their types, defaults and checks. What a version does not compute yet is in config-unsupported.ts.
import {
  checkBoolean,
  checkInteger,
  checkNumber,
  checkObject,
  checkOneOf,
  checkOptions,
  invalid,
  orDefault,
} from './checks.js';

export interface RouterConfig {
  /**
   * 'top-k' (default): each token takes its K best experts. 'expert-choice': each expert takes its C best tokens (Zhou et
   * al. 2022), C being config.capacity's, with factor 1 when that is dropless. 'sinkhorn': in training the K best of the
   * scores after balancing them over the batch, in evaluation the K best logits; weights are the sigmoid (K = 1) or softmax
   * of the logits, whatever `scoring` and `selectBy` say (Megatron-Core). 'hash': K experts by a fixed hash of
   * options.tokenIds, weight 1/K. 'random': K experts drawn for every token, weight 1/K; both without logits, losses or
   * 'router.weight'.
   */
  type?: 'top-k' | 'expert-choice' | 'sinkhorn' | 'hash' | 'random';
  /** Default 'softmax'. 'sigmoid': each score by itself (DeepSeek-V3); the losses' P is then s / Σs. */
  scoring?: 'softmax' | 'sigmoid';
  /**
   * 'scores' (default): score all experts, then select the K best. 'logits': select K logits, then score only those
   * (Shazeer); the losses' mean probability stays the score over all E. A selection bias is added to what is compared.
   */
  selectBy?: 'scores' | 'logits';
  /**
   * Divide the selected weights by their L_p norm, p at least 0.01, plus epsilon (default 1e-20, DeepSeek's). true means
   * p = 1 (Mixtral). Default false.
   */
  renormalize?: boolean | { p?: number; epsilon?: number };
  /**
   * The weights are weightScale · score over the sum of the scores of the token's choices that found a slot, with or
   * without `renormalize` (DeepSpeed, NLLB). A token that lost all has weights 0. Default false.
   */
  renormalizeAfterDrop?: boolean;
  /** Multiplies the weights last (DeepSeek's routed_scaling_factor). Default 1. */
  weightScale?: number;
  /** Where the weight multiplies: the expert's output (default) or its input (Llama 4). Shared experts have none. */
  applyWeightTo?: 'output' | 'input';
  /** A learned bias on the logits, 'router.bias' [E]. Default false. */
  bias?: boolean;
  /** Divides the logits; `layer.setTemperature` changes it between steps. Default 1. */
  temperature?: number;
  /**
   * Drawn in training, keyed by seed, forward, token and column. 'jitter' multiplies the router's input by U[1-ε, 1+ε]
   * (Switch Transformer). 'gaussian' adds N(0, std) to the logits over the temperature (V-MoE: std = 1/E); 'learned' adds
   * N(0, softplus(x·W) + 0.01) with W = 'router.noise' [E,H], at first 0 (Shazeer). 'gumbel': (logits + Gumbel(0, 1)) / τ.
   */
  noise?:
    | { type: 'jitter'; epsilon: number }
    | { type: 'gaussian'; std: number }
    | { type: 'learned' }
    | { type: 'gumbel' };
  /**
   * Choose within the `keep` best of `count` equal groups of neighbouring experts: groups by their best score
   * (DeepSeek-V2) or by the sum of their two best, selection bias included (DeepSeek-V3).
   */
  groups?: { count: number; keep: number; score: 'max' | 'top2-sum' };
  /** A bias for the choice alone, 'router.selectionBias' [E], stepped by `layer.updateSelectionBias()` (DeepSeek-V3). */
  selectionBias?: { rate: number };
  /**
   * GShard: the second choice is kept with probability min(1, weight / threshold), the weight being the one without
   * weightScale; drawn per token, keyed like noise, also outside training. Given up, it is dropped before the queue: it
   * takes no slot and overflows nowhere. Default 'always'.
   */
  secondChoice?: 'always' | { type: 'random'; threshold: number };
  /**
   * Experts that each token type may use: token type → expert indices; options.tokenTypes of a forward has the types. Where
   * a type has fewer than K, the choices that are left over have index -1 and weight 0.
   */
  allowedExperts?: readonly (readonly number[])[];
}

/** Every default filled in; what has none stays absent. */
export interface ResolvedRouter extends RouterConfig {
  type: NonNullable<RouterConfig['type']>;
  scoring: 'softmax' | 'sigmoid';
  selectBy: 'scores' | 'logits';
  renormalize: false | { p: number; epsilon: number };
  renormalizeAfterDrop: boolean;
  weightScale: number;
  applyWeightTo: 'output' | 'input';
  bias: boolean;
  temperature: number;
  secondChoice: 'always' | { type: 'random'; threshold: number };
}

const routerTypes = ['top-k', 'expert-choice', 'sinkhorn', 'hash', 'random'] as const;
const noiseTypes = ['jitter', 'gaussian', 'learned', 'gumbel'] as const;
const renormalizeOptions = new Set(['p', 'epsilon']);
const groupOptions = new Set(['count', 'keep', 'score']);
const selectionBiasOptions = new Set(['rate']);
const secondChoiceOptions = new Set(['type', 'threshold']);
export const routerOptions: ReadonlySet<string> = new Set([
  'type',
  'scoring',
  'selectBy',
  'renormalize',
  'renormalizeAfterDrop',
  'weightScale',
  'applyWeightTo',
  'bias',
  'temperature',
  'noise',
  'groups',
  'selectionBias',
  'secondChoice',
  'allowedExperts',
]);

/** `name` is how the caller knows these options, 'config.router' for a layer. */
export function resolveRouter(name: string, value: unknown, numExperts: number): ResolvedRouter {
  const given = checkOptions(name, orDefault(value, {}), routerOptions);
  const resolved: ResolvedRouter = {
    type: checkOneOf(`${name}.type`, orDefault(given.type, 'top-k'), routerTypes),
    scoring: checkOneOf(`${name}.scoring`, orDefault(given.scoring, 'softmax'), ['softmax', 'sigmoid']),
    selectBy: checkOneOf(`${name}.selectBy`, orDefault(given.selectBy, 'scores'), ['scores', 'logits']),
    renormalize: resolveRenormalize(`${name}.renormalize`, orDefault(given.renormalize, false)),
    renormalizeAfterDrop: checkBoolean(`${name}.renormalizeAfterDrop`, orDefault(given.renormalizeAfterDrop, false)),
    weightScale: checkNumber(`${name}.weightScale`, orDefault(given.weightScale, 1)),
    applyWeightTo: checkOneOf(`${name}.applyWeightTo`, orDefault(given.applyWeightTo, 'output'), ['output', 'input']),
    bias: checkBoolean(`${name}.bias`, orDefault(given.bias, false)),
    temperature: checkNumber(`${name}.temperature`, orDefault(given.temperature, 1), { above: 0 }),
    secondChoice: resolveSecondChoice(`${name}.secondChoice`, orDefault(given.secondChoice, 'always')),
  };
  if (given.noise !== undefined) resolved.noise = resolveNoise(`${name}.noise`, given.noise);
  if (given.groups !== undefined) resolved.groups = resolveGroups(`${name}.groups`, given.groups, numExperts);
  if (given.selectionBias !== undefined) {
    const { rate } = checkOptions(`${name}.selectionBias`, given.selectionBias, selectionBiasOptions);
    resolved.selectionBias = { rate: checkNumber(`${name}.selectionBias.rate`, rate, { min: 0 }) };
  }
  if (given.allowedExperts !== undefined)
    resolved.allowedExperts = resolveAllowed(`${name}.allowedExperts`, given.allowedExperts, numExperts);
  checkType(name, resolved);
  return resolved;
}

/** Whether experts are drawn, without logits. */
export const drawsExperts = (type: ResolvedRouter['type']): boolean => type === 'hash' || type === 'random';

/** Options that mean nothing to a type of router. */
function checkType(name: string, router: ResolvedRouter): void {
  const { type } = router;
  if (type === 'top-k') return;
  const refuse = (option: keyof ResolvedRouter, given: boolean) => {
    if (given) throw invalid(`${name}.${option}`, `the default with router.type '${type}'`, router[option]);
  };
  refuse('groups', router.groups !== undefined);
  refuse('selectionBias', router.selectionBias !== undefined);
  if (drawsExperts(type)) {
    refuse('bias', router.bias);
    refuse('noise', router.noise !== undefined);
  }
  if (type !== 'expert-choice') return;
  refuse('selectBy', router.selectBy !== 'scores');
  refuse('renormalize', router.renormalize !== false);
  refuse('renormalizeAfterDrop', router.renormalizeAfterDrop);
  refuse('secondChoice', router.secondChoice !== 'always');
}

function resolveRenormalize(name: string, value: unknown): ResolvedRouter['renormalize'] {
  if (value === false) return false;
  if (value === true) return { p: 1, epsilon: 1e-20 };
  if (typeof value !== 'object' || value === null) throw invalid(name, 'true, false or { p, epsilon }', value);
  const { p, epsilon } = checkOptions(name, value, renormalizeOptions);
  return {
    // Below, K^(1/p) leaves the range of doubles.
    p: checkNumber(`${name}.p`, orDefault(p, 1), { min: 0.01 }),
    epsilon: checkNumber(`${name}.epsilon`, orDefault(epsilon, 1e-20), { min: 0 }),
  };
}

function resolveSecondChoice(name: string, value: unknown): ResolvedRouter['secondChoice'] {
  if (value === 'always') return value;
  if (typeof value !== 'object' || value === null)
    throw invalid(name, "'always' or { type: 'random', threshold }", value);
  const { type, threshold } = checkOptions(name, value, secondChoiceOptions);
  return {
    type: checkOneOf(`${name}.type`, type, ['random']),
    threshold: checkNumber(`${name}.threshold`, threshold, { above: 0 }),
  };
}

function resolveNoise(name: string, value: unknown): NonNullable<RouterConfig['noise']> {
  const given = checkObject(name, value);
  const type = checkOneOf(`${name}.type`, given.type, noiseTypes);
  if (type === 'jitter') {
    checkOptions(name, value, new Set(['type', 'epsilon']));
    return { type, epsilon: checkNumber(`${name}.epsilon`, given.epsilon, { min: 0, below: 1 }) };
  }
  if (type === 'gaussian') {
    checkOptions(name, value, new Set(['type', 'std']));
    return { type, std: checkNumber(`${name}.std`, given.std, { min: 0 }) };
  }
  checkOptions(name, value, new Set(['type']));
  return { type };
}

function resolveGroups(name: string, value: unknown, numExperts: number): NonNullable<RouterConfig['groups']> {
  const { count, keep, score } = checkOptions(name, value, groupOptions);
  const groups = checkInteger(`${name}.count`, count, 1, numExperts, 'numExperts');
  if (numExperts % groups !== 0) throw invalid(`${name}.count`, `a divisor of numExperts (${numExperts})`, count);
  return {
    count: groups,
    keep: checkInteger(`${name}.keep`, keep, 1, groups, 'groups.count'),
    score: checkOneOf(`${name}.score`, score, ['max', 'top2-sum']),
  };
}

function resolveAllowed(name: string, value: unknown, numExperts: number): readonly (readonly number[])[] {
  if (!Array.isArray(value) || value.length === 0) throw invalid(name, 'an array of arrays of expert indices', value);
  return value.map((experts: unknown, type) => {
    if (!Array.isArray(experts) || experts.length === 0)
      throw invalid(`${name}[${type}]`, 'an array of expert indices', experts);
    return experts.map((expert, i) =>
      checkInteger(`${name}[${type}][${i}]`, expert, 0, numExperts - 1, 'numExperts - 1'),
    );
  });
}
