// What a GPU has found is told thousands of operations later as at once: by the name of the operation, and of every tensor
// whose failure can still be read.
import { describe, expect, it } from 'vitest';
import { type Device, Embedding, type MoEConfig, MoELayer, openDevice, type Tensor } from '../lib/index.js';
import { shortened } from './extent.js';
import { failure } from './failure.js';

const onSoftGpu = process.env.SWITCHYARD_TEST_CUDA === 'softgpu';
const config: MoEConfig = { hiddenSize: 6, ffnSize: 5, numExperts: 3, topK: 2, seed: 1 };
const NOT_FINITE = {
  code: 'ERR_NON_FINITE',
  message: expect.stringMatching(/^MoELayer\.forward: router logits of token 1 /),
};

function poisoned(device: Device): Tensor {
  return device.tensor(
    Float32Array.from({ length: 12 }, (_, i) => (i === 8 ? Number.NaN : 0.5)),
    [2, 6],
  );
}

/** So many operations that look at what they are given. The GPU is not left far behind. */
async function goOn(device: Device, count: number): Promise<void> {
  using embedding = new Embedding(device, { count: 4, size: 1, seed: 1 });
  using indices = device.zeros([1], 'int32');
  for (let i = 1; i < count; i++) {
    using pass = embedding.forward(indices);
    if (i % 2000 === 0) await pass.output.data();
  }
}

// What is told is the host's doing, whatever the GPU.
describe.skipIf(!onSoftGpu || shortened)('a failure of long ago', () => {
  it('has the name of the operation that poisoned a gradient', async () => {
    using device = openDevice('cuda');
    using layer = new MoELayer(device, config);
    using input = poisoned(device);
    {
      using pass = layer.forward(input);
      pass.backward(pass.output).dispose();
    }
    await goOn(device, 70_000);
    await expect(layer.parameters().get('experts.up')!.grad.data()).rejects.toMatchObject(NOT_FINITE);
    await expect(device.synchronize()).resolves.toBeUndefined();
  });

  it('has the name of the operation of a graph that is gone', async () => {
    using device = openDevice('cuda');
    using layer = new MoELayer(device, config);
    using input = device.randn([2, 6], { seed: 1 });
    const graph = device.graph(() => {
      using pass = layer.forward(input);
      pass.backward(pass.output).dispose();
    });
    layer.zeroGrad();
    input.write(await poisoned(device).data());
    graph.replay();
    graph.dispose();
    await goOn(device, 2000);
    await expect(device.synchronize()).rejects.toMatchObject(NOT_FINITE);
    await expect(layer.parameters().get('experts.up')!.grad.data()).rejects.toMatchObject(NOT_FINITE);
  });
});

describe.skipIf(!onSoftGpu)('memory that runs out for what operations tell', () => {
  it('throws from the call, and poisons nothing', async () => {
    using device = openDevice('cuda');
    using embedding = new Embedding(device, { count: 4, size: 1, seed: 1 });
    using indices = device.zeros([1], 'int32');
    const outputs = (count: number): Tensor[] => Array.from({ length: count }, () => embedding.forward(indices).output);
    // Blocks for them stay in the pool.
    for (const tensor of Array.from({ length: 6000 }, () => device.zeros([1]))) tensor.dispose();
    const kept: Tensor[] = [];
    await device.synchronize();
    process.env.SOFTGPU_FAIL_ALLOC = '1+';
    const refused = failure(() => {
      for (;;) kept.push(...outputs(1));
    });
    process.env.SOFTGPU_FAIL_ALLOC = '0';
    expect(refused.code).toBe('ERR_OUT_OF_MEMORY');
    expect(kept.length).toBeGreaterThan(1000);
    expect(kept.length).toBeLessThan(5000);
    const values = await embedding.parameters().get('weight')!.value.data();
    for (const tensor of [kept[0]!, kept.at(-1)!, ...outputs(1)])
      expect(await tensor.data()).toEqual(values.slice(0, 1));
    await device.synchronize();
  });
});
