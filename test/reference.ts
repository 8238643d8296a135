/**
 * The reference: the mixture-of-experts layer in float64, one token after the other, forward and full backward. It is
 * written from the mathematics and shares nothing, not even a type, with the library it judges; reference.test.ts proves
 * it by finite differences. Speed is no aim.
 *
 * Symbols: T tokens, H hiddenSize, F ffnSize, S shared width, E experts, K choices per token. Every array is row-major;
 * its shape stands in a comment. Split by concern: reference-router (logits → weights), reference-capacity (who gets a
 * slot), reference-overflow (what becomes of those without), reference-experts (one feed-forward network), reference-losses, reference-noise, reference-adopt; the route stage
 * of a whole call is reference-route.
 */

import type { Decisions } from './reference-adopt.js';
import type { CapacityOptions } from './reference-capacity.js';
import { expertSlots } from './reference-expert-choice.js';
import { type Activation, type Ffn, ffnBackward, ffnForward, isGated } from './reference-experts.js';
import { balancingLosses, type LossCoefficients, type LossOptions, type LossResult } from './reference-losses.js';
import { addScaled, dot, row, sigmoid, sum, type Vector } from './reference-math.js';
import { dropoutFactors } from './reference-noise.js';
import { type Placement, place } from './reference-overflow.js';
import { drawKey, type Routing, route, routeBackward } from './reference-route.js';
import { drawsExperts, effective, probabilities, type RouterOptions } from './reference-router.js';

export interface LayerConfig {
  hiddenSize: number;
  ffnSize: number;
  numExperts: number;
  topK: number;
  router?: RouterOptions;
  capacity?: CapacityOptions;
  experts?: {
    activation?: Activation;
    bias?: boolean;
    dropout?: number;
    shared?: { ffnSize: number; gate?: 'none' | 'sigmoid' };
  };
  losses?: LossOptions;
  /** Routers over the same experts. */
  gates?: number;
  /** Of the noise; default 1. */
  seed?: number;
}

/** Parameter name → values; gradients have the same form. */
export type Parameters = Record<string, Vector>;

export interface Call {
  input: Vector; // [T,H]
  training?: boolean;
  mask?: ArrayLike<number>; // [T], 0 = padding
  lossMask?: ArrayLike<number>; // [T], 0 = counted in no loss
  routing?: { indices: ArrayLike<number>; weights?: Vector }; // both [T,K]
  logits?: Vector; // [T,E], in place of the router's GEMM
  noise?: Vector; // [T,E], in place of what is drawn
  priorities?: Vector; // [T,K], larger first
  tokenTypes?: ArrayLike<number>; // [T]
  tokenIds?: ArrayLike<number>; // [T]
  gate?: number;
  noiseStep?: number;
  tokenOffset?: number;
  losses?: LossCoefficients;
  topK?: number;
  capacityFactor?: number;
  temperature?: number;
  /** Choices to take over, if they differ from the reference's own by near-ties only. */
  adopt?: Decisions;
}

export interface Stats {
  tokens: number;
  losses: LossResult['values'];
  assigned: Int32Array; // [E], before drops
  kept: Int32Array; // [E]
  capacity: number | null;
  droppedAssignments: number;
  droppedTokens: number;
  imbalance: number;
  routerEntropy: number;
  utilization: number;
}

export interface Forward {
  config: LayerConfig;
  parameters: Parameters;
  call: Call;
  tokens: number;
  topK: number;
  live: boolean[]; // [T]
  output: Vector; // [T,H]
  logits: Vector | undefined; // [T,E], after bias, before temperature; 0 where masked
  routing: Routing;
  temperature: number;
  indices: Int32Array; // [T,K], −1 where masked and where no expert is left
  scores: Vector; // [T,K], before renormalisation
  placement: Placement;
  weights: Vector; // [T,K], 0 where dropped
  kept: Int32Array; // [T,K]
  losses: LossResult;
  stats: Stats;
}

export interface Gradients {
  input: Vector; // [T,H]
  parameters: Parameters;
  routingWeights?: Vector; // [T,K], when the caller gave weights
  routingLogits?: Vector; // [T,E], when the caller gave logits
}

/** Which parameters a configuration has, with PyTorch's layout [out, in], stacked over experts. */
export function parameterShapes(config: LayerConfig): Record<string, number[]> {
  const { hiddenSize: H, ffnSize: F, numExperts: E, experts = {} } = config;
  const gated = isGated(experts.activation ?? 'swiglu');
  const shapes: Record<string, number[]> = {};
  const { gates = 1, router = {} } = config;
  for (let gate = 0; gate < gates; gate++) {
    const prefix = gates === 1 ? 'router.' : `router.${gate}.`;
    if (!drawsExperts(router)) shapes[`${prefix}weight`] = [E, H];
    if (router.bias) shapes[`${prefix}bias`] = [E];
    if (router.noise?.type === 'learned') shapes[`${prefix}noise`] = [E, H];
    if (router.selectionBias) shapes[`${prefix}selectionBias`] = [E];
  }
  if (gated) shapes['experts.gate'] = [E, F, H];
  shapes['experts.up'] = [E, F, H];
  shapes['experts.down'] = [E, H, F];
  if (experts.bias) {
    if (gated) shapes['experts.gateBias'] = [E, F];
    shapes['experts.upBias'] = [E, F];
    shapes['experts.downBias'] = [E, H];
  }
  if (experts.shared) {
    const S = experts.shared.ffnSize;
    if (gated) shapes['shared.gate'] = [S, H];
    shapes['shared.up'] = [S, H];
    shapes['shared.down'] = [H, S];
    if (experts.shared.gate === 'sigmoid') shapes['shared.outputGate'] = [1, H];
  }
  return shapes;
}

/** The matrices of expert e as views into the stacked parameters (or into their gradients). */
function expertOf(parameters: Parameters, e: number, numExperts: number): Ffn {
  const part = (name: string): Vector | undefined => {
    const stacked = parameters[name];
    return stacked && row(stacked, e, stacked.length / numExperts);
  };
  return {
    gate: part('experts.gate'),
    up: part('experts.up')!,
    down: part('experts.down')!,
    gateBias: part('experts.gateBias'),
    upBias: part('experts.upBias'),
    downBias: part('experts.downBias'),
  };
}

function sharedOf(parameters: Parameters): Ffn {
  return { gate: parameters['shared.gate'], up: parameters['shared.up']!, down: parameters['shared.down']! };
}

// ------------------------------------------------------------------------------------------------------------ forward

/** The parameters with the gate of the call as 'router.weight' and so on: the same arrays by other names. */
function ofGate(parameters: Parameters, { gates = 1 }: LayerConfig, { gate = 0 }: Call): Parameters {
  if (gates === 1) return parameters;
  const own = Object.entries(parameters).filter(([name]) => name.startsWith(`router.${gate}.`));
  const renamed = own.map(([name, values]) => [name.replace(`.${gate}.`, '.'), values] as const);
  return { ...parameters, ...Object.fromEntries(renamed) };
}

export function forward(configured: LayerConfig, ownParameters: Parameters, call: Call): Forward {
  const parameters = ofGate(ownParameters, configured, call);
  const { hiddenSize: H, numExperts: E } = configured;
  const expertsChoose = configured.router?.type === 'expert-choice';
  const topK = expertsChoose ? E : (call.topK ?? configured.topK);
  const router = effective(configured.router ?? {}, topK);
  const config = { ...configured, router };
  const tokens = call.input.length / H;
  const live = Array.from({ length: tokens }, (_, t) => call.mask?.[t] !== 0);
  const temperature = call.temperature ?? router.temperature ?? 1;

  const routerRuns = call.routing?.weights === undefined && !drawsExperts(router);
  const routing = route(config, parameters, call, { live, topK, temperature });
  const { indices, scores } = routing;
  const selectionBias = parameters['router.selectionBias'];
  const placement = expertsChoose
    ? place({ ...config, capacity: { type: 'dropless' } }, withoutDecisions(call), routing, {
        topK,
        live,
        selectionBias,
      })
    : place(config, call, routing, { topK, live, selectionBias });
  if (expertsChoose) placement.capacity = expertSlots(config, call, tokens);

  const counted = live.map((isLive, t) => isLive && call.lossMask?.[t] !== 0);
  const losses = balancingLosses(routerRuns ? (config.losses ?? {}) : {}, routerRuns ? (call.losses ?? {}) : {}, {
    tokens,
    numExperts: E,
    topK,
    temperature,
    router,
    logits: routing.open,
    noisy: routing.v,
    deviations: routing.deviations,
    indices,
    weights: routing.weights,
    counted,
  });
  const output = new Float64Array(tokens * H);
  const result: Forward = {
    config,
    parameters,
    call,
    tokens,
    topK,
    live,
    output,
    logits: routerRuns ? routing.logits : undefined,
    routing,
    temperature,
    indices,
    scores,
    placement,
    weights: placement.weights,
    kept: placement.kept,
    losses,
    stats: emptyStats(E, placement.capacity, losses),
  };
  live.forEach((isLive, t) => {
    if (isLive) row(output, t, H).set(tokenOutput(result, t));
  });
  countStats(result);
  return result;
}

function withoutDecisions({ adopt: _, ...call }: Call): Call {
  return call;
}

/** Of the activations of an expert for token t, 'shared' being one too; undefined where nothing is drawn. */
function dropped({ config, call }: Forward, t: number, expert: number | 'shared'): Vector | undefined {
  const { dropout = 0, shared } = config.experts ?? {};
  if (dropout === 0 || call.training === false) return undefined;
  if (expert === 'shared')
    return dropoutFactors(dropout, shared!.ffnSize, t, 0, drawKey(config, call, 'shared dropout'));
  return dropoutFactors(dropout, config.ffnSize, t, expert, drawKey(config, call, 'expert dropout'));
}

/** What a choice multiplies its expert's input and output by. */
function placed({ config, weights }: Forward, assignment: number): { input: number; output: number } {
  const weight = weights[assignment]!;
  return config.router?.applyWeightTo === 'input' ? { input: weight, output: 1 } : { input: 1, output: weight };
}

/**
 * Σ_k w_k·FFN_k(x) over the kept choices, or Σ_k FFN_k(w_k·x), w_k·x over those carried, plus σ(x·w_g)·FFN_shared(x).
 */
function tokenOutput(pass: Forward, t: number): Vector {
  const { config, parameters, topK } = pass;
  const activation = config.experts?.activation ?? 'swiglu';
  const x = row(pass.call.input, t, config.hiddenSize);
  const y = new Float64Array(config.hiddenSize);
  for (let a = t * topK; a < (t + 1) * topK; a++) {
    addScaled(y, pass.placement.carried[a]!, x);
    if (pass.kept[a] === 0) continue;
    const e = pass.placement.used[a]!;
    const expert = expertOf(parameters, e, config.numExperts);
    const { input, output } = placed(pass, a);
    const weighted = x.map((v) => input * v);
    addScaled(y, output, ffnForward(expert, activation, weighted, dropped(pass, t, e)));
  }
  if (config.experts?.shared) {
    const gate = parameters['shared.outputGate'];
    const shared = ffnForward(sharedOf(parameters), activation, x, dropped(pass, t, 'shared'));
    addScaled(y, gate ? sigmoid(dot(gate, x)) : 1, shared);
  }
  return y;
}

// ----------------------------------------------------------------------------------------------------------- backward

/**
 * Gradients of ⟨gradOutput, output⟩ + lossScale·Σ coefficient·loss. `weightsGradient` is what a computation makes of the
 * exact gradient of a token's weights [K] before the router takes it.
 */
export function backward(
  pass: Forward,
  gradOutput: Vector,
  lossScale = 1,
  weightsGradient = (g: Vector) => g,
): Gradients {
  const { config, call, tokens } = pass;
  const { hiddenSize: H, numExperts: E } = config;
  const gradients: Gradients = { input: new Float64Array(tokens * H), parameters: {} };
  for (const name of Object.keys(parameterShapes(config))) {
    gradients.parameters[name] = new Float64Array(pass.parameters[name]!.length);
  }
  const named = gradients.parameters;
  gradients.parameters = ofGate(named, config, call);
  if (call.routing?.weights) gradients.routingWeights = new Float64Array(tokens * pass.topK);
  if (call.logits && pass.logits) gradients.routingLogits = new Float64Array(tokens * E);

  pass.live.forEach((isLive, t) => {
    if (!isLive) return;
    const dy = row(gradOutput, t, H);
    const dWeights = weightsGradient(expertsBackward(pass, gradients, t, dy));
    sharedBackward(pass, gradients, t, dy);
    if (gradients.routingWeights) row(gradients.routingWeights, t, pass.topK).set(dWeights);
    else if (pass.logits) routeBackward(pass, gradients, t, dWeights, lossScale);
  });
  gradients.parameters = named;
  return gradients;
}

/** The routed experts of one token; returns the gradient of its weights [K], 0 where dropped and not carried. */
function expertsBackward(pass: Forward, gradients: Gradients, t: number, dy: Vector): Vector {
  const { config, topK } = pass;
  const { hiddenSize: H, numExperts: E } = config;
  const activation = config.experts?.activation ?? 'swiglu';
  const x = row(pass.call.input, t, H);
  const dWeights = new Float64Array(topK);
  for (let k = 0; k < topK; k++) {
    const a = t * topK + k;
    if (pass.placement.carried[a] !== 0) {
      dWeights[k] = dot(dy, x);
      addScaled(row(gradients.input, t, H), pass.placement.carried[a]!, dy);
    }
    if (pass.kept[a] === 0) continue;
    const e = pass.placement.used[a]!;
    const expert = expertOf(pass.parameters, e, E);
    const factors = dropped(pass, t, e);
    const { input, output } = placed(pass, a);
    const weighted = x.map((v) => input * v);
    const dExpert = expertOf(gradients.parameters, e, E);
    const dExpertOutput = dy.map((d) => d * output);
    const dWeighted = new Float64Array(H);
    ffnBackward(expert, dExpert, activation, weighted, dExpertOutput, dWeighted, factors);
    dWeights[k] =
      config.router?.applyWeightTo === 'input'
        ? dot(dWeighted, x)
        : dot(dy, ffnForward(expert, activation, weighted, factors));
    addScaled(row(gradients.input, t, H), input, dWeighted);
  }
  return dWeights;
}

function sharedBackward(pass: Forward, gradients: Gradients, t: number, dy: Vector): void {
  const { config, parameters } = pass;
  if (!config.experts?.shared) return;
  const activation = config.experts.activation ?? 'swiglu';
  const x = row(pass.call.input, t, config.hiddenSize);
  const dx = row(gradients.input, t, config.hiddenSize);
  const gate = parameters['shared.outputGate'];
  const open = gate ? sigmoid(dot(gate, x)) : 1;
  const scaled = dy.map((d) => d * open);
  const factors = dropped(pass, t, 'shared');
  ffnBackward(sharedOf(parameters), sharedOf(gradients.parameters), activation, x, scaled, dx, factors);
  if (!gate) return;
  const dGateLogit = dot(dy, ffnForward(sharedOf(parameters), activation, x, factors)) * open * (1 - open);
  addScaled(gradients.parameters['shared.outputGate']!, dGateLogit, x);
  addScaled(dx, dGateLogit, gate);
}

// ---------------------------------------------------------------------------------------------------------- statistics

function emptyStats(numExperts: number, capacity: number | null, losses: LossResult): Stats {
  return {
    tokens: 0,
    losses: losses.values,
    assigned: new Int32Array(numExperts),
    kept: new Int32Array(numExperts),
    capacity,
    droppedAssignments: 0,
    droppedTokens: 0,
    imbalance: 0,
    routerEntropy: 0,
    utilization: 0,
  };
}

function countStats(pass: Forward): void {
  const { stats, topK } = pass;
  const E = pass.config.numExperts;
  const liveTokens = [...pass.live.keys()].filter((t) => pass.live[t]);
  stats.tokens = liveTokens.length;
  if (stats.tokens === 0) return;
  const probability = new Float64Array(E);
  for (const t of liveTokens) {
    const kept = pass.kept.subarray(t * topK, (t + 1) * topK);
    const chosen = [...pass.indices.subarray(t * topK, (t + 1) * topK)];
    chosen.forEach((e, k) => {
      if (e < 0) return;
      stats.assigned[e]! += 1;
      stats.kept[pass.placement.used[t * topK + k]!]! += kept[k]!;
    });
    const made = chosen.filter((e) => e >= 0).length;
    stats.droppedAssignments += made - sum(kept);
    if ((made > 0 || pass.routing.chosen) && sum(kept) === 0) stats.droppedTokens += 1;
    const u = row(pass.routing.u, t, E);
    if (pass.logits) addScaled(probability, 1 / stats.tokens, probabilities(u, pass.config.router ?? {}));
  }
  stats.imbalance = Math.max(...stats.assigned) / (sum(stats.assigned) / E);
  stats.routerEntropy = sum(probability.map((p) => (p > 0 ? -p * Math.log(p) : 0)));
  stats.utilization = stats.assigned.filter((n) => n > 0).length / E;
}
