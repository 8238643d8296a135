/**
 * device.graph(): replays against the same steps called one by one on another device, bit for bit, and what a recording
 * refuses.
 */

import { describe, expect, it } from 'vitest';
import {
  AdamW,
  crossEntropy,
  type Device,
  type Graph,
  Linear,
  type LossPass,
  type MoEConfig,
  MoELayer,
  type MoEPass,
  RMSNorm,
} from '../lib/index.js';
import { testDevices } from './devices.js';
import { repeatedDTypes } from './extent.js';
import { normals } from './random.js';
import type { FloatDType } from './rounding.js';

const moeError = (code: string, message: RegExp) =>
  expect.objectContaining({ code, message: expect.stringMatching(message) });

const [TOKENS, HIDDEN, CLASSES] = [13, 24, 5];
const base: MoEConfig = {
  hiddenSize: HIDDEN,
  ffnSize: 20,
  numExperts: 6,
  topK: 2,
  seed: 11,
  experts: { bias: true, shared: { ffnSize: 12, gate: 'sigmoid' } },
  losses: { loadBalance: 0.01, z: 0.001 },
};

/** Norm, MoE layer and a head of classes, with their optimizer; everything from seeds. */
class Model {
  readonly norm: RMSNorm;
  readonly layer: MoELayer;
  readonly head: Linear;
  readonly optimizer: AdamW;
  readonly x;
  readonly targets;
  readonly device: Device;
  loss: LossPass | undefined;
  pass: MoEPass | undefined;

  constructor(device: Device, dtype: FloatDType, config: Partial<MoEConfig> = {}) {
    this.device = device;
    this.norm = new RMSNorm(device, { size: HIDDEN, dtype });
    this.layer = new MoELayer(device, { ...base, ...config, dtype });
    this.head = new Linear(device, { inFeatures: HIDDEN, outFeatures: CLASSES, bias: true, seed: 3, dtype });
    this.optimizer = new AdamW(this.parameters(), { learningRate: 1e-2 });
    this.x = device.zeros([TOKENS, HIDDEN], dtype);
    this.targets = device.zeros([TOKENS], 'int32');
  }

  parameters() {
    return [this.norm, this.layer, this.head].flatMap((module) => [...module.parameters().values()]);
  }

  feed(step: number): void {
    this.x.write(normals(100 + step, TOKENS * HIDDEN));
    this.targets.write(Int32Array.from({ length: TOKENS }, (_, t) => (t * 7 + step) % CLASSES));
  }

  /** The last pass of the layer and of the loss stay. */
  step = (): void => {
    const normed = this.norm.forward(this.x);
    const pass = this.layer.forward(normed.output);
    const logits = this.head.forward(pass.output);
    const loss = crossEntropy(logits.output, this.targets);
    const gradients = [loss.backward()];
    gradients.push(logits.backward(gradients[0]!));
    gradients.push(pass.backward(gradients[1]!));
    gradients.push(normed.backward(gradients[2]!));
    this.optimizer.step({ maxGradNorm: 1 });
    for (const done of [...gradients, logits, normed]) done.dispose();
    this.loss?.dispose();
    this.pass?.dispose();
    this.loss = loss;
    this.pass = pass;
  };

  async bits(): Promise<Record<string, ArrayLike<number>>> {
    const entries = await Promise.all(
      this.parameters().map(async (parameter, i) => [`${i} ${parameter.name}`, await parameter.value.data()] as const),
    );
    return {
      ...Object.fromEntries(entries),
      loss: await this.loss!.loss.data(),
      output: await this.pass!.output.data(),
      gradNorm: [await this.optimizer.gradNorm()],
    };
  }
}

const cases = testDevices().flatMap((device) =>
  repeatedDTypes.map((dtype) => ({ ...device, title: `${device.name} ${dtype}`, dtype })),
);

describe.each(cases)('$title', ({ open, dtype }) => {
  const configs: [string, Partial<MoEConfig>][] = [
    ['plain', {}],
    [
      'noise and dropout',
      { router: { noise: { type: 'learned' }, selectionBias: { rate: 0.1 } }, experts: { dropout: 0.25 } },
    ],
    ['a noisy balanced assignment', { router: { type: 'sinkhorn', noise: { type: 'gumbel' } } }],
    [
      'experts at random, some of them dropped',
      { router: { type: 'random', renormalizeAfterDrop: true }, capacity: { type: 'fixed', factor: 0.6 } },
    ],
    ['a random queue', { capacity: { type: 'fixed', factor: 0.6, priority: 'random', groupSize: 5, buffer: 0.1 } }],
  ];
  it.each(configs)('replays give the bits of steps that are called: %s', async (_name, config) => {
    using eagerDevice = open();
    using device = open();
    const eager = new Model(eagerDevice, dtype, config);
    const model = new Model(device, dtype, config);
    let graph: Graph | undefined;
    for (let step = 0; step < 5; step++) {
      const rate = 1e-2 / (step + 1);
      for (const one of [eager, model]) {
        one.optimizer.learningRate = rate;
        one.feed(step);
      }
      eager.step();
      if (graph) graph.replay();
      else graph = device.graph(model.step);
      // What the recording made holds nothing before the first replay.
      if (step > 0) {
        expect(await model.bits()).toEqual(await eager.bits());
        expect(await model.pass!.stats()).toEqual(await eager.pass!.stats());
      }
    }
    graph?.dispose();
    // And on without the graph.
    for (const one of [eager, model]) one.feed(9);
    eager.step();
    model.step();
    expect(await model.bits()).toEqual(await eager.bits());
  });
});

describe.each(cases)('a recorded step on $title', ({ open, dtype }) => {
  const setUp = () => {
    const device = open();
    const model = new Model(device, dtype);
    model.feed(0);
    return { device, model, [Symbol.dispose]: () => device.dispose() };
  };

  it('has nothing to read before its first replay', async () => {
    using s = setUp();
    const first = s.device.graph(s.model.step);
    await expect(s.model.loss!.loss.data()).rejects.toEqual(moeError('ERR_STALE_PASS', /replay/));
    first.replay();
    expect(Number.isFinite((await s.model.loss!.loss.data())[0])).toBe(true);
  });

  it('runs once before it is recorded, and not while it is', async () => {
    using s = setUp();
    using t = setUp();
    s.device.graph(s.model.step);
    t.model.step();
    const values = (model: Model) => Promise.all(model.parameters().map((parameter) => parameter.value.data()));
    expect(await values(s.model)).toEqual(await values(t.model));
  });

  it('adds to gradients when it was recorded that way, and refuses what it would overwrite', async () => {
    using s = setUp();
    using t = setUp();
    const backwardOf =
      ({ model: { head, x } }: typeof s) =>
      () => {
        const pass = head.forward(x);
        pass.backward(pass.output).dispose();
        pass.dispose();
      };
    const gradients = ({ model: { head } }: typeof s) =>
      Promise.all([...head.parameters().values()].map(({ grad }) => grad!.data()));
    const { head } = s.model;
    const [backward, eagerly] = [backwardOf(s), backwardOf(t)];
    using adding = s.device.graph(backward);
    eagerly();
    const once = await gradients(t);
    adding.replay();
    eagerly();
    expect(await gradients(s)).toEqual(await gradients(t));
    // A cleared gradient is zero: the sum begins anew.
    head.zeroGrad();
    adding.replay();
    expect(await gradients(s)).toEqual(once);

    using clearing = s.device.graph(() => {
      head.zeroGrad();
      backward();
    });
    clearing.replay();
    clearing.replay();
    expect(await gradients(s)).toEqual(once);

    head.zeroGrad();
    using optimizer = new AdamW(head.parameters().values(), { learningRate: 1e-3 });
    using stepping = s.device.graph(() => {
      backward();
      optimizer.step();
    });
    stepping.replay();
    backward();
    expect(() => stepping.replay()).toThrow(moeError('ERR_STALE_PASS', /cleared/));
    head.zeroGrad();
    stepping.replay();
    await s.device.synchronize();
  });

  it('says so where the step disposes of its device', () => {
    const device = open();
    let calls = 0;
    const step = () => {
      if (calls++ > 0) device.dispose();
    };
    expect(() => device.graph(step)).toThrow(moeError('ERR_DISPOSED', /the device is disposed/));
    expect(calls).toBe(2);
  });

  it('keeps what it uses, and gives its memory back', async () => {
    using s = setUp();
    const x = s.device.randn([4, HIDDEN], { seed: 1, dtype });
    const before = s.device.memory();
    let output: { data(): Promise<ArrayLike<number>>; dispose(): void } | undefined;
    const graph = s.device.graph(() => {
      output?.dispose();
      using pass = s.device.tidy(() => s.model.norm.forward(x));
      output = s.device.tidy(() => pass.output.to(dtype === 'float32' ? 'bfloat16' : 'float32'));
    });
    graph.replay();
    const expected = await output!.data();
    x.dispose();
    // Whoever takes memory now must not take what the graph works in.
    const others = Array.from({ length: 20 }, (_, i) => s.device.randn([4, HIDDEN], { seed: i, dtype }));
    graph.replay();
    expect(await output!.data()).toEqual(expected);
    for (const other of others) other.dispose();
    output!.dispose();
    graph.dispose();
    graph.dispose();
    await s.device.synchronize();
    expect(s.device.memory().allocated).toBeLessThan(before.allocated);
    expect(() => graph.replay()).toThrow(moeError('ERR_DISPOSED', /graph/));
  });

  it('takes no more memory with every replay', async () => {
    using s = setUp();
    using graph = s.device.graph(s.model.step);
    for (let i = 0; i < 3; i++) graph.replay();
    await s.device.synchronize();
    const { allocated, reserved } = s.device.memory();
    for (let i = 0; i < 10; i++) {
      s.model.feed(i);
      graph.replay();
    }
    await s.device.synchronize();
    expect(s.device.memory()).toMatchObject({ allocated, reserved });
  });

  it('leaves the weights alone when its input is poisoned, and goes on with the next one', async () => {
    using s = setUp();
    using graph = s.device.graph(s.model.step);
    const values = () => Promise.all(s.model.parameters().map((parameter) => parameter.value.data()));
    const before = await values();
    for (let round = 0; round < 2; round++) {
      s.model.x.write(new Float32Array(TOKENS * HIDDEN).fill(Number.NaN));
      graph.replay();
      await expect(s.model.pass!.output.data()).rejects.toEqual(moeError('ERR_NON_FINITE', /token 0/));
      expect(await values()).toEqual(before);
      for (const module of [s.model.norm, s.model.layer, s.model.head]) module.zeroGrad();
    }
    s.model.feed(1);
    graph.replay();
    await s.model.pass!.output.data();
    expect(await values()).not.toEqual(before);
  });

  it('takes a poisoned tensor from outside for what it is', async () => {
    using s = setUp();
    using bad = s.device.randn([TOKENS, HIDDEN], { seed: 5, dtype });
    using plain = new MoELayer(s.device, { hiddenSize: HIDDEN, ffnSize: 4, numExperts: 2, topK: 1, seed: 1, dtype });
    const made = plain.forward(bad);
    let out: MoEPass | undefined;
    using graph = s.device.graph(() => {
      out?.dispose();
      out = plain.forward(made.output, { training: false });
    });
    graph.replay();
    await out!.output.data();
    bad.write(new Float32Array(TOKENS * HIDDEN).fill(Number.NaN));
    await s.device.synchronize();
  });
});

describe.each(testDevices())('what a recording refuses on $name', ({ open }) => {
  it('bringing data, reading, making parameters, graphs in graphs, promises', async () => {
    using device = open();
    using x = device.zeros([2, 2]);
    const refused: [string, () => void][] = [
      ['writing', () => x.write(new Float32Array(4))],
      ['writing', () => void device.tensor([1], [1])],
      ['reading', () => void x.dataSync()],
      ['reading', () => void x.data().catch(() => {})],
      ['parameter', () => void new Linear(device, { inFeatures: 2, outFeatures: 2, seed: 1 })],
      ['graph', () => void device.graph(() => {})],
      ['profile', () => void device.profile(() => {}).catch(() => {})],
    ];
    for (const [what, body] of refused) {
      let runs = 0;
      // The first run is an ordinary one.
      const step = () => {
        if (runs++ > 0) body();
      };
      expect(() => device.graph(step), what).toThrow(moeError('ERR_INVALID_ARGUMENT', new RegExp(what)));
    }
    expect(() => device.graph((async () => {}) as () => void)).toThrow(moeError('ERR_INVALID_ARGUMENT', /promise/));
    expect(() => device.graph(undefined as never)).toThrow(moeError('ERR_INVALID_ARGUMENT', /step/));
    const failing = () =>
      device.graph(() => {
        throw new Error('of the step');
      });
    expect(failing).toThrow('of the step');
    // The device is as it was.
    x.write(new Float32Array([1, 2, 3, 4]));
    expect(await x.data()).toEqual(new Float32Array([1, 2, 3, 4]));
    const graph = device.graph(() => {});
    graph.replay();
    device.dispose();
    expect(() => graph.replay()).toThrow(moeError('ERR_DISPOSED', /device/));
    graph.dispose();
  });
});
