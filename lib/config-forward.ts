// The options of one forward call: their type and their checks. Most calls give few of them, and none allocates more than
// the plain object that goes to the native code.
import type { NativeForwardOptions } from './binding.js';
import { checkBoolean, checkInteger, checkNumber, checkOptions, invalid } from './checks.js';
import type { ResolvedConfig } from './config.js';
import { checkCoefficient } from './config-experts.js';
import { rejectUnsupportedForward } from './config-unsupported.js';
import type { DeviceContext } from './context.js';
import { checkShaped, type Tensor } from './tensor.js';

/** T is the number of tokens of the call. */
export interface ForwardOptions {
  /** Keep what backward needs and use the training capacity. Default true. */
  training?: boolean;
  /** [T] int32. Not supported yet. */
  tokenIds?: Tensor;
  /** [T] int32. Not supported yet. */
  tokenTypes?: Tensor;
  /**
   * [T] int32, 0 = padding: the token takes no slot, counts in no loss and no statistic, and gives output, weights and
   * kept 0 and indices -1. Its row may hold anything, NaN included.
   */
  mask?: Tensor;
  /** [T] int32, 0 = routed and computed but counted in no loss. Default: mask. */
  lossMask?: Tensor;
  /**
   * Routing given by the caller: indices [T,K] int32; with weights [T,K] float32 the router does not run, its losses are
   * absent, and MoEPass.routingWeightsGrad holds dL/dweights; without, the router scores the given indices (replay).
   */
  routing?: { indices: Tensor; weights?: Tensor };
  /**
   * [T,E] float32 in place of the router's product, the output of a gate of one's own. A configured router.bias is still
   * added. Its gradient is MoEPass.routingLogitsGrad.
   */
  logits?: Tensor;
  /** Not supported yet. */
  gate?: number;
  /** Not supported yet. */
  noiseStep?: number;
  /** Not supported yet. */
  tokenOffset?: number;
  /** Loss coefficients of this call. One that the configuration leaves out is taken, with that loss's defaults. */
  losses?: { loadBalance?: number; importance?: number; load?: number; z?: number };
  /** Not supported yet. */
  noise?: Tensor;
  /** Not supported yet. */
  priorities?: Tensor;
  /** Experts per token in this call, 1 to E. */
  topK?: number;
  /** In place of the configured factor or slots; the layer must have a fixed capacity. */
  capacityFactor?: number;
  /** In place of the layer's temperature. */
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

/** Checks the options of a call over `tokens` tokens and answers what the native code takes; `temperature` is the layer's. */
export function resolveForward(
  value: unknown,
  config: ResolvedConfig,
  context: DeviceContext,
  tokens: number,
  temperature: number,
): NativeForwardOptions {
  const given = checkOptions('options', value, forwardOptions) as ForwardOptions;
  for (const option in given) rejectUnsupportedForward(option, given[option as keyof ForwardOptions]);
  const { training = true, mask, lossMask, routing, logits, losses, capacityFactor } = given;
  const experts = config.numExperts;
  const topK =
    given.topK === undefined ? config.topK : checkInteger('options.topK', given.topK, 1, experts, 'numExperts');
  const native: NativeForwardOptions = { training: checkBoolean('options.training', training), topK, temperature };
  if (given.temperature !== undefined)
    native.temperature = checkNumber('options.temperature', given.temperature, { above: 0 });
  if (capacityFactor !== undefined) {
    if (config.capacity.type !== 'fixed')
      throw invalid('options.capacityFactor', "no factor for a layer whose capacity is 'dropless'", capacityFactor);
    native.capacityFactor = checkNumber('options.capacityFactor', capacityFactor, { above: 0 });
  }
  if (mask !== undefined) native.mask = checkShaped('options.mask', mask, context, 'int32', [tokens], '[T]');
  if (lossMask !== undefined)
    native.lossMask = checkShaped('options.lossMask', lossMask, context, 'int32', [tokens], '[T]');
  if (routing !== undefined) {
    const { indices, weights } = checkOptions('options.routing', routing, routingOptions);
    const shape = [tokens, topK];
    native.routingIndices = checkShaped('options.routing.indices', indices, context, 'int32', shape, '[T,K]');
    if (weights !== undefined)
      native.routingWeights = checkShaped('options.routing.weights', weights, context, 'float32', shape, '[T,K]');
  }
  if (logits !== undefined) {
    if (native.routingWeights)
      throw invalid('options.logits', 'no logits beside routing.weights, which need no router', logits);
    native.logits = checkShaped('options.logits', logits, context, 'float32', [tokens, experts], '[T,E]');
  }
  if (losses !== undefined) {
    const coefficients = checkOptions('options.losses', losses, lossOptions);
    rejectUnsupportedForward('losses.load', coefficients.load);
    for (const name of ['loadBalance', 'importance', 'z'] as const) {
      if (coefficients[name] !== undefined)
        native[name] = checkCoefficient(`options.losses.${name}`, coefficients[name]);
    }
  }
  return native;
}
