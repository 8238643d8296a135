// Two numbers to hold a model against, in bits per byte of the same held-out text.
import { gzipSync } from 'node:zlib';

/** gzip -9 of the held-out text alone: it has not seen the training part. */
export function gzipBitsPerByte(held: Uint8Array): number {
  return (gzipSync(held, { level: 9 }).length * 8) / held.length;
}

/** Byte frequencies of the training part, each count plus one so that no byte is impossible. */
export function unigramBitsPerByte(train: Uint8Array, held: Uint8Array): number {
  const counts = new Float64Array(256).fill(1);
  for (const byte of train) counts[byte]! += 1;
  let bits = 0;
  for (const byte of held) bits -= Math.log2(counts[byte]! / (train.length + 256));
  return bits / held.length;
}
