/**
 * The float64 reference of the balancing losses: their values, and the gradients of their weighted sum on the logits
 * [T,E] and on the gate weights [T,K]. Counts are constants: no gradient flows through a choice.
 *
 * Sources: load balance, Switch Transformer (Fedus et al. 2021, eq. 4), normalised so that perfect balance is 1 for every
 * K; first choices only, GShard; per sequence and per device, DeepSeek-V2/V3; importance and load, Shazeer et al. 2017 and
 * V-MoE (Riquelme et al. 2021); z, ST-MoE (Zoph et al. 2022).
 */

import {
  addScaled,
  dot,
  logSumExp,
  normalCdf,
  row,
  softmax,
  softmaxBackward,
  sum,
  type Vector,
} from './reference-math.js';
import { topK as bestExperts, probabilities, probabilitiesBackward, type RouterOptions } from './reference-router.js';

export interface LossOptions {
  loadBalance?:
    | number
    | {
        coefficient: number;
        counts?: 'all' | 'first-choice' | 'unbiased';
        scope?: 'batch' | 'sequence' | 'device';
        sequenceLength?: number;
        groupsOfExperts?: number;
      };
  importance?: number | { coefficient: number; from?: 'gates' | 'softmax' };
  load?: number | { coefficient: number; threshold?: 'kth' | 'excluding-self' };
  z?: number;
}

/** Coefficients of one call, in place of the configured ones. */
export interface LossCoefficients {
  loadBalance?: number;
  importance?: number;
  load?: number;
  z?: number;
}

export interface LossInputs {
  tokens: number;
  numExperts: number;
  topK: number;
  temperature: number;
  router: RouterOptions;
  logits: Vector; // [T,E], after bias, before temperature; −∞ for an expert that the token may not use
  noisy: Vector; // [T,E], over the temperature and with noise
  deviations: Vector | undefined; // [T,E], the noise's standard deviation
  indices: Int32Array; // [T,K], before drops
  weights: Vector; // [T,K], after renormalisation and scale, before drops
  counted: boolean[]; // [T], the loss tokens
}

export interface LossResult {
  values: { loadBalance?: number; importance?: number; load?: number; z?: number; total: number };
  dLogits: Vector; // [T,E], the noisy logits and deviations held
  dNoisy: Vector; // [T,E], where a noisy logit is a threshold
  dDeviations: Vector; // [T,E]
  dWeights: Vector; // [T,K]
}

export function balancingLosses(options: LossOptions, overrides: LossCoefficients, inputs: LossInputs): LossResult {
  const result: LossResult = {
    values: { total: 0 },
    dLogits: new Float64Array(inputs.tokens * inputs.numExperts),
    dNoisy: new Float64Array(inputs.tokens * inputs.numExperts),
    dDeviations: new Float64Array(inputs.tokens * inputs.numExperts),
    dWeights: new Float64Array(inputs.tokens * inputs.topK),
  };
  for (const name of ['loadBalance', 'importance', 'load', 'z'] as const) {
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

const LOSSES: Record<'loadBalance' | 'importance' | 'load' | 'z', Loss> = { loadBalance, importance, load, z: zLoss };

function countedTokens(inputs: LossInputs, from = 0, to = inputs.tokens): number[] {
  const tokens: number[] = [];
  for (let t = from; t < to; t++) if (inputs.counted[t]) tokens.push(t);
  return tokens;
}

function tempered(inputs: LossInputs, token: number): Vector {
  return row(inputs.logits, token, inputs.numExperts).map((l) => l / inputs.temperature);
}

/** The experts that a token's choice counts for: all it made, the first, or the best without selection bias and groups. */
function countedChoices(kind: 'all' | 'first-choice' | 'unbiased', inputs: LossInputs, token: number): number[] {
  const { topK, numExperts } = inputs;
  const chosen = [...inputs.indices.subarray(token * topK, (token + 1) * topK)];
  if (kind === 'first-choice') return chosen.slice(0, 1);
  return kind === 'all' ? chosen : bestExperts(row(inputs.noisy, token, numExperts), topK);
}

/**
 * The mean over scopes (the batch, or each sequence that has a loss token) of E·Σ_e f_e·P_e; over groups of experts,
 * D·Σ_d f_d·P_d with the sums over each of the D groups.
 */
function loadBalance(options: LossOptions, inputs: LossInputs, coefficient: number, into: LossResult): number {
  const { numExperts, router } = inputs;
  const settings = typeof options.loadBalance === 'object' ? options.loadBalance : undefined;
  const length = settings?.scope === 'sequence' ? settings.sequenceLength! : inputs.tokens;
  const groups = settings?.scope === 'device' ? settings.groupsOfExperts! : numExperts;
  const groupOf = (e: number): number => Math.floor(e / (numExperts / groups));
  const scopes: number[][] = [];
  for (let start = 0; start < inputs.tokens; start += length) {
    const tokens = countedTokens(inputs, start, start + length);
    if (tokens.length > 0) scopes.push(tokens);
  }

  const kind = settings?.counts ?? 'all';
  const choices = kind === 'first-choice' ? 1 : inputs.topK;
  let value = 0;
  for (const tokens of scopes) {
    const share = new Float64Array(groups); // f
    for (const t of tokens) {
      for (const e of countedChoices(kind, inputs, t)) {
        if (e >= 0) share[groupOf(e)]! += 1 / (tokens.length * choices);
      }
    }
    const dP = Float64Array.from({ length: numExperts }, (_, e) => (groups * share[groupOf(e)]!) / tokens.length);
    for (const t of tokens) {
      const u = tempered(inputs, t);
      value += dot(dP, probabilities(u, router)) / scopes.length;
      const du = probabilitiesBackward(u, router, dP);
      addScaled(row(into.dLogits, t, numExperts), coefficient / (inputs.temperature * scopes.length), du);
    }
  }
  return value;
}

/** cv² = var_pop/(mean² + 1e-10), and its gradient. */
function variation(total: Vector): { value: number; gradient: Vector } {
  const mean = sum(total) / total.length;
  const variance = sum(total.map((s) => (s - mean) ** 2)) / total.length;
  const divisor = mean ** 2 + 1e-10;
  const gradient = total.map((s) => (2 * ((s - mean) / divisor - (variance * mean) / divisor ** 2)) / total.length);
  return { value: variance / divisor, gradient };
}

/** cv² of Σ_t w_{t,e}, or of Σ_t softmax(l_t)_e. */
function importance(options: LossOptions, inputs: LossInputs, coefficient: number, into: LossResult): number {
  const { numExperts, topK, indices, weights } = inputs;
  const fromSoftmax = typeof options.importance === 'object' && options.importance.from === 'softmax';
  const tokens = countedTokens(inputs);

  const total = new Float64Array(numExperts);
  for (const t of tokens) {
    if (fromSoftmax) addScaled(total, 1, softmax(row(inputs.logits, t, numExperts)));
    else {
      for (let a = t * topK; a < (t + 1) * topK; a++) if (indices[a]! >= 0) total[indices[a]!]! += weights[a]!;
    }
  }
  const { value, gradient } = variation(total);
  for (const t of tokens) {
    if (fromSoftmax) {
      const dl = softmaxBackward(softmax(row(inputs.logits, t, numExperts)), gradient);
      addScaled(row(into.dLogits, t, numExperts), coefficient, dl);
    } else {
      for (let a = t * topK; a < (t + 1) * topK; a++) {
        if (indices[a]! >= 0) into.dWeights[a]! += coefficient * gradient[indices[a]!]!;
      }
    }
  }
  return value;
}

/**
 * cv² of Σ_t Φ((u_{t,e} − θ_{t,e})/σ_{t,e}): the chance that e would be chosen if its own noise were drawn anew, θ being
 * the noisy logit that it has to beat. Excluding e itself that is the (K+1)-th for the K chosen ones (Shazeer), else the
 * K-th for all (V-MoE). With no such logit every expert is chosen for certain. Groups and selection bias take no part.
 */
function load(options: LossOptions, inputs: LossInputs, coefficient: number, into: LossResult): number {
  const { numExperts, topK, temperature } = inputs;
  const excludingSelf = !(typeof options.load === 'object' && options.load.threshold === 'kth');
  const tokens = countedTokens(inputs);
  const density = (x: number): number => Math.exp(-0.5 * x * x) / Math.sqrt(2 * Math.PI);

  const total = new Float64Array(numExperts);
  const terms: { at: number; expert: number; threshold: number; z: number }[] = [];
  for (const t of tokens) {
    const noisy = row(inputs.noisy, t, numExperts);
    const ranked = bestExperts(noisy, numExperts);
    for (let e = 0; e < numExperts; e++) {
      if (noisy[e] === -Infinity) continue;
      const isChosen = ranked.indexOf(e) < topK;
      const threshold = ranked[excludingSelf && isChosen ? topK : topK - 1] ?? -1;
      if (threshold < 0) {
        total[e]! += 1;
        continue;
      }
      const at = t * numExperts + e;
      const z = (inputs.logits[at]! / temperature - noisy[threshold]!) / inputs.deviations![at]!;
      total[e]! += normalCdf(z);
      terms.push({ at, expert: e, threshold: t * numExperts + threshold, z });
    }
  }
  const { value, gradient } = variation(total);
  for (const { at, expert, threshold, z } of terms) {
    const deviation = inputs.deviations![at]!;
    const dz = coefficient * gradient[expert]! * density(z);
    into.dLogits[at]! += dz / (deviation * temperature);
    into.dNoisy[threshold]! -= dz / deviation;
    into.dDeviations[at]! -= (dz * z) / deviation;
  }
  return value;
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
