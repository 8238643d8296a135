/** Cases of the routers that are not top-K. */

import { ALL_LOSSES, type Case, odd } from './case.js';
import type { RouterOptions } from './reference-router.js';

const HALVES = [
  [0, 1, 2, 3],
  [3, 4, 5, 6],
];

const sinkhorn = (name: string, rest: Parameters<typeof odd>[1], router: RouterOptions = {}): Case =>
  odd(`sinkhorn: ${name}`, {
    tokens: 29,
    distribution: 'skewed',
    ...rest,
    config: { losses: ALL_LOSSES, ...rest?.config, router: { type: 'sinkhorn', ...router } },
  });

const SINKHORN: readonly Case[] = [
  ...[1, 2, 3].flatMap((topK) => [
    sinkhorn(`K = ${topK}`, { config: { topK } }),
    sinkhorn(`K = ${topK}, all want one`, { distribution: 'one-expert', config: { topK } }),
  ]),
  sinkhorn('options that it ignores', { config: { topK: 3 } }, { scoring: 'sigmoid', selectBy: 'logits' }),
  sinkhorn('temperature, bias, renormalised', {}, { temperature: 0.6, bias: true, renormalize: true, weightScale: 2 }),
  sinkhorn('masks', { mask: 'scattered', lossMask: 'scattered', config: { topK: 1 } }),
  sinkhorn('allowed experts', {}, { allowedExperts: HALVES }),
  sinkhorn('noise', {}, { noise: { type: 'gaussian', std: 0.5 }, allowedExperts: HALVES }),
  sinkhorn('jitter', {}, { noise: { type: 'jitter', epsilon: 0.3 } }),
  sinkhorn('unbiased counts', { config: { losses: { loadBalance: { coefficient: 0.5, counts: 'unbiased' } } } }),
  sinkhorn(
    'load',
    {
      config: { losses: { load: 0.3 } },
    },
    { noise: { type: 'learned' } },
  ),
  sinkhorn('K of the call', { call: { topK: 1 } }),
  ...[1, 2, 3].map((topK) => sinkhorn(`evaluation, K = ${topK}`, { call: { training: false }, config: { topK } })),
  sinkhorn('evaluation, all want one', { distribution: 'one-expert', call: { training: false }, config: { topK: 1 } }),
  sinkhorn('evaluation of one token', { tokens: 1, call: { training: false }, config: { topK: 1 } }),
  sinkhorn('evaluation, allowed experts', { call: { training: false } }, { allowedExperts: HALVES }),
  sinkhorn('evaluation, next choices', {
    call: { training: false },
    config: { capacity: { type: 'fixed', factor: 0.7, overflow: 'next-choice' } },
  }),
  sinkhorn('replayed indices', { routing: 'replay' }),
  sinkhorn("caller's logits", { ownLogits: true }),
  sinkhorn('capacity, next choices', { config: { capacity: { type: 'fixed', factor: 1, overflow: 'next-choice' } } }),
  sinkhorn('no token', { tokens: 0 }),
  sinkhorn('all masked', { mask: 'all' }),
  sinkhorn('many tokens', { tokens: 300, config: { topK: 1 } }),
];

const drawn = (['hash', 'random'] as const).flatMap((type) => {
  const of = (name: string, rest: Parameters<typeof odd>[1] = {}, router: RouterOptions = {}): Case =>
    odd(`${type}: ${name}`, {
      tokens: 29,
      ...rest,
      config: { losses: ALL_LOSSES, ...rest.config, router: { type, ...router } },
    });
  return [
    ...[1, 3, 7].map((topK) => of(`K = ${topK}`, { config: { topK } })),
    of('scaled, mask', { mask: 'scattered' }, { weightScale: 2.5 }),
    of('allowed experts', { config: { topK: 3 } }, { allowedExperts: [[5], [0, 3, 4, 6]] }),
    of('another step and token', { call: { noiseStep: 2 ** 33 + 5, tokenOffset: 2 ** 32 - 3 } }),
    of('evaluation', { call: { training: false } }),
    of('replayed indices', { routing: 'replay' }),
    of("caller's weights", { routing: 'weights' }),
    of('capacity, residual', { config: { capacity: { type: 'fixed', factor: 0.6, overflow: 'residual' } } }),
    of(
      'capacity, next choices, renormalised after drops',
      { config: { capacity: { type: 'fixed', factor: 1, overflow: 'next-choice' }, topK: 3 } },
      { renormalizeAfterDrop: true },
    ),
    of('second choice', {}, { secondChoice: { type: 'random', threshold: 0.7 } }),
    of('no token', { tokens: 0 }),
  ];
});

const choice = (name: string, rest: Parameters<typeof odd>[1] = {}, router: RouterOptions = {}): Case =>
  odd(`expert choice: ${name}`, {
    tokens: 29,
    distribution: 'skewed',
    ...rest,
    config: {
      losses: { importance: { coefficient: 0.3, from: 'softmax' }, z: 0.1 },
      ...rest.config,
      router: { type: 'expert-choice', ...router },
    },
  });

const EXPERT_CHOICE: readonly Case[] = [
  choice('dropless, which is the factor 1'),
  choice('all tokens want one expert', { distribution: 'one-expert', config: { topK: 1 } }),
  choice('factor 2', { config: { capacity: { type: 'fixed', factor: 2 } } }),
  choice('factor of the call, K of the call', {
    config: { capacity: { type: 'fixed', factor: 1 } },
    call: { capacityFactor: 0.5, topK: 3 },
  }),
  choice('factor of the call, none configured', { call: { capacityFactor: 1.5 } }),
  choice('factor of the call in evaluation', { call: { capacityFactor: 0.5, training: false } }),
  choice('slots, at least and in multiples', {
    config: { capacity: { type: 'fixed', slots: 3, min: 4, multipleOf: 3 } },
  }),
  choice('every token for everybody', { config: { capacity: { type: 'fixed', factor: 100 } } }),
  choice(
    'sigmoid, scaled, temperature, bias',
    {},
    { scoring: 'sigmoid', weightScale: 2.5, temperature: 0.6, bias: true },
  ),
  choice('masks', { mask: 'scattered', lossMask: 'scattered' }),
  choice('fewer tokens than slots', { mask: 'scattered', config: { capacity: { type: 'fixed', factor: 100 } } }),
  choice('allowed experts', { mask: 'scattered' }, { allowedExperts: HALVES }),
  choice('noise', {}, { noise: { type: 'learned' } }),
  choice('noise, sigmoid', {}, { noise: { type: 'gumbel' }, scoring: 'sigmoid', temperature: 1.5 }),
  choice('jitter', {}, { noise: { type: 'jitter', epsilon: 0.3 } }),
  choice("caller's noise", { ownNoise: true }),
  choice("caller's logits", { ownLogits: true }),
  choice('evaluation', {
    call: { training: false },
    config: { capacity: { type: 'fixed', factor: 2, evalFactor: 0.5 } },
  }),
  choice('shared experts', { config: { experts: { bias: true, shared: { ffnSize: 5, gate: 'sigmoid' } } } }),
  choice('one token', { tokens: 1 }),
  choice('no token', { tokens: 0 }),
  choice('all masked', { mask: 'all' }),
  choice('many tokens', { tokens: 300 }),
];

const LEARNED = { noise: { type: 'learned' }, bias: true, renormalize: true } as const;

const GATES: readonly Case[] = [0, 1, 2].flatMap((gate) => [
  odd(`gates: number ${gate} of 3`, {
    distribution: 'skewed',
    call: { gate },
    config: { gates: 3, losses: ALL_LOSSES, router: LEARNED },
  }),
  odd(`gates: number ${gate} of 3, selection bias`, {
    call: { gate },
    config: { gates: 3, router: { scoring: 'sigmoid', selectionBias: { rate: 0.1 } } },
  }),
  odd(`gates: number ${gate} of 3, which draw`, { call: { gate }, config: { gates: 3, router: { type: 'random' } } }),
]);

export const TYPES: readonly Case[] = [...SINKHORN, ...drawn, ...EXPERT_CHOICE, ...GATES];
