// Plans of more assignments than one block of a GPU takes: whole numbers, the same on every device.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type CapacityConfig, type Device, MoELayer, openDevice } from '../lib/index.js';
import { expectSame } from './compare.js';
import { integers } from './random.js';

const [T, E, K] = [5003, 9, 2];

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

/** Distinct experts of each token, more often low ones, and weights of few different values, which so have ties. */
function makeRouting() {
  const first = integers(1, T, 0, E - 1).map((a, t) => Math.floor((a * (1 + (t % 3))) / 3));
  const step = integers(2, T, 1, E - 1);
  return {
    indices: Int32Array.from({ length: T * K }, (_, a) => (first[a >> 1]! + (a % 2) * step[a >> 1]!) % E),
    weights: Float32Array.from(integers(3, T * K, 1, 20), (x) => x / 8),
    priorities: Float32Array.from(integers(4, T * K, -9, 9)),
    mask: integers(5, T, 0, 9).map((x) => Math.min(x, 1)),
  };
}

describe.skipIf(!process.env.SWITCHYARD_TEST_CUDA)('large plans are those of the CPU', () => {
  const given = makeRouting();
  let devices: Device[];
  beforeAll(() => {
    devices = [openDevice('cpu'), openDevice('cuda')];
  });
  afterAll(() => {
    for (const device of devices) device.dispose();
  });

  async function planOf(device: Device, capacity: CapacityConfig, ownPriorities: boolean) {
    using layer = new MoELayer(device, { hiddenSize: 1, ffnSize: 1, numExperts: E, topK: K, capacity, seed: 1 });
    const routing = { indices: device.tensor(given.indices, [T, K]), weights: device.tensor(given.weights, [T, K]) };
    using pass = layer.forward(device.zeros([T, 1]), {
      routing,
      mask: device.tensor(Int32Array.from(given.mask), [T]),
      ...(ownPriorities ? { priorities: device.tensor(given.priorities, [T, K]) } : {}),
    });
    const { kept, actual } = pass.routing;
    return { kept: await kept.data(), actual: await actual?.data(), stats: await pass.stats() };
  }

  const cases = CAPACITIES.flatMap((capacity) => [[capacity, false] as const, [capacity, true] as const]);
  it.each(cases)('%j, priorities of the caller: %j', async (capacity, ownPriorities) => {
    const [expected, actual] = await Promise.all(devices.map((device) => planOf(device, capacity, ownPriorities)));
    expectSame('kept', actual!.kept, expected!.kept);
    if (expected!.actual) expectSame('actual', actual!.actual!, expected!.actual);
    expect(actual!.stats).toEqual(expected!.stats);
    expect(expected!.stats.droppedAssignments > 0).toBe(capacity.type !== 'dropless');
  });
});
