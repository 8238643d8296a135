// Bad input: a MoEError with its code, a message that names the parameter, the expectation and the value, and everything
// usable afterwards.
import { describe, expect, it } from 'vitest';
import {
  AdamW,
  add,
  type Device,
  Embedding,
  Linear,
  type MoEConfig,
  MoELayer,
  openDevice,
  ops,
  RMSNorm,
} from '../lib/index.js';
import { failure } from './failure.js';

const config: MoEConfig = { hiddenSize: 6, ffnSize: 5, numExperts: 4, topK: 2, seed: 1 };

describe('a configuration', () => {
  using device = openDevice('cpu');
  const make = (change: object) => failure(() => new MoELayer(device, { ...config, ...change } as MoEConfig));

  it.each([
    ['ERR_INVALID_ARGUMENT', { hiddenSize: 0 }, /config\.hiddenSize.*integer.*0/],
    ['ERR_INVALID_ARGUMENT', { hiddenSize: 1.5 }, /config\.hiddenSize.*1\.5/],
    ['ERR_INVALID_ARGUMENT', { ffnSize: -3 }, /config\.ffnSize.*-3/],
    ['ERR_INVALID_ARGUMENT', { numExperts: Number.NaN }, /config\.numExperts.*NaN/],
    ['ERR_INVALID_ARGUMENT', { topK: 5 }, /config\.topK.*numExperts \(4\).*5/],
    ['ERR_INVALID_ARGUMENT', { topk: 2 }, /topk.*topK/],
    ['ERR_INVALID_ARGUMENT', { seed: -1 }, /config\.seed.*-1/],
    ['ERR_INVALID_ARGUMENT', { router: { temperature: 0 } }, /config\.router\.temperature.*0/],
    ['ERR_INVALID_ARGUMENT', { router: { scoring: 'relu' } }, /config\.router\.scoring.*softmax.*relu/],
    ['ERR_INVALID_ARGUMENT', { capacity: { type: 'fixed', factor: -1 } }, /config\.capacity\.factor.*-1/],
    ['ERR_INVALID_ARGUMENT', { experts: { activation: 'swish' } }, /config\.experts\.activation.*swish/],
    ['ERR_INVALID_ARGUMENT', { losses: { z: Number.POSITIVE_INFINITY } }, /config\.losses\.z.*Infinity/],
    ['ERR_INVALID_ARGUMENT', { dtype: 'int32' }, /config\.dtype.*'bfloat16'.*int32/],
    ['ERR_INVALID_ARGUMENT', { router: { scoring: 'sigmoi' } }, /router\.scoring.*sigmoi/],
    ['ERR_INVALID_ARGUMENT', { router: { type: 'expert-choices' } }, /router\.type.*expert-choice.*expert-choices/],
    ['ERR_INVALID_ARGUMENT', { router: { noise: { type: 'gaussian' } } }, /router\.noise\.std/],
    ['ERR_INVALID_ARGUMENT', { gates: 0 }, /gates.*0/],
    ['ERR_INVALID_ARGUMENT', { capacity: { type: 'fixed', factor: 1, overflow: 'keep' } }, /overflow.*residual.*keep/],
  ])('%s for %j', (code, change, message) => {
    using open = openDevice('cpu');
    const error = failure(() => new MoELayer(open, { ...config, ...change } as unknown as MoEConfig));
    expect(error.code).toBe(code);
    expect(error.message).toMatch(message);
  });

  it('of no device', () => {
    expect(make({}).code).toBe('ERR_DISPOSED'); // `device` was disposed with the describe block
    expect(failure(() => new MoELayer({} as never, config)).code).toBe('ERR_INVALID_ARGUMENT');
  });
});

describe('a call', () => {
  it('with tensors that do not fit', async () => {
    using device = openDevice('cpu');
    using other = openDevice('cpu');
    using layer = new MoELayer(device, config);
    using input = device.randn([3, 6], { seed: 1 });
    const codeOf = (call: () => unknown) => failure(call).code;
    expect(failure(() => layer.forward(device.zeros([3, 5])))).toMatchObject({
      code: 'ERR_SHAPE',
      message: expect.stringMatching(/input.*6.*\[3, 5\]/),
    });
    expect(failure(() => layer.forward(device.zeros([3, 6], 'int32')))).toMatchObject({
      code: 'ERR_DTYPE',
      message: expect.stringMatching(/input.*float32.*int32/),
    });
    expect(codeOf(() => layer.forward(other.zeros([3, 6])))).toBe('ERR_DEVICE_MISMATCH');
    expect(codeOf(() => layer.forward({} as never))).toBe('ERR_INVALID_ARGUMENT');
    expect(codeOf(() => layer.forward(input, { mask: device.zeros([4], 'int32') }))).toBe('ERR_SHAPE');
    expect(codeOf(() => layer.forward(input, { topK: 9 }))).toBe('ERR_INVALID_ARGUMENT');
    expect(codeOf(() => layer.forward(input, { traning: true } as never))).toBe('ERR_INVALID_ARGUMENT');
    expect(codeOf(() => layer.forward(input, { noise: input }))).toBe('ERR_SHAPE');
    expect(codeOf(() => layer.forward(input, { noiseStep: -1 }))).toBe('ERR_INVALID_ARGUMENT');
    expect(codeOf(() => add(input, device.zeros([6, 3])))).toBe('ERR_SHAPE');
    expect(codeOf(() => device.tensor([1, 2, 3], [2]))).toBe('ERR_SHAPE');
    expect(codeOf(() => device.tensor([1.5], [1], 'int32'))).toBe('ERR_INVALID_ARGUMENT');
    expect(codeOf(() => device.zeros([-1]))).toBe('ERR_SHAPE');
    expect(codeOf(() => openDevice({ kind: 'cuda', index: 1000 }))).toBe('ERR_DEVICE_UNAVAILABLE');
    expect(codeOf(() => new Linear(device, { inFeatures: 0, outFeatures: 1 }))).toBe('ERR_INVALID_ARGUMENT');
    expect(codeOf(() => new AdamW([], { learningRate: 1 }))).toBe('ERR_INVALID_ARGUMENT');
    expect(codeOf(() => new AdamW(layer.parameters().values(), { learningRate: Number.NaN }))).toBe(
      'ERR_INVALID_ARGUMENT',
    );
    expect(codeOf(() => ops.plan(device.zeros([3, 2], 'int32'), device.zeros([3, 1]), 4))).toBe('ERR_SHAPE');
    using pass = layer.forward(input);
    expect((await pass.output.data()).length).toBe(18);
  });

  const modules = {
    MoELayer: (device: Device) => {
      const rich = {
        ...config,
        router: { bias: true },
        experts: { bias: true, shared: { ffnSize: 3, gate: 'sigmoid' } },
      };
      return new MoELayer(device, rich as MoEConfig);
    },
    Linear: (device: Device) => new Linear(device, { inFeatures: 6, outFeatures: 2, seed: 1 }),
    Embedding: (device: Device) => new Embedding(device, { count: 3, size: 2, seed: 1 }),
    RMSNorm: (device: Device) => new RMSNorm(device, { size: 6 }),
  };
  it.each(Object.entries(modules))('after any parameter of %s was written is ERR_STALE_PASS', (_, make) => {
    using device = openDevice('cpu');
    using module = make(device);
    const input = module instanceof Embedding ? device.zeros([3], 'int32') : device.zeros([3, 6]);
    for (const { name, value } of module.parameters().values()) {
      using pass = module.forward(input);
      value.write(new Float32Array(value.size));
      expect(failure(() => pass.backward(pass.output)).code, name).toBe('ERR_STALE_PASS');
    }
  });

  it('after mask, lossMask or routing was written is ERR_STALE_PASS', () => {
    using device = openDevice('cpu');
    using layer = new MoELayer(device, config);
    const input = device.zeros([3, 6]);
    const ones = (name: string) => {
      const tensor = device.tensor(Int32Array.of(1, 1, 1), [3]);
      return { pass: layer.forward(input, { [name]: tensor }), written: tensor };
    };
    const routed = (name: 'indices' | 'weights' | 'logits') => {
      const pass = layer.forward(input);
      return { pass, written: pass.routing[name]! };
    };
    const made = [ones('mask'), ones('lossMask'), routed('indices'), routed('weights'), routed('logits')];
    for (const { pass, written } of made) {
      const { size } = written;
      written.write(written.dtype === 'int32' ? new Int32Array(size) : new Float32Array(size));
      expect(failure(() => pass.backward(pass.output)).code).toBe('ERR_STALE_PASS');
    }
  });

  it('after a step is ERR_STALE_PASS, for parameters that the step had a gradient of', () => {
    using device = openDevice('cpu');
    using layer = new MoELayer(device, config);
    using optimizer = new AdamW(layer.parameters().values(), { learningRate: 0 });
    const input = device.zeros([3, 6]);
    const [first, second, third] = [layer.forward(input), layer.forward(input), layer.forward(input)];
    optimizer.step(); // of nothing
    first.backward(first.output);
    second.backward(second.output);
    optimizer.step();
    expect(failure(() => third.backward(third.output)).code).toBe('ERR_STALE_PASS');
  });

  it('on what has been used up or disposed', () => {
    using device = openDevice('cpu');
    using layer = new MoELayer(device, config);
    const input = device.randn([3, 6], { seed: 1 });
    const codeOf = (call: () => unknown) => failure(call).code;
    const pass = layer.forward(input);
    pass.backward(pass.output).dispose();
    expect(codeOf(() => pass.backward(pass.output))).toBe('ERR_STALE_PASS');
    const stale = layer.forward(input);
    input.write(new Float32Array(18));
    expect(codeOf(() => stale.backward(stale.output))).toBe('ERR_STALE_PASS');
    const written = layer.forward(input);
    const up = layer.parameters().get('experts.up')!;
    up.value.write(new Float32Array(up.value.size));
    expect(codeOf(() => written.backward(written.output))).toBe('ERR_STALE_PASS');
    const inference = layer.forward(input, { training: false });
    expect(codeOf(() => inference.backward(inference.output))).toBe('ERR_STALE_PASS');
    input.dispose();
    input.dispose();
    expect(codeOf(() => layer.forward(input))).toBe('ERR_DISPOSED');
    expect(codeOf(() => input.dataSync())).toBe('ERR_DISPOSED');
    pass.dispose();
    expect(codeOf(() => pass.backward(stale.output))).toBe('ERR_DISPOSED');
    layer.dispose();
    expect(codeOf(() => layer.forward(stale.output))).toBe('ERR_DISPOSED');
    device.dispose();
    expect(codeOf(() => stale.output.dataSync())).toBe('ERR_DISPOSED');
    expect(codeOf(() => device.zeros([1]))).toBe('ERR_DISPOSED');
  });
});
