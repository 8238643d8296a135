/** Runs a suite on the devices of this test run: the CPU, or with SWITCHYARD_TEST_DEVICE=cuda every CUDA device. */

import { afterAll, beforeAll, describe } from 'vitest';
import { type Device, type DeviceInfo, listDevices, openDevice } from '../lib/index.js';

export function usableDevices(): DeviceInfo[] {
  const kind = process.env.SWITCHYARD_TEST_DEVICE ?? 'cpu';
  const usable = listDevices().filter((info) => info.kind === kind && info.usable);
  if (usable.length === 0) throw new Error(`listDevices() reports no usable device of kind ${kind}`);
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
