/** The table's cases of the router: scoring, selection, noise. */

import { ALL_LOSSES, type Case, odd } from './case.js';

const SIGMOID = { scoring: 'sigmoid' } as const;
const EIGHT = { numExperts: 8, topK: 2, losses: ALL_LOSSES };
const HALVES = [
  [0, 1, 2, 3],
  [3, 4, 5, 6],
];

export const SELECTIONS: Case[] = [
  ...(
    [
      SIGMOID,
      { ...SIGMOID, renormalize: true, weightScale: 2.5 },
      { ...SIGMOID, renormalize: { p: 2, epsilon: 1e-3 }, temperature: 1.7, bias: true },
      { ...SIGMOID, selectBy: 'logits' },
      { selectionBias: { rate: 0.01 } },
      { selectionBias: { rate: 0.01 }, selectBy: 'logits', temperature: 0.7 },
      { ...SIGMOID, selectionBias: { rate: 0.01 }, renormalize: true },
      { groups: { count: 4, keep: 2, score: 'max' } },
      { groups: { count: 4, keep: 3, score: 'top2-sum' }, selectBy: 'logits' },
      { groups: { count: 2, keep: 1, score: 'top2-sum' }, renormalize: true },
      { groups: { count: 8, keep: 5, score: 'top2-sum' } },
      {
        ...SIGMOID,
        groups: { count: 4, keep: 2, score: 'top2-sum' },
        selectionBias: { rate: 1e-3 },
        renormalize: true,
        weightScale: 2.5,
      },
      { allowedExperts: HALVES },
      { allowedExperts: HALVES, selectBy: 'logits', temperature: 2 },
      { allowedExperts: HALVES, ...SIGMOID, renormalize: true, selectionBias: { rate: 0.1 } },
      { allowedExperts: [[5], [0, 7], [1, 2, 3]], renormalize: true },
      { allowedExperts: HALVES, groups: { count: 4, keep: 2, score: 'max' } },
      { allowedExperts: [[5], [0, 7]], groups: { count: 2, keep: 1, score: 'top2-sum' }, ...SIGMOID },
    ] as const
  ).flatMap((router) => [
    odd(`selection ${JSON.stringify(router)}`, { tokens: 21, config: { ...EIGHT, topK: 3, router } }),
    odd(`selection ${JSON.stringify(router)}, masks, capacity`, {
      tokens: 29,
      distribution: 'skewed',
      mask: 'scattered',
      lossMask: 'scattered',
      config: { ...EIGHT, router, capacity: { type: 'fixed', factor: 0.6, priority: 'score' } },
    }),
  ]),
  odd('sigmoid, replayed indices', { routing: 'replay', config: { ...EIGHT, router: SIGMOID } }),
  odd('sigmoid, large logits', { tokens: 24, config: { ...EIGHT, router: { ...SIGMOID, temperature: 0.2 } } }),
];

export const NOISES: Case[] = [
  ...(
    [{ type: 'jitter', epsilon: 0.3 }, { type: 'gaussian', std: 0.5 }, { type: 'learned' }, { type: 'gumbel' }] as const
  ).flatMap((noise) => {
    const name = `noise ${JSON.stringify(noise)}`;
    return [
      odd(name, { tokens: 21, config: { losses: ALL_LOSSES, router: { noise } } }),
      odd(`${name}, at another step and token`, {
        call: { noiseStep: 2 ** 33 + 5, tokenOffset: 2 ** 32 - 3 },
        config: { losses: ALL_LOSSES, router: { noise, temperature: 0.6, bias: true, selectBy: 'logits' } },
      }),
      odd(`${name}, sigmoid, mask`, {
        mask: 'scattered',
        config: { losses: ALL_LOSSES, router: { noise, ...SIGMOID, renormalize: true } },
      }),
      odd(`${name}, evaluation`, { call: { training: false }, config: { losses: ALL_LOSSES, router: { noise } } }),
      odd(`${name}, caller's noise`, {
        ownNoise: true,
        mask: 'scattered',
        config: { losses: ALL_LOSSES, router: { noise, temperature: 1.4 } },
      }),
      odd(`${name}, capacity, allowed experts`, {
        tokens: 29,
        config: {
          losses: ALL_LOSSES,
          router: { noise, allowedExperts: HALVES },
          capacity: { type: 'fixed', factor: 0.7, priority: 'score' },
        },
      }),
      odd(`${name}, replayed indices`, { routing: 'replay', config: { losses: ALL_LOSSES, router: { noise } } }),
    ];
  }),
  odd("caller's noise alone", { ownNoise: true, config: { losses: ALL_LOSSES } }),
  odd("caller's logits and learned noise", {
    ownLogits: true,
    config: { losses: ALL_LOSSES, router: { noise: { type: 'learned' } } },
  }),
  odd("caller's logits and jitter, which has no input", {
    ownLogits: true,
    config: { losses: ALL_LOSSES, router: { noise: { type: 'jitter', epsilon: 0.2 } } },
  }),
  odd('jitter of many features', {
    tokens: 40,
    config: { hiddenSize: 130, router: { noise: { type: 'jitter', epsilon: 0.2 } } },
  }),
];

const NOISY = { noise: { type: 'gaussian', std: 0.4 } } as const;
const LEARNED = { noise: { type: 'learned' }, temperature: 1.3 } as const;

export const ROUTER_LOSSES: Case[] = [
  ...(
    [
      { loadBalance: { coefficient: 0.7, scope: 'device', groupsOfExperts: 2 } },
      { loadBalance: { coefficient: 0.7, scope: 'device', groupsOfExperts: 8 } },
      { loadBalance: { coefficient: 0.7, scope: 'device', groupsOfExperts: 4, counts: 'first-choice' } },
      { loadBalance: { coefficient: 0.7, counts: 'unbiased' } },
      { loadBalance: { coefficient: 0.7, counts: 'unbiased', scope: 'sequence', sequenceLength: 4 } },
    ] as const
  ).flatMap((losses) => {
    const name = `loss ${JSON.stringify(losses)}`;
    const groups = { count: 4, keep: 2, score: 'top2-sum' } as const;
    const router = { ...SIGMOID, groups, selectionBias: { rate: 1e-3 }, temperature: 1.2 };
    return [
      odd(name, { tokens: 24, config: { ...EIGHT, losses } }),
      odd(`${name}, biased choices`, { lossScale: 3, config: { ...EIGHT, topK: 3, losses, router } }),
      odd(`${name}, masks`, { mask: 'scattered', lossMask: 'scattered', config: { ...EIGHT, losses, router: NOISY } }),
    ];
  }),
  ...(['excluding-self', 'kth'] as const).flatMap((threshold) => {
    const losses = { load: { coefficient: 0.7, threshold } };
    return [
      odd(`load ${threshold}`, { tokens: 21, config: { losses, router: NOISY } }),
      odd(`load ${threshold}, learned noise`, { tokens: 21, config: { losses, router: LEARNED } }),
      odd(`load ${threshold}, learned noise, selected by logits, masks`, {
        tokens: 21,
        lossScale: 2,
        mask: 'scattered',
        lossMask: 'scattered',
        config: { losses: { ...losses, ...ALL_LOSSES }, router: { ...LEARNED, selectBy: 'logits', bias: true } },
      }),
      odd(`load ${threshold}, sigmoid, allowed experts`, {
        tokens: 21,
        config: { losses, router: { ...NOISY, ...SIGMOID, allowedExperts: HALVES } },
      }),
      odd(`load ${threshold}, one expert for a type`, {
        tokens: 21,
        config: { losses, router: { ...LEARNED, allowedExperts: [[5], [0, 6], [1, 2, 3]] } },
      }),
      odd(`load ${threshold}, caller's noise and logits`, {
        ownNoise: true,
        ownLogits: true,
        config: { losses, router: LEARNED },
      }),
      odd(`load ${threshold}, replayed indices`, { routing: 'replay', config: { losses, router: LEARNED } }),
      odd(`load ${threshold}, K = E`, { config: { topK: 7, losses, router: NOISY } }),
      odd(`load ${threshold}, evaluation`, { call: { training: false }, config: { losses, router: LEARNED } }),
    ];
  }),
  odd('load turned on by the call', {
    call: { losses: { load: 0.4 } },
    config: { losses: ALL_LOSSES, router: LEARNED },
  }),
];
