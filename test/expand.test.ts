/**
 * A layer with more experts computes the same function, whatever its router, and its optimizer goes on as if nothing had
 * happened.
 */

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { expect, it } from 'vitest';
import {
  AdamW,
  expandExperts,
  loadCheckpoint,
  type MoEConfig,
  MoELayer,
  type RouterConfig,
  saveCheckpoint,
} from '../lib/index.js';
import { expectSame } from './compare.js';
import { onEachDevice } from './devices.js';
import { distance } from './distance.js';
import { failure } from './failure.js';
import { integers, normals } from './random.js';
import { FLOAT_DTYPES } from './rounding.js';

const [T, H] = [37, 14];
const input = normals(1, T * H);

onEachDevice((device) => {
  const x = () => device().tensor(input, [T, H]);
  /** Of tokens of two types the grown layer computes what the layer does; answers the experts of the latter. */
  const expectSameByTypes = async (layer: MoELayer, grown: MoELayer) => {
    using at = x();
    using tokenTypes = device().tensor(integers(8, T, 0, 1), [T]);
    using before = layer.forward(at, { tokenTypes });
    using after = grown.forward(at, { tokenTypes });
    expect(distance(await after.output.data(), await before.output.data())).toBeLessThan(2e-6);
    return await before.routing.indices.data();
  };

  const base = { hiddenSize: H, ffnSize: 11, numExperts: 4, topK: 2, seed: 5 };
  const sigmoid: RouterConfig = {
    scoring: 'sigmoid',
    selectionBias: { rate: 0.01 },
    renormalize: true,
    groups: { count: 2, keep: 1, score: 'top2-sum' },
  };
  const cases: [string, Partial<MoEConfig>, number][] = [
    ['by default', {}, 6],
    ['twice as many', { router: { renormalize: true } }, 8],
    ['of the logits, a temperature', { router: { selectBy: 'logits', temperature: 3, bias: true } }, 7],
    ['K = 1', { topK: 1 }, 5],
    ['K = E', { topK: 4 }, 9],
    ['biases, a shared expert', { experts: { bias: true, shared: { ffnSize: 6, gate: 'sigmoid' } } }, 6],
    ['a capacity', { capacity: { type: 'fixed', factor: 0.75, priority: 'score' } }, 6],
    ['sigmoid, groups and a selection bias', { numExperts: 6, router: sigmoid }, 10],
    ['a selection bias over a softmax', { router: { selectionBias: { rate: 0.1 } } }, 6],
    [
      'a selection bias over many, renormalised',
      { numExperts: 12, topK: 4, router: { renormalize: true, selectionBias: { rate: 0.1 } } },
      19,
    ],
    [
      'token types',
      {
        router: {
          allowedExperts: [
            [0, 1],
            [2, 3, 1],
          ],
        },
      },
      7,
    ],
    ['a dynamic capacity', { capacity: { type: 'dynamic', targetDropRate: 0.1, maxFactor: 1.5 } }, 6],
    ['two gates with selection biases', { gates: 2, router: sigmoid }, 8],
  ];

  it('computes the same function', async () => {
    for (const [name, change, numExperts] of cases) {
      using layer = new MoELayer(device(), { ...base, ...change });
      for (const [parameter, { value }] of layer.parameters())
        if (/[bB]ias$/.test(parameter)) value.write(normals(7, value.size, 0.05));
      using grown = expandExperts(layer, numExperts);
      expect(grown.config.numExperts, name).toBe(numExperts);
      const options = change.router?.allowedExperts ? { tokenTypes: device().tensor(integers(8, T, 0, 1), [T]) } : {};
      using at = x();
      using before = layer.forward(at, options);
      using after = grown.forward(at, options);
      expect(distance(await after.output.data(), await before.output.data()), name).toBeLessThan(2e-6);
      const [old, now] = [await before.stats(), await after.stats()];
      expect(now.droppedAssignments, name).toBe(old.droppedAssignments);
      expect(now.capacity, name).toBe(old.capacity);
      expect(now.utilization, name).toBeCloseTo((old.utilization * layer.config.numExperts) / numExperts, 6);
      using gradient = device().randn([T, H], { seed: 4 });
      using gradOld = before.backward(gradient);
      using gradNew = after.backward(gradient);
      expect(distance(await gradNew.data(), await gradOld.data()), name).toBeLessThan(5e-6);
    }
  });

  // As wide as float32 makes the scores of all but the best 0: where the copies' are 0 too, they must not be taken.
  const wide: [string, Partial<MoEConfig>, number, { temperature?: number }?][] = [
    ['softmax', {}, 6],
    ['softmax, drops', { capacity: { type: 'fixed', factor: 0.75 } }, 6],
    ['softmax, a high temperature of the call', {}, 6, { temperature: 50 }],
    ['of the logits, a low temperature of the call', { router: { selectBy: 'logits' } }, 7, { temperature: 0.01 }],
    ['Gumbel noise', { router: { noise: { type: 'gumbel' }, temperature: 0.05 } }, 6],
    ['sigmoid', { router: { scoring: 'sigmoid' } }, 6],
    ['sigmoid, a high temperature of the call', { router: { scoring: 'sigmoid' } }, 6, { temperature: 50 }],
    [
      'softmax in groups, drops',
      {
        numExperts: 6,
        topK: 3,
        router: { groups: { count: 3, keep: 2, score: 'max' } },
        capacity: { type: 'fixed', factor: 0.75 },
      },
      12,
    ],
    [
      'sigmoid in groups, drops',
      {
        numExperts: 8,
        topK: 3,
        router: { scoring: 'sigmoid', groups: { count: 2, keep: 2, score: 'top2-sum' } },
        capacity: { type: 'fixed', factor: 0.75 },
      },
      12,
    ],
    [
      'a selection bias, drops',
      { router: { selectionBias: { rate: 0.1 } }, capacity: { type: 'fixed', factor: 1 } },
      6,
    ],
    ['a selection bias on logits', { router: { selectionBias: { rate: 0.1 }, selectBy: 'logits' } }, 6],
  ];

  it('computes the same function however far the logits spread, at any temperature', async () => {
    for (const [name, change, numExperts, options] of wide) {
      using layer = new MoELayer(device(), { ...base, ...change });
      const { value } = layer.parameters().get('router.weight')!;
      value.write(normals(9, value.size, 100));
      using grown = expandExperts(layer, numExperts);
      using at = x();
      using before = layer.forward(at, options);
      using after = grown.forward(at, options);
      expectSame(`${name}: kept`, await after.routing.kept.data(), await before.routing.kept.data());
      // Another order of sums moves logits of this size in their last digits, and weights and outputs by that.
      const [weights, its] = [await after.routing.weights.data(), await before.routing.weights.data()];
      expect(distance(weights, its), name).toBeLessThan(1e-3);
      expect(distance(await after.output.data(), await before.output.data()), name).toBeLessThan(1e-3);
      const [old, now] = [await before.stats(), await after.stats()];
      expect(
        [...now.assigned].filter((count) => count > 0),
        name,
      ).toEqual([...old.assigned].filter((count) => count > 0));
    }
  });

  it('sigmoids of copies take no choice from another expert', async () => {
    const given = Float32Array.of(25, 0, -1, -2);
    using layer = new MoELayer(device(), { ...base, router: { scoring: 'sigmoid' } });
    using grown = expandExperts(layer, 8);
    using at = device().tensor(input.subarray(0, H), [1, H]);
    using pass = grown.forward(at, { logits: device().tensor([...given, ...given], [1, 8]) });
    expect([...(await pass.routing.indices.data())]).toEqual([0, 1]);
    expect([...(await pass.routing.weights.data())]).toEqual([1, 0.5]);
  });

  it.each(['softmax', 'sigmoid'] as const)('copies that choose tokens, by a %s, weigh nothing', async (scoring) => {
    using layer = new MoELayer(device(), { ...base, router: { type: 'expert-choice', scoring } });
    const { value } = layer.parameters().get('router.weight')!;
    value.write(normals(9, value.size, 10));
    using grown = expandExperts(layer, 6);
    using at = x();
    using before = layer.forward(at);
    using after = grown.forward(at);
    expect(distance(await after.output.data(), await before.output.data())).toBeLessThan(2e-6);
    const { weights } = after.routing;
    const [copies, C] = [2, weights.shape[1]!];
    expect(Math.max(...(await weights.data()).subarray(-copies * C))).toBe(0);
  });

  it.each([undefined, { rate: 0.1 }])(
    'leaves out copies where groups leave a choice over, selection bias %j',
    async (selectionBias) => {
      const router: RouterConfig = {
        scoring: 'sigmoid',
        groups: { count: 2, keep: 1, score: 'max' },
        allowedExperts: [
          [0, 2, 3],
          [1, 2],
        ],
        ...(selectionBias && { selectionBias }),
      };
      using layer = new MoELayer(device(), { ...base, router });
      using grown = expandExperts(layer, 8);
      const indices = await expectSameByTypes(layer, grown);
      expect(Math.min(...indices)).toBe(-1);
    },
  );

  it('goes through a checkpoint with what was added to it', async () => {
    const router: RouterConfig = { groups: { count: 2, keep: 1, score: 'max' } };
    using layer = new MoELayer(device(), { ...base, router });
    using optimizer = new AdamW(layer.parameters().values(), { learningRate: 1e-2 });
    using grown = expandExperts(layer, 8, { optimizer });
    using at = x();
    const train = () => {
      using pass = grown.forward(at);
      pass.backward(pass.output).dispose();
      optimizer.step();
    };
    train();
    const path = join(mkdtempSync(join(tmpdir(), 'switchyard-')), 'grown.safetensors');
    await saveCheckpoint(path, { modules: { moe: grown }, optimizer });
    using restored = new MoELayer(device(), grown.config);
    restored.parameters().get('router.bias')!.trainable = false; // as grown has it; checkpoints hold values
    using itsOptimizer = new AdamW(restored.parameters().values(), { learningRate: 1e-2 });
    await loadCheckpoint(path, { modules: { moe: restored }, optimizer: itsOptimizer });
    rmSync(dirname(path), { recursive: true });
    train();
    using pass = restored.forward(at);
    pass.backward(pass.output).dispose();
    itsOptimizer.step();
    for (const [name, { value }] of grown.parameters())
      expectSame(name, await restored.parameters().get(name)!.value.data(), await value.data());
    const biases = ['router.bias', 'router.selectionBias'].map((name) => grown.parameters().get(name)!.value.data());
    expect((await Promise.all(biases)).map((values) => [...values])).toEqual([
      [0, 0, -1e9, -1e9, 0, 0, -1e9, -1e9],
      [0, 0, -2, -2, 0, 0, -2, -2],
    ]);
  });

  it.each(FLOAT_DTYPES)('in %s: training goes on as if the layer had not grown', async (dtype) => {
    const config: MoEConfig = { ...base, dtype, experts: { bias: true }, losses: { z: 0.01 } };
    using small = new MoELayer(device(), config);
    using twin = new MoELayer(device(), config);
    // Another module of each optimizer, whose state must stay.
    const other: MoEConfig = { ...base, dtype, numExperts: 1, topK: 1, seed: 9 };
    using head = new MoELayer(device(), other);
    using twinHead = new MoELayer(device(), other);
    const optimizerOf = (...layers: MoELayer[]) =>
      new AdamW(
        layers.flatMap((layer) => [...layer.parameters().values()]),
        { learningRate: 1e-2 },
      );
    using optimizer = optimizerOf(small, head);
    using twinOptimizer = optimizerOf(twin, twinHead);
    using at = device().tensor(input, [T, H], dtype);
    using gradient = device().randn([T, H], { seed: 4, dtype });
    small.setTemperature(1.5);
    twin.setTemperature(1.5);
    const train = (its: AdamW, ...layers: MoELayer[]) => {
      for (const layer of layers) {
        using pass = layer.forward(at);
        pass.backward(gradient).dispose();
      }
      its.step({ maxGradNorm: 30 });
    };
    for (let step = 0; step < 3; step++) {
      train(optimizer, small, head);
      train(twinOptimizer, twin, twinHead);
    }
    small.parameters().get('experts.gate')!.trainable = false;
    twin.parameters().get('experts.gate')!.trainable = false;
    using grown = expandExperts(small, 7, { optimizer });
    expect(grown.parameters().get('experts.gate')!.trainable).toBe(false);
    small.dispose();
    for (let step = 0; step < 3; step++) {
      train(optimizer, grown, head);
      train(twinOptimizer, twin, twinHead);
    }
    expect(await optimizer.skippedSteps()).toBe(0);
    for (const [name, { value }] of twin.parameters()) {
      const now = (await grown.parameters().get(name)!.value.data()).subarray(0, value.size);
      expect(distance(now, await value.data()), name).toBeLessThan(dtype === 'float32' ? 1e-5 : 5e-3);
    }
    const bias = await grown.parameters().get('router.bias')!.value.data();
    expect([...bias]).toEqual([0, 0, 0, 0, -1e9, -1e9, -1e9]);
  });

  it('copies start with the moments of their originals, and noise of their own', async () => {
    using small = new MoELayer(device(), base);
    using optimizer = new AdamW(small.parameters().values(), { learningRate: 1e-2 });
    using at = x();
    using gradient = device().randn([T, H], { seed: 4 });
    const train = (layer: MoELayer) => {
      using pass = layer.forward(at);
      pass.backward(gradient).dispose();
      optimizer.step();
    };
    train(small);
    using grown = expandExperts(small, 8, { noise: 0.2, optimizer });
    const up = async () => (await grown.parameters().get('experts.up')!.value.data()) as Float32Array;
    const size = 11 * H;
    const before = await up();
    expectSame('old', before.subarray(0, 4 * size), await small.parameters().get('experts.up')!.value.data());
    for (let e = 4; e < 8; e++) {
      const copy = before.subarray(e * size, (e + 1) * size);
      const off = distance(copy, before.subarray((e - 4) * size, (e - 3) * size));
      expect(off).toBeGreaterThan(0.01);
    }
    // Without gradient, AdamW's next step is the decay and what the first moment says: the same for copy and original.
    train(grown);
    const after = await up();
    const moved = (e: number) =>
      Array.from({ length: size }, (_, i) => after[e * size + i]! - before[e * size + i]! * (1 - 1e-2 * 0.01));
    const idle = moved(4).map((v) => Math.abs(v));
    expect(Math.max(...idle)).toBeGreaterThan(1e-3);
    expect(Math.max(...idle)).toBeLessThan(1.1e-2);
  });

  it('copies take part once their bias lets them', async () => {
    using layer = new MoELayer(device(), { ...base, router: { renormalize: true } });
    using grown = expandExperts(layer, 8, { noise: 0.1 });
    using at = x();
    const bias = grown.parameters().get('router.bias')!;
    bias.value.write(new Float32Array(8));
    using pass = grown.forward(at);
    const { assigned } = await pass.stats();
    expect(Math.min(...assigned.subarray(4))).toBeGreaterThan(0);
  });

  it('leaves the slots of an expert what they were where they come out whole', async () => {
    using at = device().randn([3, H], { seed: 3 });
    using layer = new MoELayer(device(), { ...base, numExperts: 6, capacity: { type: 'fixed', factor: 1 } });
    using grown = expandExperts(layer, 7);
    using pass = grown.forward(at);
    expect((await pass.stats()).capacity).toBe(1);
    using doubled = expandExperts(layer, 12);
    expect(doubled.config.capacity).toMatchObject({ factor: 2 });
  });

  it('carries the counts of every gate to the next step of its bias', async () => {
    using layer = new MoELayer(device(), { ...base, gates: 2, router: { selectionBias: { rate: 0.1 } } });
    using at = x();
    using pass = layer.forward(at, { gate: 1 });
    const { assigned } = await pass.stats();
    using grown = expandExperts(layer, 6);
    grown.updateSelectionBias();
    const biasOf = (gate: number) => grown.parameters().get(`router.${gate}.selectionBias`)!.value.data();
    expect(await biasOf(0)).toEqual(Float32Array.of(0, 0, 0, 0, -2, -2));
    const counts = [...assigned, 0, 0];
    const mean = (T * base.topK) / 6;
    expect(await biasOf(1)).toEqual(
      Float32Array.from(counts, (count, e) => Math.fround(0.1) * Math.sign(mean - count) - (e < 4 ? 0 : 2)),
    );
  });

  it('keeps copies out of the sum of tokens that may use fewer experts than K', async () => {
    const router: RouterConfig = {
      scoring: 'sigmoid',
      selectionBias: { rate: 0.1 },
      allowedExperts: [[1], [2, 3, 1]],
    };
    using layer = new MoELayer(device(), { ...base, router });
    using grown = expandExperts(layer, 8);
    await expectSameByTypes(layer, grown);
  });

  it('carries the state of the layer', async () => {
    using layer = new MoELayer(device(), { ...base, experts: { dropout: 0.5 } });
    using at = x();
    layer.forward(at).dispose();
    layer.forward(at).dispose();
    using grown = expandExperts(layer, 5);
    expect(grown.config.seed).toBe(5);
    // The draws go by the count of forwards: with that, both drop the same.
    using next = layer.forward(at);
    using same = grown.forward(at);
    expect(distance(await same.output.data(), await next.output.data())).toBeLessThan(2e-6);
  });

  it('refuses what cannot grow', () => {
    using layer = new MoELayer(device(), base);
    using other = new MoELayer(device(), base);
    using optimizer = new AdamW(other.parameters().values(), { learningRate: 1 });
    const message = (body: () => unknown) => failure(body).message;
    expect(message(() => expandExperts(layer, 4))).toMatch(/^numExperts: expected an integer from 5 .*got 4$/);
    expect(message(() => expandExperts({} as never, 8))).toMatch(/^layer: expected a MoELayer/);
    expect(message(() => expandExperts(layer, 8, { optimizer: {} as never }))).toMatch(/^options\.optimizer/);
    expect(message(() => expandExperts(layer, 8, { optimizer }))).toMatch(/^options\.optimizer: expected .*parameters/);
    expect(message(() => expandExperts(layer, 8, { noise: Number.NaN }))).toMatch(/^options\.noise/);
    using grouped = new MoELayer(device(), {
      ...base,
      router: { groups: { count: 2, keep: 1, score: 'max' } },
    });
    const capacity = { type: 'fixed', factor: 1, overflow: 'next-choice' } as const;
    using overflowing = new MoELayer(device(), { ...base, capacity });
    expect(message(() => expandExperts(overflowing, 8))).toMatch(/^layer\.config\.capacity\.overflow: .*'residual'/);
    using single = new MoELayer(device(), {
      ...base,
      router: { groups: { count: 4, keep: 2, score: 'top2-sum' } },
    });
    expect(message(() => expandExperts(single, 8))).toMatch(/^layer\.config\.router\.groups\.score: .*'max'/);
    expect(message(() => expandExperts(grouped, 7))).toMatch(/^numExperts: .*multiple of router\.groups\.count \(2\)/);
    layer.dispose();
    expect(failure(() => expandExperts(layer, 8)).code).toBe('ERR_DISPOSED');
  });
});
