/** Random configurations of the layer, for the properties. */

import fc from 'fast-check';
import type { Case } from './cases.js';
import {
  allowedExperts,
  type Capacity,
  capacityOptions,
  expertOptions,
  lossOptions,
  maybe,
  noise,
  otherRouterOptions,
  plainCapacityOptions,
  present,
  routerOptions,
  seldom,
  typed,
} from './random-options.js';
import { drawsExperts } from './reference-router.js';

/** Now and then there are more experts than a warp has lanes. */
const sizesUpTo = (width: number, tokens: { min: number; max: number }) =>
  fc
    .record({
      hiddenSize: fc.integer({ min: 1, max: width }),
      ffnSize: fc.integer({ min: 1, max: width }),
      numExperts: fc.oneof(
        { weight: 9, arbitrary: fc.integer({ min: 2, max: 12 }) },
        { weight: 1, arbitrary: fc.integer({ min: 33, max: 70 }) },
      ),
      tokens: fc.integer(tokens),
    })
    .chain((size) =>
      fc.record({ size: fc.constant(size), topK: fc.integer({ min: 1, max: Math.min(12, size.numExperts) }) }),
    );

export const sizes = sizesUpTo(40, { min: 0, max: 70 });

const distribution = fc.constantFrom(
  'random' as const,
  'one-expert' as const,
  'idle-experts' as const,
  'skewed' as const,
);

/** What a call can have in place of the layer's own; the choices per token are `withOtherK`'s. */
const callOptions: fc.Arbitrary<NonNullable<Case['call']>> = fc
  .record({
    training: seldom(fc.constant(false)),
    capacityFactor: seldom(fc.constantFrom(0.3, 0.8, 1.5)),
    temperature: seldom(fc.constantFrom(0.7, 1.6)),
    losses: seldom(
      fc
        .record({
          loadBalance: maybe(fc.constant(0.2)),
          importance: maybe(fc.constant(0.2)),
          load: maybe(fc.constant(0.2)),
          z: maybe(fc.constant(0.02)),
        })
        .map(present),
    ),
    noiseStep: seldom(fc.constantFrom(3, 2 ** 33 + 5)),
    tokenOffset: seldom(fc.constantFrom(7, 2 ** 32 - 3)),
  })
  .map(present);

const casesOf = (ofSizes: typeof sizes): fc.Arbitrary<Case> =>
  ofSizes.chain(({ size: { tokens, ...size }, topK }) =>
    fc
      .record({
        router: fc
          .tuple(routerOptions(topK), otherRouterOptions(size.numExperts, topK))
          .chain(([some, others]) => typed({ ...some, ...others })),
        capacity: capacityOptions,
        experts: expertOptions,
        losses: lossOptions(size.numExperts, tokens),
        call: callOptions,
        rest: fc
          .record({
            distribution: maybe(distribution),
            mask: maybe(fc.constantFrom('scattered' as const, 'second-half' as const)),
            lossMask: maybe(fc.constant('scattered' as const)),
            routing: seldom(fc.constantFrom('replay' as const, 'weights' as const)),
            ownLogits: maybe(fc.constant(true)),
            ownNoise: seldom(fc.constant(true)),
            ownPriorities: seldom(fc.constant(true)),
            lossScale: maybe(fc.constantFrom(0, 1, 4)),
          })
          // The caller gives weights or logits, not both.
          .map(({ ownLogits, ...options }) => ({ ...options, ownLogits: options.routing ? undefined : ownLogits }))
          .map(present),
      })
      .map(({ rest, call, ...options }) => ({
        name: 'random',
        tokens,
        config: { ...size, topK, ...options },
        call,
        ...rest,
      }))
      .map(withoutLogits)
      .map(withoutLoad)
      .map(withoutFactor)
      .chain(withOtherK)
      .chain(withGates),
  );

export const cases = casesOf(sizes);

/** Narrow ones, of tokens that all count. */
export const smallCases = casesOf(sizesUpTo(4, { min: 2, max: 24 })).map(({ mask: _, ...rest }): Case => rest);

/** Routers that draw have none, also not the caller's, nor the noise on them. */
function withoutLogits({ ownLogits, ownNoise, ...rest }: Case): Case {
  return drawsExperts(rest.config.router ?? {}) ? rest : { ...rest, ...present({ ownLogits, ownNoise }) };
}

/** There is a load loss where there is a chance of being chosen. */
function withoutLoad(testCase: Case): Case {
  const { config, call = {} } = testCase;
  if (['gaussian', 'learned'].includes(config.router?.noise?.type ?? '')) return testCase;
  const { load: _, ...losses } = config.losses ?? {};
  const { load: __, ...ofCall } = call.losses ?? {};
  return { ...testCase, config: { ...config, losses }, call: { ...call, ...(call.losses && { losses: ofCall }) } };
}

/** A call has a factor in place of another factor. */
function withoutFactor(testCase: Case): Case {
  const { capacity } = testCase.config;
  if (capacity?.type === 'fixed' && capacity.factor !== undefined) return testCase;
  const { capacityFactor: _, ...call } = testCase.call ?? {};
  return { ...testCase, call };
}

/** The layer has another K than the call. */
function withOtherK(testCase: Case): fc.Arbitrary<Case> {
  const { config, call } = testCase;
  const { count = 1, keep = 1 } = config.router?.groups ?? {};
  const other = fc
    .integer({ min: 1, max: (keep * config.numExperts) / count })
    .map((topK) => ({ ...testCase, config: { ...config, topK }, call: { ...call, topK: config.topK } }));
  return fc.oneof({ weight: 4, arbitrary: fc.constant(testCase) }, { weight: 1, arbitrary: other });
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
          ownNoise: seldom(fc.constant(true)),
          lossScale: maybe(fc.constantFrom(0, 1, 4)),
        })
        .map(present),
      // Of the losses those of the layer alone: most are not for experts that choose.
      call: callOptions.map(({ losses: _, ...call }) => call),
    })
    .map(({ rest, call, ...options }) => ({
      name: 'random',
      tokens,
      config: { ...size, topK, ...options },
      call,
      ...rest,
    }))
    .map(withoutFactor)
    .chain(withOtherK)
    .chain(withGates),
);
