// Tensors as handles: copies, views, the order of writes and reads, dtypes, disposal.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { add, type Device, listDevices, openDevice, type Tensor } from '../lib/index.js';
import { openFirst } from './devices.js';
import { failure } from './failure.js';

let device: Device;
beforeAll(() => {
  device = openFirst();
});
afterAll(() => device.dispose());

const values = async (tensor: Tensor) => [...(await tensor.data())];

describe('device.tensor', () => {
  it('copies before it returns', async () => {
    const data = Float32Array.of(1, 2, 3);
    using tensor = device.tensor(data, [3]);
    data.fill(9);
    expect(await values(tensor)).toEqual([1, 2, 3]);
    const shape = [1, 3];
    using shaped = device.tensor(data, shape);
    shape[0] = 5;
    expect(shaped.shape).toEqual([1, 3]);
    expect(Object.isFrozen(shaped.shape)).toBe(true);
  });

  it('takes arrays, parts of buffers and every number', async () => {
    using part = device.tensor(new Float32Array(new ArrayBuffer(32), 8, 3).fill(4), [3]);
    expect(await values(part)).toEqual([4, 4, 4]);
    using doubles = device.tensor(Float64Array.of(0.5, Number.NaN, -Infinity), [3]);
    expect(await values(doubles)).toEqual([0.5, Number.NaN, Number.NEGATIVE_INFINITY]);
    using ints = device.tensor(Int32Array.of(1, -2), [2]);
    expect([ints.dtype, await values(ints)]).toEqual(['int32', [1, -2]]);
    using fromInts = device.tensor(Int32Array.of(1, -2), [2], 'float32');
    expect(await fromInts.data()).toEqual(Float32Array.of(1, -2));
    using whole = device.tensor([2 ** 31 - 1, -(2 ** 31)], [2], 'int32');
    expect(await whole.data()).toEqual(Int32Array.of(2 ** 31 - 1, -(2 ** 31)));
  });

  it('takes memory that is shared between threads', async () => {
    const shared = Float32Array.from([1, 2, 3, 4]);
    const buffer = new SharedArrayBuffer(16);
    new Float32Array(buffer).set(shared);
    using tensor = device.tensor(new Float32Array(buffer, 4, 3), [3]);
    expect(await values(tensor)).toEqual([2, 3, 4]);
    tensor.write(new Float32Array(buffer, 0, 3));
    expect(await values(tensor)).toEqual([1, 2, 3]);
  });

  it.each([
    ['ERR_SHAPE', [{ length: 2 ** 40 }, [2]], /data: expected the 2 elements of shape \[2\], got 1099511627776/],
    ['ERR_OUT_OF_MEMORY', [{ length: 2 ** 40 }, [2 ** 40]], /host memory: 4398046511104 bytes/],
    ['ERR_SHAPE', [[1, 2, 3], [2]], /data: expected the 2 elements of shape \[2\], got 3/],
    ['ERR_SHAPE', [[1], [1.5]], /shape.*1\.5/],
    ['ERR_SHAPE', [[1], [Number.NaN]], /shape.*NaN/],
    ['ERR_SHAPE', [[], [2 ** 27, 2 ** 27]], /shape.*2\^53/],
    ['ERR_INVALID_ARGUMENT', [[1], undefined], /shape.*undefined/],
    ['ERR_INVALID_ARGUMENT', [null, [1]], /data.*null/],
    ['ERR_INVALID_ARGUMENT', [['a'], [1]], /data\[0\].*"a"/],
    ['ERR_INVALID_ARGUMENT', [[1, 2 ** 31], [2], 'int32'], /data\[1\].*int32.*2147483648/],
    ['ERR_INVALID_ARGUMENT', [[1], [1], 'float64'], /dtype.*float32.*"float64"/],
    ['ERR_INVALID_ARGUMENT', [new BigInt64Array(1), [1]], /data\[0\].*0n/],
    ['ERR_INVALID_ARGUMENT', [new Uint16Array(1), [1]], /dtype.*Uint16Array/],
    ['ERR_DTYPE', [new Uint16Array(1), [1], 'float32'], /data.*float32/],
    ['ERR_DTYPE', [new Uint16Array(1), [1], 'int32'], /data.*int32/],
  ])('%s, case %#', (code, args, message) => {
    const error = failure(() => (device.tensor as (...args: unknown[]) => Tensor)(...args));
    expect({ code: error.code, message: error.message }).toEqual({ code, message: expect.stringMatching(message) });
  });
});

describe('empty and scalar tensors', () => {
  it('can be read, written, reshaped and copied', async () => {
    using empty = device.zeros([3, 0]);
    expect([empty.size, await values(empty), [...empty.dataSync()]]).toEqual([0, [], []]);
    empty.write(new Float32Array(0));
    expect(empty.reshape([0, 7]).shape).toEqual([0, 7]);
    expect(await values(empty.clone())).toEqual([]);
    using scalar = device.tensor([2.5], []);
    expect(await scalar.item()).toBe(2.5);
    await expect(empty.item()).rejects.toMatchObject({ code: 'ERR_SHAPE', message: expect.stringContaining('[3, 0]') });
  });
});

describe('randn', () => {
  it('is a function of its seed', async () => {
    const draw = async (seed: number | bigint, std?: number) =>
      values(device.randn([64], std === undefined ? { seed } : { seed, std }));
    expect(await draw(5)).toEqual(await draw(5n));
    expect(await draw(5)).not.toEqual(await draw(6));
    expect(await draw(2n ** 64n - 1n)).not.toEqual(await draw(0));
    expect((await draw(5, 0)).every((value) => value === 0)).toBe(true);
  });

  it.each([
    ['ERR_INVALID_ARGUMENT', {}, /options\.seed.*undefined/],
    ['ERR_INVALID_ARGUMENT', { seed: 2n ** 64n }, /options\.seed.*18446744073709551616n/],
    ['ERR_INVALID_ARGUMENT', { seed: 2 ** 53 }, /options\.seed.*9007199254740992/],
    ['ERR_INVALID_ARGUMENT', { seed: 1, std: -1 }, /options\.std.*-1/],
    ['ERR_INVALID_ARGUMENT', { sead: 1 }, /options\.sead.*did you mean seed\?/],
    ['ERR_DTYPE', { seed: 1, dtype: 'int32' }, /options\.dtype.*int32/],
  ])('%s, case %#', (code, options, message) => {
    const error = failure(() => device.randn([2], options as { seed: number }));
    expect({ code: error.code, message: error.message }).toEqual({ code, message: expect.stringMatching(message) });
  });
});

describe('the queue', () => {
  it('gives every read what had been written when it was asked', async () => {
    using tensor = device.zeros([1]);
    const reads: Promise<number>[] = [];
    for (let i = 0; i < 50; i++) {
      tensor.write(Float32Array.of(i));
      reads.push(tensor.item());
    }
    expect(await Promise.all(reads)).toEqual(Array.from({ length: 50 }, (_, i) => i));
  });

  it('copies what is written before write() returns', async () => {
    using tensor = device.zeros([2]);
    const data = Float32Array.of(1, 2);
    tensor.write(data);
    data.fill(7);
    expect(await values(tensor)).toEqual([1, 2]);
  });

  it('keeps a storage for queued work after its handle is gone', async () => {
    const a = device.tensor([1, 2], [2]);
    const sum = add(a, a);
    a.dispose();
    const read = sum.data();
    sum.dispose();
    using noise = device.tensor([8, 8], [2]); // takes the memory that has come free
    expect([...(await read)]).toEqual([2, 4]);
    expect(await values(noise)).toEqual([8, 8]);
  });
});

describe('write', () => {
  it.each([
    ['ERR_SHAPE', new Float32Array(3), /data.*2 elements.*3 elements/],
    ['ERR_DTYPE', new Int32Array(2), /data.*Float32Array.*float32.*Int32Array/],
    ['ERR_DTYPE', new Uint16Array(2), /data.*Float32Array/],
    ['ERR_INVALID_ARGUMENT', [1, 2], /data.*Float32Array.*\[1, 2\]/],
  ])('%s, case %#', async (code, data, message) => {
    using tensor = device.tensor([5, 6], [2]);
    const error = failure(() => tensor.write(data as Float32Array));
    expect({ code: error.code, message: error.message }).toEqual({ code, message: expect.stringMatching(message) });
    expect(await values(tensor)).toEqual([5, 6]);
  });
});

describe('views and copies', () => {
  it('reshape shares the storage and outlives the original handle', async () => {
    const tensor = device.tensor([1, 2, 3, 4, 5, 6], [2, 3]);
    using view = tensor.reshape([3, -1]);
    expect(view.shape).toEqual([3, 2]);
    tensor.write(Float32Array.of(6, 5, 4, 3, 2, 1));
    tensor.dispose();
    expect(await values(view)).toEqual([6, 5, 4, 3, 2, 1]);
  });

  it.each<[unknown[]]>([[[4]], [[-1, -1]], [[-1, 4]], [[-1, 0]], [[-2, -3]], [[6.5]], [['6']], [[6n]]])(
    'reshape, case %#, is ERR_SHAPE',
    (shape) => {
      using tensor = device.zeros([2, 3]);
      const error = failure(() => tensor.reshape(shape as number[]));
      expect(error).toMatchObject({ code: 'ERR_SHAPE', message: expect.stringContaining('6 elements') });
    },
  );

  it('clone has a storage of its own', async () => {
    using tensor = device.tensor([1], [1]);
    using copy = tensor.clone();
    tensor.write(Float32Array.of(2));
    expect([await copy.item(), await tensor.item()]).toEqual([1, 2]);
  });

  it('to converts, and copies between devices', async () => {
    using floats = device.tensor([1.9, -1.9, 3e9, Number.NaN], [4]);
    using ints = floats.to('int32');
    expect(await ints.data()).toEqual(Int32Array.of(1, -1, 2 ** 31 - 1, 0));
    expect(await ints.to('float32').data()).toEqual(Float32Array.of(1, -1, 2 ** 31 - 1, 0));
    using other = openDevice({ kind: 'cpu', threads: 1 });
    using there = floats.to(other);
    expect(there.device).toBe(other);
    floats.write(new Float32Array(4));
    expect([...there.dataSync()].slice(0, 2)).toEqual([Math.fround(1.9), Math.fround(-1.9)]);
    using same = floats.to(device);
    expect(same).not.toBe(floats);
    expect(failure(() => floats.to('half' as 'float16'))).toMatchObject({
      code: 'ERR_INVALID_ARGUMENT',
      message: expect.stringContaining('"half"'),
    });
    expect(failure(() => floats.to({} as Device)).code).toBe('ERR_INVALID_ARGUMENT');
  });
});

describe('a signal', () => {
  it('aborts a read, before and while it waits, with its reason', async () => {
    using tensor = device.zeros([4]);
    const reason = new Error('no longer wanted');
    await expect(tensor.data({ signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    const controller = new AbortController();
    const read = tensor.data({ signal: controller.signal });
    controller.abort(reason);
    await expect(read).rejects.toBe(reason);
    expect(await values(tensor)).toEqual([0, 0, 0, 0]);
    expect((await tensor.data({ signal: new AbortController().signal })).length).toBe(4);
    await expect(tensor.data({ signal: 5 as never })).rejects.toMatchObject({ code: 'ERR_INVALID_ARGUMENT' });
  });
});

describe('disposal', () => {
  it('is idempotent and told by every use', async () => {
    const tensor = device.zeros([1]);
    tensor.dispose();
    tensor.dispose();
    tensor[Symbol.dispose]();
    expect(tensor.isDisposed).toBe(true);
    const uses = [
      () => tensor.dataSync(),
      () => tensor.write(new Float32Array(1)),
      () => tensor.reshape([1]),
      () => tensor.to('int32'),
      () => tensor.clone(),
      () => tensor.keep(),
      () => add(tensor, tensor),
    ];
    expect(uses.map((use) => failure(use).code)).toEqual(uses.map(() => 'ERR_DISPOSED'));
    await expect(tensor.data()).rejects.toMatchObject({ code: 'ERR_DISPOSED' });
    await expect(tensor.item()).rejects.toMatchObject({ code: 'ERR_DISPOSED' });
  });

  it('of a device disposes everything on it', async () => {
    const other = openFirst();
    const tensor = other.zeros([1]);
    other.dispose();
    other.dispose();
    expect([other.isDisposed, tensor.isDisposed]).toEqual([true, true]);
    const uses = [
      () => tensor.dataSync(),
      () => other.zeros([1]),
      () => other.tensor([1], [1]),
      () => other.randn([1], { seed: 1 }),
      () => other.tidy(() => {}),
      () => other.memory(),
      () => other.resetPeakMemory(),
      () => other.graph(() => {}),
      () => tensor.to(device),
    ];
    expect(uses.map((use) => failure(use).code)).toEqual(uses.map(() => 'ERR_DISPOSED'));
    await expect(tensor.data()).rejects.toMatchObject({ code: 'ERR_DISPOSED' });
    await expect(other.synchronize()).rejects.toMatchObject({ code: 'ERR_DISPOSED' });
    tensor.dispose();
    using on = device.zeros([1]);
    expect(failure(() => on.to(other)).code).toBe('ERR_DISPOSED');
  });
});

describe('openDevice', () => {
  it('says what there is and what is not', () => {
    const [cpu, cuda] = listDevices();
    expect(cpu).toMatchObject({ kind: 'cpu', index: 0, usable: true });
    expect(cpu!.details).toMatchObject({ threads: expect.any(Number), isa: expect.any(String) });
    expect(cuda).toMatchObject({ kind: 'cuda', usable: expect.any(Boolean) });
    if (!cuda!.usable) {
      expect(cuda!.reason).toMatch(/\w/);
      const error = failure(() => openDevice({ kind: 'cuda' }));
      expect(error).toMatchObject({ code: 'ERR_DEVICE_UNAVAILABLE', hint: expect.stringContaining("'cpu'") });
      expect(error.message).toContain(cuda!.reason);
    }
    using auto = openDevice();
    const best = cuda!.usable ? cuda! : cpu!;
    expect([auto.kind, auto.index, auto.name]).toEqual([best.kind, 0, best.name]);
  });

  it.each([
    [{ threads: 0 }, /options\.threads.*1 to 1024.*0/],
    [{ threads: 2.5 }, /options\.threads.*2\.5/],
    [{ thread: 2 }, /options\.thread.*did you mean threads\?/],
    [{ kind: 'gpu' }, /options\.kind.*'cuda'.*"gpu"/],
    [{ index: 1 }, /options\.index.*1/],
    [{ memoryLimit: -1 }, /options\.memoryLimit.*-1/],
    [null, /options.*null/],
  ])('ERR_INVALID_ARGUMENT of %j', (options, message) => {
    const error = failure(() => openDevice(options as object));
    expect({ code: error.code, message: error.message }).toEqual({
      code: 'ERR_INVALID_ARGUMENT',
      message: expect.stringMatching(message),
    });
  });

  it('counts memory and keeps to its limit', () => {
    using small = openFirst({ memoryLimit: 1 << 20 });
    using a = small.zeros([1000]);
    const { allocated, peak, reserved } = small.memory();
    expect(allocated).toBeGreaterThanOrEqual(a.size * 4);
    expect(peak).toBeGreaterThanOrEqual(allocated);
    expect(reserved).toBeGreaterThanOrEqual(allocated);
    const error = failure(() => small.zeros([1 << 20]));
    expect(error.code).toBe('ERR_OUT_OF_MEMORY');
    small.zeros([1000]).dispose();
    expect(small.memory().allocated).toBe(allocated);
    small.resetPeakMemory();
    expect(small.memory().peak).toBe(allocated);
    expect(failure(() => device.zeros([2 ** 40])).code).toBe('ERR_OUT_OF_MEMORY');
  });
});
