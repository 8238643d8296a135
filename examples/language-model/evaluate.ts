// What the trained model is worth: bits per byte on held-out text, the load of each expert, and what each contributes.
import type { Tensor } from 'switchyard';
import { batchAt } from './data.js';
import { InFlight } from './in-flight.js';
import { type LanguageModel, shape } from './model.js';

const batchSize = 1024;
const batchesInFlight = 4;

export interface Evaluation {
  bitsPerByte: number;
  /** Per block, how many assignments each expert got. */
  load: number[][];
}

export async function evaluate(
  model: LanguageModel,
  bytes: Uint8Array,
  positions: ArrayLike<number>,
): Promise<Evaluation> {
  const load = model.blocks.map(() => new Array<number>(shape.numExperts).fill(0));
  let nats = 0;
  const inFlight = new InFlight(batchesInFlight);
  for (let start = 0; start < positions.length; start += batchSize) {
    const part = Array.prototype.slice.call(positions, start, start + batchSize) as number[];
    const { loss, stats } = model.evaluate(batchAt(bytes, part, shape.window));
    await inFlight.add(
      Promise.all([loss, stats]).then(([value, blocks]) => {
        nats += value * part.length;
        blocks.forEach(({ assigned }, block) => {
          for (const [expert, count] of assigned.entries()) load[block]![expert]! += count;
        });
      }),
    );
  }
  await inFlight.drain();
  return { bitsPerByte: nats / Math.LN2 / positions.length, load };
}

/** At most `count` positions, evenly spread over start … end − 1. */
export function spread(start: number, end: number, count: number): number[] {
  const number = Math.min(count, end - start);
  return Array.from({ length: number }, (_, i) => start + Math.floor((i * (end - start)) / number));
}

export interface Ablation {
  block: number;
  expert: number;
  bitsPerByte: number;
  /** Against the intact model on the same positions. */
  increase: number;
}

/** Zeroes one expert's down projection at a time, so that it contributes nothing, and puts it back. */
export async function ablate(
  model: LanguageModel,
  bytes: Uint8Array,
  positions: ArrayLike<number>,
): Promise<Ablation[]> {
  const intact = (await evaluate(model, bytes, positions)).bitsPerByte;
  const results: Ablation[] = [];
  for (const [block, { moe }] of model.blocks.entries()) {
    const down: Tensor = moe.parameters().get('experts.down')!.value;
    const original = (await down.data()) as Float32Array;
    const perExpert = original.length / shape.numExperts;
    try {
      for (let expert = 0; expert < shape.numExperts; expert++) {
        const without = original.slice().fill(0, expert * perExpert, (expert + 1) * perExpert);
        down.write(without);
        const { bitsPerByte } = await evaluate(model, bytes, positions);
        results.push({ block, expert, bitsPerByte, increase: bitsPerByte - intact });
      }
    } finally {
      down.write(original);
    }
  }
  return results;
}
