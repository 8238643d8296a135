/**
 * What the library did with a case, held against the float64 reference: routing, output, statistics, every gradient.
 *
 * Random configurations may be ill-conditioned: a single token's weight gradient, say, may be what a cancellation left of
 * numbers a thousand times larger, and no float32 computation has its digits. How much so, the reference itself tells: its
 * results are compared with those for inputs moved by about the last bit of a float32.
 */

import type { MoEStats } from '../lib/index.js';
import type { Case } from './cases.js';
import { type CloseOptions, expectClose, expectSame, expectScalar } from './compare.js';
import { choices, type Problem, referenceCall, referenceParameters } from './problem.js';
import { uniforms } from './random.js';
import {
  backward,
  type Call,
  type Forward,
  forward,
  type Gradients,
  parameterShapes,
  type Stats,
} from './reference.js';
import type { Decisions } from './reference-adopt.js';
import { bySlot } from './reference-expert-choice.js';
import { row } from './reference-math.js';
import type { Observed, Read } from './run-case.js';

/** The reference on the same numbers, with the layer's choices where they are near-ties. */
export function referenceFor(
  testCase: Case,
  problem: Problem,
  decisions: Decisions,
  parameters = referenceParameters(problem),
): Forward {
  return forward(testCase.config, parameters, { ...referenceCall(testCase, problem), adopt: decisions });
}

export function referenceGradients(pass: Forward, testCase: Case, problem: Problem): Gradients {
  return backward(pass, Float64Array.from(problem.gradOutput), testCase.lossScale ?? 1);
}

interface Expected {
  values: Float64Array;
  width: number;
}

/** What a comparison is about, by name; the widths are those of the rows. */
function expectedTensors(testCase: Case, pass: Forward, gradients?: Gradients): Map<string, Expected> {
  const { hiddenSize: H, numExperts: E } = testCase.config;
  const K = choices(testCase);
  const tensors = new Map<string, Expected>();
  const add = (name: string, values: Float64Array | undefined, width: number): void => {
    if (values) tensors.set(name, { values, width });
  };
  const { chosen } = pass.routing;
  if (chosen) add('weights', bySlot(pass.weights, chosen, E), Math.max(1, chosen.length / E));
  else add('weights', pass.weights, K);
  add('logits', pass.logits, E);
  add('output', pass.output, H);
  if (!gradients) return tensors;
  add('gradient of input', gradients.input, H);
  add('gradient of routing.weights', gradients.routingWeights, K);
  add('gradient of logits', gradients.routingLogits, E);
  for (const [name, shape] of Object.entries(parameterShapes(testCase.config))) {
    add(`gradient of ${name}`, gradients.parameters[name]!, shape.at(-1)!);
  }
  return tensors;
}

function observedTensors({ weights, logits, output, gradients }: Observed): Map<string, Read> {
  const tensors = new Map<string, Read>();
  const add = (name: string, values: Read | undefined): void => {
    if (values) tensors.set(name, values);
  };
  add('weights', weights);
  add('logits', logits);
  add('output', output);
  if (!gradients) return tensors;
  add('gradient of input', gradients.input);
  add('gradient of routing.weights', gradients.weights);
  add('gradient of logits', gradients.logits);
  for (const [name, values] of Object.entries(gradients.parameters)) add(`gradient of ${name}`, values);
  return tensors;
}

/**
 * Inputs, weights and output gradient, each value moved by up to 2^-23 of itself; and the gradients of the routing
 * weights, which a softmax cancels where they are equal: where all that a token gets is its own input, say.
 */
function shaken(testCase: Case, problem: Problem, observed: Observed, seed: number): Map<string, Expected> {
  const next = uniforms(seed);
  const shake = (values: Float64Array): Float64Array => values.map((v) => v * (1 + (2 * next() - 1) * 2 ** -23));
  const call: Call = { ...referenceCall(testCase, problem), adopt: observed };
  call.input = shake(call.input);
  if (call.logits) call.logits = shake(call.logits);
  if (call.routing?.weights) call.routing = { ...call.routing, weights: shake(call.routing.weights) };
  const parameters = Object.entries(referenceParameters(problem)).map(([name, v]) => [name, shake(v)] as const);
  const pass = forward(testCase.config, Object.fromEntries(parameters), call);
  const gradOutput = shake(Float64Array.from(problem.gradOutput));
  const gradients = observed.gradients && backward(pass, gradOutput, testCase.lossScale ?? 1, shake);
  return expectedTensors(testCase, pass, gradients);
}

/** The largest movement of each tensor over a few shakes. */
function sensitivities(
  testCase: Case,
  problem: Problem,
  observed: Observed,
  expected: Map<string, Expected>,
): Map<string, number> {
  const noise = new Map<string, number>();
  for (const seed of [1, 2, 3]) {
    for (const [name, { values }] of shaken(testCase, problem, observed, seed)) {
      const own = expected.get(name)!.values;
      const moved = values.reduce((max, v, i) => Math.max(max, Math.abs(v - own[i]!)), 0);
      noise.set(name, Math.max(noise.get(name) ?? 0, moved));
    }
  }
  return noise;
}

export interface Reference {
  pass: Forward;
  gradients: Gradients | undefined;
}

export function referenceOf(testCase: Case, problem: Problem, observed: Observed): Reference {
  const pass = referenceFor(testCase, problem, observed);
  return { pass, gradients: observed.gradients && referenceGradients(pass, testCase, problem) };
}

/**
 * Whether a loss goes by an order of nearly equal noisy logits, that of the load's thresholds and of the unbiased counts:
 * float32 may have another, which no layer reports.
 */
export function hangsOnRounding({ config, call }: Case, { routing, live, topK }: Forward): boolean {
  const { load = call?.losses?.load, loadBalance } = config.losses ?? {};
  if (load === undefined && (typeof loadBalance !== 'object' || loadBalance.counts !== 'unbiased')) return false;
  return live.some((isLive, t) => {
    const sorted = row(routing.v, t, config.numExperts)
      .slice()
      .sort((a, b) => b - a);
    return isLive && [topK - 2, topK - 1, topK].some((i) => sorted[i]! - sorted[i + 1]! < 1e-6);
  });
}

/** `random` allows for ill-conditioned numbers; fixed cases are chosen, and get no such allowance. */
export function compareWithReference(
  testCase: Case,
  problem: Problem,
  observed: Observed,
  random = false,
  { pass, gradients }: Reference = referenceOf(testCase, problem, observed),
): void {
  const { chosen } = pass.routing;
  expectSame('indices', observed.indices, chosen ?? pass.indices);
  expectSame('kept', observed.kept, chosen ? chosen.map((t) => (t >= 0 ? 1 : 0)) : pass.kept);
  compareStats(observed.stats, pass.stats);

  const expected = expectedTensors(testCase, pass, gradients);
  const actual = observedTensors(observed);
  const noise = random ? sensitivities(testCase, problem, observed, expected) : undefined;
  for (const name of actual.keys()) if (!expected.has(name)) throw new Error(`${name} should be absent`);
  for (const [name, { values, width }] of expected) {
    // The router computes in float32 from the rounded input.
    const dtype = name === 'logits' || name === 'weights' ? 'float32' : problem.dtype;
    const close: CloseOptions = { dtype, noise: noise?.get(name) ?? 0, vanishing: isVanishing(testCase, name) };
    expectClose(name, actual.get(name) ?? [], values, width, close);
  }
}

function isVanishing(testCase: Case, name: string): boolean {
  return testCase.vanishing?.some((parameter) => name === `gradient of ${parameter}`) ?? false;
}

export function compareParameterGradients(
  testCase: Case,
  actual: Record<string, Read>,
  expected: Record<string, Float64Array>,
): void {
  for (const [name, shape] of Object.entries(parameterShapes(testCase.config))) {
    expectClose(`gradient of ${name}`, actual[name] ?? [], expected[name]!, shape.at(-1)!);
  }
}

export function compareStats(actual: MoEStats, expected: Stats): void {
  expectSame('stats.assigned', actual.assigned, expected.assigned);
  expectSame('stats.kept', actual.kept, expected.kept);
  const counts = ['tokens', 'droppedAssignments', 'droppedTokens'] as const;
  const shares = ['imbalance', 'routerEntropy', 'utilization'] as const;
  for (const name of [...counts, ...shares]) expectScalar(`stats.${name}`, actual[name], expected[name]);
  expectScalar('stats.capacity', actual.capacity ?? -1, expected.capacity ?? -1);
  for (const name of ['loadBalance', 'importance', 'load', 'z', 'total'] as const) {
    expectScalar(`stats.losses.${name}`, actual.losses[name], expected.losses[name]);
  }
}
