/**
 * The float64 reference of what the slots leave of the choices: second choices given up before the queue (GShard), the
 * experts used in place of full ones (no token left behind), weights over the sum of what was kept (DeepSpeed, NLLB), and
 * the residual path of what was not (Switch Transformer).
 */

import type { Call, LayerConfig } from './reference.js';
import { adoptKept, adoptWithheld } from './reference-adopt.js';
import {
  admit,
  asksForSlot,
  type CapacityOptions,
  capacityOf,
  dynamicSlots,
  type Queue,
} from './reference-capacity.js';
import { row, sum, type Vector } from './reference-math.js';
import { draws, unit } from './reference-noise.js';
import { comparedBy, drawKey, nearTieOfChoices, type Routing } from './reference-route.js';
import { type RouterOptions, restrictToGroups, scoreSelected, weigh, weighBackward } from './reference-router.js';

export interface Placement {
  capacity: number | null;
  kept: Int32Array; // [T,K]
  used: Int32Array; // [T,K], the expert that a kept choice got; the chosen one where it was dropped
  scores: Vector; // [T,K] of the used experts
  weights: Vector; // [T,K], 0 where dropped
  carried: Vector; // [T,K], the weights of what the residual path carries
}

/** Gives the slots, then makes the weights of what was kept. */
export function place(
  config: LayerConfig,
  call: Call,
  routing: Routing,
  { topK, live, selectionBias }: { topK: number; live: readonly boolean[]; selectionBias: Vector | undefined },
): Placement {
  const { numExperts: E, router = {} } = config;
  const tokens = live.length;
  const options: CapacityOptions = config.capacity ?? { type: 'dropless' };
  const routerRuns = call.routing?.weights === undefined;
  const { indices, scores } = routing;
  const queue: Queue = {
    scores,
    priorities: call.priorities,
    draws: draws(tokens, E, drawKey(config, call, 'queue')),
    withheld: routerRuns ? withheldSeconds(config, call, scores, topK, tokens) : undefined,
    compared: routerRuns
      ? (t) => restrictToGroups(comparedBy(routing, t, E, router, selectionBias), router)
      : undefined,
  };
  const most = capacityOf(options, {
    tokens,
    topK,
    numExperts: E,
    training: call.training ?? true,
    capacityFactor: call.capacityFactor,
  });
  const queued = indices.map((e, a) => (asksForSlot(a, topK, indices, queue) ? e : -1));
  const capacity = options.type === 'dynamic' ? dynamicSlots(queued, E, most!, options.targetDropRate) : most;
  const actual = call.adopt
    ? adoptKept(call.adopt, indices, E, queue, topK, capacity, options, {
        scored: routerRuns && !routing.drawn,
        compared: nearTieOfChoices(routing, live, E, router, selectionBias),
      })
    : admit(indices, E, queue, topK, capacity, options);

  const kept = actual.map((expert) => (expert >= 0 ? 1 : 0));
  const used = actual.map((expert, a) => (expert >= 0 ? expert : indices[a]!));
  const isResidual = options.type !== 'dropless' && options.overflow === 'residual';
  const placement: Placement = {
    capacity,
    kept,
    used,
    scores: scores.slice(),
    weights: routing.weights.slice(),
    carried: new Float64Array(tokens * topK),
  };
  for (let t = 0; t < tokens; t++) {
    const own = [...used.subarray(t * topK, (t + 1) * topK)];
    const weights = row(placement.weights, t, topK);
    if (routerRuns && own.some((e) => e >= 0)) {
      row(placement.scores, t, topK).set(scoreSelected(row(routing.v, t, E), own, router));
      weights.set(weigh(row(placement.scores, t, topK), router));
    }
    for (let a = t * topK; a < (t + 1) * topK; a++) {
      if (isResidual && kept[a] === 0 && queued[a]! >= 0) placement.carried[a] = placement.weights[a]!;
      if (kept[a] === 0) placement.weights[a] = 0;
    }
    if (routerRuns && router.renormalizeAfterDrop) {
      const flags = kept.subarray(t * topK, (t + 1) * topK);
      weights.set(weighKept(row(placement.scores, t, topK), flags, router.weightScale ?? 1));
    }
  }
  return placement;
}

/** [T]: kept with probability min(1, weight/threshold), the weight without weightScale. */
function withheldSeconds(
  config: LayerConfig,
  call: Call,
  scores: Vector,
  topK: number,
  tokens: number,
): boolean[] | undefined {
  const router = config.router ?? {};
  if (topK < 2 || typeof router.secondChoice !== 'object') return undefined;
  const { threshold } = router.secondChoice;
  const bits = draws(tokens, 1, drawKey(config, call, 'second choice'));
  const seconds = Array.from(
    { length: tokens },
    (_, t) => weigh(row(scores, t, topK), { ...router, weightScale: 1 })[1]!,
  );
  const drawn = Array.from(bits, (b) => unit(b) * threshold);
  return adoptWithheld(drawn, seconds, call.adopt?.kept, topK);
}

/** weightScale · s/Σs over the kept ones, 0 for the others. */
function weighKept(scores: Vector, kept: Int32Array, scale: number): Vector {
  const total = sum(scores.map((s, k) => s * kept[k]!));
  return scores.map((s, k) => (total > 0 ? (scale * s * kept[k]!) / total : 0));
}

/** The gradient of the used experts' scores from that of their weights. */
export function placementBackward(scores: Vector, kept: Int32Array, router: RouterOptions, dWeights: Vector): Vector {
  if (!router.renormalizeAfterDrop) return weighBackward(scores, router, dWeights);
  const total = sum(scores.map((s, k) => s * kept[k]!));
  const mean = sum(scores.map((s, k) => (total > 0 ? (dWeights[k]! * s * kept[k]!) / total : 0)));
  const dKept = scores.map((_, k) =>
    total > 0 ? ((router.weightScale ?? 1) * kept[k]! * (dWeights[k]! - mean)) / total : 0,
  );
  // What the residual path carries has the weight it had before.
  const dCarried = weighBackward(
    scores,
    router,
    dWeights.map((d, k) => (kept[k] === 1 ? 0 : d)),
  );
  return dKept.map((d, k) => d + dCarried[k]!);
}
