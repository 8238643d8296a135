/** Runs a suite on the devices of this test run: the CPU, or with SWITCHYARD_TEST_DEVICE=cuda every CUDA device. */

import { afterAll, beforeAll, describe } from 'vitest';
import { type Device, type DeviceInfo, listDevices, openDevice, type Tensor } from '../lib/index.js';

export function usableDevices(): DeviceInfo[] {
  const kind = process.env.SWITCHYARD_TEST_DEVICE ?? 'cpu';
  const usable = listDevices().filter((info) => info.kind === kind && info.usable);
  if (usable.length === 0) throw new Error(`listDevices() reports no usable device of kind ${kind}`);
  return usable;
}

/** Leaves NaN in the memory that the device hands out next: what an operation forgets to write is then not 0 by chance. */
function soil(device: Device): void {
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
  describe.each(usableDevices())('$kind:$index', ({ kind, index }) => {
    let device: Device;
    beforeAll(() => {
      device = openDevice({ kind, index });
      soil(device);
    });
    afterAll(() => device.dispose());
    suite(() => device);
  });
}
