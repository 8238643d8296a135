/** Random configurations of the layer, for the properties. */

import fc from 'fast-check';
import type { Case } from './cases.js';
import type { LayerConfig } from './reference.js';
import { drawsExperts } from './reference-router.js';

/** An option that is often left out. */
function maybe<T>(value: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> {
  return fc.option(value, { nil: undefined });
}

/** Drops undefined entries: configurations distinguish absent from undefined. */
function present<T extends object>(options: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as never;
}

export const sizes = fc
  .record({
    hiddenSize: fc.integer({ min: 1, max: 40 }),
    ffnSize: fc.integer({ min: 1, max: 40 }),
    numExperts: fc.integer({ min: 2, max: 12 }),
    tokens: fc.integer({ min: 0, max: 70 }),
  })
  .chain((size) => fc.record({ size: fc.constant(size), topK: fc.integer({ min: 1, max: size.numExperts }) }));

type Router = NonNullable<LayerConfig['router']>;

const noise: fc.Arbitrary<NonNullable<Router['noise']>> = fc.constantFrom(
  { type: 'jitter' as const, epsilon: 0.1 },
  { type: 'gaussian' as const, std: 0.3 },
  { type: 'learned' as const },
  { type: 'gumbel' as const },
);

/** Lists of experts for two token types, which together need not be all. */
const allowedExperts = (numExperts: number): fc.Arbitrary<number[][]> =>
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
function otherRouterOptions(numExperts: number, topK: number): fc.Arbitrary<Partial<Router>> {
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
function typed(router: Router): fc.Arbitrary<Router> {
  const { groups: _, selectionBias: __, ...balanced } = router;
  const { bias: ___, noise: ____, ...drawn } = balanced;
  return fc.oneof(
    { weight: 4, arbitrary: fc.constant(router) },
    { weight: 1, arbitrary: fc.constant({ ...balanced, type: 'sinkhorn' as const }) },
    { weight: 1, arbitrary: fc.constantFrom('hash' as const, 'random' as const).map((type) => ({ ...drawn, type })) },
  );
}

/** With K = 1 a weight over its own norm is 1 and its gradient 0 exactly: the table has those cases. */
function routerOptions(topK: number): fc.Arbitrary<NonNullable<LayerConfig['router']>> {
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

type Capacity = NonNullable<LayerConfig['capacity']>;

const plainCapacityOptions: fc.Arbitrary<Capacity> = fc.oneof(
  fc.constant({ type: 'dropless' as const }),
  fc
    .record({
      limit: fc.oneof(
        fc.record({ factor: fc.constantFrom(0.2, 0.5, 0.9, 1, 1.25, 2) }),
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

const overflow = fc.constantFrom('drop' as const, 'next-choice' as const, 'residual' as const);

const capacityOptions: fc.Arbitrary<Capacity> = fc.oneof(
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
    priority: fc.constantFrom('position' as const, 'score' as const, 'random' as const),
    overflow,
  }),
);

const expertOptions: fc.Arbitrary<NonNullable<LayerConfig['experts']>> = fc
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

const lossOptions: fc.Arbitrary<NonNullable<LayerConfig['losses']>> = fc
  .record({
    loadBalance: maybe(
      fc.oneof(
        fc.constant(0.1),
        fc.record({ coefficient: fc.constant(0.1), counts: fc.constantFrom('all' as const, 'first-choice' as const) }),
        fc.constant({ coefficient: 0.1, scope: 'sequence' as const, sequenceLength: 1 }),
      ),
    ),
    importance: maybe(
      fc.record({ coefficient: fc.constant(0.1), from: fc.constantFrom('gates' as const, 'softmax' as const) }),
    ),
    z: maybe(fc.constant(0.01)),
  })
  .map(present);

const distribution = fc.constantFrom(
  'random' as const,
  'one-expert' as const,
  'idle-experts' as const,
  'skewed' as const,
);

export const cases: fc.Arbitrary<Case> = sizes.chain(({ size: { tokens, ...size }, topK }) =>
  fc
    .record({
      router: fc
        .tuple(routerOptions(topK), otherRouterOptions(size.numExperts, topK))
        .chain(([some, others]) => typed({ ...some, ...others })),
      capacity: capacityOptions,
      experts: expertOptions,
      losses: lossOptions,
      rest: fc
        .record({
          distribution: maybe(distribution),
          mask: maybe(fc.constantFrom('scattered' as const, 'second-half' as const)),
          lossMask: maybe(fc.constant('scattered' as const)),
          routing: fc.oneof(
            { weight: 4, arbitrary: fc.constant(undefined) },
            { weight: 1, arbitrary: fc.constantFrom('replay' as const, 'weights' as const) },
          ),
          ownLogits: maybe(fc.constant(true)),
          lossScale: maybe(fc.constantFrom(0, 1, 4)),
        })
        // The caller gives weights or logits, not both.
        .map(({ ownLogits, ...options }) => ({ ...options, ownLogits: options.routing ? undefined : ownLogits }))
        .map(present),
    })
    .map(({ rest, ...options }) => ({ name: 'random', tokens, config: { ...size, topK, ...options }, ...rest }))
    .map(withoutLogits)
    .chain(withGates),
);

/** Routers that draw have none, also not the caller's. */
function withoutLogits({ ownLogits, ...rest }: Case): Case {
  return drawsExperts(rest.config.router ?? {}) || !ownLogits ? rest : { ...rest, ownLogits };
}

/** Several gates over the same experts, of which the call is through one. */
function withGates(testCase: Case): fc.Arbitrary<Case> {
  const gates = fc.integer({ min: 2, max: 3 }).chain((count) =>
    fc.integer({ min: 0, max: count - 1 }).map((gate) => ({
      ...testCase,
      config: { ...testCase.config, gates: count },
      call: { ...testCase.call, gate },
    })),
  );
  return fc.oneof({ weight: 4, arbitrary: fc.constant<Case>(testCase) }, { weight: 1, arbitrary: gates });
}

/** Experts that choose, with what they can be asked for. */
export const expertChoiceCases: fc.Arbitrary<Case> = sizes.chain(({ size: { tokens, ...size }, topK }) =>
  fc
    .record({
      router: fc
        .record({
          scoring: maybe(fc.constantFrom('softmax' as const, 'sigmoid' as const)),
          noise: maybe(noise),
          allowedExperts: maybe(allowedExperts(size.numExperts)),
          weightScale: maybe(fc.constantFrom(0.5, 2.5)),
          bias: maybe(fc.boolean()),
          applyWeightTo: maybe(fc.constantFrom('output' as const, 'input' as const)),
          temperature: maybe(fc.constantFrom(0.5, 1.3)),
        })
        .map(present)
        .map((options) => ({ ...options, type: 'expert-choice' as const })),
      capacity: plainCapacityOptions.map((capacity) => {
        if (capacity.type === 'dropless') return capacity;
        const { priority: _, firstChoicesFirst: __, ...slots } = capacity as Extract<Capacity, { type: 'fixed' }>;
        return slots as Capacity;
      }),
      experts: expertOptions,
      losses: fc
        .record({
          importance: maybe(fc.constant({ coefficient: 0.1, from: 'softmax' as const })),
          z: maybe(fc.constant(0.01)),
        })
        .map(present),
      rest: fc
        .record({
          distribution: maybe(distribution),
          mask: maybe(fc.constantFrom('scattered' as const, 'second-half' as const)),
          lossMask: maybe(fc.constant('scattered' as const)),
          ownLogits: maybe(fc.constant(true)),
          lossScale: maybe(fc.constantFrom(0, 1, 4)),
        })
        .map(present),
    })
    .map(({ rest, ...options }) => ({ name: 'random', tokens, config: { ...size, topK, ...options }, ...rest }))
    .chain(withGates),
);
