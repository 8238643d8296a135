/** Cases of what becomes of choices that get no slot, and of weights that wait for the slots. */

import { ALL_LOSSES, type Case, odd } from './case.js';
import type { CapacityOptions } from './reference-capacity.js';
import type { RouterOptions } from './reference-router.js';

type Rest = Omit<NonNullable<Parameters<typeof odd>[1]>, 'config'>;

const full = (name: string, router: RouterOptions, capacity: CapacityOptions, rest: Rest = {}, topK = 3): Case =>
  odd(name, { tokens: 29, distribution: 'skewed', ...rest, config: { topK, losses: ALL_LOSSES, router, capacity } });

const HALVES = [
  [0, 1, 2, 3],
  [3, 4, 5, 6],
];
const NOISY = { type: 'gaussian', std: 0.5 } as const;

const ROUTERS: readonly RouterOptions[] = [
  {},
  { renormalize: { p: 2 }, weightScale: 1.5 },
  { scoring: 'sigmoid', selectionBias: { rate: 0.1 }, renormalize: true },
  { selectBy: 'logits', bias: true, temperature: 0.7 },
  { noise: NOISY, allowedExperts: HALVES },
];

const LIMITS: readonly CapacityOptions[] = [
  { type: 'fixed', factor: 0.6 },
  { type: 'fixed', slots: 3, groupSize: 8, priority: 'score', firstChoicesFirst: false },
  { type: 'dynamic', targetDropRate: 0.2, maxFactor: 1.2, priority: 'score' },
];

const overflows = (['next-choice', 'residual'] as const).flatMap((overflow) =>
  LIMITS.flatMap((limit) => {
    const capacity = { ...limit, overflow } as CapacityOptions;
    const name = `overflow ${JSON.stringify(capacity)}`;
    return [
      ...ROUTERS.map((router) => full(`${name}, ${JSON.stringify(router)}`, router, capacity)),
      full(`${name}, masks`, { renormalizeAfterDrop: true }, capacity, { mask: 'scattered', lossMask: 'scattered' }),
      full(`${name}, caller's priorities`, {}, capacity, { ownPriorities: true }),
      full(`${name}, replayed indices`, { renormalize: true }, capacity, { routing: 'replay' }),
      full(`${name}, caller's weights`, {}, capacity, { routing: 'weights' }),
      full(`${name}, evaluation`, {}, capacity, { call: { training: false } }),
    ];
  }),
);

export const OVERFLOWS: readonly Case[] = [
  ...overflows,
  full(
    'overflow with a buffer and groups of experts',
    { groups: { count: 7, keep: 5, score: 'max' } },
    { type: 'fixed', slots: 11, buffer: 0.1, overflow: 'next-choice' },
  ),
  full(
    'overflow at random, three rounds and more',
    {},
    { type: 'fixed', slots: 4, priority: 'random', overflow: 'next-choice' },
    { distribution: 'one-expert' },
    1,
  ),
  full(
    'overflow that leaves no token behind',
    {},
    { type: 'fixed', factor: 1, overflow: 'next-choice' },
    { distribution: 'one-expert' },
    1,
  ),
  odd('overflow of no token', {
    tokens: 0,
    config: { capacity: { type: 'fixed', factor: 1, overflow: 'residual' }, losses: ALL_LOSSES },
  }),
  odd('overflow to the next choice of no token', {
    tokens: 0,
    config: { capacity: { type: 'fixed', factor: 1, overflow: 'next-choice' }, router: { renormalizeAfterDrop: true } },
  }),
];

const GSHARD = { renormalize: { epsilon: 1e-9 }, secondChoice: { type: 'random', threshold: 0.6 } } as const;

export const AFTER_DROPS: readonly Case[] = [
  ...ROUTERS.flatMap((router) => [
    full(
      `renormalised after drops, ${JSON.stringify(router)}`,
      { ...router, renormalizeAfterDrop: true },
      { type: 'fixed', factor: 0.6, priority: 'score' },
    ),
    full(
      `second choice, ${JSON.stringify(router)}`,
      { ...router, secondChoice: { type: 'random', threshold: 0.3 } },
      { type: 'fixed', factor: 0.7, priority: 'score' },
    ),
  ]),
  full('renormalised after drops, dropless', { renormalizeAfterDrop: true, weightScale: 2 }, { type: 'dropless' }),
  full(
    'renormalised after drops, most tokens lose all',
    { renormalizeAfterDrop: true },
    { type: 'fixed', slots: 1 },
    { distribution: 'one-expert' },
    2,
  ),
  full("renormalised after drops, caller's weights", { renormalizeAfterDrop: true }, LIMITS[0]!, {
    routing: 'weights',
  }),
  full('second choice, dropless', GSHARD, { type: 'dropless' }, {}, 2),
  full('second choice, K = 1', GSHARD, { type: 'dropless' }, {}, 1),
  full('second choice of K = 4', GSHARD, { type: 'fixed', factor: 0.7 }, {}, 4),
  full(
    'second choice at another step and token, mask',
    { ...GSHARD, renormalizeAfterDrop: true },
    { type: 'fixed', factor: 0.6 },
    { call: { noiseStep: 2 ** 33 + 5, tokenOffset: 2 ** 32 - 3 }, mask: 'scattered' },
    2,
  ),
  full('second choice in evaluation', GSHARD, LIMITS[0]!, { call: { training: false } }, 2),
  full('second choice, replayed indices', GSHARD, LIMITS[0]!, { routing: 'replay' }, 2),
  full("second choice, caller's weights", GSHARD, LIMITS[0]!, { routing: 'weights' }, 2),
  ...(['next-choice', 'residual'] as const).flatMap((overflow) =>
    ([false, true] as const).map((renormalizeAfterDrop) =>
      full(
        `second choice, overflow ${overflow}, renormalised after drops: ${renormalizeAfterDrop}`,
        { ...GSHARD, renormalizeAfterDrop },
        { type: 'fixed', factor: 0.6, overflow },
        {},
        2,
      ),
    ),
  ),
  full('second choice, dynamic capacity', GSHARD, LIMITS[2]!, {}, 2),
];
