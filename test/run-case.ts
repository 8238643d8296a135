/**
 * One case through the library, and its comparison with the reference. Used by the table, the random configurations and
 * the determinism suite; it makes no assertion about how the library got there.
 */

import { type Device, type ForwardOptions, MoELayer, type MoEPass, type MoEStats, type Tensor } from '../lib/index.js';
import type { Case } from './cases.js';
import { expectClose, expectSame, expectScalar } from './compare.js';
import { choices, type Problem, referenceCall, referenceParameters } from './problem.js';
import { backward, type Forward, forward, type Gradients, parameterShapes, type Stats } from './reference.js';

type Read = Float32Array | Int32Array;

/** Everything a pass lets one see, read back to JS. */
export interface Observed {
  output: Read;
  indices: Read;
  weights: Read;
  kept: Read;
  logits: Read | undefined;
  stats: MoEStats;
  /** Absent when the pass was not a training pass. */
  gradients?: { input: Read; parameters: Record<string, Read>; weights: Read | undefined; logits: Read | undefined };
}

/** Configurations are plain data of the same form on both sides; weights come from the problem. */
export function makeLayer(device: Device, testCase: Case, problem: Problem): MoELayer {
  const layer = new MoELayer(device, { ...testCase.config, seed: 1 });
  const parameters = layer.parameters();
  for (const [name, values] of Object.entries(problem.parameters)) {
    const parameter = parameters.get(name);
    if (!parameter) throw new Error(`the layer has no parameter ${name}, only ${[...parameters.keys()].join(', ')}`);
    parameter.value.write(values);
  }
  return layer;
}

/** The handles of the inputs are dropped at once: what backward needs, the pass holds on to. */
export function runForward(layer: MoELayer, testCase: Case, problem: Problem): MoEPass {
  const { tokens, config } = testCase;
  const made: Tensor[] = [];
  const tensor = (data: Float32Array | Int32Array, width?: number): Tensor => {
    const handle = layer.device.tensor(data, width === undefined ? [tokens] : [tokens, width]);
    made.push(handle);
    return handle;
  };
  const options: ForwardOptions = { ...testCase.call };
  if (problem.mask) options.mask = tensor(problem.mask);
  if (problem.lossMask) options.lossMask = tensor(problem.lossMask);
  if (problem.logits) options.logits = tensor(problem.logits, config.numExperts);
  if (problem.indices) {
    options.routing = { indices: tensor(problem.indices, choices(testCase)) };
    if (problem.weights) options.routing.weights = tensor(problem.weights, choices(testCase));
  }
  const pass = layer.forward(tensor(problem.input, config.hiddenSize), options);
  for (const handle of made) handle.dispose();
  return pass;
}

export function runBackward(pass: MoEPass, testCase: Case, problem: Problem): Tensor {
  using gradOutput = pass.output.device.tensor(problem.gradOutput, [testCase.tokens, testCase.config.hiddenSize]);
  return pass.backward(gradOutput, { lossScale: testCase.lossScale ?? 1 });
}

export async function readParameterGradients(layer: MoELayer): Promise<Record<string, Read>> {
  const entries = [...layer.parameters()].map(async ([name, { grad }]) => [name, await grad.data()] as const);
  return Object.fromEntries(await Promise.all(entries));
}

/** Forward, backward (in training), all reads; the layer's gradients are those of this pass alone. */
export async function observe(layer: MoELayer, testCase: Case, problem: Problem): Promise<Observed> {
  using pass = runForward(layer, testCase, problem);
  const { output, routing } = pass;
  const inputGradient = testCase.call?.training === false ? undefined : runBackward(pass, testCase, problem);
  const observed: Observed = {
    output: await output.data(),
    indices: await routing.indices.data(),
    weights: await routing.weights.data(),
    kept: await routing.kept.data(),
    logits: await routing.logits?.data(),
    stats: await pass.stats(),
  };
  if (inputGradient) {
    observed.gradients = {
      input: await inputGradient.data(),
      parameters: await readParameterGradients(layer),
      weights: await pass.routingWeightsGrad?.data(),
      logits: await pass.routingLogitsGrad?.data(),
    };
    inputGradient.dispose();
  }
  return observed;
}

/** The reference on the same numbers, with the layer's choices where they are near-ties. */
export function referenceFor(testCase: Case, problem: Problem, decisions: Pick<Observed, 'indices' | 'kept'>): Forward {
  const call = { ...referenceCall(testCase, problem), adopt: decisions };
  return forward(testCase.config, referenceParameters(problem), call);
}

export function referenceGradients(pass: Forward, testCase: Case, problem: Problem): Gradients {
  return backward(pass, Float64Array.from(problem.gradOutput), testCase.lossScale ?? 1);
}

export function compareWithReference(testCase: Case, problem: Problem, observed: Observed): void {
  const { hiddenSize: H, numExperts: E } = testCase.config;
  const K = choices(testCase);
  const reference = referenceFor(testCase, problem, observed);
  expectSame('indices', observed.indices, reference.indices);
  expectSame('kept', observed.kept, reference.kept);
  expectClose('weights', observed.weights, reference.weights, K);
  if (reference.logits) expectClose('logits', observed.logits ?? [], reference.logits, E);
  else if (observed.logits) throw new Error('logits are there although the router did not run');
  expectClose('output', observed.output, reference.output, H);
  compareStats(observed.stats, reference.stats);

  if (!observed.gradients) return;
  const gradients = referenceGradients(reference, testCase, problem);
  expectClose('input gradient', observed.gradients.input, gradients.input, H);
  compareParameterGradients(testCase, observed.gradients.parameters, gradients.parameters);
  const { weights, logits } = observed.gradients;
  if (gradients.routingWeights) expectClose('routingWeightsGrad', weights ?? [], gradients.routingWeights, K);
  else if (weights) throw new Error('routingWeightsGrad is there although the caller gave no weights');
  if (gradients.routingLogits) expectClose('routingLogitsGrad', logits ?? [], gradients.routingLogits, E);
  else if (logits) throw new Error('routingLogitsGrad is there although the caller gave no logits');
}

export function compareParameterGradients(
  testCase: Case,
  actual: Record<string, Read>,
  expected: Record<string, Float64Array>,
): void {
  for (const [name, shape] of Object.entries(parameterShapes(testCase.config))) {
    const vanishing = testCase.vanishing?.includes(name) ?? false;
    expectClose(`gradient of ${name}`, actual[name] ?? [], expected[name]!, shape.at(-1)!, { vanishing });
  }
}

export function compareStats(actual: MoEStats, expected: Stats): void {
  expectSame('stats.assigned', actual.assigned, expected.assigned);
  expectSame('stats.kept', actual.kept, expected.kept);
  for (const name of ['tokens', 'droppedAssignments', 'droppedTokens', 'imbalance', 'routerEntropy', 'utilization'] as const) {
    expectScalar(`stats.${name}`, actual[name], expected[name]);
  }
  // What an empty call's capacity is, is nobody's concern.
  if (expected.tokens > 0) expectScalar('stats.capacity', actual.capacity ?? -1, expected.capacity ?? -1);
  for (const name of ['loadBalance', 'importance', 'z', 'total'] as const) {
    expectScalar(`stats.losses.${name}`, actual.losses[name], expected.losses[name]);
  }
}
