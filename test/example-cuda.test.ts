// The language-model example's own training on the GPU: three steps, whose losses are those of the CPU.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
// The example's own copy of the library, as it is built.
import { openDevice } from 'switchyard';
import { describe, expect, it } from 'vitest';
import { loadBook } from '../examples/language-model/data.js';
import { LanguageModel } from '../examples/language-model/model.js';
import { readOptions } from '../examples/language-model/options.js';
import { Trainer } from '../examples/language-model/train.js';
import { shortened } from './extent.js';

async function lossesOf(kind: string): Promise<number[]> {
  const folder = mkdtempSync(join(tmpdir(), 'switchyard-example-'));
  const checkpoint = join(folder, 'model.safetensors');
  const options = readOptions(['--device', kind, '--steps', '3', '--seed', '1', '--checkpoint', checkpoint]);
  using device = openDevice(options.device);
  const trainer = new Trainer(new LanguageModel(device, options.seed!), loadBook(), options.seed!, options.budget!);
  const losses: number[] = [];
  await trainer.run(options.checkpoint, () => false, { step: ({ loss }) => void losses.push(loss), stats: () => {} });
  rmSync(folder, { recursive: true });
  return losses;
}

describe.skipIf(!process.env.SWITCHYARD_TEST_CUDA || shortened)('the language-model example', () => {
  it('trains with --device cuda as with --device cpu', async () => {
    const [expected, actual] = [await lossesOf('cpu'), await lossesOf('cuda')];
    expect(expected).toHaveLength(3);
    expect(new Set(expected).size).toBe(3);
    expect(actual).toHaveLength(3);
    actual.forEach((loss, step) => {
      expect(Math.abs(loss - expected[step]!)).toBeLessThan(1e-4);
    });
  });
});
