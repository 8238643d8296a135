// The safetensors file format, read with suspicion and written exactly: an 8-byte little-endian header length, a JSON
// header padded with spaces to 8 bytes, then the tensors back to back. It knows files, not layers.
import { randomUUID } from 'node:crypto';
import { type FileHandle, open, readlink, realpath, rename, stat, unlink } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import type { HostArray } from './binding.js';
import { invalid } from './checks.js';
import { MoEError } from './errors.js';

/** Bits per element of every dtype of the format. */
const bitsOf: ReadonlyMap<string, number> = new Map([
  ...(['F4'] as const).map((name) => [name, 4] as const),
  ...(['F6_E2M3', 'F6_E3M2'] as const).map((name) => [name, 6] as const),
  ...(['BOOL', 'U8', 'I8', 'F8_E5M2', 'F8_E4M3', 'F8_E8M0'] as const).map((name) => [name, 8] as const),
  ...(['U16', 'I16', 'F16', 'BF16'] as const).map((name) => [name, 16] as const),
  ...(['U32', 'I32', 'F32'] as const).map((name) => [name, 32] as const),
  ...(['U64', 'I64', 'F64', 'C64'] as const).map((name) => [name, 64] as const),
]);

/** The format's own limit; what claims more is no checkpoint. */
const maxHeaderBytes = 100_000_000;
/** One read or write of the file system takes less than 2 GiB. */
const chunkBytes = 1 << 28;

export interface TensorEntry {
  readonly dtype: string;
  readonly shape: readonly number[];
  /** In the data section: first byte, and the one past the last. */
  readonly begin: number;
  readonly end: number;
}

// ---------------------------------------------------------------- reading

const corrupt = (path: string, what: string): MoEError => new MoEError('ERR_CORRUPT_FILE', `${path}: ${what}`);

function ioError(action: string, path: string, cause: unknown): MoEError {
  return new MoEError('ERR_IO', `${path}: cannot ${action}: ${(cause as Error).message}`, undefined, { cause });
}

/** An open file whose header is known to be whole and true. */
export class SafetensorsFile implements AsyncDisposable {
  readonly path: string;
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  readonly metadata: Readonly<Record<string, string>>;
  readonly #file: FileHandle;
  readonly #dataStart: number;

  private constructor(path: string, file: FileHandle, header: Header, dataStart: number) {
    this.path = path;
    this.#file = file;
    this.tensors = header.tensors;
    this.metadata = header.metadata;
    this.#dataStart = dataStart;
  }

  /** ERR_IO when it cannot be read, ERR_CORRUPT_FILE when it is truncated or contradicts itself. */
  static async open(path: string): Promise<SafetensorsFile> {
    let file: FileHandle | undefined;
    try {
      // A pipe would block for ever on being opened.
      if (!(await stat(path)).isFile()) throw new Error('it is not a regular file');
      file = await open(path, 'r');
      const { size } = await file.stat();
      const { text, dataStart } = await readHeader(path, file, size);
      return new SafetensorsFile(path, file, parseHeader(path, text, size - dataStart), dataStart);
    } catch (error) {
      await file?.close().catch(() => {});
      throw error instanceof MoEError ? error : ioError('read the file', path, error);
    }
  }

  /** Fills `into`, which has as many bytes as the tensor. */
  async read(entry: TensorEntry, into: HostArray): Promise<void> {
    try {
      const bytes = new Uint8Array(into.buffer, into.byteOffset, into.byteLength);
      await readFully(this.path, this.#file, bytes, this.#dataStart + entry.begin);
    } catch (error) {
      throw error instanceof MoEError ? error : ioError('read the file', this.path, error);
    }
  }

  async close(): Promise<void> {
    await this.#file.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

async function readFully(path: string, file: FileHandle, into: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < into.length; ) {
    const length = Math.min(into.length - done, chunkBytes);
    const { bytesRead } = await file.read(into, done, length, position + done);
    if (bytesRead === 0) throw corrupt(path, `truncated: it ends inside the bytes from ${position}`);
    done += bytesRead;
  }
}

async function readHeader(path: string, file: FileHandle, size: number): Promise<{ text: string; dataStart: number }> {
  if (size < 8) throw corrupt(path, `truncated: expected an 8-byte header length, got ${size} bytes`);
  const prefix = Buffer.alloc(8);
  await readFully(path, file, prefix, 0);
  const length = prefix.readBigUInt64LE();
  if (length > maxHeaderBytes)
    throw corrupt(
      path,
      `header length: expected at most ${maxHeaderBytes} bytes, got ${length}; is it a safetensors file?`,
    );
  if (8 + Number(length) > size)
    throw corrupt(path, `truncated: expected a header of ${length} bytes, got ${size - 8} bytes after its length`);
  const bytes = Buffer.alloc(Number(length));
  await readFully(path, file, bytes, 8);
  try {
    return { text: new TextDecoder('utf-8', { fatal: true }).decode(bytes), dataStart: 8 + Number(length) };
  } catch {
    throw corrupt(path, 'header: expected UTF-8');
  }
}

interface Header {
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  readonly metadata: Readonly<Record<string, string>>;
}

/** Checks a header against the `dataBytes` that follow it: the tensors tile them, without hole or overlap. */
export function parseHeader(path: string, text: string, dataBytes: number): Header {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (error) {
    throw corrupt(path, `header: expected JSON: ${(error as Error).message}`);
  }
  if (!isRecord(parsed)) throw corrupt(path, 'header: expected a JSON object');
  const duplicate = duplicateKey(text);
  if (duplicate !== undefined) throw corrupt(path, `header: the name ${JSON.stringify(duplicate)} is there twice`);

  let metadata: Record<string, string> = {};
  const tensors = new Map<string, TensorEntry>();
  for (const [name, value] of Object.entries(parsed)) {
    if (name === '__metadata__') metadata = parseMetadata(path, value);
    else tensors.set(name, parseEntry(path, name, value));
  }
  let end = 0;
  const inOrder = [...tensors].sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end);
  for (const [name, entry] of inOrder) {
    if (entry.begin !== end)
      throw corrupt(
        path,
        `tensor '${name}': expected data_offsets to begin at ${end}, where the one before ends, got ${entry.begin}`,
      );
    end = entry.end;
  }
  if (end !== dataBytes)
    throw corrupt(
      path,
      `${end > dataBytes ? 'truncated' : 'too long'}: expected ${end} bytes of tensor data, got ${dataBytes}`,
    );
  return { tensors, metadata };
}

function parseMetadata(path: string, value: unknown): Record<string, string> {
  if (!isRecord(value)) throw corrupt(path, 'header: expected __metadata__ to be an object');
  for (const [key, entry] of Object.entries(value)) {
    if (typeof entry !== 'string') throw corrupt(path, `header: expected __metadata__.${key} to be a string`);
  }
  // fromEntries defines own properties, '__proto__' too.
  return Object.fromEntries(Object.entries(value)) as Record<string, string>;
}

function parseEntry(path: string, name: string, value: unknown): TensorEntry {
  const lying = (what: string) => corrupt(path, `tensor '${name}': ${what}`);
  if (!isRecord(value)) throw lying('expected an object');
  const { dtype, shape, data_offsets: offsets } = value;
  const bits = typeof dtype === 'string' ? bitsOf.get(dtype) : undefined;
  if (bits === undefined) throw lying(`expected a known dtype, got ${JSON.stringify(dtype)}`);
  if (!isSizes(shape)) throw lying(`expected a shape of whole numbers, got ${JSON.stringify(shape)}`);
  if (!isSizes(offsets) || offsets.length !== 2 || offsets[0]! > offsets[1]!)
    throw lying(`expected two data_offsets in order, got ${JSON.stringify(offsets)}`);
  const size = shape.reduce((product, dimension) => product * BigInt(dimension), 1n);
  const [begin, end] = offsets as [number, number];
  if (size * BigInt(bits) !== BigInt(end - begin) * 8n)
    throw lying(`expected the bytes of ${dtype} ${JSON.stringify(shape)} in its data_offsets, got ${end - begin}`);
  return { dtype: dtype as string, shape, begin, end };
}

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

const isSizes = (value: unknown): value is number[] =>
  Array.isArray(value) && value.every((entry) => Number.isSafeInteger(entry) && entry >= 0);

/** The first name that an object of valid JSON has twice, which JSON.parse would let the last one win. */
function duplicateKey(json: string): string | undefined {
  const objects: (Set<string> | undefined)[] = []; // undefined for arrays
  const token = /"(?:[^"\\]|\\.)*"(\s*:)?|[{}[\]]/g;
  for (let match = token.exec(json); match; match = token.exec(json)) {
    const [text, colon] = match;
    if (text === '{') objects.push(new Set());
    else if (text === '[') objects.push(undefined);
    else if (text === '}' || text === ']') objects.pop();
    else if (colon !== undefined) {
      const name = JSON.parse(text.slice(0, -colon.length)) as string;
      const names = objects.at(-1)!;
      if (names.has(name)) return name;
      names.add(name);
    }
  }
  return undefined;
}

// ---------------------------------------------------------------- writing

export interface TensorData {
  readonly dtype: 'F32' | 'BF16' | 'F16' | 'I32';
  readonly shape: readonly number[];
  readonly data: HostArray;
}

/** The length, the header and its padding; tensors in the order of `tensors`. */
export function encodeHeader(tensors: ReadonlyMap<string, TensorData>, metadata: Record<string, string>): Buffer {
  const entries: [string, unknown][] = [['__metadata__', metadata]];
  let offset = 0;
  for (const [name, { dtype, shape, data }] of tensors) {
    entries.push([name, { dtype, shape, data_offsets: [offset, offset + data.byteLength] }]);
    offset += data.byteLength;
  }
  const json = Buffer.from(JSON.stringify(Object.fromEntries(entries)));
  const length = Math.ceil(json.length / 8) * 8;
  if (length > maxHeaderBytes)
    throw invalid('state', `names and metadata of at most ${maxHeaderBytes} bytes together`, length);
  const header = Buffer.alloc(8 + length, ' ');
  header.writeBigUInt64LE(BigInt(length));
  json.copy(header, 8);
  return header;
}

/**
 * Writes the file beside `path` and renames it into place once it is on the disk, so that there always is a whole one.
 * A symbolic link stays one, an old file's permissions go on. ERR_IO leaves the old file as it was.
 */
export async function writeSafetensors(
  path: string,
  tensors: ReadonlyMap<string, TensorData>,
  metadata: Record<string, string>,
): Promise<void> {
  // By name: the same state gives the same bytes.
  const sorted = new Map([...tensors].sort(([a], [b]) => (a < b ? -1 : 1)));
  const header = encodeHeader(sorted, metadata);
  let temporary: string | undefined;
  try {
    const target = await targetOf(path);
    const directory = dirname(target.path);
    const name = join(directory, `.switchyard-${randomUUID()}.tmp`);
    const file = await open(name, 'wx', target.mode);
    temporary = name;
    try {
      if (target.mode !== undefined) await file.chmod(target.mode);
      await writeFully(file, header);
      for (const { data } of sorted.values())
        await writeFully(file, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, target.path);
    temporary = undefined;
    await syncDirectory(directory);
  } catch (error) {
    if (temporary !== undefined) await unlink(temporary).catch(() => {});
    throw ioError('write the file', path, error);
  }
}

/** Where a rename has to go: behind symbolic links. A device or a pipe must not be replaced by a file. */
async function targetOf(path: string): Promise<{ path: string; mode?: number }> {
  try {
    const target = await realpath(path);
    const old = await stat(target);
    if (!old.isFile()) throw new Error('it is not a regular file');
    return { path: target, mode: old.mode & 0o777 };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    const link = await readlink(path).catch(() => undefined);
    return link === undefined ? { path } : targetOf(resolve(dirname(path), link));
  }
}

async function writeFully(file: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const { bytesWritten } = await file.write(bytes, done, Math.min(bytes.length - done, chunkBytes));
    done += bytesWritten;
  }
}

/** Makes the rename itself durable, where the file system lets one: the new file is in place either way. */
async function syncDirectory(directory: string): Promise<void> {
  const handle = await open(directory, 'r').catch(() => undefined);
  await handle?.sync().catch(() => {});
  await handle?.close();
}
