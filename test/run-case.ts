/**
 * One case through the library: a layer with the case's weights, its passes, and everything they let one see. Nothing is
 * judged here; compare-case.ts does.
 */

import {
  type Device,
  type DType,
  type ForwardOptions,
  MoELayer,
  type MoEPass,
  type MoEStats,
  type Tensor,
} from '../lib/index.js';
import type { Case } from './cases.js';
import { choices, type Problem } from './problem.js';

export type Read = Float32Array | Int32Array;

/** Everything a pass lets one see, read back to JS. */
export interface Observed {
  output: Read;
  indices: Read;
  weights: Read;
  kept: Read;
  /** With the overflow 'next-choice'. */
  actual: Read | undefined;
  logits: Read | undefined;
  stats: MoEStats;
  /** Absent when the pass was not a training pass. */
  gradients?: { input: Read; parameters: Record<string, Read>; weights: Read | undefined; logits: Read | undefined };
}

/** Configurations are plain data of the same form on both sides; weights come from the problem. */
export function makeLayer(device: Device, testCase: Case, problem: Problem): MoELayer {
  const layer = new MoELayer(device, { ...testCase.config, dtype: problem.dtype, seed: 1 });
  const parameters = layer.parameters();
  for (const [name, values] of Object.entries(problem.parameters)) {
    const parameter = parameters.get(name);
    if (!parameter) throw new Error(`the layer has no parameter ${name}, only ${[...parameters.keys()].join(', ')}`);
    parameter.value.write(values);
    // Memory of gradients is new: what a backward forgets to write must not be 0 by chance.
    if (parameter.trainable) parameter.grad.write(new Float32Array(values.length).fill(Number.NaN));
  }
  layer.zeroGrad();
  return layer;
}

/** The handles of the inputs are dropped at once: what backward needs, the pass holds on to. */
export function runForward(layer: MoELayer, testCase: Case, problem: Problem): MoEPass {
  const { tokens, config } = testCase;
  const made: Tensor[] = [];
  const tensor = (data: Float32Array | Int32Array, width?: number, dtype?: DType): Tensor => {
    const handle = layer.device.tensor(data, width === undefined ? [tokens] : [tokens, width], dtype);
    made.push(handle);
    return handle;
  };
  const options: ForwardOptions = { ...testCase.call };
  if (problem.mask) options.mask = tensor(problem.mask);
  if (problem.lossMask) options.lossMask = tensor(problem.lossMask);
  if (problem.logits) options.logits = tensor(problem.logits, config.numExperts);
  if (problem.noise) options.noise = tensor(problem.noise, config.numExperts);
  if (problem.priorities) options.priorities = tensor(problem.priorities, choices(testCase));
  if (problem.tokenTypes) options.tokenTypes = tensor(problem.tokenTypes);
  if (problem.tokenIds) options.tokenIds = tensor(problem.tokenIds);
  if (problem.indices) {
    options.routing = { indices: tensor(problem.indices, choices(testCase)) };
    if (problem.weights) options.routing.weights = tensor(problem.weights, choices(testCase));
  }
  const pass = layer.forward(tensor(problem.input, config.hiddenSize, problem.dtype), options);
  for (const handle of made) handle.dispose();
  return pass;
}

export function runBackward(pass: MoEPass, testCase: Case, problem: Problem): Tensor {
  const shape = [testCase.tokens, testCase.config.hiddenSize];
  using gradOutput = pass.output.device.tensor(problem.gradOutput, shape, problem.dtype);
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
    actual: await routing.actual?.data(),
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
