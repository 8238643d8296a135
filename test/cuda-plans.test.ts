// Plans of more assignments than one block of a GPU takes: whole numbers, the same on every device.
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type CapacityConfig, type Device, MoELayer, openDevice } from '../lib/index.js';
import { expectSame } from './compare.js';
import { full, shortened } from './extent.js';
import { integers } from './random.js';
import { manySlots } from './random-options.js';

interface Size {
  tokens: number;
  numExperts: number;
  topK: number;
}

const CAPACITIES: CapacityConfig[] = [
  { type: 'dropless' },
  { type: 'fixed', factor: 0.8 },
  { type: 'fixed', factor: 0.8, priority: 'score' },
  { type: 'fixed', factor: 0.8, priority: 'score', firstChoicesFirst: false, groupSize: 999 },
  { type: 'fixed', factor: 0.7, groupSize: 7, buffer: 0.2 },
  { type: 'fixed', factor: 0.7, priority: 'random', buffer: 0.1 },
  { type: 'fixed', factor: 0.7, priority: 'random', firstChoicesFirst: false, groupSize: 1500, overflow: 'residual' },
  { type: 'fixed', factor: 0.8, overflow: 'next-choice' },
  { type: 'fixed', factor: 0.6, priority: 'score', overflow: 'next-choice', groupSize: 1700, buffer: 0.1 },
  { type: 'dynamic', targetDropRate: 0.1, maxFactor: 3, priority: 'random' },
];

describe.skipIf(!process.env.SWITCHYARD_TEST_CUDA)('large plans are those of the CPU', () => {
  let devices: Device[];
  beforeAll(() => {
    devices = [openDevice('cpu'), openDevice('cuda')];
  });
  afterAll(() => {
    for (const device of devices) device.dispose();
  });

  /**
   * A token's logits are whole numbers, larger for low experts and often equal: which it prefers then hangs on no rounding,
   * and its scores, each σ of one logit, have the same ties everywhere.
   */
  async function planOf(device: Device, capacity: CapacityConfig, size: Size, ownPriorities: boolean, seed: number) {
    const { tokens: T, numExperts: E, topK: K } = size;
    const router = { scoring: 'sigmoid' } as const;
    using layer = new MoELayer(device, {
      hiddenSize: 1,
      ffnSize: 1,
      numExperts: E,
      topK: K,
      router,
      capacity,
      seed: 1,
    });
    const logits = Float32Array.from(integers(seed, T * E, 0, 8), (l, i) => l - Math.floor((4 * (i % E)) / E));
    const mask = integers(seed + 1, T, 0, 9).map((x) => Math.min(x, 1));
    const priorities = Float32Array.from(integers(seed + 2, T * K, -9, 9));
    using pass = layer.forward(device.zeros([T, 1]), {
      logits: device.tensor(logits, [T, E]),
      mask: device.tensor(mask, [T]),
      ...(ownPriorities ? { priorities: device.tensor(priorities, [T, K]) } : {}),
    });
    const { indices, kept, actual } = pass.routing;
    return {
      indices: await indices.data(),
      kept: await kept.data(),
      actual: await actual?.data(),
      stats: await pass.stats(),
    };
  }

  /** The plan that both make. */
  async function agreedPlan(capacity: CapacityConfig, size: Size, ownPriorities: boolean, seed: number) {
    const [ofCpu, ofCuda] = await Promise.all(
      devices.map((device) => planOf(device, capacity, size, ownPriorities, seed)),
    );
    expectSame('indices', ofCuda!.indices, ofCpu!.indices);
    expectSame('kept', ofCuda!.kept, ofCpu!.kept);
    expect(ofCuda!.actual === undefined).toBe(ofCpu!.actual === undefined);
    if (ofCpu!.actual) expectSame('actual', ofCuda!.actual!, ofCpu!.actual);
    // Entropies are sums of floats, which the devices add up in other orders.
    const { routerEntropy: _, ...counts } = ofCuda!.stats;
    expect(ofCpu!.stats).toMatchObject(counts);
    return ofCpu!;
  }

  const cases = CAPACITIES.flatMap((capacity) => [[capacity, false] as const, [capacity, true] as const]);
  it.each(cases)('%j, priorities of the caller: %j', async (capacity, ownPriorities) => {
    const size = { tokens: 5003, numExperts: 9, topK: 2 };
    const { indices, actual, stats } = await agreedPlan(capacity, size, ownPriorities, 1);
    expect(stats.droppedAssignments > 0).toBe(capacity.type !== 'dropless');
    const isNext = capacity.type === 'fixed' && capacity.overflow === 'next-choice';
    expect(actual !== undefined).toBe(isNext);
    if (!actual) return;
    // All along the assignments, of which a block takes 4,096, others than the chosen experts are used.
    const moved = [...actual.keys()].filter((a) => actual[a]! >= 0 && actual[a] !== indices[a]);
    expect(new Set(moved.map((a) => a >> 12)).size).toBe(3);
  });

  it('of random capacities, whatever the size', async () => {
    const size = fc.record({
      tokens: fc.integer({ min: 4200, max: 9000 }),
      numExperts: fc.integer({ min: 3, max: 40 }),
      topK: fc.integer({ min: 1, max: 3 }),
    });
    const property = fc.asyncProperty(
      manySlots,
      size,
      fc.boolean(),
      fc.integer({ min: 1, max: 1000 }),
      async (...drawn) => {
        await agreedPlan(...drawn);
      },
    );
    await fc.assert(property, full ? { numRuns: 60 } : { numRuns: shortened ? 2 : 6, seed: 20170123 });
  });
});
