/**
 * Runs a suite on the devices of this test run, in every float dtype where that is wanted: the CPU once with each
 * instruction set that this machine has, or with SWITCHYARD_TEST_DEVICE=cuda every CUDA device.
 */

import { afterAll, beforeAll, describe } from 'vitest';
import { native } from '../lib/binding.js';
import {
  type Device,
  type DeviceInfo,
  type DeviceOptions,
  listDevices,
  openDevice,
  type Tensor,
} from '../lib/index.js';
import { full, onCuda, suiteDTypes } from './extent.js';
import type { FloatDType } from './rounding.js';

/** Why the CUDA suites are skipped, or ''. Each of their tests is then reported with it (softgpu.setup.ts). */
export const cudaSkipped =
  onCuda && !process.env.SWITCHYARD_TEST_CUDA
    ? process.env.SWITCHYARD_TEST_CUDA_SKIPPED || 'the CUDA suites are run by npm test'
    : '';

let usable: DeviceInfo[] | undefined;

/** The devices of this run. Listing tries every GPU, which takes the software GPU seconds: the CPU's suites do without. */
export function usableDevices(): Pick<DeviceInfo, 'kind' | 'index'>[] {
  if (!onCuda || cudaSkipped) return [{ kind: 'cpu', index: 0 }];
  usable ??= listDevices().filter(({ kind, usable }) => kind === 'cuda' && usable);
  if (usable.length === 0) throw new Error('listDevices() reports no usable CUDA device');
  return usable;
}

/** The first of them, for suites that ask nothing of a backend's arithmetic. */
export function openFirst(options: Pick<DeviceOptions, 'memoryLimit'> = {}): Device {
  const { kind, index } = usableDevices()[0]!;
  return openDevice({ kind, index, ...options });
}

// ---------------------------------------------------------------- instruction sets

const instructionSets = ['generic', 'avx2', 'avx512', 'avx512-bf16', 'neon'];

/** What `body` answers when the CPU's kernels are those of `isa`; native/cpu/isa.h says what the variable means. */
function withInstructionSet<Result>(isa: string, body: () => Result): Result {
  const before = process.env.SWITCHYARD_ISA;
  process.env.SWITCHYARD_ISA = isa;
  try {
    return body();
  } finally {
    if (before === undefined) delete process.env.SWITCHYARD_ISA;
    else process.env.SWITCHYARD_ISA = before;
  }
}

export const isaInUse = (): string => native.cpuInfo().isa;

/** Those that this machine has, or the one that SWITCHYARD_ISA names; the one that is used by default among them. */
function usableInstructionSets(): string[] {
  const only = process.env.SWITCHYARD_ISA;
  const wanted = only === undefined ? instructionSets : [only];
  const having = wanted.filter((isa) => withInstructionSet(isa, isaInUse) === isa);
  // avx512-bf16 is avx512 but for bfloat16 in rows of even width.
  const usable = having.filter((isa) => full || isa !== 'avx512' || !having.includes('avx512-bf16'));
  if (!usable.some((isa) => isa === isaInUse())) throw new Error(`the CPU uses ${isaInUse()}, which is not tested`);
  return usable;
}

// ---------------------------------------------------------------- suites

export interface TestDevice {
  kind: DeviceInfo['kind'];
  /** What tells it apart from the others. */
  name: string;
  open(options?: Pick<DeviceOptions, 'threads' | 'memoryLimit'>): Device;
}

export function testDevices(): TestDevice[] {
  if (cudaSkipped) return [{ kind: 'cuda', name: 'cuda (skipped)', open: () => openDevice('cpu') }];
  return usableDevices().flatMap(({ kind, index }): TestDevice[] => {
    const open: TestDevice['open'] = (options) => openDevice({ kind, index, ...options });
    if (kind !== 'cpu') return [{ kind, name: `${kind}:${index}`, open }];
    return usableInstructionSets().map((isa) => ({
      kind,
      name: `${kind} ${isa}`,
      open: (options) => withInstructionSet(isa, () => open(options)),
    }));
  });
}

/**
 * Leaves NaN in the memory that the device hands out next: what an operation forgets to write is then not 0 by chance. The
 * software GPU finds that by itself, in memory that is new.
 */
function soil(device: Device): void {
  if (device.kind !== 'cpu') return;
  const tensors: Tensor[] = [];
  // The pool's size classes: eight per power of two, at least 256 bytes apart.
  for (let size = 64; size < 1 << 18; size += Math.max(64, 2 ** Math.floor(Math.log2(size)) / 8)) {
    const values = new Float32Array(size).fill(Number.NaN);
    for (let i = 0; i < 4; i++) tensors.push(device.tensor(values, [size]));
  }
  for (const tensor of tensors) tensor.dispose();
}

/** Declares `suite` once per device; inside tests, `device()` is the open one. */
export function onEachDevice(suite: (device: () => Device) => void): void {
  describe.each(testDevices())('$name', ({ open }) => {
    let device: Device;
    beforeAll(() => {
      device = open();
      soil(device);
    });
    afterAll(() => device.dispose());
    suite(() => device);
  });
}

/** The same once for each float dtype of weights and activations. */
export function onEachDType(suite: (device: () => Device, dtype: FloatDType) => void): void {
  onEachDevice((device) => {
    describe.each(suiteDTypes)('%s', (dtype) => suite(device, dtype));
  });
}
