/**
 * The float64 reference of what a training loop needs besides the layer: Linear, Embedding, RMSNorm, cross-entropy and
 * AdamW. Rows are N, features as named; arrays are row-major.
 *
 * Sources: RMSNorm, Zhang & Sennrich 2019; AdamW, Loshchilov & Hutter 2019 as PyTorch's torch.optim.AdamW computes it;
 * clipping as torch.nn.utils.clip_grad_norm_.
 */

import type { Vector } from './reference-math.js';
import {
  addMatVecInputGrad,
  addMatVecWeightGrad,
  addScaled,
  dot,
  logSumExp,
  matVec,
  row,
  softmax,
  sum,
} from './reference-math.js';

/** x [N,in]·weight [out,in]ᵀ + bias [out] → [N,out] */
export function linear(weight: Vector, bias: Vector | undefined, x: Vector, inFeatures: number): Vector {
  const outFeatures = weight.length / inFeatures;
  const y = new Float64Array((x.length / inFeatures) * outFeatures);
  for (let n = 0; n < x.length / inFeatures; n++) {
    const yn = row(y, n, outFeatures);
    yn.set(matVec(weight, row(x, n, inFeatures)));
    if (bias) addScaled(yn, 1, bias);
  }
  return y;
}

export function linearBackward(
  weight: Vector,
  x: Vector,
  dy: Vector,
  inFeatures: number,
): { input: Vector; weight: Vector; bias: Vector } {
  const outFeatures = weight.length / inFeatures;
  const grads = {
    input: new Float64Array(x.length),
    weight: new Float64Array(weight.length),
    bias: new Float64Array(outFeatures),
  };
  for (let n = 0; n < x.length / inFeatures; n++) {
    const dyn = row(dy, n, outFeatures);
    addMatVecInputGrad(row(grads.input, n, inFeatures), weight, dyn);
    addMatVecWeightGrad(grads.weight, dyn, row(x, n, inFeatures));
    addScaled(grads.bias, 1, dyn);
  }
  return grads;
}

/** Rows of table [count,size] → [N,size] */
export function embedding(table: Vector, indices: ArrayLike<number>, size: number): Vector {
  const y = new Float64Array(indices.length * size);
  for (let n = 0; n < indices.length; n++) row(y, n, size).set(row(table, indices[n]!, size));
  return y;
}

export function embeddingBackward(count: number, indices: ArrayLike<number>, dy: Vector, size: number): Vector {
  const dTable = new Float64Array(count * size);
  for (let n = 0; n < indices.length; n++) addScaled(row(dTable, indices[n]!, size), 1, row(dy, n, size));
  return dTable;
}

/** x [N,size] over its root mean square, times weight [size] */
export function rmsNorm(weight: Vector, x: Vector, epsilon: number): Vector {
  const y = new Float64Array(x.length);
  for (let n = 0; n < x.length / weight.length; n++) {
    const xn = row(x, n, weight.length);
    const scale = 1 / Math.sqrt(dot(xn, xn) / weight.length + epsilon);
    row(y, n, weight.length).set(xn.map((v, i) => v * scale * weight[i]!));
  }
  return y;
}

/** With r = 1/√(mean(x²)+ε) and g = dy·weight: dx = r·g − x·r³·⟨g, x⟩/size. */
export function rmsNormBackward(
  weight: Vector,
  x: Vector,
  dy: Vector,
  epsilon: number,
): { input: Vector; weight: Vector } {
  const size = weight.length;
  const grads = { input: new Float64Array(x.length), weight: new Float64Array(size) };
  for (let n = 0; n < x.length / size; n++) {
    const xn = row(x, n, size);
    const dyn = row(dy, n, size);
    const r = 1 / Math.sqrt(dot(xn, xn) / size + epsilon);
    const g = dyn.map((d, i) => d * weight[i]!);
    addScaled(row(grads.input, n, size), r, g);
    addScaled(row(grads.input, n, size), (-(r ** 3) * dot(g, xn)) / size, xn);
    dyn.forEach((d, i) => {
      grads.weight[i]! += d * xn[i]! * r;
    });
  }
  return grads;
}

/** The mean of −log softmax(logits [N,V])[target] over targets that are not −1 (0 without any), and its gradient. */
export function crossEntropy(logits: Vector, targets: ArrayLike<number>): { loss: number; gradLogits: Vector } {
  const width = logits.length / targets.length;
  const gradLogits = new Float64Array(logits.length);
  const counted = Array.from(targets, (target, n) => ({ target, n })).filter(({ target }) => target !== -1);
  let loss = 0;
  for (const { target, n } of counted) {
    const l = row(logits, n, width);
    loss += (logSumExp(l) - l[target]!) / counted.length;
    const grad = row(gradLogits, n, width);
    addScaled(grad, 1 / counted.length, softmax(l));
    grad[target]! -= 1 / counted.length;
  }
  return { loss, gradLogits };
}

export interface AdamWOptions {
  learningRate: number;
  betas?: [number, number];
  epsilon?: number;
  weightDecay?: number;
}

/** AdamW over named arrays. A parameter without gradient in a step is skipped whole: no decay, no moment, no count. */
export class ReferenceAdamW {
  gradNorm = 0;
  skippedSteps = 0;
  private readonly state = new Map<string, { m: Vector; v: Vector; step: number }>();

  constructor(
    private readonly values: Record<string, Vector>,
    private readonly options: AdamWOptions,
  ) {}

  step(grads: Record<string, Vector>, maxGradNorm?: number): void {
    const { learningRate, betas = [0.9, 0.999], epsilon = 1e-8, weightDecay = 0.01 } = this.options;
    this.gradNorm = Math.sqrt(sum(Object.values(grads).map((g) => dot(g, g))));
    if (!Number.isFinite(this.gradNorm)) {
      this.skippedSteps += 1;
      return;
    }
    const clip = maxGradNorm === undefined ? 1 : Math.min(1, maxGradNorm / (this.gradNorm + 1e-6));
    for (const [name, grad] of Object.entries(grads)) {
      const value = this.values[name]!;
      const state = this.state.get(name) ?? {
        m: new Float64Array(grad.length),
        v: new Float64Array(grad.length),
        step: 0,
      };
      this.state.set(name, state);
      state.step += 1;
      grad.forEach((raw, i) => {
        const g = raw * clip;
        state.m[i] = betas[0] * state.m[i]! + (1 - betas[0]) * g;
        state.v[i] = betas[1] * state.v[i]! + (1 - betas[1]) * g * g;
        const mean = state.m[i]! / (1 - betas[0] ** state.step);
        const deviation = Math.sqrt(state.v[i]! / (1 - betas[1] ** state.step));
        value[i]! *= 1 - learningRate * weightDecay;
        value[i]! -= (learningRate * mean) / (deviation + epsilon);
      });
    }
  }
}
