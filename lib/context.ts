// What tensors, layers and passes need of their device besides its public face: the native handle, whether it is still
// open, and the current tidy scope. Users never see it.
import { type DeviceHandle, native } from './binding.js';
import { invalid, isThenable } from './checks.js';
import type { Device } from './device.js';
import { MoEError } from './errors.js';
import { Scope, type Scoped } from './scope.js';

const contexts = new WeakMap<object, DeviceContext>();

export class DeviceContext {
  readonly device: Device;
  readonly memoryLimit: number;
  readonly #handle: DeviceHandle;
  /** Devices that copies come from: collecting one would cancel what it has not sent yet. */
  readonly #senders = new Set<DeviceContext>();
  #scope: Scope | undefined;
  #beforeReplay: (() => void)[] | undefined;
  #closed = false;

  constructor(device: Device, handle: DeviceHandle, memoryLimit: number) {
    this.device = device;
    this.#handle = handle;
    this.memoryLimit = memoryLimit;
    contexts.set(device, this);
  }

  get isClosed(): boolean {
    return this.#closed;
  }

  /** The native handle of an open device; `name` is the call or parameter that wants it. */
  handle(name: string): DeviceHandle {
    if (this.#closed) throw new MoEError('ERR_DISPOSED', `${name}: the device has been disposed`);
    return this.#handle;
  }

  /** The device's memory close to its arithmetic holds counts of every expert. */
  checkExperts(name: string, numExperts: number): void {
    const most = native.deviceMostExperts(this.handle(name));
    if (numExperts > most)
      throw invalid(name, `at most ${most} experts on ${this.device.name}`, numExperts, 'ERR_UNSUPPORTED');
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    native.deviceClose(this.#handle);
  }

  /** Keeps the device that a copy comes from as long as this one, unless it is disposed. */
  receiveFrom(sender: DeviceContext): void {
    for (const old of this.#senders) if (old.isClosed) this.#senders.delete(old);
    this.#senders.add(sender);
  }

  /** Makes the innermost tidy responsible for `member`; outside every tidy its holder is. */
  track<Member extends Scoped>(member: Member): Member {
    this.#scope?.add(member);
    return member;
  }

  /** Runs `body`, the step of a graph; beforeReplay() adds to `calls` meanwhile. */
  recording(calls: (() => void)[], body: () => void): void {
    this.#beforeReplay = calls;
    try {
      body();
    } finally {
      this.#beforeReplay = undefined;
    }
  }

  /** In the step of a graph: `call` comes before each of its replays. */
  beforeReplay(call: () => void): void {
    this.#beforeReplay?.push(call);
  }

  /** Runs `body` in a scope of its own; see Device.tidy. */
  tidy<Result>(body: () => Result): Result {
    const scope = new Scope(this.#scope);
    this.#scope = scope;
    try {
      const result = body();
      if (isThenable(result)) {
        // Nobody will see how it ends, and it will probably end in ERR_DISPOSED.
        result.then(undefined, () => {});
        throw invalid(
          'tidy(body)',
          'a body that returns no promise: its tensors would be disposed before it ends',
          result,
        );
      }
      this.#scope = scope.parent;
      scope.close(result);
      return result;
    } catch (error) {
      this.#scope = scope.parent;
      scope.disposeAll();
      throw error;
    }
  }
}

/** The context of a device that a caller gave as `name`. */
export function contextOf(device: unknown, name = 'device'): DeviceContext {
  const context = typeof device === 'object' && device !== null ? contexts.get(device) : undefined;
  if (!context) throw invalid(name, 'a device made by openDevice()', device);
  context.handle(name);
  return context;
}

export function isDevice(value: unknown): value is Device {
  return typeof value === 'object' && value !== null && contexts.has(value);
}
