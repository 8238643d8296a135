/**
 * The float64 reference of the balancing losses: their values, and the gradients of their weighted sum on the logits
 * [T,E] and on the gate weights [T,K]. Counts are constants: no gradient flows through a choice.
 *
 * Sources: load balance, Switch Transformer (Fedus et al. 2021, eq. 4), normalised so that perfect balance is 1 for every
 * K; first choices only, GShard; per sequence, DeepSeek-V2/V3; importance, Shazeer et al. 2017 and V-MoE (Riquelme et al.
 * 2021); z, ST-MoE (Zoph et al. 2022).
 */

import { addScaled, dot, logSumExp, row, softmax, softmaxBackward, sum, type Vector } from './reference-math.js';

export interface LossOptions {
  loadBalance?:
    | number
    | {
        coefficient: number;
        counts?: 'all' | 'first-choice';
        scope?: 'batch' | 'sequence';
        sequenceLength?: number;
      };
  importance?: number | { coefficient: number; from?: 'gates' | 'softmax' };
  z?: number;
}

/** Coefficients of one call, in place of the configured ones. */
export interface LossCoefficients {
  loadBalance?: number;
  importance?: number;
  z?: number;
}

export interface LossInputs {
  tokens: number;
  numExperts: number;
  topK: number;
  temperature: number;
  logits: Vector; // [T,E], after bias, before temperature
  indices: Int32Array; // [T,K], before drops
  weights: Vector; // [T,K], after renormalisation and scale, before drops
  counted: boolean[]; // [T], the loss tokens
}

export interface LossResult {
  values: { loadBalance?: number; importance?: number; z?: number; total: number };
  dLogits: Vector; // [T,E]
  dWeights: Vector; // [T,K]
}

export function balancingLosses(options: LossOptions, overrides: LossCoefficients, inputs: LossInputs): LossResult {
  const result: LossResult = {
    values: { total: 0 },
    dLogits: new Float64Array(inputs.tokens * inputs.numExperts),
    dWeights: new Float64Array(inputs.tokens * inputs.topK),
  };
  for (const name of ['loadBalance', 'importance', 'z'] as const) {
    const option = options[name];
    const coefficient = overrides[name] ?? (typeof option === 'object' ? option.coefficient : option);
    if (coefficient === undefined) continue;
    const value = LOSSES[name](options, inputs, coefficient, result);
    result.values[name] = value;
    result.values.total += coefficient * value;
  }
  return result;
}

/** Computes one loss, adds coefficient times its gradient to `into`, and returns the value without coefficient. */
type Loss = (options: LossOptions, inputs: LossInputs, coefficient: number, into: LossResult) => number;

const LOSSES: Record<'loadBalance' | 'importance' | 'z', Loss> = { loadBalance, importance, z: zLoss };

function countedTokens(inputs: LossInputs, from = 0, to = inputs.tokens): number[] {
  const tokens: number[] = [];
  for (let t = from; t < to; t++) if (inputs.counted[t]) tokens.push(t);
  return tokens;
}

function tempered(inputs: LossInputs, token: number): Vector {
  return row(inputs.logits, token, inputs.numExperts).map((l) => l / inputs.temperature);
}

/** The mean over scopes (the batch, or each sequence that has a loss token) of E·Σ_e f_e·P_e. */
function loadBalance(options: LossOptions, inputs: LossInputs, coefficient: number, into: LossResult): number {
  const settings = typeof options.loadBalance === 'object' ? options.loadBalance : undefined;
  const length = settings?.scope === 'sequence' ? settings.sequenceLength! : inputs.tokens;
  const scopes: number[][] = [];
  for (let start = 0; start < inputs.tokens; start += length) {
    const tokens = countedTokens(inputs, start, start + length);
    if (tokens.length > 0) scopes.push(tokens);
  }

  const choices = settings?.counts === 'first-choice' ? 1 : inputs.topK;
  let value = 0;
  for (const tokens of scopes) {
    const share = new Float64Array(inputs.numExperts); // f
    for (const t of tokens) {
      for (let k = 0; k < choices; k++) share[inputs.indices[t * inputs.topK + k]!]! += 1 / (tokens.length * choices);
    }
    const probability = new Float64Array(inputs.numExperts); // P
    for (const t of tokens) addScaled(probability, 1 / tokens.length, softmax(tempered(inputs, t)));
    value += (inputs.numExperts * dot(share, probability)) / scopes.length;

    const dp = share.map((f) => (coefficient * inputs.numExperts * f) / (tokens.length * scopes.length));
    for (const t of tokens) {
      const du = softmaxBackward(softmax(tempered(inputs, t)), dp);
      addScaled(row(into.dLogits, t, inputs.numExperts), 1 / inputs.temperature, du);
    }
  }
  return value;
}

/** cv² = var_pop/(mean² + 1e-10) of Σ_t w_{t,e}, or of Σ_t softmax(l_t)_e. */
function importance(options: LossOptions, inputs: LossInputs, coefficient: number, into: LossResult): number {
  const { numExperts, topK, indices, weights } = inputs;
  const fromSoftmax = typeof options.importance === 'object' && options.importance.from === 'softmax';
  const tokens = countedTokens(inputs);

  const total = new Float64Array(numExperts);
  for (const t of tokens) {
    if (fromSoftmax) addScaled(total, 1, softmax(row(inputs.logits, t, numExperts)));
    else for (let k = 0; k < topK; k++) total[indices[t * topK + k]!]! += weights[t * topK + k]!;
  }
  const mean = sum(total) / numExperts;
  const variance = sum(total.map((s) => (s - mean) ** 2)) / numExperts;
  const divisor = mean ** 2 + 1e-10;

  const dTotal = total.map(
    (s) => (coefficient * 2 * ((s - mean) / divisor - (variance * mean) / divisor ** 2)) / numExperts,
  );
  for (const t of tokens) {
    if (fromSoftmax) {
      const dl = softmaxBackward(softmax(row(inputs.logits, t, numExperts)), dTotal);
      addScaled(row(into.dLogits, t, numExperts), 1, dl);
    } else {
      for (let k = 0; k < topK; k++) into.dWeights[t * topK + k]! += dTotal[indices[t * topK + k]!]!;
    }
  }
  return variance / divisor;
}

/** The mean over loss tokens of logsumexp(l)². */
function zLoss(_options: LossOptions, inputs: LossInputs, coefficient: number, into: LossResult): number {
  const tokens = countedTokens(inputs);
  let value = 0;
  for (const t of tokens) {
    const logits = row(inputs.logits, t, inputs.numExperts);
    const lse = logSumExp(logits);
    value += lse ** 2 / tokens.length;
    addScaled(row(into.dLogits, t, inputs.numExperts), (coefficient * 2 * lse) / tokens.length, softmax(logits));
  }
  return value;
}
