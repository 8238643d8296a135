/** Runs a suite on every device this machine can use. A CUDA device that cannot be opened is left out, the CPU never. */

import { afterAll, beforeAll, describe } from 'vitest';
import { type Device, type DeviceInfo, listDevices, openDevice } from '../lib/index.js';

export function usableDevices(): DeviceInfo[] {
  const usable = listDevices().filter((info) => info.usable);
  if (!usable.some((info) => info.kind === 'cpu')) throw new Error('listDevices() reports no usable CPU');
  return usable;
}

/** Declares `suite` once per device; inside tests, `device()` is the open one. */
export function onEachDevice(suite: (device: () => Device) => void): void {
  describe.each(usableDevices())('$kind:$index', ({ kind, index }) => {
    let device: Device;
    beforeAll(() => {
      device = openDevice({ kind, index });
    });
    afterAll(() => device.dispose());
    suite(() => device);
  });
}
