// The options of one forward call: their types, and the checks that need the number of tokens. It runs on every call, so
// it walks the given names once and makes one object.
import type { NativeForwardOptions } from './binding.js';
import { checkBoolean, checkInteger, checkNumber, checkOptions, invalid } from './checks.js';
import { checkGroups, checkLoad, checkLossOf, type ResolvedConfig } from './config.js';
import { checkCoefficient } from './config-experts.js';
import { drawsExperts } from './config-router.js';
import type { DeviceContext } from './context.js';
import { checkShaped, type Tensor } from './tensor.js';

export interface ForwardOptions {
  /** Keep what backward needs and use the training capacity. Default true. */
  training?: boolean;
  /** [T] int32: what the hash router goes by. Needed with that, else unused. */
  tokenIds?: Tensor;
  /** [T] int32 from 0: which list of config.router.allowedExperts holds for each token. Needed with that, else unused. */
  tokenTypes?: Tensor;
  /** [T] int32, 0 = padding: takes no slot, counts in no loss and no statistic, gives output, weights and kept 0. */
  mask?: Tensor;
  /** [T] int32, 0 = routed and computed but counted in no loss. Default: mask. */
  lossMask?: Tensor;
  /**
   * Routing by the caller: indices [T,K] int32. With weights [T,K] float32 the router does not run, its losses are absent
   * and `pass.routingWeightsGrad` holds dL/dweights; without them the router scores the given indices.
   */
  routing?: { indices: Tensor; weights?: Tensor };
  /** [T,E] float32 in place of the router's product; `pass.routingLogitsGrad` holds their gradient. */
  logits?: Tensor;
  /** Which gate, from 0, when the configuration has several. Default 0. */
  gate?: number;
  /**
   * Keys the draws (noise, random priority) in place of the layer's count of training forwards: to do a forward again, draw for draw. Such a call is
   * not counted, neither there nor for the selection bias.
   */
  noiseStep?: number;
  /** The number that the first token's draws are for, when the batch is a part of a larger one. Default 0. */
  tokenOffset?: number;
  /** Coefficients of this call in place of the configured ones; a loss that was off is on for this call. */
  losses?: { loadBalance?: number; importance?: number; load?: number; z?: number };
  /**
   * [T,E] float32 in place of what would be drawn, in and outside training: added as it is to the logits over the
   * temperature, or, with gumbel noise, to the logits before that division.
   */
  noise?: Tensor;
  /**
   * [T,K] float32, larger first, in place of config.capacity.priority: each assignment queues by its own, in its rank where
   * first choices go first. NaN is ERR_NON_FINITE.
   */
  priorities?: Tensor;
  /** 1 to E, for this call. */
  topK?: number;
  /** For this call, in and outside training. Needs a capacity fixed by a factor, or dropless experts that choose (1 then). */
  capacityFactor?: number;
  /** For this call, in place of the layer's. */
  temperature?: number;
}

const forwardOptions = new Set([
  'training',
  'tokenIds',
  'tokenTypes',
  'mask',
  'lossMask',
  'routing',
  'logits',
  'gate',
  'noiseStep',
  'tokenOffset',
  'losses',
  'noise',
  'priorities',
  'topK',
  'capacityFactor',
  'temperature',
]);
const routingOptions = new Set(['indices', 'weights']);
const lossOptions = new Set(['loadBalance', 'importance', 'load', 'z']);

/** Checks the options of a call on `tokens` tokens and translates them. */
export function forwardCall(
  context: DeviceContext,
  config: ResolvedConfig,
  tokens: number,
  value: unknown,
): NativeForwardOptions {
  const call: NativeForwardOptions = { training: true };
  if (value === undefined) {
    checkTypes(call, config);
    return call;
  }
  const given = checkOptions('options', value, forwardOptions);
  const perToken = [tokens];
  if (given.topK !== undefined)
    call.topK = checkInteger('options.topK', given.topK, 1, config.numExperts, 'numExperts');
  if (call.topK !== undefined) checkGroups('options.topK', call.topK, config);
  for (const name in given) {
    const option = given[name];
    if (option === undefined) continue;
    switch (name as keyof ForwardOptions) {
      case 'training':
        call.training = checkBoolean('options.training', option);
        break;
      case 'mask':
        call.mask = checkShaped('options.mask', option, context, 'int32', perToken, '[T]');
        break;
      case 'lossMask':
        call.lossMask = checkShaped('options.lossMask', option, context, 'int32', perToken, '[T]');
        break;
      case 'routing':
        addRouting(call, context, [tokens, call.topK ?? config.topK], option);
        break;
      case 'logits':
        call.logits = checkShaped('options.logits', option, context, 'float32', [tokens, config.numExperts], '[T,E]');
        break;
      case 'losses':
        addLosses(call, config, option);
        break;
      case 'noise':
        call.noise = checkShaped('options.noise', option, context, 'float32', [tokens, config.numExperts], '[T,E]');
        break;
      case 'priorities':
        call.priorities = checkShaped(
          'options.priorities',
          option,
          context,
          'float32',
          [tokens, call.topK ?? config.topK],
          '[T,K]',
        );
        break;
      case 'tokenTypes':
        call.tokenTypes = checkShaped('options.tokenTypes', option, context, 'int32', perToken, '[T]');
        break;
      case 'tokenIds':
        call.tokenIds = checkShaped('options.tokenIds', option, context, 'int32', perToken, '[T]');
        break;
      case 'gate':
        call.gate = checkInteger('options.gate', option, 0, config.gates - 1, 'config.gates - 1');
        break;
      case 'noiseStep':
      case 'tokenOffset':
        call[name as 'noiseStep' | 'tokenOffset'] = checkInteger(`options.${name}`, option, 0, Number.MAX_SAFE_INTEGER);
        break;
      case 'capacityFactor':
        if (!goesByFactor(config))
          throw invalid(
            'options.capacityFactor',
            "a layer whose config.capacity is fixed by a factor, or dropless with router.type 'expert-choice'",
            option,
          );
        call.capacityFactor = checkNumber('options.capacityFactor', option, { above: 0 });
        break;
      case 'temperature':
        call.temperature = checkNumber('options.temperature', option, { above: 0 });
        break;
      case 'topK':
        break;
    }
  }
  if (call.routingWeights !== undefined && call.logits !== undefined)
    throw invalid('options.logits', 'no logits beside routing.weights: the router does not run', given.logits);
  checkRouted(call, config, given);
  checkTypes(call, config);
  return call;
}

/** Experts that choose, without a capacity, choose by the factor 1. */
function goesByFactor({ capacity, router }: ResolvedConfig): boolean {
  if (capacity.type === 'dropless') return router.type === 'expert-choice';
  return capacity.type === 'fixed' && capacity.factor !== undefined;
}

/** What a router that does not go by logits, or by tokens, cannot be given. */
function checkRouted(call: NativeForwardOptions, { router: { type } }: ResolvedConfig, given: ForwardOptions): void {
  const refuse = (name: 'logits' | 'noise' | 'routing' | 'priorities', what: string) => {
    if (given[name] !== undefined) throw invalid(`options.${name}`, `${what} with router.type '${type}'`, given[name]);
  };
  if (drawsExperts(type) && call.routingWeights === undefined) {
    refuse('logits', 'none: experts are drawn');
    refuse('noise', 'none: experts are drawn');
  }
  if (type === 'expert-choice') {
    refuse('routing', 'none: experts choose tokens');
    refuse('priorities', 'none: experts choose tokens');
  }
}

function checkTypes(call: NativeForwardOptions, { router }: ResolvedConfig): void {
  if (router.type === 'hash' && call.tokenIds === undefined && call.routingWeights === undefined)
    throw invalid('options.tokenIds', "the id of every token, for config.router.type 'hash'", undefined);
  if (router.allowedExperts && call.tokenTypes === undefined && call.routingWeights === undefined)
    throw invalid('options.tokenTypes', 'the type of every token, for config.router.allowedExperts', undefined);
}

function addRouting(call: NativeForwardOptions, context: DeviceContext, shape: number[], value: unknown): void {
  const { indices, weights } = checkOptions('options.routing', value, routingOptions);
  call.routingIndices = checkShaped('options.routing.indices', indices, context, 'int32', shape, '[T,K]');
  if (weights !== undefined)
    call.routingWeights = checkShaped('options.routing.weights', weights, context, 'float32', shape, '[T,K]');
}

function addLosses(call: NativeForwardOptions, config: ResolvedConfig, value: unknown): void {
  const given = checkOptions('options.losses', value, lossOptions);
  for (const name of ['loadBalance', 'importance', 'load', 'z'] as const) {
    if (given[name] !== undefined) call[name] = checkCoefficient(`options.losses.${name}`, given[name]);
  }
  for (const name of ['loadBalance', 'load'] as const) checkLossOf('options.losses', name, call[name], config.router);
  if (config.losses.importance?.from !== 'softmax')
    checkLossOf('options.losses', 'importance', call.importance, config.router);
  if (call.load !== undefined) checkLoad('options.losses.load', config);
}
