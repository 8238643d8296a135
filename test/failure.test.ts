// What goes wrong after a call has returned: poisoned passes, skipped steps, memory that runs out. Each test goes on to show
// that nothing was lost.
import { afterEach, describe, expect, it } from 'vitest';
import {
  AdamW,
  crossEntropy,
  type Device,
  Embedding,
  type MoEConfig,
  type MoEError,
  MoELayer,
  ops,
  type Tensor,
} from '../lib/index.js';
import { onEachDevice, testDevices } from './devices.js';

const config: MoEConfig = {
  hiddenSize: 17,
  ffnSize: 13,
  numExperts: 5,
  topK: 2,
  losses: { loadBalance: 0.01 },
  seed: 3,
};
const tokens = 11;

async function weightsOf(layer: MoELayer): Promise<Map<string, number[]>> {
  const values = [...layer.parameters()].map(
    async ([name, { value }]) => [name, [...(await value.data())]] as [string, number[]],
  );
  return new Map(await Promise.all(values));
}

function inputWithNaN(device: Device): Tensor {
  const data = new Float32Array(tokens * config.hiddenSize).fill(0.5);
  data[4 * config.hiddenSize + 2] = Number.NaN;
  return device.tensor(data, [tokens, config.hiddenSize]);
}

function trainOn(input: Tensor, layer: MoELayer, optimizer: AdamW): void {
  using pass = layer.forward(input);
  pass.backward(pass.output).dispose();
  optimizer.step();
}

onEachDevice((device) => {
  // What synchronize() has not told yet would be told to the next test.
  afterEach(async () => {
    for (let told = false; !told; ) {
      const error = await device()
        .synchronize()
        .catch((error: MoEError) => error);
      if (error?.code === 'ERR_DEVICE_LOST') throw error;
      told = !error;
    }
  });

  describe('a router that is not finite', () => {
    it('leaves every weight as it was, with backward and step already queued', async () => {
      using layer = new MoELayer(device(), config);
      using optimizer = new AdamW(layer.parameters().values(), { learningRate: 0.1 });
      const before = await weightsOf(layer);
      using input = inputWithNaN(device());
      using pass = layer.forward(input);
      using gradInput = pass.backward(pass.output);
      optimizer.step();

      await expect(pass.output.data()).rejects.toMatchObject({
        code: 'ERR_NON_FINITE',
        message: expect.stringMatching(/MoELayer\.forward.*token 4/),
      });
      await expect(gradInput.data()).rejects.toMatchObject({ code: 'ERR_NON_FINITE' });
      await expect(pass.stats()).rejects.toMatchObject({ code: 'ERR_NON_FINITE' });
      expect(() => pass.output.dataSync()).toThrowError(expect.objectContaining({ code: 'ERR_NON_FINITE' }));
      await expect(layer.parameters().get('experts.up')!.grad.data()).rejects.toMatchObject({ code: 'ERR_NON_FINITE' });
      expect(await weightsOf(layer)).toEqual(before);

      layer.zeroGrad();
      using good = device().randn([tokens, config.hiddenSize], { seed: 1 });
      using again = layer.forward(good);
      again.backward(again.output).dispose();
      optimizer.step();
      const after = await weightsOf(layer);
      expect(after.get('experts.up')).not.toEqual(before.get('experts.up'));
    });

    it('is told once by synchronize, and not when a read has told it', async () => {
      using layer = new MoELayer(device(), config);
      using input = inputWithNaN(device());
      using first = layer.forward(input);
      await expect(device().synchronize()).rejects.toMatchObject({ code: 'ERR_NON_FINITE' });
      await device().synchronize();
      using second = layer.forward(input);
      await expect(second.output.data()).rejects.toMatchObject({ code: 'ERR_NON_FINITE' });
      await device().synchronize();
      expect(first.output.isDisposed).toBe(false);
    });

    it('poisons what a write makes good again', async () => {
      using layer = new MoELayer(device(), config);
      using input = inputWithNaN(device());
      using pass = layer.forward(input);
      await expect(pass.output.data()).rejects.toMatchObject({ code: 'ERR_NON_FINITE' });
      const values = new Float32Array(pass.output.size).fill(2);
      pass.output.write(values);
      expect(await pass.output.data()).toEqual(values);
      await expect(pass.routing.weights.data()).rejects.toMatchObject({ code: 'ERR_NON_FINITE' });
    });

    it('is told by the norm of the step that it stopped', async () => {
      using layer = new MoELayer(device(), config);
      using optimizer = new AdamW(layer.parameters().values(), { learningRate: 0.1 });
      using bad = inputWithNaN(device());
      using good = device().randn([tokens, config.hiddenSize], { seed: 1 });
      const step = (input: Tensor) => trainOn(input, layer, optimizer);
      step(good);
      const norm = await optimizer.gradNorm();
      expect(norm).toBeGreaterThan(0);
      step(bad);
      await expect(optimizer.gradNorm()).rejects.toMatchObject({ code: 'ERR_NON_FINITE' });
      expect(await optimizer.skippedSteps()).toBe(0);
      layer.zeroGrad();
      step(good);
      expect(await optimizer.gradNorm()).toBeGreaterThan(0);
    });

    it('keeps gradients poisoned until zeroGrad()', async () => {
      using layer = new MoELayer(device(), config);
      using optimizer = new AdamW(layer.parameters().values(), { learningRate: 0.1 });
      using bad = inputWithNaN(device());
      using good = device().randn([tokens, config.hiddenSize], { seed: 1 });
      const step = (input: Tensor) => trainOn(input, layer, optimizer);
      step(bad);
      const before = await weightsOf(layer);
      step(good);
      expect(await weightsOf(layer)).toEqual(before);
      layer.zeroGrad();
      step(good);
      expect(await weightsOf(layer)).not.toEqual(before);
      await expect(device().synchronize()).rejects.toMatchObject({ code: 'ERR_NON_FINITE' });
    });

    it('in a masked row is nobody’s business', async () => {
      using layer = new MoELayer(device(), config);
      using input = inputWithNaN(device());
      using mask = device().tensor(
        Int32Array.from({ length: tokens }, (_, t) => (t === 4 ? 0 : 1)),
        [tokens],
      );
      using pass = layer.forward(input, { mask });
      expect([...(await pass.output.data())].every(Number.isFinite)).toBe(true);
    });
  });

  describe('indices that do not exist', () => {
    it('are told by synchronize however many operations ago they were, unless a read has told them', async () => {
      using embedding = new Embedding(device(), { count: 4, size: 3, seed: 1 });
      const forward = (index: number) => {
        using indices = device().tensor(Int32Array.of(index), [1]);
        return embedding.forward(indices);
      };
      const goOn = (count: number) => {
        for (let i = 0; i < count; i++) forward(2).dispose();
      };
      using first = forward(7);
      goOn(700);
      await expect(first.output.data()).rejects.toMatchObject({ message: expect.stringContaining('got 7') });
      forward(8).dispose();
      goOn(1500);
      await expect(device().synchronize()).rejects.toMatchObject({ message: expect.stringContaining('got 8') });
      await device().synchronize();
    });

    const indicesOf = (values: number[], shape: number[]) => device().tensor(Int32Array.from(values), shape);
    const routed = (
      routing: (indices: Tensor) => { indices: Tensor; weights?: Tensor },
      { input = 0.5, first = 0, ...options }: { input?: number; first?: number; priorities?: Tensor },
    ) => {
      const layer = new MoELayer(device(), config);
      const chosen = Array.from({ length: tokens * 2 }, (_, i) => i % 5);
      [chosen[8], chosen[9], chosen[13], chosen[20]] = [-2147483648, 99, 5, first];
      const x = device().tensor(new Float32Array(tokens * config.hiddenSize).fill(input), [tokens, config.hiddenSize]);
      return layer.forward(x, { routing: routing(indicesOf(chosen, [tokens, 2])), ...options }).output;
    };
    const weights = () => device().zeros([tokens, 2]);

    it.each<[name: string, made: () => Tensor, message: string]>([
      [
        'Embedding',
        () => new Embedding(device(), { count: 4, size: 3 }).forward(indicesOf([0, 3, 4, 9], [4])).output,
        'indices[2] must be in [0, 4), got 4',
      ],
      [
        'Embedding, negative, and what depends on it',
        () => {
          const { output } = new Embedding(device(), { count: 4, size: 17 }).forward(indicesOf([-1, 7, 0], [3]));
          return new MoELayer(device(), config).forward(output).output;
        },
        'Embedding.forward: indices[0] must be in [0, 4), got -1',
      ],
      [
        'crossEntropy',
        () => crossEntropy(device().zeros([4, 3]), indicesOf([-1, 7, 8, -2], [4])).loss,
        'targets[1] must be -1 or in [0, 3), got 7',
      ],
      [
        'MoELayer',
        () => routed((indices) => ({ indices }), {}),
        'routing.indices of token 4 must be experts in [0, 5), got -2147483648',
      ],
      [
        'MoELayer, rather than a router that is not finite',
        () => routed((indices) => ({ indices }), { input: Number.NaN, first: 6 }),
        'routing.indices of token 4 must be experts in [0, 5), got -2147483648',
      ],
      [
        'MoELayer with weights',
        () => routed((indices) => ({ indices, weights: weights() }), {}),
        'routing.indices of token 4 must be experts in [0, 5), got -2147483648',
      ],
      [
        'MoELayer, rather than priorities that are no numbers',
        () => {
          const priorities = device().tensor(new Float32Array(tokens * 2).fill(Number.NaN), [tokens, 2]);
          return routed((indices) => ({ indices, weights: weights() }), { priorities });
        },
        'routing.indices of token 4 must be experts in [0, 5), got -2147483648',
      ],
      [
        'ops.plan',
        () => ops.plan(indicesOf([0, 2, 1, -1, 9, 3, 7, 0], [4, 2]), device().zeros([4, 2]), 3).offsets,
        'indices of token 2 must be experts in [0, 3) or -1, got 9',
      ],
      [
        'ops.plan of groups of tokens',
        () => {
          const capacity = { type: 'fixed', slots: 1, groupSize: 2 } as const;
          return ops.plan(indicesOf([0, 2, 1, -1, 9, 3, 7, 0], [4, 2]), device().zeros([4, 2]), 3, capacity).offsets;
        },
        'indices of token 2 must be experts in [0, 3) or -1, got 9',
      ],
    ])('are told by place and value: %s', async (_, made, message) => {
      await expect(made().data()).rejects.toMatchObject({
        code: 'ERR_INVALID_ARGUMENT',
        message: expect.stringContaining(message),
      });
    });
  });

  describe('AdamW', () => {
    it('skips and counts a step whose gradients are not finite', async () => {
      using layer = new MoELayer(device(), config);
      using optimizer = new AdamW(layer.parameters().values(), { learningRate: 0.1 });
      using input = device().randn([tokens, config.hiddenSize], { seed: 1 });
      using infinite = device().tensor(new Float32Array(tokens * config.hiddenSize).fill(Number.POSITIVE_INFINITY), [
        tokens,
        config.hiddenSize,
      ]);
      const before = await weightsOf(layer);
      {
        using pass = layer.forward(input);
        pass.backward(infinite).dispose();
      }
      optimizer.step({ maxGradNorm: 1 });
      expect(await weightsOf(layer)).toEqual(before);
      expect(await optimizer.skippedSteps()).toBe(1);
      expect(await optimizer.gradNorm()).not.toSatisfy(Number.isFinite);
      {
        using pass = layer.forward(input);
        pass.backward(pass.output).dispose();
      }
      optimizer.step({ maxGradNorm: 1 });
      expect(await weightsOf(layer)).not.toEqual(before);
      expect(await optimizer.skippedSteps()).toBe(1);
    });
  });
});

describe.each(testDevices())('memory that runs out on $name', ({ open }) => {
  it('throws from the call and leaves the layer usable', async () => {
    using device = open({ memoryLimit: 1 << 20 });
    using layer = new MoELayer(device, config);
    using small = device.randn([tokens, config.hiddenSize], { seed: 1 });
    const { allocated } = device.memory();
    expect(() => device.zeros([1 << 20])).toThrowError(expect.objectContaining({ code: 'ERR_OUT_OF_MEMORY' }));
    const large = device.zeros([6000, config.hiddenSize]);
    expect(() => layer.forward(large)).toThrowError(expect.objectContaining({ code: 'ERR_OUT_OF_MEMORY' }));
    large.dispose();
    expect(device.memory().allocated).toBe(allocated);
    using pass = layer.forward(small);
    expect((await pass.output.data()).length).toBe(tokens * config.hiddenSize);
    using unlimited = open();
    expect(() => unlimited.zeros([1e6, 1e6])).toThrowError(expect.objectContaining({ code: 'ERR_OUT_OF_MEMORY' }));
  });

  it('in a backward leaves the pass to be used again', async () => {
    const needed = async (limit: number) => {
      using device = open({ memoryLimit: limit });
      using layer = new MoELayer(device, config);
      using input = device.randn([64, config.hiddenSize], { seed: 1 });
      using pass = layer.forward(input);
      const ballast: Tensor[] = [];
      try {
        for (;;) ballast.push(device.zeros([256]));
      } catch {
        expect(() => pass.backward(pass.output)).toThrowError(expect.objectContaining({ code: 'ERR_OUT_OF_MEMORY' }));
      }
      for (const tensor of ballast) tensor.dispose();
      using gradInput = pass.backward(pass.output);
      return (await gradInput.data()).length;
    };
    expect(await needed(1 << 20)).toBe(64 * config.hiddenSize);
  });
});
