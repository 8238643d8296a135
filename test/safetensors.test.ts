// The file format against hostile bytes, and the writer against a file system that fails. What a checkpoint is made of is
// checkpoint.test.ts.
import { execFile } from 'node:child_process';
import {
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type Device, Linear, loadCheckpoint, openDevice, saveCheckpoint } from '../lib/index.js';
import { SafetensorsFile, type TensorData, writeSafetensors } from '../lib/safetensors.js';

let folder: string;
let path: string;
let device: Device;

beforeAll(() => {
  device = openDevice('cpu');
});
afterAll(() => device.dispose());
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'switchyard-'));
  path = join(folder, 'file.safetensors');
  return () => rmSync(folder, { recursive: true, force: true });
});

/** A file of that header, given as JSON text, and so many bytes of data. */
function fileOf(json: string, dataBytes = 0): Buffer {
  const header = Buffer.from(json);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  return Buffer.concat([length, header, Buffer.alloc(dataBytes)]);
}

async function read(bytes: Buffer) {
  writeFileSync(path, bytes);
  await using file = await SafetensorsFile.open(path);
  return { tensors: Object.fromEntries(file.tensors), metadata: file.metadata };
}

const tensors = new Map<string, TensorData>([
  ['b', { dtype: 'I32', shape: [2], data: Int32Array.of(7, -8) }],
  ['a', { dtype: 'F32', shape: [], data: Float32Array.of(0.5) }],
  ['empty', { dtype: 'F32', shape: [0, 3], data: new Float32Array(0) }],
]);

describe('the writer', () => {
  it('writes the format to the letter, the same state in the same bytes', async () => {
    await writeSafetensors(path, tensors, { note: 'ü' });
    const bytes = readFileSync(path);
    const length = Number(bytes.readBigUInt64LE(0));
    expect([length % 8, bytes.length]).toEqual([0, 8 + length + 12]);
    expect(JSON.parse(bytes.subarray(8, 8 + length).toString())).toEqual({
      __metadata__: { note: 'ü' },
      a: { dtype: 'F32', shape: [], data_offsets: [0, 4] },
      b: { dtype: 'I32', shape: [2], data_offsets: [4, 12] },
      empty: { dtype: 'F32', shape: [0, 3], data_offsets: [12, 12] },
    });
    expect([bytes.readFloatLE(8 + length), bytes.readInt32LE(8 + length + 8)]).toEqual([0.5, -8]);
    await writeSafetensors(path, new Map([...tensors].reverse()), { note: 'ü' });
    expect(readFileSync(path)).toEqual(bytes);
  });

  it('leaves nothing behind when the name is taken by a directory', async () => {
    mkdirSync(path);
    await expect(writeSafetensors(path, tensors, {})).rejects.toMatchObject({
      code: 'ERR_IO',
      message: expect.stringMatching(/file\.safetensors: .*not a regular file/),
    });
    expect(readdirSync(folder)).toEqual(['file.safetensors']);
  });

  it('does not put a file in the place of a pipe or a device', async () => {
    await promisify(execFile)('mkfifo', [path]);
    await expect(writeSafetensors(path, tensors, {})).rejects.toMatchObject({
      code: 'ERR_IO',
      message: expect.stringContaining('not a regular file'),
    });
    expect([statSync(path).isFIFO(), readdirSync(folder)]).toEqual([true, ['file.safetensors']]);
  });

  it('writes where a symbolic link leads, whether a file is there or not', async () => {
    mkdirSync(join(folder, 'disk'));
    const [there, not] = [join(folder, 'disk', 'there'), join(folder, 'disk', 'not')];
    writeFileSync(there, 'old');
    symlinkSync(there, path);
    symlinkSync(join('disk', 'not'), join(folder, 'dangling'));
    symlinkSync('dangling', join(folder, 'twice'));
    await writeSafetensors(path, tensors, {});
    await writeSafetensors(join(folder, 'twice'), tensors, {});
    expect(readFileSync(not)).toEqual(readFileSync(there));
    expect(readdirSync(join(folder, 'disk')).sort()).toEqual(['not', 'there']);
    for (const link of ['file.safetensors', 'dangling', 'twice'])
      expect(lstatSync(join(folder, link)).isSymbolicLink()).toBe(true);
  });

  it('keeps the permissions of the old file', async () => {
    writeFileSync(path, 'old', { mode: 0o600 });
    await writeSafetensors(path, tensors, {});
    expect(statSync(path).mode & 0o777).toBe(0o600);
  });

  it('takes every name that the file system takes', async () => {
    await writeSafetensors(join(folder, 'n'.repeat(255)), tensors, {});
    expect(readdirSync(folder)).toEqual(['n'.repeat(255)]);
  });

  // A limit on the size of files stands in for a full disk: write() fails half way through.
  it.skipIf(process.platform === 'win32')('keeps the old file, and no other, on a full disk', async () => {
    await writeSafetensors(path, tensors, {});
    const before = readFileSync(path);
    const entry = JSON.stringify(new URL('../dist/index.js', import.meta.url).href);
    const script = `const api = await import(${entry});
      const device = api.openDevice('cpu');
      const big = new api.Linear(device, { inFeatures: 512, outFeatures: 512, seed: 1 });
      const error = await api.saveCheckpoint(${JSON.stringify(path)}, { modules: { big } }).catch((error) => error);
      console.log(error.code, error.cause.code);`;
    const limited = `trap '' XFSZ; ulimit -f 64; exec "$0" --input-type=module -e "$1"`;
    const root = fileURLToPath(new URL('..', import.meta.url));
    const { stdout } = await promisify(execFile)('sh', ['-c', limited, process.execPath, script], { cwd: root });
    expect(stdout.trim()).toBe('ERR_IO EFBIG');
    expect(readFileSync(path)).toEqual(before);
    expect(readdirSync(folder)).toEqual(['file.safetensors']);
  });
});

describe('the reader', () => {
  it('reads what the writer wrote', async () => {
    await writeSafetensors(path, tensors, { note: 'ü' });
    await using file = await SafetensorsFile.open(path);
    expect(file.metadata).toEqual({ note: 'ü' });
    const into = new Int32Array(2);
    await file.read(file.tensors.get('b')!, into);
    expect(into).toEqual(Int32Array.of(7, -8));
  });

  it('takes every dtype of the format, in any order', async () => {
    const json = `{"z":{"dtype":"BF16","shape":[3],"data_offsets":[2,8]},"y":{"dtype":"F4","shape":[4],"data_offsets":[0,2]}}  `;
    expect(Object.keys((await read(fileOf(json, 8))).tensors)).toEqual(['z', 'y']);
    expect((await read(fileOf('{}'))).tensors).toEqual({});
  });

  it('finds a cut at every byte', async () => {
    await writeSafetensors(path, tensors, { note: 'x' });
    const bytes = readFileSync(path);
    for (let length = 0; length < bytes.length; length++) {
      await expect(read(bytes.subarray(0, length)), `${length} bytes`).rejects.toMatchObject({
        code: 'ERR_CORRUPT_FILE',
        message: expect.stringMatching(/truncated/),
      });
    }
  });

  const entry = (fields: object) =>
    JSON.stringify({ a: { dtype: 'F32', shape: [2], data_offsets: [0, 8], ...fields } });
  const two = (first: [number, number], second: [number, number]) =>
    JSON.stringify({
      a: { dtype: 'U8', shape: [first[1] - first[0]], data_offsets: first },
      b: { dtype: 'U8', shape: [second[1] - second[0]], data_offsets: second },
    });

  it.each<[string, Buffer, RegExp]>([
    ['a header of 2^64 - 1 bytes', Buffer.alloc(64, 0xff), /at most 100000000 bytes, got 18446744073709551615/],
    ['a header past the limit', Buffer.from([0x01, 0xe1, 0xf5, 0x05, 0, 0, 0, 0]), /100000001/],
    ['a header past the end', Buffer.from([9, 0, 0, 0, 0, 0, 0, 0, 0x7b, 0x7d]), /truncated.*9 bytes, got 2/],
    ['no JSON', fileOf('{"a":'), /JSON/],
    [
      'no UTF-8',
      Buffer.concat([Buffer.from([4, 0, 0, 0, 0, 0, 0, 0]), Buffer.from([0x7b, 0xff, 0xfe, 0x7d])]),
      /UTF-8/,
    ],
    ['a list', fileOf('[]'), /object/],
    ['a number', fileOf('12'), /object/],
    [
      'a name twice',
      fileOf(
        `{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"\\u0061":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`,
        1,
      ),
      /"a" is there twice/,
    ],
    [
      'a field twice',
      fileOf(`{"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}`, 1),
      /"dtype" is there twice/,
    ],
    ['metadata that is no object', fileOf('{"__metadata__":[]}'), /__metadata__/],
    ['metadata of numbers', fileOf('{"__metadata__":{"n":1}}'), /__metadata__\.n.*string/],
    ['an entry that is null', fileOf('{"a":null}'), /'a': expected an object/],
    ['an unknown dtype', fileOf(entry({ dtype: 'F33' }), 8), /'a'.*dtype, got "F33"/],
    ['a dtype of an object', fileOf(entry({ dtype: { F32: 1 } }), 8), /'a'.*dtype/],
    ['no shape', fileOf(entry({ shape: null }), 8), /'a'.*shape.*null/],
    ['a shape of fractions', fileOf(entry({ shape: [1.5] }), 8), /'a'.*shape.*1\.5/],
    ['a shape that overflows', fileOf(entry({ shape: [2 ** 33, 2 ** 33, 2 ** 33] }), 8), /'a'.*bytes.*got 8/],
    ['one offset', fileOf(entry({ data_offsets: [8] }), 8), /'a'.*data_offsets.*\[8\]/],
    ['negative offsets', fileOf(entry({ data_offsets: [-8, 0] }), 8), /'a'.*data_offsets/],
    ['offsets past the end', fileOf(entry({ shape: [4], data_offsets: [0, 16] }), 8), /truncated.*16 bytes.*got 8/],
    ['bytes left over', fileOf(entry({}), 9), /too long.*8 bytes.*got 9/],
    ['a hole', fileOf(two([0, 2], [3, 4]), 4), /'b'.*begin at 2.*got 3/],
    ['a hole at the start', fileOf(two([1, 2], [2, 4]), 4), /'a'.*begin at 0.*got 1/],
    ['an overlap', fileOf(two([0, 3], [2, 4]), 4), /'b'.*begin at 3.*got 2/],
  ])('calls %s ERR_CORRUPT_FILE', async (_, bytes, message) => {
    await expect(read(bytes)).rejects.toMatchObject({
      code: 'ERR_CORRUPT_FILE',
      message: expect.stringMatching(message),
    });
  });

  it('is not fooled by names of the language', async () => {
    const json = `{"__metadata__":{"__proto__":"p","constructor":"c"},"__proto__":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`;
    writeFileSync(path, fileOf(json, 1));
    await using file = await SafetensorsFile.open(path);
    expect([...file.tensors.keys()]).toEqual(['__proto__']);
    expect(Object.entries(file.metadata)).toEqual([
      ['__proto__', 'p'],
      ['constructor', 'c'],
    ]);
    expect(({} as Record<string, unknown>).dtype).toBeUndefined();
  });

  it('does not wait for what is no file', async () => {
    await promisify(execFile)('mkfifo', [path]);
    await expect(SafetensorsFile.open(path)).rejects.toMatchObject({ code: 'ERR_IO' });
    await expect(SafetensorsFile.open(folder)).rejects.toMatchObject({ code: 'ERR_IO' });
  });
});

describe('the arguments of a checkpoint', () => {
  it('are checked before any file is touched', async () => {
    using linear = new Linear(device, { inFeatures: 2, outFeatures: 2, seed: 1 });
    const modules = { linear };
    const cases: [unknown, unknown, RegExp][] = [
      ['', { modules }, /^path: /],
      [3, { modules }, /^path: .*3$/],
      [path, undefined, /^state: /],
      [path, {}, /^state\.modules: .*undefined$/],
      [path, { modules, optimiser: 1 }, /^state\.optimiser: .*optimizer/],
      [path, { modules: { linear: 5 } }, /^state\.modules\.linear: .*5$/],
      [path, { modules: { 'optimizer.x': linear } }, /^state\.modules: .*"optimizer\.x"$/],
      [path, { modules, optimizer: {} }, /^state\.optimizer: /],
      [path, { modules, metadata: { n: 1 } }, /^state\.metadata\.n: .*1$/],
      [path, { modules, metadata: { switchyard: '' } }, /^state\.metadata: .*"switchyard"$/],
    ];
    for (const [where, state, message] of cases) {
      await expect(saveCheckpoint(where as string, state as never), String(message)).rejects.toMatchObject({
        code: 'ERR_INVALID_ARGUMENT',
        message: expect.stringMatching(message),
      });
    }
    expect(readdirSync(folder)).toEqual([]);
  });

  it('may ask for a part of the file', async () => {
    using a = new Linear(device, { inFeatures: 2, outFeatures: 2, seed: 1 });
    using b = new Linear(device, { inFeatures: 3, outFeatures: 2, seed: 2 });
    await saveCheckpoint(path, { modules: { a, b } });
    using other = new Linear(device, { inFeatures: 3, outFeatures: 2, seed: 3 });
    expect(await loadCheckpoint(path, { modules: { b: other } })).toEqual({});
    const weights = [b, other].map((module) => module.parameters().get('weight')!.value.dataSync());
    expect(weights[0]).toEqual(weights[1]);
    await expect(loadCheckpoint(path, { modules: { c: other } })).rejects.toMatchObject({
      code: 'ERR_INVALID_ARGUMENT',
      message: expect.stringContaining("'c.weight'"),
    });
  });

  it('that are disposed write nothing', async () => {
    const linear = new Linear(device, { inFeatures: 2, outFeatures: 2, seed: 1 });
    linear.dispose();
    await expect(saveCheckpoint(path, { modules: { linear } })).rejects.toMatchObject({ code: 'ERR_DISPOSED' });
    expect(readdirSync(folder)).toEqual([]);
  });
});
