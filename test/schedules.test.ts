// The schedules: where they go, and that what they say reaches the layer through the options of forward.
import { describe, expect, it } from 'vitest';
import { MoELayer, schedules } from '../lib/index.js';
import { onEachDevice } from './devices.js';
import { failure } from './failure.js';
import { normals } from './random.js';

const { constant, cosine, denseToSparse, exponential, join, linear } = schedules;

describe('schedules', () => {
  const at = (schedule: schedules.Schedule, ...steps: number[]) =>
    steps.map((step) => Number(schedule(step).toFixed(6)));

  it('go where they say', () => {
    expect(at(constant(3), 0, 99)).toEqual([3, 3]);
    expect(at(linear(1, 0, 10), -5, 0, 5, 10, 99)).toEqual([1, 1, 0.5, 0, 0]);
    expect(at(cosine(2, 0, 100), 0, 50, 100, 200)).toEqual([2, 1, 0, 0]);
    expect(at(cosine(2, 1, 110, 10), 0, 5, 10, 60, 110)).toEqual([0, 1, 2, 1.5, 1]);
    expect(at(cosine(2, 1, 10, 10), 9, 10)).toEqual([1.8, 1]);
    expect(at(denseToSparse(8, 2, 6), 0, 1, 3, 6, 7)).toEqual([8, 7, 5, 2, 2]);
    expect(at(exponential(4, 0.25, 4), -1, 0, 1, 2, 4, 9)).toEqual([4, 4, 2, 1, 0.25, 0.25]);
    expect(exponential(3, 0.7, 7)(7)).toBe(0.7);
  });

  it('join one after the other, each with its own steps', () => {
    const temperature = join([linear(1, 4, 10), constant(4), exponential(4, 1, 2)], [10, 15]);
    expect(at(temperature, -1, 0, 5, 10, 14, 15, 16, 17, 50)).toEqual([1, 1, 2.5, 4, 4, 4, 2, 1, 1]);
    expect(at(join([constant(7)], []), 0, 3)).toEqual([7, 7]);
  });

  it('refuse what is no schedule', () => {
    expect(failure(() => linear(1, 0, 0)).message).toMatch(/^steps: .*got 0$/);
    expect(failure(() => cosine(1, 0, 10, 11)).message).toMatch(/^warmup: .*steps \(10\), got 11$/);
    expect(failure(() => constant(Number.NaN)).message).toMatch(/^value: .*NaN$/);
    expect(failure(() => denseToSparse(4, 5, 10)).code).toBe('ERR_INVALID_ARGUMENT');
    expect(failure(() => exponential(0, 1, 10)).message).toMatch(/^from: .*above 0, got 0$/);
    expect(failure(() => join([], [])).message).toMatch(/^schedules: expected .* got \[\]$/);
    expect(failure(() => join([constant(1)], [3])).message).toMatch(/^boundaries: expected 0 steps, .* got \[3\]$/);
    expect(failure(() => join([constant(1), constant(2), constant(3)], [5, 5])).message).toMatch(
      /^boundaries\[1\]: expected an integer from 6 .* got 5$/,
    );
  });
});

onEachDevice((device) => {
  it('a schedule of each kind drives a forward', async () => {
    const [T, H, E] = [32, 12, 4];
    using layer = new MoELayer(device(), {
      hiddenSize: H,
      ffnSize: 10,
      numExperts: E,
      topK: 1,
      capacity: { type: 'fixed', factor: 1 },
      losses: { loadBalance: 0, z: 0 },
      seed: 3,
    });
    using input = device().tensor(normals(5, T * H), [T, H]);
    const topK = denseToSparse(E, 1, 6);
    const capacity = linear(2, 0.5, 6);
    const temperature = join([linear(1, 3, 3), exponential(3, 1, 3)], [3]);
    const balance = linear(0, 0.1, 4);
    const total: number[] = [];
    for (let step = 0; step <= 6; step++) {
      const K = topK(step);
      using pass = layer.forward(input, {
        topK: K,
        capacityFactor: capacity(step),
        temperature: temperature(step),
        losses: { loadBalance: balance(step) },
      });
      expect(pass.routing.indices.shape).toEqual([T, K]);
      const { capacity: slots, losses } = await pass.stats();
      expect(slots).toBe(Math.ceil((capacity(step) * K * T) / E));
      expect(losses.total).toBeCloseTo(balance(step) * losses.loadBalance!, 6);
      total.push(losses.total);
      const [indices, weights, kept, logits] = await Promise.all(
        [pass.routing.indices, pass.routing.weights, pass.routing.kept, pass.routing.logits!].map((t) => t.data()),
      );
      for (let t = 0; t < T; t++) {
        const scores = Array.from({ length: E }, (_, e) => Math.exp(logits![t * E + e]! / temperature(step)));
        const sum = scores.reduce((a, b) => a + b, 0);
        for (let k = 0; k < K; k++) {
          const expected = kept![t * K + k] ? scores[indices![t * K + k]!]! / sum : 0;
          expect(weights![t * K + k]).toBeCloseTo(expected, 5);
        }
      }
    }
    expect(total[0]).toBe(0);
    expect(Math.min(...total.slice(1))).toBeGreaterThan(0);
  });
});
