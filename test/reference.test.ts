/**
 * The reference is proved here before it judges anything: every gradient by finite differences, over the whole table of
 * cases made small; and its values where they can be computed by hand. The library is not involved.
 */

import { describe, expect, it } from 'vitest';
import { CASES, type Case } from './cases.js';
import { expectGradient } from './finite-differences.js';
import { makeProblem, referenceCall, referenceParameters } from './problem.js';
import { normals } from './random.js';
import { backward, type Forward, forward, type LayerConfig } from './reference.js';
import type { Decisions } from './reference-adopt.js';
import { capacityOf } from './reference-capacity.js';
import { type Activation, activate } from './reference-experts.js';
import { dot, erf } from './reference-math.js';
import * as modules from './reference-modules.js';

/** Only a hang should meet it. */
const TIMEOUT = 1_200_000;

/** The same case with narrow matrices and few tokens: every element of every gradient is then affordable. */
function narrowed(testCase: Case): Case {
  const { experts = {} } = testCase.config;
  const shared = experts.shared ? { shared: { ...experts.shared, ffnSize: 2 } } : {};
  const config = { ...testCase.config, hiddenSize: 4, ffnSize: 3, experts: { ...experts, ...shared } };
  return { ...testCase, config, tokens: Math.min(testCase.tokens, 12) };
}

/** ⟨gradOutput, output⟩ + lossScale·Σ coefficient·loss: what backward() differentiates. Masked rows have output 0. */
function objective(pass: Forward, gradOutput: Float64Array, lossScale: number): number {
  return dot(gradOutput, pass.output) + lossScale * pass.losses.values.total;
}

function randomVector(seed: number, size: number): Float64Array {
  return Float64Array.from(normals(seed, size));
}

describe('layer gradients are finite differences', () => {
  // Tied scores have no derivative; very many experts add time, not cases.
  const cases = CASES.filter((c) => c.distribution !== 'ties' && c.config.numExperts <= 9).map(narrowed);
  it.each(cases.map((small) => [small.name, small] as const))(
    '%s',
    (_, small) => {
      const { config } = small;
      const problem = makeProblem(small);
      const parameters = referenceParameters(problem);
      const call = referenceCall(small, problem);
      const lossScale = small.lossScale ?? 1;
      const gradOutput = Float64Array.from(problem.gradOutput);
      const pass = forward(config, parameters, call);
      const gradients = backward(pass, gradOutput, lossScale);

      const finite = gradOutput.map((g) => (Number.isNaN(g) ? 0 : g));
      const value = (): number => objective(forward(config, parameters, call), finite, lossScale);
      expectGradient('input', call.input, gradients.input, value);
      for (const [name, gradient] of Object.entries(gradients.parameters)) {
        expectGradient(name, parameters[name]!, gradient, value);
      }
      if (call.routing?.weights) expectGradient('weights', call.routing.weights, gradients.routingWeights!, value);
      if (call.logits) expectGradient('logits', call.logits, gradients.routingLogits!, value);
    },
    TIMEOUT,
  );
});

describe('the table is what it says', () => {
  function stats(name: string): Forward['stats'] {
    const testCase = CASES.find((c) => c.name === name)!;
    const problem = makeProblem(testCase);
    return forward(testCase.config, referenceParameters(problem), referenceCall(testCase, problem)).stats;
  }

  it('names are unique', () => {
    expect(new Set(CASES.map((c) => c.name)).size).toBe(CASES.length);
  });

  it('distributions', () => {
    expect(stats('all tokens on one expert, K = 1').utilization).toBe(1 / 7);
    expect(stats('large, all on one expert').imbalance).toBe(4);
    expect(stats('experts with no token').assigned.filter((n) => n === 0).length).toBeGreaterThan(0);
    expect(stats('skewed').imbalance).toBeGreaterThan(1.5);
  });

  it('every limit that should drop does', () => {
    const dropless = ['{"factor":100}', '"factor":0.8,"min":5'];
    const limited = CASES.filter((c) => c.name.startsWith('capacity {') && !dropless.some((d) => c.name.includes(d)));
    for (const { name } of limited) expect(stats(name).droppedAssignments, name).toBeGreaterThan(0);
    const roomy = ['groups of one', 'a buffer for', 'no token', 'its bound'];
    const queued = CASES.filter(
      (c) => c.name.startsWith('slots:') && !roomy.some((r) => c.name.includes(r)) && !c.name.endsWith(', 0'),
    );
    for (const { name } of queued) expect(stats(name).droppedAssignments, name).toBeGreaterThan(0);
    expect(stats('most tokens lose all experts').droppedTokens).toBeGreaterThan(10);
    expect(stats('capacity at the edge of a whole number').capacity).toBe(8);
  });
});

describe('activations', () => {
  const kinds: Activation[] = [
    ...(['relu', 'gelu', 'gelu-tanh', 'silu', 'swiglu', 'geglu', 'geglu-tanh', 'reglu'] as const),
    { type: 'clamped-swiglu', alpha: 1.702, limit: 1.5 },
  ];
  it.each(kinds.map((kind) => [JSON.stringify(kind), kind] as const))('%s', (_, kind) => {
    for (let i = 0; i < 200; i++) {
      const [gate, up] = [normals(i, 1, 3)[0]!, normals(i + 1000, 1, 3)[0]!];
      const at = activate(kind, gate, up);
      const h = 1e-5;
      const dGate = (activate(kind, gate + h, up).value - activate(kind, gate - h, up).value) / (2 * h);
      const dUp = (activate(kind, gate, up + h).value - activate(kind, gate, up - h).value) / (2 * h);
      expect(Math.abs(at.dGate - dGate)).toBeLessThan(1e-7);
      expect(Math.abs(at.dUp - dUp)).toBeLessThan(1e-7);
    }
  });

  it('takes the agreed sides of kinks and bounds', () => {
    expect(activate('relu', 0, 0).dUp).toBe(0);
    expect(activate('reglu', 0, 1).dGate).toBe(0);
    const clamped: Activation = { type: 'clamped-swiglu', alpha: 1, limit: 2 };
    expect(activate(clamped, 2, 1).dGate).toBeGreaterThan(0);
    expect(activate(clamped, 2.1, 1).dGate).toBe(0);
    expect(activate(clamped, 1, -2).dUp).toBeGreaterThan(0);
    expect(activate(clamped, 1, -2.1).dUp).toBe(0);
  });

  it('knows published values', () => {
    expect(erf(0.5)).toBeCloseTo(0.5204998778130465, 14);
    expect(erf(-2)).toBeCloseTo(-0.9953222650189527, 14);
    expect(erf(5)).toBeCloseTo(0.9999999999984626, 14);
    expect(activate('gelu', 0, 1).value).toBeCloseTo(0.8413447460685429, 14); // Φ(1)
    expect(activate('gelu-tanh', 0, 1).value).toBeCloseTo(0.841191990608276, 12);
    expect(activate('silu', 0, 1).value).toBeCloseTo(0.7310585786300049, 14); // σ(1)
  });
});

describe('values known by hand', () => {
  const base: LayerConfig = { hiddenSize: 2, ffnSize: 2, numExperts: 4, topK: 2 };
  const losses = { loadBalance: 1, importance: 1, z: 1 };

  function routed(config: LayerConfig, logits: number[], adopt?: Decisions): Forward {
    const testCase: Case = { name: '', config, tokens: logits.length / config.numExperts, ownLogits: true };
    const problem = makeProblem(testCase);
    const call = { ...referenceCall(testCase, problem), logits: Float64Array.from(logits) };
    return forward(config, referenceParameters(problem), adopt ? { ...call, adopt } : call);
  }

  it.each([1, 2, 4])('perfect balance is loss 1 for K = %i, and z is (ln E)² for equal logits', (topK) => {
    const { stats } = routed({ ...base, topK, losses }, new Array(16).fill(0));
    expect(stats.losses.loadBalance).toBeCloseTo(1, 14);
    expect(stats.losses.z).toBeCloseTo(Math.log(4) ** 2, 14);
    expect(stats.routerEntropy).toBeCloseTo(Math.log(4), 14);
  });

  it('all tokens on one expert with certainty is loss E', () => {
    const { stats } = routed({ ...base, topK: 1, losses }, [50, 0, 0, 0, 50, 0, 0, 0]);
    expect(stats.losses.loadBalance).toBeCloseTo(4, 12);
    expect(stats.losses.importance).toBeCloseTo(3, 8); // the variance of (2,0,0,0) over its squared mean
    expect(stats).toMatchObject({ imbalance: 4, utilization: 0.25, tokens: 2 });
  });

  it('equal scores go to the lower index', () => {
    expect([...routed(base, [1, 2, 2, 2, 0, 0, 0, 0]).indices]).toEqual([1, 2, 0, 1]);
  });

  it('renormalised weights have norm weightScale', () => {
    const { weights } = routed({ ...base, router: { renormalize: { p: 2 }, weightScale: 3 } }, [1, 2, 3, 4]);
    expect(Math.hypot(...weights)).toBeCloseTo(3, 14);
  });

  it('counts the capacity in whole slots', () => {
    const call = { tokens: 10, topK: 2, numExperts: 8, training: true };
    expect(capacityOf({ type: 'dropless' }, call)).toBeNull();
    expect(capacityOf({ type: 'fixed', factor: 1 }, call)).toBe(3); // ⌈2.5⌉
    expect(capacityOf({ type: 'fixed', factor: 1, min: 4 }, call)).toBe(4);
    expect(capacityOf({ type: 'fixed', factor: 1, min: 4, multipleOf: 3 }, call)).toBe(6);
    expect(capacityOf({ type: 'fixed', slots: 7 }, call)).toBe(7);
    expect(capacityOf({ type: 'fixed', factor: 1, evalFactor: 2 }, { ...call, training: false })).toBe(5);
  });

  it('queues as configured', () => {
    // Every token prefers expert 0, then 1; token 2 is the surest and token 0 the least sure.
    const logits = [2, 1, -9, -9, 3, 1.5, -9, -9, 4, 1, -9, -9];
    const kept = (capacity: LayerConfig['capacity']): number[] => [
      ...routed({ ...base, capacity: capacity! }, logits).kept,
    ];
    expect(kept({ type: 'fixed', slots: 1 })).toEqual([1, 1, 0, 0, 0, 0]);
    expect(kept({ type: 'fixed', slots: 1, priority: 'score' })).toEqual([0, 0, 0, 0, 1, 1]);
    // By its own score token 0 is the first at expert 1: the less sure of 0, the surer of 1.
    expect(kept({ type: 'fixed', slots: 1, priority: 'score', firstChoicesFirst: false })).toEqual([0, 1, 0, 0, 1, 0]);
  });

  it('lets first choices go first, or not', () => {
    const logits = [2, 1, 0, 0, 1, 2, 0, 0]; // token 0 wants 0 then 1, token 1 wants 1 then 0
    const kept = (firstChoicesFirst: boolean): number[] => [
      ...routed({ ...base, capacity: { type: 'fixed', slots: 1, firstChoicesFirst } }, logits).kept,
    ];
    expect(kept(true)).toEqual([1, 0, 1, 0]);
    expect(kept(false)).toEqual([1, 1, 0, 0]);
  });

  it('gives what overflows its next choice, in rounds', () => {
    // All four want expert 0. Tokens 1 and 2 then ask expert 1, which has one slot, while token 3 asks expert 2: in the
    // next round token 2 finds expert 2 taken and goes to expert 3, although it is ahead of token 3 in the queue.
    const logits = [9, 1, 0, -1, 9, 3, 2, 1, 9, 3, 2, 1, 9, 1, 2, 0];
    const capacity = { type: 'fixed', slots: 1, overflow: 'next-choice' } as const;
    const { placement, stats } = routed({ ...base, topK: 1, capacity }, logits);
    expect([...placement.used]).toEqual([0, 1, 3, 2]);
    expect(stats).toMatchObject({ droppedAssignments: 0, droppedTokens: 0 });
    const again = routed({ ...base, topK: 1, capacity: { ...capacity, overflow: 'drop' } }, logits);
    expect(again.stats.droppedTokens).toBe(3);
  });

  it('divides by what was kept, and gives a token without any zeros', () => {
    const capacity = { type: 'fixed', slots: 1 } as const;
    const logits = [2, 1, -9, -9, 2, 1, -9, -9, 2, -9, 1, -9];
    const { weights } = routed({ ...base, capacity, router: { renormalizeAfterDrop: true } }, logits);
    const first = 1 / (1 + Math.exp(-1));
    for (const [i, weight] of [first, 1 - first, 0, 0, 0, 1].entries()) expect(weights[i]).toBeCloseTo(weight, 14);
  });

  it('adopts near-ties and nothing else', () => {
    const logits = [1, 1 + 1e-6, 0, 0];
    expect([...routed(base, logits, { indices: [0, 1], kept: [1, 1] }).indices]).toEqual([0, 1]);
    expect(() => routed(base, logits, { indices: [1, 2], kept: [1, 1] })).toThrow(/choice 1 is expert 2, not 0/);
    expect(() => routed(base, logits, { indices: [0, 0], kept: [1, 1] })).toThrow(/twice/);
    expect(() => routed(base, logits, { indices: [0, 1], kept: [1, 0] })).toThrow(/1 is dropped; it gets expert 1/);
    const capacity = { type: 'fixed', slots: 1, priority: 'score' } as const;
    const two = [1, 0, -9, -9, 1 + 1e-6, 0, -9, -9];
    const swapped = { indices: [0, 1, 0, 1], kept: [1, 1, 0, 0] };
    expect([...routed({ ...base, capacity }, two, swapped).kept]).toEqual([1, 1, 0, 0]);
    const apart = [1, 0, -9, -9, 1.1, 0, -9, -9];
    expect(() => routed({ ...base, capacity }, apart, swapped)).toThrow(/assignment 0 gets expert 0; it is dropped/);
  });

  it('adopts next choices that are near-ties and nothing else', () => {
    const capacity = { type: 'fixed', slots: 1, overflow: 'next-choice' } as const;
    // The scores of the first two tokens are equal. The third all but equally prefers experts 1 and 2.
    const logits = [9, 1, 0, -1, 9, 1, 0, -1, 9, 2, 2 + 1e-6, 1];
    const used = (...actual: number[]) => [
      ...routed({ ...base, topK: 1, capacity }, logits, {
        indices: [0, 0, 0],
        kept: actual.map((e) => (e < 0 ? 0 : 1)),
        actual,
      }).placement.used,
    ];
    expect(used(0, 1, 2)).toEqual([0, 1, 2]);
    expect(() => used(0, 2, 1)).toThrow(/assignment 1 gets expert 2; it gets expert 1/);
    expect(() => used(0, 1, 3)).toThrow(/assignment 2 gets expert 3; it gets expert 2/);
    expect(() => used(0, 1, 1)).toThrow(/assignment 2 gets expert 1; it gets expert 2/); // over capacity
    expect(() => used(0, 1, -1)).toThrow(/assignment 2 is dropped/);
    const queuesByScore = { ...base, topK: 1, capacity: { ...capacity, priority: 'score' } } as const;
    const swapped = { indices: [0, 0, 0], kept: [1, 1, 1], actual: [1, 0, 2] };
    expect([...routed(queuesByScore, logits, swapped).placement.used]).toEqual([1, 0, 2]);
  });

  it('adopts no draw but its own', () => {
    const capacity = { type: 'fixed', slots: 2, priority: 'score', overflow: 'next-choice' } as const;
    const config: LayerConfig = { ...base, topK: 1, capacity, router: { type: 'hash' } };
    const { indices, kept, placement } = routed(config, new Array(40).fill(0));
    const actual = placement.used.map((e, a) => (kept[a] === 1 ? e : -1));
    expect([...routed(config, new Array(40).fill(0), { indices, kept, actual }).placement.used]).toEqual([
      ...placement.used,
    ]);
    const next = actual.findIndex((e, a) => e >= 0 && e !== indices[a]);
    const other = actual.findIndex((e) => e >= 0 && e !== actual[next]);
    const swapped = actual.slice();
    [swapped[next], swapped[other]] = [actual[other]!, actual[next]!];
    expect(() => routed(config, new Array(40).fill(0), { indices, kept, actual: swapped })).toThrow(/adopt/);
    expect(() => routed(config, new Array(40).fill(0), { indices: indices.map((e) => 3 - e), kept })).toThrow(
      /choice 0/,
    );
  });
});

describe('modules', () => {
  const [rows, inFeatures, outFeatures] = [5, 4, 3];

  it('Linear', () => {
    const [weight, bias] = [randomVector(1, outFeatures * inFeatures), randomVector(2, outFeatures)];
    const [x, dy] = [randomVector(3, rows * inFeatures), randomVector(4, rows * outFeatures)];
    const grads = modules.linearBackward(weight, x, dy, inFeatures);
    const value = (): number => dot(dy, modules.linear(weight, bias, x, inFeatures));
    expectGradient('weight', weight, grads.weight, value);
    expectGradient('bias', bias, grads.bias, value);
    expectGradient('input', x, grads.input, value);
  });

  it('Embedding', () => {
    const [count, size, indices] = [6, 3, [1, 4, 1, 0]];
    const [table, dy] = [randomVector(1, count * size), randomVector(2, indices.length * size)];
    const value = (): number => dot(dy, modules.embedding(table, indices, size));
    expectGradient('table', table, modules.embeddingBackward(count, indices, dy, size), value);
  });

  it('RMSNorm', () => {
    const [weight, x, dy] = [randomVector(1, 4), randomVector(2, 20), randomVector(3, 20)];
    const grads = modules.rmsNormBackward(weight, x, dy, 0.01);
    const value = (): number => dot(dy, modules.rmsNorm(weight, x, 0.01));
    expectGradient('weight', weight, grads.weight, value);
    expectGradient('input', x, grads.input, value);
  });

  it('cross-entropy', () => {
    const [logits, targets] = [randomVector(1, 5 * 7), [3, -1, 0, 6, -1]];
    const { loss, gradLogits } = modules.crossEntropy(logits, targets);
    expectGradient('logits', logits, gradLogits, () => modules.crossEntropy(logits, targets).loss);
    expect(loss).toBeGreaterThan(0);
    expect(modules.crossEntropy(new Float64Array(14), [3, 1]).loss).toBeCloseTo(Math.log(7), 14);
    expect(modules.crossEntropy(logits, [-1, -1, -1, -1, -1]).loss).toBe(0);
  });

  it('AdamW: the first step is the learning rate against the sign, whatever the gradient', () => {
    const w = Float64Array.of(1, -2);
    const adam = new modules.ReferenceAdamW({ w }, { learningRate: 0.1, weightDecay: 0.5, epsilon: 0 });
    adam.step({ w: Float64Array.of(3, -4) });
    expect(adam.gradNorm).toBe(5);
    expect(w[0]).toBeCloseTo(0.95 - 0.1, 14);
    expect(w[1]).toBeCloseTo(-1.9 + 0.1, 14);
    adam.step({ w: Float64Array.of(Number.NaN, 0) });
    expect(adam.skippedSteps).toBe(1);
    expect(w[0]).toBeCloseTo(0.85, 14);
    adam.step({});
    expect(w[0]).toBeCloseTo(0.85, 14);
  });
});
