// A step that is recorded once and queued again as a whole.
import { type GraphHandle, native } from './binding.js';
import { invalid, isThenable } from './checks.js';
import type { DeviceContext } from './context.js';
import { MoEError } from './errors.js';

/** Made by `device.graph(step)`. */
export class Graph implements Disposable {
  readonly #context: DeviceContext;
  readonly #handle: GraphHandle;
  /** What the step's objects tell the device anew before every replay. */
  readonly #beforeReplay: readonly (() => void)[];
  #disposed = false;

  private constructor(context: DeviceContext, handle: GraphHandle, beforeReplay: readonly (() => void)[]) {
    this.#context = context;
    this.#handle = handle;
    this.#beforeReplay = beforeReplay;
  }

  /** @internal Runs `step`, then records it. */
  static record(context: DeviceContext, step: () => void): Graph {
    runStep(step);
    const handle = native.graphBegin(context.handle('graph()'));
    const beforeReplay: (() => void)[] = [];
    try {
      context.recording(beforeReplay, () => runStep(step));
      native.graphEnd(handle);
    } catch (error) {
      native.graphRelease(handle);
      throw error;
    }
    return new Graph(context, handle, beforeReplay);
  }

  get isDisposed(): boolean {
    return this.#disposed;
  }

  /**
   * Queues the whole step again. It works on the tensors that it was recorded with: write new data into them first.
   * ERR_STALE_PASS when it was recorded with cleared gradients and they are not cleared now, ERR_DISPOSED when an optimizer
   * that takes a step in it is disposed; layers and tensors it keeps itself.
   */
  replay(): void {
    this.#context.handle('Graph.replay()');
    if (this.#disposed) throw new MoEError('ERR_DISPOSED', 'Graph.replay(): the graph has been disposed');
    for (const tell of this.#beforeReplay) tell();
    native.graphReplay(this.#handle);
  }

  /** Frees the memory that the step works in, once what is queued has run; may be called again. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    native.graphRelease(this.#handle);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

function runStep(step: () => void): void {
  const result: unknown = step();
  if (!isThenable(result)) return;
  // Nobody will see how it ends.
  result.then(undefined, () => {});
  throw invalid('graph(step)', 'a step that returns no promise: what it queues later would not be part of it', result);
}
