// Trains a byte-level mixture-of-experts language model on Moby Dick: `npm run train`, `npm run train -- --help`.
import { existsSync } from 'node:fs';
import { MoEError, openDevice } from 'switchyard';
import { gzipBitsPerByte, unigramBitsPerByte } from './baseline.js';
import { loadBook } from './data.js';
import { ablate, evaluate, spread } from './evaluate.js';
import { Interruption } from './interruption.js';
import { LanguageModel } from './model.js';
import { type Options, readOptions, UsageError, usage } from './options.js';
import { ablationTable, comparison, loadChart, ProgressBar } from './report.js';
import { sample } from './text.js';
import { recipe, Trainer } from './train.js';

/** Positions used for the ablation: it evaluates the model once per expert. */
const ablationBytes = 16_384;

async function main(options: Options): Promise<void> {
  const say = (text: string) => (options.json ? process.stderr : process.stdout).write(`${text}\n`);
  const interruption = new Interruption();
  const book = loadBook();
  const { bytes, validStart } = book;
  const validEnd = Math.min(bytes.length, validStart + options.evalBytes);

  using device = openDevice(options.device);
  const model = new LanguageModel(device, options.seed ?? 1);
  const trainer = new Trainer(model, book, options.seed ?? 1, options.budget ?? { kind: 'minutes', amount: 5 });
  if (options.resume) await resume(trainer, options);
  const { budget, progress } = trainer;
  const parameters = model.parameters().reduce((sum, { value }) => sum + value.size, 0);
  say(
    `${device.name} · ${parameters.toLocaleString('en')} parameters · ${validStart.toLocaleString('en')} bytes to train on, ` +
      `the last ${(bytes.length - validStart).toLocaleString('en')} held out · ${budget.amount} ${budget.kind}` +
      (progress.step > 0 ? `, resumed at step ${progress.step}` : ''),
  );

  const bar = new ProgressBar();
  bar.start(progress.step);
  try {
    await trainer.run(options.checkpoint, () => interruption.requested, bar);
  } finally {
    bar.stop(!interruption.requested);
    interruption.dispose();
  }
  if (interruption.requested) {
    say(`Interrupted at step ${progress.step}. Saved to ${options.checkpoint}; go on with --resume.`);
    return;
  }

  const held = bytes.subarray(validStart, validEnd);
  const positions = Uint32Array.from(held, (_, i) => validStart + i);
  const { bitsPerByte, load } = await evaluate(model, bytes, positions);
  const gzip = gzipBitsPerByte(held);
  const unigram = unigramBitsPerByte(bytes.subarray(0, validStart), held);
  const seed = trainer.seed;
  say(`\n${await sample(model, { prompt: 'Call me Ishmael. ', bytes: 500, temperature: 0.7, seed })}\n`);
  say(`${loadChart(load)}\n`);
  say(`On the ${held.length.toLocaleString('en')} held-out bytes, after ${progress.step} steps:`);
  say(
    comparison([
      ['this model', bitsPerByte],
      ['gzip -9, held-out text alone', gzip],
      ['byte frequencies of the rest', unigram],
    ]),
  );
  const sampled = spread(validStart, validEnd, ablationBytes);
  const ablation = options.ablate ? await ablate(model, bytes, sampled) : undefined;
  if (ablation) say(`\n${ablationTable(ablation, sampled.length)}`);

  if (options.json) {
    const result = {
      validBitsPerByte: bitsPerByte,
      gzipBitsPerByte: gzip,
      unigramBitsPerByte: unigram,
      steps: progress.step,
      tokens: progress.step * recipe.batchSize,
      seconds: progress.seconds,
      firstBitsPerByte: bar.firstBits,
      lastBitsPerByte: bar.lastBits,
      parameters,
      load,
      ablation,
    };
    process.stdout.write(`${JSON.stringify(result)}\n`);
  }
}

async function resume(trainer: Trainer, { checkpoint, seed, budget }: Options): Promise<void> {
  if (!existsSync(checkpoint)) throw new UsageError(`--resume: there is no checkpoint at ${checkpoint}`);
  await trainer.load(checkpoint);
  if (seed !== undefined && seed !== trainer.seed)
    throw new UsageError(`--seed is ${seed}, but the checkpoint was trained with ${trainer.seed}`);
  if (budget) trainer.budget = budget;
}

try {
  const options = readOptions(process.argv.slice(2));
  if (options.help) process.stdout.write(usage);
  else await main(options);
} catch (error) {
  if (!(error instanceof UsageError || error instanceof MoEError)) throw error;
  const advice = error instanceof MoEError ? error.hint : 'See npm run train -- --help.';
  process.stderr.write(`${advice ? `${error.message}\n${advice}` : error.message}\n`);
  process.exitCode = 1;
}
