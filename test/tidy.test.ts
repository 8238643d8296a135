// tidy(): what is made inside goes, what is returned or kept stays, however it is nested. Not about the pool's bytes, which
// runtime.test.ts counts.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { AdamW, add, crossEntropy, type Device, MoEError, MoELayer, ops, type Tensor } from '../lib/index.js';
import { openFirst } from './devices.js';

let device: Device;
let layer: MoELayer;

beforeAll(() => {
  device = openFirst();
  layer = new MoELayer(device, { hiddenSize: 6, ffnSize: 5, numExperts: 4, topK: 2, seed: 1 });
});
afterAll(() => device.dispose());

/** A made tensor and, afterwards, whether it is gone. */
const made = (): Tensor => device.zeros([2]);

describe('what a tidy returns', () => {
  it('directly, in arrays and in plain objects, however deep, lives', () => {
    const inner: Tensor[] = [];
    const tracked = () => {
      const tensor = made();
      inner.push(tensor);
      return tensor;
    };
    const result = device.tidy(() => {
      tracked();
      return {
        a: tracked(),
        deep: [{ list: [[tracked()]] }],
        bare: Object.assign(Object.create(null), { b: tracked() }),
      };
    });
    expect(inner.map(({ isDisposed }) => isDisposed)).toEqual([true, false, false, false]);
    for (const tensor of [result.a, result.deep[0]!.list[0]![0]!, result.bare.b as Tensor]) tensor.dispose();
  });

  it('may have cycles, and numbers and nothing are fine', () => {
    const cyclic = device.tidy(() => {
      const node: { tensor: Tensor; self?: unknown } = { tensor: made() };
      node.self = node;
      return node;
    });
    expect(cyclic.tensor.isDisposed).toBe(false);
    expect(device.tidy(() => 7)).toBe(7);
    expect(device.tidy(() => {})).toBeUndefined();
  });

  it('does not count when it is hidden in a Map or an instance', () => {
    class Box {
      constructor(readonly tensor: Tensor) {}
    }
    const box = device.tidy(() => new Box(made()));
    const map = device.tidy(() => new Map([['a', made()]]));
    expect(box.tensor.isDisposed).toBe(true);
    expect(map.get('a')!.isDisposed).toBe(true);
  });
});

describe('nested tidies', () => {
  it('hand what they return to the enclosing one', () => {
    let inner: Tensor | undefined;
    const outer = device.tidy(() => {
      inner = device.tidy(() => made());
      expect(inner.isDisposed).toBe(false);
      return device.tidy(() => made());
    });
    expect(inner!.isDisposed).toBe(true);
    expect(outer.isDisposed).toBe(false);
  });

  it('do not dispose what was made outside, even when they return it', () => {
    const outside = made();
    device.tidy(() => device.tidy(() => outside));
    expect(outside.isDisposed).toBe(false);
  });

  it('are over after a body that throws, with everything disposed', () => {
    const seen: Tensor[] = [];
    const body = () =>
      device.tidy(() => {
        seen.push(made());
        device.tidy(() => {
          seen.push(made());
          throw new RangeError('the body');
        });
      });
    expect(body).toThrow(new RangeError('the body'));
    expect(seen.every(({ isDisposed }) => isDisposed)).toBe(true);
    expect(made().isDisposed).toBe(false); // no scope is left open
  });
});

describe('a promise', () => {
  it('is refused, and what was made is disposed', () => {
    let tensor: Tensor | undefined;
    const body = async () => {
      tensor = made();
      await null;
      return add(tensor, tensor); // ERR_DISPOSED that nobody sees
    };
    expect(() => device.tidy(body)).toThrowError(
      expect.objectContaining({ code: 'ERR_INVALID_ARGUMENT', message: expect.stringMatching(/body.*promise/) }),
    );
    expect(tensor!.isDisposed).toBe(true);
    // biome-ignore lint/suspicious/noThenProperty: a thenable that is no Promise counts too
    expect(() => device.tidy(() => ({ then() {} }))).toThrow(MoEError);
  });
});

describe('passes', () => {
  it('go with their tensors', () => {
    const input = device.randn([3, 6], { seed: 1 });
    const { output, routing } = device.tidy(() => {
      const pass = layer.forward(input);
      return new (class {
        output = pass.output;
        routing = pass.routing;
      })();
    });
    expect(output.isDisposed).toBe(true);
    expect(routing.weights.isDisposed).toBe(true);
  });

  it('that are returned can run backward, and still own their tensors', () => {
    const input = device.randn([3, 6], { seed: 1 });
    const pass = device.tidy(() => layer.forward(input));
    expect(pass.backward(pass.output).shape).toEqual([3, 6]);
    pass.dispose();
    expect(pass.output.isDisposed).toBe(true);
    expect(pass.routing.indices.isDisposed).toBe(true);
  });

  it('leave behind what was returned by itself', async () => {
    const input = device.randn([3, 6], { seed: 1 });
    const output = device.tidy(() => layer.forward(input).output);
    expect((await output.data()).length).toBe(18);
    const both = device.tidy(() => {
      const pass = layer.forward(input);
      return { pass, weights: pass.routing.weights };
    });
    both.pass.dispose();
    expect(both.pass.output.isDisposed).toBe(true);
    expect(both.weights.isDisposed).toBe(false);
  });

  it('leave behind what was kept', () => {
    const input = device.randn([3, 6], { seed: 1 });
    const pass = layer.forward(input);
    const kept = pass.output.keep();
    expect(kept).toBe(pass.output);
    pass.dispose();
    pass.dispose();
    expect(kept.isDisposed).toBe(false);
    const inside: Tensor[] = [];
    device.tidy(() => {
      inside.push(made().keep(), made());
    });
    expect(inside.map(({ isDisposed }) => isDisposed)).toEqual([false, true]);
  });

  it('of the other kinds go too', () => {
    const logits = device.randn([3, 6], { seed: 1 });
    const [loss, plan] = device.tidy(() => {
      const indices = device.zeros([3, 2], 'int32');
      const entropy = crossEntropy(logits, device.zeros([3], 'int32'));
      return new Set([entropy.loss, ops.plan(indices, device.zeros([3, 2]), 4).offsets]);
    });
    expect([loss!.isDisposed, plan!.isDisposed]).toEqual([true, true]);
  });
});

it('never disposes parameters, gradients and optimizer state', async () => {
  const parameter = layer.parameters().get('experts.up')!;
  using optimizer = new AdamW(layer.parameters().values(), { learningRate: 1e-3 });
  const grad = device.tidy(() => {
    const pass = layer.forward(device.randn([3, 6], { seed: 1 }));
    pass.backward(pass.output);
    optimizer.step();
    void optimizer.gradNorm();
    return [parameter.grad].length && new Set([parameter.value, parameter.grad]);
  }) as Set<Tensor>;
  expect([...grad].some(({ isDisposed }) => isDisposed)).toBe(false);
  expect(parameter.grad).toBe([...grad][1]);
  expect(await optimizer.gradNorm()).toBeGreaterThan(0);
});

it('makes a gradient anew when the user disposed it', () => {
  const parameter = layer.parameters().get('experts.up')!;
  const first = parameter.grad;
  first.dispose();
  expect(parameter.grad).not.toBe(first);
  expect(parameter.grad.isDisposed).toBe(false);
});
