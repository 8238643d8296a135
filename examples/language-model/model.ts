// The model: the previous `window` bytes → embedding, concatenated → Linear → two residual MoE blocks → the next byte.
//
//   contexts [T,W] → [T,W,D] → [T,W·D] → h [T,H];   h += MoE(RMSNorm(h)), twice;   logits [T,256] = head(RMSNorm(h))
import {
  type AdamW,
  add,
  crossEntropy,
  type Device,
  Embedding,
  Linear,
  type Module,
  MoELayer,
  type MoEPass,
  type MoEStats,
  type Parameter,
  RMSNorm,
  type Tensor,
} from 'switchyard';
import type { Batch } from './data.js';

export const shape = {
  window: 16,
  embeddingSize: 32,
  hiddenSize: 256,
  ffnSize: 256,
  numExperts: 8,
  topK: 2,
  blocks: 2,
} as const;

interface Block {
  readonly norm: RMSNorm;
  readonly moe: MoELayer;
}

export class LanguageModel {
  readonly modules: Record<string, Module>;
  readonly blocks: readonly Block[];
  readonly #embedding: Embedding;
  readonly #project: Linear;
  readonly #norm: RMSNorm;
  readonly #head: Linear;

  constructor(
    readonly device: Device,
    seed: number,
  ) {
    const { window, embeddingSize, hiddenSize, ffnSize, numExperts, topK } = shape;
    this.#embedding = new Embedding(device, { count: 256, size: embeddingSize, seed });
    this.#project = new Linear(device, { inFeatures: window * embeddingSize, outFeatures: hiddenSize, seed: seed + 1 });
    this.blocks = Array.from({ length: shape.blocks }, (_, i) => ({
      norm: new RMSNorm(device, { size: hiddenSize }),
      moe: new MoELayer(device, {
        hiddenSize,
        ffnSize,
        numExperts,
        topK,
        router: { renormalize: true },
        losses: { loadBalance: 0.01, z: 1e-3 },
        seed: seed + 2 + i,
      }),
    }));
    this.#norm = new RMSNorm(device, { size: hiddenSize });
    this.#head = new Linear(device, { inFeatures: hiddenSize, outFeatures: 256, seed: seed + 100 });
    this.modules = { embedding: this.#embedding, project: this.#project, norm: this.#norm, head: this.#head };
    this.blocks.forEach(({ norm, moe }, i) => {
      this.modules[`block${i}.norm`] = norm;
      this.modules[`block${i}.moe`] = moe;
    });
  }

  parameters(): Parameter[] {
    return Object.values(this.modules).flatMap((module) => [...module.parameters().values()]);
  }

  /** Logits [T,256], and the function that takes their gradient back through every parameter. Call inside tidy. */
  forward(contexts: Tensor, training: boolean): { logits: Tensor; moe: MoEPass[]; backward(grad: Tensor): void } {
    const [tokens, window] = contexts.shape as [number, number];
    const embedded = this.#embedding.forward(contexts);
    const projected = this.#project.forward(embedded.output.reshape([tokens, window * shape.embeddingSize]));
    let hidden = projected.output;
    const passes = this.blocks.map((block) => {
      const norm = block.norm.forward(hidden);
      const moe = block.moe.forward(norm.output, { training });
      hidden = add(hidden, moe.output);
      return { norm, moe };
    });
    const norm = this.#norm.forward(hidden);
    const head = this.#head.forward(norm.output);

    const backward = (gradLogits: Tensor) => {
      let grad = norm.backward(head.backward(gradLogits));
      for (const pass of [...passes].reverse()) grad = add(grad, pass.norm.backward(pass.moe.backward(grad)));
      embedded.backward(projected.backward(grad).reshape([tokens, window, shape.embeddingSize]));
    };
    return { logits: head.output, moe: passes.map(({ moe }) => moe), backward };
  }

  /**
   * Queues one step of training and returns at once. `loss` (mean nats per byte) and `stats` of each block resolve when
   * the device has got there.
   */
  step(
    batch: Batch,
    optimizer: AdamW,
    withStats: boolean,
  ): { loss: Promise<number>; stats: Promise<MoEStats[]> | undefined } {
    let stats: Promise<MoEStats[]> | undefined;
    using loss = this.device.tidy(() => {
      const { contexts, targets } = this.#upload(batch);
      const { logits, moe, backward } = this.forward(contexts, true);
      const entropy = crossEntropy(logits, targets);
      backward(entropy.backward());
      optimizer.step({ maxGradNorm: 1 });
      if (withStats) stats = Promise.all(moe.map((pass) => pass.stats()));
      return entropy.loss;
    });
    return { loss: loss.item(), stats };
  }

  /** Mean nats per byte and each block's routing, without changing anything. */
  evaluate(batch: Batch): { loss: Promise<number>; stats: Promise<MoEStats[]> } {
    let stats: Promise<MoEStats[]> = Promise.resolve([]);
    using loss = this.device.tidy(() => {
      const { contexts, targets } = this.#upload(batch);
      const { logits, moe } = this.forward(contexts, false);
      stats = Promise.all(moe.map((pass) => pass.stats()));
      return crossEntropy(logits, targets).loss;
    });
    return { loss: loss.item(), stats };
  }

  /** The 256 logits of the byte after `context`. */
  next(context: Int32Array): Promise<Float32Array> {
    using logits = this.device.tidy(() => this.forward(this.device.tensor(context, [1, context.length]), false).logits);
    return logits.data() as Promise<Float32Array>;
  }

  #upload({ contexts, targets }: Batch): { contexts: Tensor; targets: Tensor } {
    const tokens = targets.length;
    return {
      contexts: this.device.tensor(contexts, [tokens, contexts.length / tokens]),
      targets: this.device.tensor(targets, [tokens]),
    };
  }
}
