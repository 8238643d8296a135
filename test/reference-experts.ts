/**
 * The float64 reference of one expert: a feed-forward network on one token, forward and backward. Batching, routing and
 * weights are not its business; the routed experts and the shared expert are the same function.
 *
 * Formulas: GLU variants from Shazeer, "GLU Variants Improve Transformer" (2020); both forms of GELU from Hendrycks &
 * Gimpel (2016); clamped-swiglu from GPT-OSS (openai/gpt-oss, `swiglu` in torch/model.py).
 */

import {
  addMatVecInputGrad,
  addMatVecWeightGrad,
  addScaled,
  matVec,
  normalCdf,
  sigmoid,
  type Vector,
} from './reference-math.js';

export type Activation =
  | 'relu'
  | 'gelu'
  | 'gelu-tanh'
  | 'silu'
  | 'swiglu'
  | 'geglu'
  | 'geglu-tanh'
  | 'reglu'
  | { type: 'clamped-swiglu'; alpha: number; limit: number };

/** A function of one number and its derivative, evaluated together. */
interface Curve {
  value: number;
  slope: number;
}

function relu(x: number): Curve {
  return x > 0 ? { value: x, slope: 1 } : { value: 0, slope: 0 };
}

/** x·Φ(x), with the normal distribution function Φ. */
function gelu(x: number): Curve {
  const cdf = normalCdf(x);
  const density = Math.exp(-0.5 * x * x) / Math.sqrt(2 * Math.PI);
  return { value: x * cdf, slope: cdf + x * density };
}

/** 0.5·x·(1 + tanh(√(2/π)·(x + 0.044715·x³))), by (1 + tanh u)/2 = σ(2u): far out in the tail 1 + tanh u cancels. */
function geluTanh(x: number): Curve {
  const c = 2 * Math.sqrt(2 / Math.PI);
  const s = sigmoid(c * (x + 0.044715 * x ** 3));
  return { value: x * s, slope: s + x * s * (1 - s) * c * (1 + 3 * 0.044715 * x * x) };
}

/** x·σ(alpha·x); alpha = 1 is SiLU. */
function swish(x: number, alpha = 1): Curve {
  const s = sigmoid(alpha * x);
  return { value: x * s, slope: s + alpha * x * s * (1 - s) };
}

const CURVES = {
  relu,
  gelu,
  'gelu-tanh': geluTanh,
  silu: swish,
  reglu: relu,
  geglu: gelu,
  'geglu-tanh': geluTanh,
  swiglu: swish,
};

const GATED: readonly Activation[] = ['swiglu', 'geglu', 'geglu-tanh', 'reglu'];

export function isGated(activation: Activation): boolean {
  return typeof activation === 'object' || GATED.includes(activation);
}

/** One activation value and its derivatives. An ungated kind looks at `up` alone. */
export function activate(
  activation: Activation,
  gate: number,
  up: number,
): { value: number; dGate: number; dUp: number } {
  if (typeof activation === 'object') {
    const { alpha, limit } = activation;
    const g = swish(Math.min(gate, limit), alpha);
    const u = Math.max(-limit, Math.min(up, limit)) + 1;
    // At a bound itself the gradient passes, as torch.clamp has it.
    return { value: u * g.value, dGate: gate <= limit ? u * g.slope : 0, dUp: Math.abs(up) <= limit ? g.value : 0 };
  }
  const curve = CURVES[activation];
  if (!isGated(activation)) {
    const { value, slope } = curve(up);
    return { value, dGate: 0, dUp: slope };
  }
  const { value, slope } = curve(gate);
  return { value: value * up, dGate: slope * up, dUp: value };
}

/** The matrices of one expert, or their gradients. The gate exists for gated activations, biases where configured. */
export interface Ffn {
  gate?: Vector | undefined; // [F,H]
  up: Vector; // [F,H]
  down: Vector; // [H,F]
  gateBias?: Vector | undefined; // [F]
  upBias?: Vector | undefined; // [F]
  downBias?: Vector | undefined; // [H]
}

function linear(weight: Vector, bias: Vector | undefined, x: Vector): Vector {
  const y = matVec(weight, x);
  if (bias) addScaled(y, 1, bias);
  return y;
}

/** down·(factors·act(gate·x, up·x)): [H] → [H]. factors [F] of dropout, or none. */
export function ffnForward(ffn: Ffn, activation: Activation, x: Vector, factors?: Vector): Vector {
  const up = linear(ffn.up, ffn.upBias, x);
  const gate = ffn.gate ? linear(ffn.gate, ffn.gateBias, x) : undefined;
  const hidden = up.map((u, i) => (factors?.[i] ?? 1) * activate(activation, gate ? gate[i]! : 0, u).value);
  return linear(ffn.down, ffn.downBias, hidden);
}

/** Adds to `grads` and to dx what the output gradient dy is worth. */
export function ffnBackward(
  ffn: Ffn,
  grads: Ffn,
  activation: Activation,
  x: Vector,
  dy: Vector,
  dx: Vector,
  factors?: Vector,
): void {
  const up = linear(ffn.up, ffn.upBias, x);
  const gate = ffn.gate ? linear(ffn.gate, ffn.gateBias, x) : undefined;
  const activated = Array.from(up, (u, i) => activate(activation, gate ? gate[i]! : 0, u));

  const hidden = Float64Array.from(activated, (a, i) => (factors?.[i] ?? 1) * a.value);
  addMatVecWeightGrad(grads.down, dy, hidden);
  if (grads.downBias) addScaled(grads.downBias, 1, dy);
  const dHidden = new Float64Array(hidden.length);
  addMatVecInputGrad(dHidden, ffn.down, dy);
  factors?.forEach((factor, i) => {
    dHidden[i]! *= factor;
  });

  const dUp = dHidden.map((d, i) => d * activated[i]!.dUp);
  addMatVecWeightGrad(grads.up, dUp, x);
  if (grads.upBias) addScaled(grads.upBias, 1, dUp);
  addMatVecInputGrad(dx, ffn.up, dUp);

  if (!ffn.gate || !grads.gate) return;
  const dGate = dHidden.map((d, i) => d * activated[i]!.dGate);
  addMatVecWeightGrad(grads.gate, dGate, x);
  if (grads.gateBias) addScaled(grads.gateBias, 1, dGate);
  addMatVecInputGrad(dx, ffn.gate, dGate);
}
