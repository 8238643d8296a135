// Checkpoints: a resumed run continues bit for bit, and no file, however broken, changes anything.
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { AdamW, type Device, Embedding, loadCheckpoint, MoELayer, RMSNorm, saveCheckpoint } from '../lib/index.js';
import { SafetensorsFile } from '../lib/safetensors.js';
import { openFirst } from './devices.js';
import { FLOAT_DTYPES, type FloatDType } from './rounding.js';

const size = { hiddenSize: 9, ffnSize: 7, numExperts: 3, topK: 2 };
let folder: string;
let device: Device;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'switchyard-'));
  device = openFirst();
});
afterAll(() => {
  device.dispose();
  rmSync(folder, { recursive: true });
});

class Model implements Disposable {
  readonly moe: MoELayer;
  readonly norm: RMSNorm;
  readonly optimizer: AdamW;
  readonly dtype: FloatDType;

  constructor(seed: number, dtype: FloatDType = 'float32') {
    this.dtype = dtype;
    this.moe = new MoELayer(device, { ...size, seed, dtype });
    this.norm = new RMSNorm(device, { size: size.hiddenSize, dtype });
    const parameters = [...this.moe.parameters().values(), ...this.norm.parameters().values()];
    this.optimizer = new AdamW(parameters, { learningRate: 0.05 });
  }

  get state() {
    return { modules: { moe: this.moe, norm: this.norm }, optimizer: this.optimizer };
  }

  step(seed: number) {
    using input = device.randn([13, size.hiddenSize], { seed, dtype: this.dtype });
    using normed = this.norm.forward(input);
    using pass = this.moe.forward(normed.output);
    using gradient = pass.backward(pass.output);
    normed.backward(gradient).dispose();
    this.optimizer.step({ maxGradNorm: 1 });
  }

  async values(): Promise<number[][]> {
    const parameters = [...this.moe.parameters().values(), ...this.norm.parameters().values()];
    return Promise.all(parameters.map(async ({ value }) => [...(await value.data())]));
  }

  [Symbol.dispose]() {
    for (const part of [this.optimizer, this.moe, this.norm]) part.dispose();
  }
}

describe('a checkpoint', () => {
  it.each(FLOAT_DTYPES)('continues a run in %s bit for bit', async (dtype) => {
    const path = join(folder, 'run.safetensors');
    using straight = new Model(1, dtype);
    for (let step = 0; step < 3; step++) straight.step(step);
    const saving = saveCheckpoint(path, { ...straight.state, metadata: { note: 'step 3' } });
    // What is queued after the call is not in the file.
    for (let step = 3; step < 6; step++) straight.step(step);
    await saving;
    using resumed = new Model(2, dtype);
    resumed.step(99);
    expect(await loadCheckpoint(path, resumed.state)).toEqual({ note: 'step 3' });
    for (let step = 3; step < 6; step++) resumed.step(step);
    expect(await resumed.values()).toEqual(await straight.values());
    expect(readdirSync(folder)).toEqual(['run.safetensors']);
  });

  it('carries the seed, the count of training forwards, the temperature and every setting of the optimizer', async () => {
    const path = join(folder, 'state.safetensors');
    const stateOf = () => {
      const bytes = readFileSync(path);
      const header = JSON.parse(bytes.subarray(8, 8 + Number(bytes.readBigUInt64LE(0))).toString());
      return JSON.parse(header.__metadata__.switchyard);
    };
    using model = new Model(5);
    for (let step = 0; step < 3; step++) model.step(step);
    model.moe.forward(device.zeros([2, 9]), { training: false }).dispose();
    model.moe.setTemperature(0.7);
    const settings = { learningRate: 0.25, betas: [0.5, 0.75] as [number, number], epsilon: 0.125, weightDecay: 0.5 };
    using optimizer = new AdamW(model.moe.parameters().values(), settings);
    const state = { modules: { moe: model.moe }, optimizer };
    await saveCheckpoint(path, state);
    const saved = stateOf();
    expect(saved).toEqual({
      version: 1,
      layers: { moe: { seed: 5, step: 3, temperature: 0.7 } },
      optimizer: settings,
    });

    using other = new Model(6);
    using otherOptimizer = new AdamW(other.moe.parameters().values(), { learningRate: 1 });
    const into = { modules: { moe: other.moe }, optimizer: otherOptimizer };
    await loadCheckpoint(path, into);
    expect(other.moe.config.seed).toBe(5);
    await saveCheckpoint(path, into);
    expect(stateOf()).toEqual(saved);
    using input = device.randn([13, 9], { seed: 1 });
    const outputs = [model.moe, other.moe].map((layer) => layer.forward(input).output.dataSync());
    expect(outputs[1]).toEqual(outputs[0]);
  });

  it('saves the master of what was written, and leaves it behind with the optimizer', async () => {
    const path = join(folder, 'written.safetensors');
    using model = new Model(1, 'bfloat16');
    model.step(0);
    const up = model.moe.parameters().get('experts.up')!.value;
    const written = new Float32Array(up.size).fill(1 + 2 ** -9); // rounds to 1
    up.write(written);
    await saveCheckpoint(path, model.state);
    await using file = await SafetensorsFile.open(path);
    const master = new Float32Array(up.size);
    await file.read(file.tensors.get('optimizer.master.moe.experts.up')!, master);
    expect(master).toEqual(written.fill(1));
    expect(file.tensors.get('optimizer.master.moe.experts.up')!.dtype).toBe('F32');
    expect(file.tensors.has('optimizer.master.moe.router.weight')).toBe(false);

    // Without the optimizer, what is loaded is a value like any other: its master is made of it.
    using other = new Model(2, 'bfloat16');
    other.step(1);
    await loadCheckpoint(path, { modules: other.state.modules });
    other.optimizer.learningRate = 0;
    other.step(2);
    expect(await other.values()).toEqual(await model.values());
  });

  it.each([
    ['bfloat16', 'BF16'],
    ['float16', 'F16'],
  ] as const)('holds the bits of %s as %s', async (dtype, name) => {
    const path = join(folder, `${dtype}.safetensors`);
    using embedding = new Embedding(device, { count: 256, size: 256, dtype, seed: 1 });
    const { value } = embedding.parameters().get('weight')!;
    // Every number; what is a NaN here is one there, whatever its bits.
    value.write(Uint16Array.from({ length: 65536 }, (_, i) => i));
    await saveCheckpoint(path, { modules: { embedding } });
    const bytes = readFileSync(path);
    const length = Number(bytes.readBigUInt64LE(0));
    expect(JSON.parse(bytes.subarray(8, 8 + length).toString())['embedding.weight'].dtype).toBe(name);
    for (let i = 0; i < 65536; i++)
      if (bytes.readUInt16LE(8 + length + 2 * i) !== i) throw new Error(`the bits of ${i} are not in the file`);
    const before = await value.data();
    value.write(new Float32Array(65536));
    await loadCheckpoint(path, { modules: { embedding } });
    expect(await value.data()).toEqual(before);

    using wide = new Embedding(device, { count: 256, size: 256, seed: 1 });
    await expect(loadCheckpoint(path, { modules: { embedding: wide } })).rejects.toMatchObject({
      code: 'ERR_DTYPE',
      message: expect.stringMatching(new RegExp(`expected dtype F32, got ${name}`)),
    });
  });

  it('is a safetensors file', async () => {
    const path = join(folder, 'format.safetensors');
    using model = new Model(1);
    await saveCheckpoint(path, model.state);
    const bytes = readFileSync(path);
    const length = Number(bytes.readBigUInt64LE(0));
    expect(length % 8).toBe(0);
    const header = JSON.parse(bytes.subarray(8, 8 + length).toString());
    const { dtype, shape, data_offsets } = header['moe.experts.up'];
    expect({ dtype, shape }).toEqual({ dtype: 'F32', shape: [3, 7, 9] });
    const start = 8 + length + data_offsets[0];
    const stored = new Float32Array(
      bytes.buffer.slice(bytes.byteOffset + start, bytes.byteOffset + start + 4 * 3 * 7 * 9),
    );
    expect([...stored]).toEqual([...(await model.moe.parameters().get('experts.up')!.value.data())]);
  });

  it('that cannot be written leaves the old one', async () => {
    const path = join(folder, 'old.safetensors');
    using model = new Model(1);
    await saveCheckpoint(path, model.state);
    const before = readFileSync(path);
    await expect(saveCheckpoint(join(folder, 'no', 'such.safetensors'), model.state)).rejects.toMatchObject({
      code: 'ERR_IO',
    });
    expect(readFileSync(path)).toEqual(before);
    expect(readdirSync(folder).filter((name) => name.includes('tmp'))).toEqual([]);
  });
});

describe('a file that is not what it should be', () => {
  let good: Buffer;
  let headerLength: number;

  beforeAll(async () => {
    const path = join(folder, 'good.safetensors');
    using model = new Model(1);
    await saveCheckpoint(path, model.state);
    good = readFileSync(path);
    headerLength = Number(good.readBigUInt64LE(0));
  });

  async function loadBytes(bytes: Buffer) {
    const path = join(folder, 'broken.safetensors');
    writeFileSync(path, bytes);
    using model = new Model(7);
    const before = await model.values();
    try {
      await loadCheckpoint(path, model.state);
    } finally {
      expect(await model.values()).toEqual(before);
    }
  }

  function withHeader(
    change: (header: Record<string, { dtype: string; shape: number[]; data_offsets: number[] }>) => void,
  ) {
    const header = JSON.parse(good.subarray(8, 8 + headerLength).toString());
    change(header);
    const json = Buffer.from(JSON.stringify(header));
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(json.length));
    return Buffer.concat([length, json, good.subarray(8 + headerLength)]);
  }

  it.each([
    ['empty', () => Buffer.alloc(0)],
    ['cut in its length', () => good.subarray(0, 5)],
    ['cut in its header', () => good.subarray(0, 8 + (headerLength >> 1))],
    ['cut after its header', () => good.subarray(0, 8 + headerLength)],
    ['cut in its last byte', () => good.subarray(0, good.length - 1)],
    ['longer than it says', () => Buffer.concat([good, Buffer.alloc(4)])],
    ['of a hostile length', () => Buffer.concat([Buffer.alloc(8, 0xff), good.subarray(8)])],
    [
      'not JSON',
      () => Buffer.concat([good.subarray(0, 8), Buffer.alloc(headerLength, 0x7b), good.subarray(8 + headerLength)]),
    ],
    [
      'with an overlap',
      () =>
        withHeader((h) => {
          h['moe.experts.up']!.data_offsets = h['moe.experts.down']!.data_offsets;
        }),
    ],
    [
      'with offsets backwards',
      () =>
        withHeader((h) => {
          h['moe.experts.up']!.data_offsets.reverse();
        }),
    ],
    [
      'with a shape that lies',
      () =>
        withHeader((h) => {
          h['moe.experts.up']!.shape = [3, 7, 8];
        }),
    ],
    [
      'with a negative shape',
      () =>
        withHeader((h) => {
          h['moe.experts.up']!.shape = [-3, -7, 9];
        }),
    ],
  ])('%s is ERR_CORRUPT_FILE', async (_, bytes) => {
    await expect(loadBytes(bytes())).rejects.toMatchObject({ code: 'ERR_CORRUPT_FILE' });
  });

  it.each(['optimizer.step.moe.experts.up', 'optimizer.skipped'])('counting below 0 in %s is too', async (name) => {
    const header = JSON.parse(good.subarray(8, 8 + headerLength).toString());
    const bytes = Buffer.from(good);
    bytes.writeInt32LE(-1, 8 + headerLength + header[name].data_offsets[0]);
    await expect(loadBytes(bytes)).rejects.toMatchObject({
      code: 'ERR_CORRUPT_FILE',
      message: expect.stringMatching(new RegExp(`'${name}'.*at least 0, got -1`)),
    });
  });

  it('but sound and of another model says what does not fit', async () => {
    const missing = withHeader((h) => {
      h['moe.experts.left'] = h['moe.experts.up']!;
      delete h['moe.experts.up'];
    });
    await expect(loadBytes(missing)).rejects.toMatchObject({
      code: 'ERR_INVALID_ARGUMENT',
      message: expect.stringContaining('moe.experts.up'),
    });
    const turned = withHeader((h) => {
      h['moe.experts.up']!.shape = [3, 9, 7];
    });
    await expect(loadBytes(turned)).rejects.toMatchObject({
      code: 'ERR_SHAPE',
      message: expect.stringContaining('[3, 9, 7]'),
    });
    const typed = withHeader((h) => {
      h['moe.experts.up']!.dtype = 'I32';
    });
    await expect(loadBytes(typed)).rejects.toMatchObject({ code: 'ERR_DTYPE' });
  });

  it('or not there is ERR_IO', async () => {
    using model = new Model(1);
    await expect(loadCheckpoint(join(folder, 'nothing'), model.state)).rejects.toMatchObject({ code: 'ERR_IO' });
    await expect(loadCheckpoint(folder, model.state)).rejects.toMatchObject({ code: 'ERR_IO' });
  });
});
