/**
 * The float64 reference of the route stage over a whole call: logits, noise, choices, weights, and the way back to the
 * router's parameters and the input. One token's arithmetic is reference-router, the draws are reference-noise.
 */

import type { Call, Forward, Gradients, LayerConfig, Parameters } from './reference.js';
import { adoptIndices, nearTie } from './reference-adopt.js';
import { adoptTokens, chosenTokens, expertSlots, takersOf } from './reference-expert-choice.js';
import {
  addMatVecInputGrad,
  addMatVecWeightGrad,
  addScaled,
  matVec,
  row,
  sigmoid,
  softplus,
  type Vector,
} from './reference-math.js';
import { draws, gumbels, jitters, type NoiseKey, type NoisePurpose, normals } from './reference-noise.js';
import { placementBackward } from './reference-overflow.js';
import {
  topK as bestOf,
  comparedValues,
  drawsExperts,
  type RouterOptions,
  restrictToGroups,
  scoreSelected,
  scoreSelectedBackward,
  weigh,
  weighBackward,
} from './reference-router.js';
import { sinkhornShifts } from './reference-sinkhorn.js';

export interface Routing {
  input: Vector; // [T,H] as the router sees it, with jitter
  jitter: Vector | undefined; // [T,H]
  logits: Vector; // [T,E], after bias, before temperature and noise; 0 where masked
  open: Vector; // [T,E], the same with −∞ for experts that the token may not use
  u: Vector; // [T,E], open logits over the temperature
  v: Vector; // [T,E], u with noise
  noise: Vector | undefined; // [T,E], what was drawn, before its deviation
  noiseLogits: Vector | undefined; // [T,E], x·W_nᵀ of learned noise
  deviations: Vector | undefined; // [T,E], of gaussian and learned noise
  chosen?: Int32Array; // [E,C], where experts choose; choices are then [T,E] instead of [T,K]
  drawn: Vector | undefined; // [T,E], what hash and random compare
  shifts: Vector | undefined; // [E], what Sinkhorn adds to v in training
  indices: Int32Array; // [T,K], −1 where masked and where no expert is left
  scores: Vector; // [T,K], before renormalisation
  weights: Vector; // [T,K], before drops
}

/** What the draws of a call are keyed by. */
export function drawKey({ seed = 1 }: LayerConfig, call: Call, purpose: NoisePurpose): NoiseKey {
  return { seed, step: call.noiseStep ?? 0, purpose, tokenOffset: call.tokenOffset ?? 0 };
}

export function route(
  config: LayerConfig,
  parameters: Parameters,
  call: Call,
  { live, topK, temperature }: { live: readonly boolean[]; topK: number; temperature: number },
): Routing {
  const { hiddenSize: H, numExperts: E, router = {} } = config;
  const T = live.length;
  const training = call.training ?? true;
  const key = drawKey(config, call, 'router noise');
  const drawn = training && call.noise === undefined ? router.noise : undefined;
  const routerRuns = call.routing?.weights === undefined && !drawsExperts(router);

  const jitter = drawn?.type === 'jitter' ? jitters(draws(T, H, key), drawn.epsilon) : undefined;
  const input = jitter ? call.input.map((x, i) => x * jitter[i]!) : call.input;
  const logits = new Float64Array(T * E);
  const noiseLogits = router.noise?.type === 'learned' ? new Float64Array(T * E) : undefined;
  live.forEach((isLive, t) => {
    if (!isLive || !routerRuns) return;
    const clean = call.logits ? row(call.logits, t, E).slice() : matVec(parameters['router.weight']!, row(input, t, H));
    if (router.bias) addScaled(clean, 1, parameters['router.bias']!);
    row(logits, t, E).set(clean);
    if (noiseLogits) row(noiseLogits, t, E).set(matVec(parameters['router.noise']!, row(call.input, t, H)));
  });

  const allowed = router.allowedExperts?.map((experts) => new Set(experts));
  const open = logits.map((l, i) => {
    const t = Math.floor(i / E);
    return !live[t] || !allowed || allowed[call.tokenTypes![t]!]!.has(i % E) ? l : -Infinity;
  });
  const u = open.map((l) => l / temperature);

  const isNormal = drawn?.type === 'gaussian' || drawn?.type === 'learned';
  let noise = isNormal ? normals(T, E, key) : undefined;
  if (drawn?.type === 'gumbel') noise = gumbels(draws(T, E, key));
  let deviations: Vector | undefined;
  if (router.noise?.type === 'gaussian') deviations = new Float64Array(T * E).fill(router.noise.std);
  if (noiseLogits) deviations = noiseLogits.map((n) => softplus(n) + 0.01);
  const v = u.map((value, i) => {
    const divisor = router.noise?.type === 'gumbel' ? temperature : 1;
    if (call.noise) return live[Math.floor(i / E)] ? value + call.noise[i]! / divisor : value;
    return noise ? value + (noise[i]! * (deviations?.[i] ?? 1)) / divisor : value;
  });

  const routing: Routing = {
    input,
    jitter,
    logits,
    open,
    u,
    v,
    noise,
    noiseLogits,
    deviations,
    drawn: drawsExperts(router) ? drawnValues(config, call, open) : undefined,
    shifts: router.type === 'sinkhorn' && training ? sinkhornShifts(v, live, E) : undefined,
    indices: new Int32Array(T * topK).fill(-1),
    scores: new Float64Array(T * topK),
    weights: new Float64Array(T * topK),
  };
  choose(routing, config, parameters['router.selectionBias'], call, live, topK);
  return routing;
}

/** The 24 highest bits of a draw for every token and expert; −∞ where the expert may not be used. */
function drawnValues({ numExperts: E, router = {}, seed = 1 }: LayerConfig, call: Call, open: Vector): Vector {
  const isHash = router.type === 'hash';
  const key = isHash
    ? { seed, step: 0, purpose: 'hash' as const, tokenOffset: 0 }
    : drawKey({ seed } as LayerConfig, call, 'expert');
  const bits = draws(open.length / E, E, key, isHash ? call.tokenIds : undefined);
  return Float64Array.from(bits, (b, i) => (open[i] === -Infinity ? -Infinity : b >>> 8));
}

/** What the choice of a token compares [E]; −∞ is never chosen. */
export function comparedBy(
  { drawn, shifts, v }: Routing,
  t: number,
  numExperts: number,
  router: RouterOptions,
  selectionBias: Vector | undefined,
): Vector {
  if (drawn) return row(drawn, t, numExperts);
  if (shifts) return row(v, t, numExperts).map((value, e) => value + shifts[e]!);
  return comparedValues(row(v, t, numExperts), router, selectionBias);
}

/** The largest difference of what choices compare that is a near-tie; undefined where they compare whole numbers. */
export function nearTieOfChoices(
  routing: Routing,
  live: readonly boolean[],
  numExperts: number,
  router: RouterOptions,
  selectionBias: Vector | undefined,
): number | undefined {
  if (routing.drawn) return undefined;
  // The Sinkhorn router adds to the logits what makes all experts alike: of one token nothing else is left.
  const of = (t: number): Vector =>
    routing.shifts ? row(routing.v, t, numExperts) : comparedBy(routing, t, numExperts, router, selectionBias);
  return nearTie(live.flatMap((isLive, t) => (isLive ? [...of(t)] : [])));
}

function choose(
  routing: Routing,
  { numExperts: E, router = {}, ...rest }: LayerConfig,
  selectionBias: Vector | undefined,
  call: Call,
  live: readonly boolean[],
  topK: number,
): void {
  const { v, indices } = routing;
  if (router.type === 'expert-choice') {
    const ours = chosenTokens(v, live, E, expertSlots({ numExperts: E, router, ...rest }, call, live.length), router);
    routing.chosen = call.adopt ? adoptTokens(call.adopt.indices, ours, v, E, router) : ours;
    indices.set(takersOf(routing.chosen, live.length, E));
    live.forEach((isLive, t) => {
      if (!isLive) return;
      const s = scoreSelected(row(v, t, E), [...indices.subarray(t * E, (t + 1) * E)], router);
      row(routing.scores, t, E).set(s);
      row(routing.weights, t, E).set(weigh(s, router));
    });
    return;
  }
  const compared = (t: number): Vector => comparedBy(routing, t, E, router, selectionBias);
  if (call.adopt && !call.routing) {
    const tolerance = nearTieOfChoices(routing, live, E, router, selectionBias);
    indices.set(adoptIndices(call.adopt.indices, compared, live, E, topK, router, tolerance));
  } else {
    live.forEach((isLive, t) => {
      const given = call.routing && Array.from({ length: topK }, (_, k) => call.routing!.indices[t * topK + k]!);
      if (isLive) indices.set(given ?? bestOf(restrictToGroups(compared(t), router), topK), t * topK);
    });
  }
  live.forEach((isLive, t) => {
    if (!isLive) return;
    const given = call.routing?.weights && row(call.routing.weights, t, topK);
    const s = given ?? scoreSelected(row(v, t, E), [...indices.subarray(t * topK, (t + 1) * topK)], router);
    row(routing.scores, t, topK).set(s);
    row(routing.weights, t, topK).set(given ?? weigh(s, router));
  });
}

/** Weights and losses → logits → router parameters and input (or the caller's logits), for one token. */
export function routeBackward(
  pass: Forward,
  gradients: Gradients,
  t: number,
  dOutput: Vector,
  lossScale: number,
): void {
  const { config, call, topK, routing, losses, temperature } = pass;
  const { hiddenSize: H, numExperts: E, router = {} } = config;
  const v = row(routing.v, t, E);
  const own = <A extends Int32Array>(values: A): number[] => [...values.subarray(t * topK, (t + 1) * topK)];
  const { used, kept, scores } = pass.placement;
  const dUsed = placementBackward(row(scores, t, topK), Int32Array.from(own(kept)), router, dOutput);
  const dNoisy = scoreSelectedBackward(v, own(used), router, dUsed);
  // The losses are about the weights before drops.
  const dWeights = row(losses.dWeights, t, topK).map((d) => d * lossScale);
  const dScores = weighBackward(row(routing.scores, t, topK), router, dWeights);
  addScaled(dNoisy, 1, scoreSelectedBackward(v, own(routing.indices), router, dScores));
  addScaled(dNoisy, lossScale, row(losses.dNoisy, t, E));
  const dLogits = dNoisy.map((d) => d / temperature);
  addScaled(dLogits, lossScale, row(losses.dLogits, t, E));
  const dx = row(gradients.input, t, H);

  if (routing.noiseLogits) {
    const dNoiseLogits = row(routing.noiseLogits, t, E).map((n, e) => {
      const drawn = routing.noise ? dNoisy[e]! * routing.noise[t * E + e]! : 0;
      return (drawn + lossScale * losses.dDeviations[t * E + e]!) * sigmoid(n);
    });
    addMatVecWeightGrad(gradients.parameters['router.noise']!, dNoiseLogits, row(call.input, t, H));
    addMatVecInputGrad(dx, pass.parameters['router.noise']!, dNoiseLogits);
  }
  if (router.bias) addScaled(gradients.parameters['router.bias']!, 1, dLogits);
  if (gradients.routingLogits) {
    row(gradients.routingLogits, t, E).set(dLogits);
    return;
  }
  addMatVecWeightGrad(gradients.parameters['router.weight']!, dLogits, row(routing.input, t, H));
  const dInput = new Float64Array(H);
  addMatVecInputGrad(dInput, pass.parameters['router.weight']!, dLogits);
  dx.forEach((_, h) => {
    dx[h]! += dInput[h]! * (routing.jitter?.[t * H + h] ?? 1);
  });
}
