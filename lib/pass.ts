// A pass: one forward call and what its backward needs. The dense layers' pass is here, the MoE layer's in moe-layer.ts.
import { native, type PassHandle } from './binding.js';
import { checkNumber } from './checks.js';
import type { DeviceContext } from './context.js';
import { MoEError } from './errors.js';
import type { FloatDType } from './host-data.js';
import { Scoped } from './scope.js';
import { checkShaped, Tensor } from './tensor.js';

/** One forward of a dense layer: output, and the gradient of its input. */
export interface Pass extends Disposable {
  readonly output: Tensor;
  backward(gradOutput: Tensor): Tensor;
  dispose(): void;
}

/** Disposes its tensors with itself, unless they were kept or returned through tidy. */
export abstract class OwningPass extends Scoped {
  #owned: Tensor[] | undefined = [];

  /** @internal */
  protected own(tensor: Tensor): Tensor {
    this.#owned!.push(tensor);
    return tensor;
  }

  /** Whether dispose() has run. */
  get isDisposed(): boolean {
    return this.#owned === undefined;
  }

  /** Drops what the pass saved, and its tensors; may be called again. */
  dispose(): void {
    if (!this.#owned) return;
    for (const tensor of this.#owned) if (tensor.owner === this) tensor.dispose();
    this.#owned = undefined;
    this.scope?.remove(this);
    this.releaseHandle();
  }

  /** @internal */
  protected abstract releaseHandle(): void;

  /** @internal Throws when the pass or its device is gone. */
  protected checkOpen(context: DeviceContext, call: string): void {
    context.handle(call);
    if (this.isDisposed) throw new MoEError('ERR_DISPOSED', `${call}: the pass has been disposed`);
  }
}

/** The pass of Linear, Embedding and RMSNorm. */
export class DensePass extends OwningPass implements Pass {
  /** Of the layer's dtype. */
  readonly output: Tensor;
  readonly #context: DeviceContext;
  readonly #handle: PassHandle;
  readonly #gradShape: readonly number[];

  /** @internal */
  constructor(
    context: DeviceContext,
    [handle, output]: ReturnType<typeof native.linearForward>,
    outputShape: readonly number[],
    dtype: FloatDType,
    gradShape: readonly number[],
  ) {
    super();
    this.#context = context;
    this.#handle = handle;
    this.#gradShape = gradShape;
    this.output = this.own(new Tensor(context, output, outputShape, dtype, this));
    context.track(this);
  }

  /**
   * Adds the gradients of the parameters and returns that of the input, in the input's shape and dtype. Indices have none:
   * an Embedding answers an empty tensor of shape [0]. gradOutput: of the output's shape and dtype. ERR_STALE_PASS
   * a second time, and when the input or a parameter was written since forward.
   */
  backward(gradOutput: Tensor): Tensor {
    this.checkOpen(this.#context, 'backward()');
    const gradient = checkShaped(
      'gradOutput',
      gradOutput,
      this.#context,
      this.output.dtype,
      this.output.shape,
      'of the output',
    );
    const gradInput = native.passBackward(this.#handle, gradient, 1);
    return new Tensor(this.#context, gradInput, this.#gradShape, this.output.dtype);
  }

  protected override releaseHandle(): void {
    native.passRelease(this.#handle);
  }
}

/** The pass of crossEntropy(). */
export class LossPass extends OwningPass {
  /** The mean negative log-likelihood in nats, float32 of shape []. */
  readonly loss: Tensor;
  readonly #context: DeviceContext;
  readonly #handle: PassHandle;
  readonly #logitsShape: readonly number[];
  readonly #dtype: FloatDType;

  /** @internal */
  constructor(
    context: DeviceContext,
    [handle, loss]: ReturnType<typeof native.crossEntropyForward>,
    logitsShape: readonly number[],
    dtype: FloatDType,
  ) {
    super();
    this.#context = context;
    this.#handle = handle;
    this.#logitsShape = logitsShape;
    this.#dtype = dtype;
    this.loss = this.own(new Tensor(context, loss, [], 'float32', this));
    context.track(this);
  }

  /** The gradient of scale · loss (scale 1 by default) for the logits, in their shape and dtype. Runs once, as every pass. */
  backward(scale = 1): Tensor {
    this.checkOpen(this.#context, 'backward()');
    const gradient = native.passBackward(this.#handle, null, checkNumber('scale', scale));
    return new Tensor(this.#context, gradient, this.#logitsShape, this.#dtype);
  }

  protected override releaseHandle(): void {
    native.passRelease(this.#handle);
  }
}
