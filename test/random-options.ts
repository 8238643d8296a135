/** Random options of a configuration: of the router, the capacity, the experts and the losses. */

import fc from 'fast-check';
import type { LayerConfig } from './reference.js';

/** An option that is often left out. */
export function maybe<T>(value: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> {
  return fc.option(value, { nil: undefined });
}

/** One that is mostly left out. */
export function seldom<T>(value: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> {
  return fc.oneof({ weight: 4, arbitrary: fc.constant(undefined) }, { weight: 1, arbitrary: value });
}

/** Drops undefined entries: configurations distinguish absent from undefined. */
export function present<T extends object>(options: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as never;
}

type Router = NonNullable<LayerConfig['router']>;

export const noise: fc.Arbitrary<NonNullable<Router['noise']>> = fc.constantFrom(
  { type: 'jitter' as const, epsilon: 0.1 },
  { type: 'gaussian' as const, std: 0.3 },
  { type: 'learned' as const },
  { type: 'gumbel' as const },
);

/** Lists of experts for two token types, which together need not be all. */
export const allowedExperts = (numExperts: number): fc.Arbitrary<number[][]> =>
  fc.array(fc.uniqueArray(fc.integer({ min: 0, max: numExperts - 1 }), { minLength: 1 }), {
    minLength: 1,
    maxLength: 3,
  });

/** Groups that leave room for K experts, if there are any. */
function groups(numExperts: number, topK: number): fc.Arbitrary<Router['groups']> {
  const fitting = Array.from({ length: numExperts }, (_, i) => i + 1)
    .filter((count) => numExperts % count === 0)
    .flatMap((count) =>
      Array.from({ length: count }, (_, i) => ({ count, keep: i + 1 })).filter(
        ({ keep }) => (keep * numExperts) / count >= topK,
      ),
    );
  return fc
    .record({ size: fc.constantFrom(...fitting), score: fc.constantFrom('max' as const, 'top2-sum' as const) })
    .map(({ size, score }) => ({ ...size, score }));
}

/** What a plain top-K of a softmax has not. */
export function otherRouterOptions(numExperts: number, topK: number): fc.Arbitrary<Partial<Router>> {
  return fc
    .record({
      scoring: maybe(fc.constantFrom('softmax' as const, 'sigmoid' as const)),
      noise: maybe(noise),
      groups: maybe(groups(numExperts, topK)),
      selectionBias: maybe(fc.constant({ rate: 0.01 })),
      allowedExperts: maybe(allowedExperts(numExperts)),
      renormalizeAfterDrop: topK > 1 ? maybe(fc.boolean()) : fc.constant(undefined),
      secondChoice: maybe(fc.constantFrom({ type: 'random' as const, threshold: 0.3 }, 'always' as const)),
    })
    .map(present);
}

/** Other routers in place of top-K, without what means nothing to them. */
export function typed(router: Router): fc.Arbitrary<Router> {
  const { groups: _, selectionBias: __, ...balanced } = router;
  const { bias: ___, noise: ____, ...drawn } = balanced;
  return fc.oneof(
    { weight: 4, arbitrary: fc.constant(router) },
    { weight: 1, arbitrary: fc.constant({ ...balanced, type: 'sinkhorn' as const }) },
    { weight: 1, arbitrary: fc.constantFrom('hash' as const, 'random' as const).map((type) => ({ ...drawn, type })) },
  );
}

/** With K = 1 a weight over its own norm is 1 and its gradient 0 exactly: the table has those cases. */
export function routerOptions(topK: number): fc.Arbitrary<NonNullable<LayerConfig['router']>> {
  const several = topK > 1;
  return fc
    .record({
      selectBy: several ? maybe(fc.constantFrom('scores' as const, 'logits' as const)) : fc.constant(undefined),
      renormalize: several
        ? maybe(fc.constantFrom(true, false, { p: 1 }, { p: 2 }, { p: 1.5, epsilon: 0.01 }))
        : fc.constant(undefined),
      weightScale: maybe(fc.constantFrom(0.5, 2.5, 16)),
      bias: maybe(fc.boolean()),
      applyWeightTo: maybe(fc.constantFrom('output' as const, 'input' as const)),
      temperature: maybe(fc.constantFrom(0.5, 1.3, 2)),
    })
    .map(present);
}

export type Capacity = NonNullable<LayerConfig['capacity']>;

export const plainCapacityOptions: fc.Arbitrary<Capacity> = fc.oneof(
  fc.constant({ type: 'dropless' as const }),
  fc
    .record({
      limit: fc.oneof(
        fc
          .record({ factor: fc.constantFrom(0.2, 0.5, 0.9, 1, 1.25, 2), evalFactor: maybe(fc.constantFrom(0.4, 1.5)) })
          .map(present),
        fc.record({ slots: fc.integer({ min: 1, max: 20 }) }),
      ),
      rest: fc
        .record({
          min: maybe(fc.integer({ min: 1, max: 6 })),
          multipleOf: maybe(fc.constantFrom(1, 2, 3, 8)),
          priority: maybe(fc.constantFrom('position' as const, 'score' as const)),
          firstChoicesFirst: maybe(fc.boolean()),
        })
        .map(present),
    })
    .map(({ limit, rest }) => ({ type: 'fixed' as const, ...limit, ...rest })),
);

const priority = fc.constantFrom('position' as const, 'score' as const, 'random' as const);
const overflow = fc.constantFrom('drop' as const, 'next-choice' as const, 'residual' as const);

export const capacityOptions: fc.Arbitrary<Capacity> = fc.oneof(
  plainCapacityOptions,
  fc
    .record({
      limit: plainCapacityOptions.filter(({ type }) => type === 'fixed'),
      rest: fc
        .record({
          priority: maybe(fc.constantFrom('random' as const, 'score' as const)),
          overflow: maybe(overflow),
          buffer: maybe(fc.constantFrom(0.1, 0.5, 2)),
          groupSize: maybe(fc.integer({ min: 1, max: 20 })),
        })
        .map(present),
    })
    .map(({ limit, rest }) => ({ ...limit, ...rest }) as Capacity),
  fc.record({
    type: fc.constant('dynamic' as const),
    targetDropRate: fc.constantFrom(0, 0.05, 0.3, 1),
    maxFactor: fc.constantFrom(0.5, 1, 3),
    priority,
    overflow,
  }),
);

/** Of batches of thousands of tokens. */
export const manySlots: fc.Arbitrary<Capacity> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc
      .record({
        factor: fc.constantFrom(0.3, 0.7, 1, 1.3),
        priority: maybe(priority),
        firstChoicesFirst: maybe(fc.boolean()),
        overflow: maybe(overflow),
        buffer: maybe(fc.constantFrom(0.02, 0.2)),
        groupSize: maybe(fc.constantFrom(5, 300, 2000)),
      })
      .map((options) => ({ type: 'fixed' as const, ...present(options) }) as Capacity),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      type: fc.constant('dynamic' as const),
      targetDropRate: fc.constantFrom(0.02, 0.2),
      maxFactor: fc.constantFrom(0.8, 2),
      priority,
      overflow,
    }),
  },
);

export const expertOptions: fc.Arbitrary<NonNullable<LayerConfig['experts']>> = fc
  .record({
    activation: maybe(
      fc.constantFrom(...(['relu', 'gelu', 'gelu-tanh', 'silu', 'swiglu', 'geglu', 'geglu-tanh', 'reglu'] as const), {
        type: 'clamped-swiglu' as const,
        alpha: 1.702,
        limit: 1,
      }),
    ),
    bias: maybe(fc.boolean()),
    dropout: maybe(fc.constantFrom(0, 0.1, 0.5)),
    shared: maybe(
      fc.record({
        ffnSize: fc.integer({ min: 1, max: 20 }),
        gate: fc.constantFrom('none' as const, 'sigmoid' as const),
      }),
    ),
  })
  .map(present);

const divisors = (of: number): number[] => Array.from({ length: of }, (_, i) => i + 1).filter((d) => of % d === 0);

/** What P and f of the load balance are over: the batch, sequences that make up the tokens, or groups of experts. */
const scope = (numExperts: number, tokens: number) =>
  fc.oneof(
    fc.constant({}),
    fc.constantFrom(...divisors(tokens || 6)).map((n) => ({ scope: 'sequence' as const, sequenceLength: n })),
    fc.constantFrom(...divisors(numExperts)).map((n) => ({ scope: 'device' as const, groupsOfExperts: n })),
  );

export const lossOptions = (numExperts: number, tokens: number): fc.Arbitrary<NonNullable<LayerConfig['losses']>> =>
  fc
    .record({
      loadBalance: maybe(
        fc.oneof(
          fc.constant(0.1),
          fc
            .record({
              scope: scope(numExperts, tokens),
              counts: maybe(fc.constantFrom('all' as const, 'first-choice' as const, 'unbiased' as const)),
            })
            .map(({ scope, counts }) => ({ coefficient: 0.1, ...scope, ...present({ counts }) })),
        ),
      ),
      importance: maybe(
        fc.record({ coefficient: fc.constant(0.1), from: fc.constantFrom('gates' as const, 'softmax' as const) }),
      ),
      load: maybe(
        fc.record({
          coefficient: fc.constant(0.1),
          threshold: fc.constantFrom('kth' as const, 'excluding-self' as const),
        }),
      ),
      z: maybe(fc.constant(0.01)),
    })
    .map(present);
