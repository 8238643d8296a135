/** Cases of who gets a slot beyond position, score and a plain number of slots. */

import { ALL_LOSSES, type Case, odd } from './case.js';
import type { CapacityOptions } from './reference-capacity.js';

type Fixed = Extract<CapacityOptions, { type: 'fixed' }>;

const fixed = (name: string, capacity: Omit<Fixed, 'type'>, rest: Parameters<typeof odd>[1] = {}): Case =>
  odd(`slots: ${name}`, {
    tokens: 29,
    distribution: 'skewed',
    ...rest,
    config: { losses: ALL_LOSSES, capacity: { type: 'fixed', ...capacity }, ...rest.config },
  });

const QUEUES: readonly Omit<Fixed, 'type'>[] = [
  { priority: 'random' },
  { priority: 'random', firstChoicesFirst: false },
  { priority: 'score' },
  { priority: 'position', firstChoicesFirst: false },
];

export const SLOTS: readonly Case[] = [
  ...QUEUES.flatMap((queue) => {
    const name = JSON.stringify(queue);
    return [
      fixed(name, { factor: 0.5, ...queue }),
      fixed(`${name}, groups`, { factor: 0.6, groupSize: 8, ...queue }),
      fixed(`${name}, buffer`, { factor: 0.5, buffer: 0.3, ...queue }, { mask: 'scattered' }),
      fixed(`${name}, groups with buffers`, { slots: 1, groupSize: 6, buffer: 0.2, ...queue }, { mask: 'scattered' }),
      fixed(`${name}, caller's priorities`, { factor: 0.5, ...queue }, { ownPriorities: true, mask: 'scattered' }),
      fixed(`${name}, replayed indices`, { factor: 0.5, groupSize: 10, ...queue }, { routing: 'replay' }),
    ];
  }),
  fixed(
    'random at another step and token',
    { factor: 0.5, priority: 'random' },
    {
      call: { noiseStep: 2 ** 33 + 5, tokenOffset: 2 ** 32 - 3 },
    },
  ),
  fixed('random in evaluation', { factor: 0.5, priority: 'random' }, { call: { training: false } }),
  fixed(
    'random with noise, three choices',
    { factor: 0.4, priority: 'random' },
    {
      config: { topK: 3, router: { noise: { type: 'gaussian', std: 0.5 } } },
    },
  ),
  fixed(
    "caller's weights and priorities, groups",
    { slots: 2, groupSize: 9 },
    { routing: 'weights', ownPriorities: true },
  ),
  fixed('one group longer than the batch', { factor: 0.3, groupSize: 100 }),
  fixed('groups of one token', { slots: 1, groupSize: 1 }),
  // 0.1·(3·10) is 3 in double; from left to right it is a little more, and one slot too many.
  fixed(
    'a buffer at the edge of a whole number',
    { slots: 10, buffer: 0.1 },
    {
      tokens: 60,
      distribution: 'one-expert',
      config: { numExperts: 3, topK: 1 },
    },
  ),
  fixed('a buffer for everybody', { factor: 0.3, buffer: 100 }),
  fixed('no token', { factor: 0.5, groupSize: 4, buffer: 0.5, priority: 'random' }, { tokens: 0 }),
  ...(['position', 'score', 'random'] as const).flatMap((priority) =>
    [0, 0.1, 0.35, 1].map((targetDropRate) =>
      odd(`slots: dynamic by ${priority}, ${targetDropRate}`, {
        tokens: 29,
        distribution: 'skewed',
        mask: 'scattered',
        config: { losses: ALL_LOSSES, capacity: { type: 'dynamic', targetDropRate, maxFactor: 2.5, priority } },
      }),
    ),
  ),
  odd('slots: dynamic, its bound', {
    tokens: 20,
    distribution: 'one-expert',
    config: { capacity: { type: 'dynamic', targetDropRate: 0.05, maxFactor: 0.8 } },
  }),
  odd('slots: dynamic, no token', {
    tokens: 0,
    config: { capacity: { type: 'dynamic', targetDropRate: 0.1, maxFactor: 2 } },
  }),
];
