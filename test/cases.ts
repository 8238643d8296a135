/**
 * The one table of layer configurations: shapes × routing distributions × options × tolerances. reference.test.ts proves
 * the float64 reference on it, moe-layer.test.ts holds the library against the reference on it. Only what a case is
 * stands here; problem.ts makes its numbers.
 */

import { ALL_LOSSES, type Case, odd } from './case.js';
import { SLOTS } from './cases-capacity.js';
import { EXPERTS } from './cases-experts.js';
import { AFTER_DROPS, OVERFLOWS } from './cases-overflow.js';
import { NOISES, ROUTER_LOSSES, SELECTIONS } from './cases-router.js';
import { TYPES } from './cases-types.js';

export type { Case };

const shapes: Case[] = [
  odd('three tokens', { tokens: 3 }),
  odd('no token', { tokens: 0, config: { losses: ALL_LOSSES, experts: { bias: true, shared: { ffnSize: 5 } } } }),
  odd('one token', { tokens: 1, config: { losses: ALL_LOSSES } }),
  odd('one token, fixed capacity', { tokens: 1, config: { capacity: { type: 'fixed', factor: 1 } } }),
  odd('K = 1', { config: { topK: 1 } }),
  odd('K = E', { config: { topK: 7 } }),
  odd('K = E, renormalised', { config: { topK: 7, router: { renormalize: true } } }),
  odd('a single expert', { config: { numExperts: 1, topK: 1 }, vanishing: ['router.weight'] }),
  odd('two experts', { config: { numExperts: 2, topK: 2 } }),
  odd('width 1', { config: { hiddenSize: 1, ffnSize: 1, numExperts: 3 } }),
  odd('round sizes', { tokens: 64, config: { hiddenSize: 64, ffnSize: 128, numExperts: 8 } }),
  odd('just past round sizes', { tokens: 65, config: { hiddenSize: 33, ffnSize: 129, numExperts: 9, topK: 3 } }),
  odd('even widths, odd rows', {
    tokens: 61,
    distribution: 'skewed',
    config: {
      hiddenSize: 34,
      ffnSize: 70,
      topK: 3,
      experts: { bias: true, shared: { ffnSize: 22, gate: 'sigmoid' } },
      losses: ALL_LOSSES,
    },
  }),
  odd('even widths, one row and none', { tokens: 5, config: { hiddenSize: 2, ffnSize: 2, numExperts: 12 } }),
  odd('even widths, more rows than a block', {
    tokens: 611,
    distribution: 'one-expert',
    config: { hiddenSize: 22, ffnSize: 38, numExperts: 3, experts: { activation: 'gelu', bias: true } },
  }),
  odd('more experts than tokens', { tokens: 9, config: { numExperts: 64, topK: 6, losses: ALL_LOSSES } }),
  odd('more experts than a lane has bits for', {
    tokens: 5,
    config: { hiddenSize: 2, ffnSize: 2, numExperts: 1100, topK: 3 },
  }),
  // A token's choices and rows are then more than the lanes of a warp.
  ...(
    [
      ['40 of 64 experts', 40, { type: 'dropless' }],
      ['40 of 64 experts, capacity', 40, { type: 'fixed', factor: 0.6 }],
      ['40 of 64 experts, capacity by groups', 40, { type: 'fixed', factor: 0.7, groupSize: 4 }],
      ['64 of 64 experts', 64, { type: 'dropless' }],
      ['64 of 64 experts, capacity by score', 64, { type: 'fixed', factor: 0.5, priority: 'score' }],
      ['64 of 64 experts, all taken by the first', 64, { type: 'fixed', slots: 3, firstChoicesFirst: false }],
    ] as const
  ).map(([name, topK, capacity]) =>
    odd(name, { tokens: 9, config: { hiddenSize: 5, ffnSize: 3, numExperts: 64, topK, capacity, losses: ALL_LOSSES } }),
  ),
  odd('large and ragged: 257×65×131, 5 experts', {
    tokens: 257,
    config: { hiddenSize: 65, ffnSize: 131, numExperts: 5, losses: ALL_LOSSES, router: { renormalize: true } },
  }),
  // 600 rows of one expert are more than one block of depth, and 4,500 rows more than the backward takes in one go.
  odd('many rows of one expert', {
    distribution: 'one-expert',
    tokens: 600,
    config: { hiddenSize: 9, ffnSize: 7, numExperts: 3, topK: 1, experts: { bias: true } },
  }),
  odd('more rows than one wave, drops in every piece', {
    distribution: 'skewed',
    tokens: 5000,
    config: {
      hiddenSize: 3,
      ffnSize: 2,
      numExperts: 2,
      capacity: { type: 'fixed', factor: 0.9, priority: 'score', firstChoicesFirst: false },
      experts: { bias: true },
    },
  }),
  odd('large and ragged: 130×96×160, 3 experts, everything on', {
    tokens: 130,
    config: {
      hiddenSize: 96,
      ffnSize: 160,
      numExperts: 3,
      router: { renormalize: true, bias: true, weightScale: 2.5 },
      capacity: { type: 'fixed', factor: 0.9, priority: 'score' },
      experts: { activation: 'geglu', bias: true, shared: { ffnSize: 48, gate: 'sigmoid' } },
      losses: ALL_LOSSES,
    },
  }),
];

const distributions: Case[] = [
  odd('all tokens on one expert, K = 1', { distribution: 'one-expert', config: { topK: 1, losses: ALL_LOSSES } }),
  odd('all first choices on one expert', { distribution: 'one-expert', config: { losses: ALL_LOSSES } }),
  odd('all tokens on one expert, over capacity', {
    distribution: 'one-expert',
    config: { topK: 1, capacity: { type: 'fixed', factor: 1 }, losses: ALL_LOSSES },
  }),
  odd('experts with no token', { distribution: 'idle-experts', tokens: 21, config: { losses: ALL_LOSSES } }),
  odd('skewed', { distribution: 'skewed', tokens: 33, config: { losses: ALL_LOSSES } }),
  odd('large, all on one expert', {
    distribution: 'one-expert',
    tokens: 193,
    config: { hiddenSize: 40, ffnSize: 72, numExperts: 4, topK: 1 },
  }),
  odd('ties', { distribution: 'ties', tokens: 33 }),
  odd('ties, K = 1', { distribution: 'ties', tokens: 33, config: { topK: 1 } }),
  odd('ties, K = E', { distribution: 'ties', tokens: 33, config: { topK: 7 } }),
  odd('ties among many experts', {
    distribution: 'ties',
    tokens: 33,
    config: { hiddenSize: 5, ffnSize: 3, numExperts: 70, topK: 5 },
  }),
  odd('few of many experts allowed', {
    tokens: 33,
    config: {
      hiddenSize: 5,
      ffnSize: 3,
      numExperts: 70,
      topK: 3,
      router: { allowedExperts: [[69], [0, 17, 33, 34], [5, 68]] },
    },
  }),
  odd('ties under a capacity', {
    distribution: 'ties',
    tokens: 33,
    config: { topK: 3, capacity: { type: 'fixed', factor: 0.5 } },
  }),
];

const routers: Case[] = [
  ...(
    [
      { renormalize: true },
      { renormalize: { p: 2 } },
      { renormalize: { p: 3, epsilon: 0.1 } },
      { renormalize: { p: 600 } },
      { renormalize: { p: 0.5 } },
      { renormalize: { epsilon: 1e-9 } },
      { weightScale: 2.5 },
      { renormalize: true, weightScale: 2.5 },
      { bias: true },
      { temperature: 0.5 },
      { temperature: 3, renormalize: true },
      { selectBy: 'logits' },
      { selectBy: 'logits', temperature: 2, weightScale: 0.5, bias: true },
      { selectBy: 'logits', renormalize: { p: 2 } },
      { selectBy: 'scores', bias: true, temperature: 0.7, renormalize: true, weightScale: 1.5 },
    ] as const
  ).map((router) => odd(`router ${JSON.stringify(router)}`, { config: { topK: 3, router, losses: ALL_LOSSES } })),
  odd('K = 1 renormalised: every weight is 1', {
    config: { topK: 1, router: { renormalize: true } },
    vanishing: ['router.weight'],
  }),
  odd('K = 1 of the logits: every weight is 1', {
    config: { topK: 1, router: { selectBy: 'logits' } },
    vanishing: ['router.weight'],
  }),
  odd('temperature of the call', { call: { temperature: 0.4 }, config: { losses: ALL_LOSSES } }),
  odd('K of the call', { call: { topK: 4 }, config: { losses: ALL_LOSSES } }),
];

const activations: Case[] = (
  [
    'relu',
    'gelu',
    'gelu-tanh',
    'silu',
    'swiglu',
    'geglu',
    'geglu-tanh',
    'reglu',
    { type: 'clamped-swiglu', alpha: 1.702, limit: 0.8 },
  ] as const
).flatMap((activation) => {
  const name = typeof activation === 'object' ? activation.type : activation;
  // A ninth would give ReGLU a row of one pre-activation, 1/32,000 of its terms: float32 has no digits for the row bound.
  const tokens = activation === 'reglu' ? 8 : 12;
  return [
    odd(name, { tokens, config: { experts: { activation } } }),
    odd(`${name}, bias`, { config: { experts: { activation, bias: true } } }),
    odd(`${name}, tails`, { gain: 6, config: { experts: { activation, bias: true } } }),
    odd(`${name}, shared expert`, { tokens, config: { experts: { activation, shared: { ffnSize: 11 } } } }),
    odd(`${name}, gated shared expert, bias`, {
      config: { experts: { activation, bias: true, shared: { ffnSize: 19, gate: 'sigmoid' } } },
    }),
  ];
});

const capacities: Case[] = [
  ...(
    [
      { factor: 1 },
      { factor: 0.5 },
      { factor: 0.5, firstChoicesFirst: false },
      { factor: 0.5, priority: 'score' },
      { factor: 0.5, priority: 'score', firstChoicesFirst: false },
      { slots: 2 },
      { slots: 2, priority: 'score' },
      { factor: 0.1, min: 3 },
      { factor: 0.3, multipleOf: 4 },
      { factor: 0.8, min: 5, multipleOf: 8, overflow: 'drop' },
      { factor: 100 },
    ] as const
  ).flatMap((options) =>
    (['random', 'skewed'] as const).map((distribution) =>
      odd(`capacity ${JSON.stringify(options)}, ${distribution}`, {
        distribution,
        tokens: 29,
        config: { capacity: { type: 'fixed', ...options }, losses: ALL_LOSSES },
      }),
    ),
  ),
  // factor·K·T/E from left to right is 7.000000000000001 in double, so 8 slots; another order of operations gives 7.
  odd('capacity at the edge of a whole number', {
    tokens: 70,
    config: { numExperts: 12, topK: 6, capacity: { type: 'fixed', factor: 0.2 } },
  }),
  odd('most tokens lose all experts', {
    distribution: 'one-expert',
    tokens: 20,
    config: { topK: 1, capacity: { type: 'fixed', slots: 1, priority: 'score' }, experts: { shared: { ffnSize: 6 } } },
  }),
  odd('drops take part in renormalisation', {
    distribution: 'skewed',
    tokens: 20,
    config: {
      topK: 3,
      router: { renormalize: { p: 2 }, weightScale: 1.5 },
      capacity: { type: 'fixed', factor: 0.4, priority: 'score' },
      losses: ALL_LOSSES,
    },
  }),
  odd('score priority with logits selected first', {
    tokens: 20,
    distribution: 'skewed',
    config: {
      topK: 3,
      router: { selectBy: 'logits', weightScale: 3 },
      capacity: { type: 'fixed', factor: 0.5, priority: 'score', firstChoicesFirst: false },
    },
  }),
  odd('evaluation factor', {
    tokens: 20,
    call: { training: false },
    config: { capacity: { type: 'fixed', factor: 2, evalFactor: 0.5 }, losses: ALL_LOSSES },
  }),
  odd('evaluation without its own factor', {
    tokens: 20,
    call: { training: false },
    config: { capacity: { type: 'fixed', factor: 0.5 } },
  }),
  odd('capacity factor of the call', {
    tokens: 20,
    call: { capacityFactor: 0.5 },
    config: { capacity: { type: 'fixed', factor: 4 } },
  }),
];

const losses: Case[] = [
  ...(
    [
      { loadBalance: 0.7 },
      { loadBalance: { coefficient: 0.7, counts: 'all', scope: 'batch' } },
      { loadBalance: { coefficient: 0.7, counts: 'first-choice' } },
      { loadBalance: { coefficient: 0.7, scope: 'sequence', sequenceLength: 4 } },
      { loadBalance: { coefficient: 0.7, counts: 'first-choice', scope: 'sequence', sequenceLength: 3 } },
      { importance: 0.7 },
      { importance: { coefficient: 0.7, from: 'gates' } },
      { importance: { coefficient: 0.7, from: 'softmax' } },
      { z: 0.2 },
    ] as const
  ).flatMap((option) => {
    const name = `loss ${JSON.stringify(option)}`;
    const router = { temperature: 1.7, renormalize: { p: 2 }, bias: true };
    return [
      odd(name, { config: { losses: option } }),
      odd(`${name}, router options`, { lossScale: 3, config: { losses: option, router } }),
      odd(`${name}, masks`, { mask: 'scattered', lossMask: 'scattered', config: { losses: option } }),
      odd(`${name}, drops`, {
        distribution: 'skewed',
        config: { losses: option, capacity: { type: 'fixed', factor: 0.5 } },
      }),
    ];
  }),
  odd('losses scaled by 0', { lossScale: 0, config: { losses: ALL_LOSSES } }),
  odd('coefficients of the call', {
    call: { losses: { loadBalance: 0.9, z: 0 } },
    config: { losses: ALL_LOSSES },
  }),
  odd('no loss token', { lossMask: 'all', config: { losses: ALL_LOSSES } }),
];

const masks: Case[] = [
  odd('mask', { mask: 'scattered', config: { losses: ALL_LOSSES } }),
  odd('mask, shared expert', {
    mask: 'scattered',
    config: { experts: { bias: true, shared: { ffnSize: 9, gate: 'sigmoid' } } },
  }),
  odd('mask, capacity by position', {
    mask: 'scattered',
    tokens: 29,
    config: { capacity: { type: 'fixed', factor: 0.5 }, losses: ALL_LOSSES },
  }),
  odd('mask, capacity by score', {
    mask: 'scattered',
    tokens: 29,
    config: { capacity: { type: 'fixed', factor: 0.5, priority: 'score' }, losses: ALL_LOSSES },
  }),
  odd('a whole sequence masked', {
    mask: 'second-half',
    config: { losses: { loadBalance: { coefficient: 0.6, scope: 'sequence', sequenceLength: 4 }, z: 0.1 } },
  }),
  odd('all masked', { mask: 'all', config: { losses: ALL_LOSSES, experts: { shared: { ffnSize: 9 } } } }),
  odd('loss mask alone', { lossMask: 'scattered', config: { losses: ALL_LOSSES } }),
];

const callerRouting: Case[] = [
  odd('replayed indices', { routing: 'replay', config: { topK: 3, losses: ALL_LOSSES } }),
  odd('replayed indices, renormalised, mask', {
    routing: 'replay',
    mask: 'scattered',
    config: { topK: 3, router: { renormalize: true, bias: true, temperature: 0.8 }, losses: ALL_LOSSES },
  }),
  odd('replayed indices, logits selected first, capacity', {
    routing: 'replay',
    tokens: 29,
    config: { router: { selectBy: 'logits' }, capacity: { type: 'fixed', factor: 0.6, priority: 'score' } },
  }),
  odd("caller's weights", { routing: 'weights', config: { topK: 3 } }),
  odd("caller's weights are not renormalised, no losses", {
    routing: 'weights',
    config: { topK: 3, router: { renormalize: true, weightScale: 3, bias: true }, losses: ALL_LOSSES },
  }),
  odd("caller's weights, capacity, mask", {
    routing: 'weights',
    tokens: 29,
    mask: 'scattered',
    config: { capacity: { type: 'fixed', factor: 0.5 }, experts: { bias: true, shared: { ffnSize: 4 } } },
  }),
  odd("caller's weights are the scores that queue", {
    routing: 'weights',
    tokens: 29,
    config: { topK: 3, capacity: { type: 'fixed', factor: 0.5, priority: 'score' } },
  }),
  odd("caller's weights are the scores that queue, each by its own", {
    routing: 'weights',
    tokens: 29,
    config: { capacity: { type: 'fixed', factor: 0.5, priority: 'score', firstChoicesFirst: false } },
  }),
  odd("caller's logits", { ownLogits: true, config: { losses: ALL_LOSSES } }),
  odd("caller's logits, bias, temperature", {
    ownLogits: true,
    config: { router: { bias: true, temperature: 0.6, renormalize: true }, losses: ALL_LOSSES },
  }),
  odd("caller's logits, mask, capacity", {
    ownLogits: true,
    tokens: 29,
    mask: 'scattered',
    lossMask: 'scattered',
    config: { capacity: { type: 'fixed', factor: 0.6, priority: 'score' }, losses: ALL_LOSSES },
  }),
];

export const CASES: readonly Case[] = [
  ...shapes,
  ...distributions,
  ...routers,
  ...activations,
  ...capacities,
  ...losses,
  ...masks,
  ...callerRouting,
  ...SELECTIONS,
  ...NOISES,
  ...ROUTER_LOSSES,
  ...SLOTS,
  ...EXPERTS,
  ...TYPES,
  ...AFTER_DROPS,
  ...OVERFLOWS,
];
