/**
 * 16-bit floats as tensors: every bit pattern, every way a number is rounded, and what mixes of dtypes say. What the
 * layers compute in them is in the suites of the layers.
 */

import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { add, crossEntropy, Embedding, Linear, MoELayer, openDevice, ops, RMSNorm } from '../lib/index.js';
import { isaInUse, onEachDevice } from './devices.js';
import { failure } from './failure.js';
import { uniforms } from './random.js';
import { numberOf, rounded } from './rounding.js';

const HALVES = ['bfloat16', 'float16'] as const;
const ALL_BITS = Uint16Array.from({ length: 65536 }, (_, i) => i);

/** The same numbers, where NaN is NaN and 0 is not -0. */
function expectSameNumbers(label: string, actual: ArrayLike<number>, expected: ArrayLike<number>): void {
  if (actual.length !== expected.length) throw new Error(`${label}: ${actual.length} values, not ${expected.length}`);
  for (let i = 0; i < expected.length; i++) {
    if (!Object.is(actual[i], expected[i])) throw new Error(`${label}[${i}] is ${actual[i]}, not ${expected[i]}`);
  }
}

/** Float32 numbers where rounding is decided: for each pattern its value, half-way to the next, and just beside that. */
function hardNumbers(dtype: (typeof HALVES)[number]): Float32Array {
  const numbers: number[] = [];
  for (let bits = 0; bits < 0x8000; bits++) {
    const [low, high] = [numberOf(dtype, bits), numberOf(dtype, bits + 1)];
    if (!Number.isFinite(low)) break;
    const middle = Number.isFinite(high) ? low + (high - low) / 2 : low + (low - numberOf(dtype, bits - 1)) / 2;
    const bitsOfMiddle = new Int32Array(Float32Array.of(middle).buffer)[0]!;
    const beside = new Float32Array(Int32Array.of(bitsOfMiddle - 1, bitsOfMiddle + 1).buffer);
    for (const x of [low, middle, ...beside]) numbers.push(x, -x);
  }
  return Float32Array.from(numbers);
}

onEachDevice((device) => {
  describe.each(HALVES)('%s', (dtype) => {
    it('widens every bit pattern, read and converted', async () => {
      const expected = Float32Array.from(ALL_BITS, (bits) => numberOf(dtype, bits));
      using tensor = device().tensor(ALL_BITS, [65536], dtype);
      expect([tensor.dtype, tensor.size]).toEqual([dtype, 65536]);
      const read = await tensor.data();
      expect(read).toBeInstanceOf(Float32Array);
      expectSameNumbers('data()', read, expected);
      expectSameNumbers('dataSync()', tensor.dataSync(), expected);
      expectSameNumbers('to float32', await tensor.to('float32').data(), expected);
    });

    it('rounds to nearest even, written and converted', async () => {
      const numbers = hardNumbers(dtype);
      const expected = numbers.map((x) => rounded(dtype, x));
      using tensor = device().tensor(numbers, [numbers.length], dtype);
      expectSameNumbers('tensor()', await tensor.data(), expected);
      using written = device().zeros([numbers.length], dtype);
      written.write(numbers);
      expectSameNumbers('write()', await written.data(), expected);
      using wide = device().tensor(numbers, [numbers.length]);
      expectSameNumbers(`to ${dtype}`, await wide.to(dtype).data(), expected);
    });

    it('keeps the bits through clones, views, other devices and writes', async () => {
      using tensor = device().zeros([256, 256], dtype);
      tensor.write(ALL_BITS);
      const expected = Float32Array.from(ALL_BITS, (bits) => numberOf(dtype, bits));
      using copy = tensor.clone();
      expectSameNumbers('clone', await copy.data(), expected);
      using view = copy.reshape([-1, 2]);
      expect([view.dtype, view.shape]).toEqual([dtype, [32768, 2]]);
      expectSameNumbers('view', await view.data(), expected);
      using same = view.to(dtype);
      expectSameNumbers('to itself', await same.data(), expected);
      using other = openDevice('cpu');
      using there = same.to(other);
      expect(there.dtype).toBe(dtype);
      expectSameNumbers('on another device', await there.data(), expected);
      expectSameNumbers('and back', await there.to(device()).data(), expected);
    });

    it('goes to and from int32 and the other 16-bit float', async () => {
      const ints = Int32Array.of(0, 1, -1, 255, 257, -2049, 65519, 65520, -65520, 0x7fffff81, 2 ** 31 - 1, -(2 ** 31));
      // Through float32, 2^24 + 2^16 + 1 would first become the half-way 2^24 + 2^16.
      const wanted = Int32Array.of(...ints, 2 ** 24 + 2 ** 16 + 1, 2 ** 24 + 2 ** 16, 33554433 + 131072);
      using tensor = device().tensor(wanted, [wanted.length]);
      const expected = Float32Array.from(wanted, (x) => rounded(dtype, x));
      expectSameNumbers('from int32', await tensor.to(dtype).data(), expected);

      const floats = Float32Array.of(1.9, -1.9, Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, -0);
      using half = device().tensor(floats, [6], dtype);
      const limits = [2 ** 31 - 1, -(2 ** 31)];
      expect([...(await half.to('int32').data())]).toEqual([1, -1, 0, ...limits, 0]);

      const other = dtype === 'bfloat16' ? 'float16' : 'bfloat16';
      using all = device().tensor(ALL_BITS, [65536], dtype);
      const crossed = Float32Array.from(ALL_BITS, (bits) => rounded(other, numberOf(dtype, bits)));
      expectSameNumbers(`to ${other}`, await all.to(other).data(), crossed);
    });

    it('adds every bit pattern, rounded once from float32', async () => {
      const next = uniforms(7);
      using a = device().tensor(ALL_BITS, [65536], dtype);
      for (let round = 0; round < 3; round++) {
        const bits = ALL_BITS.map(() => Math.floor(65536 * next()));
        using b = device().tensor(bits, [65536], dtype);
        using sum = add(a, b);
        expect(sum.dtype).toBe(dtype);
        const expected = Float32Array.from(ALL_BITS, (x, i) => {
          const exact = Math.fround(numberOf(dtype, x) + numberOf(dtype, bits[i]!));
          return rounded(dtype, exact);
        });
        expectSameNumbers('sum', await sum.data(), expected);
      }
    });

    it('draws the rounded normals of float32', async () => {
      using wide = device().randn([999], { seed: 5, std: 3 });
      using half = device().randn([999], { seed: 5, std: 3, dtype });
      const expected = (await wide.data()).map((x) => rounded(dtype, x));
      expectSameNumbers('randn', await half.data(), expected);
      using layer = new Linear(device(), { inFeatures: 7, outFeatures: 5, seed: 3 });
      using narrow = new Linear(device(), { inFeatures: 7, outFeatures: 5, seed: 3, dtype });
      const [weight, narrowWeight] = [layer, narrow].map((linear) => linear.parameters().get('weight')!.value);
      const initial = (await weight!.data()).map((x) => rounded(dtype, x));
      expectSameNumbers('initial weight', await narrowWeight!.data(), initial);
    });

    it('refuses arrays and tensors of another dtype, saying so', () => {
      using half = device().zeros([2, 4], dtype);
      using wide = device().zeros([2, 4]);
      using ints = device().zeros([2, 4], 'int32');
      using linear = new Linear(device(), { inFeatures: 4, outFeatures: 4, dtype, seed: 1 });
      using norm = new RMSNorm(device(), { size: 4, dtype });
      using layer = new MoELayer(device(), { hiddenSize: 4, ffnSize: 3, numExperts: 2, topK: 1, dtype, seed: 1 });
      using pass = layer.forward(half);
      using linearPass = linear.forward(half);
      using plan = ops.plan(device().zeros([2, 1], 'int32'), device().zeros([2, 1]), 2);
      const [rows, weight] = [device().zeros([2, 4]), device().zeros([2, 3, 4], dtype)];
      const cases: [() => unknown, string, string][] = [
        [() => half.write(new Int32Array(8)), 'data', 'a Float32Array, or a Uint16Array of bits'],
        [() => wide.write(new Uint16Array(8)), 'data', 'a Float32Array'],
        [() => add(half, wide), 'b', dtype],
        [() => add(wide, half), 'b', 'float32'],
        [() => add(ints, ints), 'a', 'float32, bfloat16 or float16'],
        [() => linear.forward(wide), 'input', dtype],
        [() => norm.forward(ints), 'input', dtype],
        [() => layer.forward(wide), 'input', dtype],
        [() => pass.backward(wide), 'gradOutput', dtype],
        [() => linearPass.backward(wide), 'gradOutput', dtype],
        [() => crossEntropy(ints, ints), 'logits', 'float32, bfloat16 or float16'],
        [() => ops.route(half, half, { topK: 1 }), 'weight', 'float32'],
        [() => ops.groupedGemm(rows, weight, plan), 'weight', 'float32'],
        [() => device().randn([2], { seed: 1, dtype: 'int32' }), 'options.dtype', 'a float dtype'],
      ];
      for (const [call, name, expected] of cases) {
        const error = failure(call);
        expect(error).toMatchObject({ code: 'ERR_DTYPE', message: expect.stringContaining(`${name}: expected`) });
        expect(error.message).toContain(expected);
      }
      expect(failure(() => add(half, wide)).hint).toContain('tensor.to');
    });

    it('keeps the router, gradients and losses in float32', async () => {
      const experts = { bias: true, shared: { ffnSize: 3, gate: 'sigmoid' as const } };
      const sizes = { hiddenSize: 4, ffnSize: 3, numExperts: 2, topK: 1, seed: 1 };
      using layer = new MoELayer(device(), { ...sizes, dtype, router: { bias: true }, experts });
      for (const [name, { value, grad }] of layer.parameters()) {
        expect([name, value.dtype]).toEqual([name, name.startsWith('router.') ? 'float32' : dtype]);
        expect([name, grad.dtype]).toEqual([name, 'float32']);
      }
      expect(layer.config.dtype).toBe(dtype);
      using pass = layer.forward(device().randn([5, 4], { seed: 1, dtype }));
      const { indices, weights, kept, logits } = pass.routing;
      const dtypes = [pass.output, indices, weights, kept, logits!].map((tensor) => tensor.dtype);
      expect(dtypes).toEqual([dtype, 'int32', 'float32', 'int32', 'float32']);
      expect(pass.backward(pass.output).dtype).toBe(dtype);

      using embedding = new Embedding(device(), { count: 3, size: 4, dtype, seed: 1 });
      using embedded = embedding.forward(device().zeros([2], 'int32'));
      using loss = crossEntropy(embedded.output, device().zeros([2], 'int32'));
      expect([embedded.output.dtype, loss.loss.dtype, loss.backward().dtype]).toEqual([dtype, 'float32', dtype]);
    });

    it('takes half the memory', () => {
      const bytesFor = (wanted: 'float32' | typeof dtype): number => {
        const before = device().memory().allocated;
        using _ = device().zeros([1 << 20], wanted);
        return device().memory().allocated - before;
      };
      expect(bytesFor(dtype)).toBe(bytesFor('float32') / 2);
    });
  });
});

/** What a device computes, as text, with whatever instructions the process is told to use. */
const probe = `
  const { add, openDevice } = await import(${JSON.stringify(new URL('../dist/index.js', import.meta.url).href)});
  const { createHash } = await import('node:crypto');
  const device = openDevice('cpu');
  const bits = Uint16Array.from({ length: 65536 }, (_, i) => i);
  const others = bits.map((_, i) => (i * 40503) % 65536);
  for (const dtype of ['bfloat16', 'float16']) {
    const sum = add(device.tensor(bits, [65536], dtype), device.tensor(others, [65536], dtype)).dataSync();
    // NaN is one: its payload is nobody's business.
    const same = sum.map((x) => (x === x ? x : Number.NaN));
    console.log(dtype, createHash('sha256').update(new Uint8Array(same.buffer)).digest('hex'));
  }`;

describe('every instruction set', () => {
  const isa = isaInUse();
  const of512 = ['avx2', 'generic'];
  const others = { 'avx512-bf16': of512, avx512: of512, avx2: ['generic'], neon: ['generic'] }[isa] ?? [];
  it.skipIf(others.length === 0).each(others)('%s widens and rounds alike', async (other) => {
    const root = fileURLToPath(new URL('..', import.meta.url));
    const run = async (wanted: string): Promise<string> => {
      const env = { ...process.env, SWITCHYARD_ISA: wanted };
      const args = ['--input-type=module', '-e', probe];
      return (await promisify(execFile)(process.execPath, args, { cwd: root, env })).stdout;
    };
    const best = await run(isa);
    expect(best).toMatch(/^bfloat16 \w{64}\nfloat16 \w{64}\n$/);
    expect(await run(other)).toBe(best);
  });
});
