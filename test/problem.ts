/**
 * The numbers of a case: parameters, input, masks, caller's routing, output gradient. All are float32 values made from a
 * seed, and those that a layer has in 16 bits are rounded to them, so that library and reference start from the same
 * numbers. What a case means stands in cases.ts.
 */

import type { Case } from './cases.js';
import { integers, normals, uniforms } from './random.js';
import { type Call, type Parameters, parameterShapes } from './reference.js';
import { type FloatDType, roundedAll } from './rounding.js';

export interface Problem {
  /** Of weights and activations; the router's parameters are float32. */
  dtype: FloatDType;
  parameters: Record<string, Float32Array>;
  input: Float32Array; // [T,H]
  gradOutput: Float32Array; // [T,H]
  mask?: Int32Array; // [T]
  lossMask?: Int32Array; // [T]
  indices?: Int32Array; // [T,K], the caller's
  weights?: Float32Array; // [T,K], the caller's
  logits?: Float32Array; // [T,E], the caller's
  noise?: Float32Array; // [T,E], the caller's
  priorities?: Float32Array; // [T,K], the caller's
  tokenTypes?: Int32Array; // [T]
  tokenIds?: Int32Array; // [T], for the hash router
}

/** The choices per token of this call. */
export function choices(testCase: Case): number {
  return testCase.call?.topK ?? testCase.config.topK;
}

/** Added to the logits of each expert. Gaps are far beyond the noise of the logits, and far from saturating a softmax. */
function leanings(testCase: Case): number[] {
  const experts = Array.from({ length: testCase.config.numExperts }, (_, e) => e);
  switch (testCase.distribution) {
    case 'one-expert':
      return experts.map((e) => (e === experts.length >> 1 ? 3 : 0));
    case 'idle-experts':
      return experts.map((e) => (e % 2 === 1 ? -3 : 0));
    case 'skewed':
      return experts.map((e) => 2 / (e + 1));
    default:
      return experts.map(() => 0);
  }
}

function parameterValues(testCase: Case, seed: number): Record<string, Float32Array> {
  const { config, gain = 1 } = testCase;
  const values: Record<string, Float32Array> = {};
  for (const [name, shape] of Object.entries(parameterShapes(config))) {
    const size = shape.reduce((a, b) => a * b, 1);
    const isBias = name.toLowerCase().endsWith('bias');
    const fanIn = shape.at(-1)!;
    const first = name.endsWith('.gate') || name.endsWith('.up') ? gain : 1;
    values[name] = normals(seed + Object.keys(values).length, size, isBias ? 0.3 : first / Math.sqrt(fanIn));
  }
  return values;
}

/**
 * Leanings enter through the first feature, which is 1 in every token, so that the router's own GEMM makes them; or
 * through the logits themselves where the caller gives them.
 */
export function makeProblem(testCase: Case, seed = 1, dtype: FloatDType = 'float32'): Problem {
  const { config, tokens, distribution = 'random' } = testCase;
  const { hiddenSize: H, numExperts: E } = config;
  const K = choices(testCase);
  const problem: Problem = {
    dtype,
    parameters: parameterValues(testCase, 1000 * seed),
    input: normals(1000 * seed + 100, tokens * H),
    gradOutput: normals(1000 * seed + 101, tokens * H),
  };

  const routerWeight =
    problem.parameters['router.weight'] ?? problem.parameters[`router.${testCase.call?.gate ?? 0}.weight`];
  if (!routerWeight) {
    // Nobody wants to go anywhere.
  } else if (distribution === 'ties') {
    routerWeight.set(integers(1000 * seed + 102, E * H, -1, 1));
    problem.input.set(integers(1000 * seed + 103, tokens * H, -1, 1));
  } else if (distribution !== 'random') {
    const lean = leanings(testCase);
    for (let e = 0; e < E; e++) {
      for (let h = 0; h < H; h++) routerWeight[e * H + h] = h === 0 ? lean[e]! : 0.3 * routerWeight[e * H + h]!;
    }
    for (let t = 0; t < tokens; t++) problem.input[t * H] = 1;
  }

  problem.input = roundedAll(dtype, problem.input);
  problem.gradOutput = roundedAll(dtype, problem.gradOutput);
  for (const [name, values] of Object.entries(problem.parameters))
    if (!name.startsWith('router.')) problem.parameters[name] = roundedAll(dtype, values);

  if (testCase.routing) problem.indices = distinctExperts(1000 * seed + 104, tokens, E, K);
  if (testCase.routing === 'weights') problem.weights = normals(1000 * seed + 105, tokens * K);
  if (testCase.ownLogits) {
    const lean = leanings(testCase);
    problem.logits = normals(1000 * seed + 106, tokens * E).map((l, i) => l + lean[i % E]!);
  }
  if (testCase.ownNoise) problem.noise = normals(1000 * seed + 109, tokens * E);
  if (testCase.ownPriorities) problem.priorities = normals(1000 * seed + 111, tokens * K);
  const types = config.router?.allowedExperts?.length;
  if (types) problem.tokenTypes = integers(1000 * seed + 110, tokens, 0, types - 1);
  if (config.router?.type === 'hash') problem.tokenIds = integers(1000 * seed + 112, tokens, -5, 5);
  if (testCase.mask) {
    problem.mask = maskOf(testCase.mask, tokens, 1000 * seed + 107);
    poisonMasked(problem, tokens);
  }
  if (testCase.lossMask) problem.lossMask = maskOf(testCase.lossMask, tokens, 1000 * seed + 108);
  return problem;
}

function maskOf(kind: 'scattered' | 'second-half' | 'all', tokens: number, seed: number): Int32Array {
  const next = uniforms(seed);
  return Int32Array.from({ length: tokens }, (_, t) => {
    if (kind === 'all') return 0;
    if (kind === 'second-half') return t < tokens / 2 ? 1 : 0;
    return next() < 0.7 ? 1 : 0;
  });
}

/** Padding may hold anything: here NaN, and −1 as an expert. */
function poisonMasked(problem: Problem, tokens: number): void {
  const poison = (values: Float32Array | Int32Array | undefined, value: number): void => {
    const width = (values?.length ?? 0) / tokens;
    problem.mask!.forEach((m, t) => {
      if (m === 0) values?.fill(value, t * width, (t + 1) * width);
    });
  };
  poison(problem.input, Number.NaN);
  poison(problem.gradOutput, Number.NaN);
  poison(problem.logits, Number.NaN);
  poison(problem.weights, Number.NaN);
  poison(problem.noise, Number.NaN);
  poison(problem.priorities, Number.NaN);
  poison(problem.tokenTypes, -7);
  poison(problem.indices, -1);
}

/** K different experts per token, in no order. */
function distinctExperts(seed: number, tokens: number, numExperts: number, k: number): Int32Array {
  const next = uniforms(seed);
  return Int32Array.from(
    Array.from({ length: tokens }, () => {
      const keyed = Array.from({ length: numExperts }, (_, e) => ({ e, key: next() }));
      return keyed.sort((a, b) => a.key - b.key).slice(0, k);
    }).flat(),
    ({ e }) => e,
  );
}

/** The same problem as the reference takes it. */
export function referenceCall(testCase: Case, problem: Problem): Call {
  const call: Call = { input: Float64Array.from(problem.input), ...testCase.call };
  if (problem.mask) call.mask = problem.mask;
  if (problem.lossMask) call.lossMask = problem.lossMask;
  if (problem.logits) call.logits = Float64Array.from(problem.logits);
  if (problem.noise) call.noise = Float64Array.from(problem.noise);
  if (problem.priorities) call.priorities = Float64Array.from(problem.priorities);
  if (problem.tokenTypes) call.tokenTypes = problem.tokenTypes;
  if (problem.tokenIds) call.tokenIds = problem.tokenIds;
  if (problem.indices) {
    call.routing = { indices: problem.indices };
    if (problem.weights) call.routing.weights = Float64Array.from(problem.weights);
  }
  return call;
}

export function referenceParameters(problem: Problem): Parameters {
  const entries = Object.entries(problem.parameters);
  return Object.fromEntries(entries.map(([name, value]) => [name, Float64Array.from(value)]));
}
