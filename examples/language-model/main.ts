// Trains a byte-level mixture-of-experts language model on Moby Dick: `npm run train`, `npm run train -- --help`.
import { existsSync } from 'node:fs';
import { mkdir, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { type Device, listDevices, MoEError, openDevice } from 'switchyard';
import { gzipBitsPerByte, unigramBitsPerByte } from './baseline.js';
import { loadBook } from './data.js';
import { ablate, evaluate, spread } from './evaluate.js';
import { Interruption } from './interruption.js';
import { LanguageModel } from './model.js';
import { type Options, readOptions, UsageError, usage } from './options.js';
import { ProgressDisplay } from './progress.js';
import { ablationTable, comparison, loadChart } from './report.js';
import { sample } from './text.js';
import { recipe, Trainer } from './train.js';

/** Positions used for the ablation: it evaluates the model once per expert. */
const ablationBytes = 16_384;
const prompt = 'Call me Ishmael. ';

async function main(options: Options): Promise<void> {
  const say = (text: string) => (options.json ? process.stderr : process.stdout).write(`${text}\n`);
  const book = loadBook();
  const { bytes, validStart } = book;
  const validEnd = Math.min(bytes.length, validStart + options.evalBytes);

  using device = openDevice(options.device);
  const model = new LanguageModel(device, options.seed ?? 1);
  const trainer = new Trainer(model, book, options.seed ?? 1, options.budget ?? { kind: 'minutes', amount: 5 });
  if (options.resume) await resume(trainer, options);
  else await checkFolder(options.checkpoint);
  const { budget, progress } = trainer;
  const parameters = model.parameters().reduce((sum, { value }) => sum + value.size, 0);
  say(
    `${describe(device)}\n${parameters.toLocaleString('en')} parameters, ${validStart.toLocaleString('en')} bytes to train on, ` +
      `${(bytes.length - validStart).toLocaleString('en')} held out${progress.step > 0 ? `, resumed at step ${progress.step}` : ''}`,
  );

  const bar = new ProgressDisplay(budget, progress);
  const interruption = new Interruption(() => bar.say('Saving… (Ctrl-C again exits at once)'));
  let finished = false;
  try {
    await trainer.run(options.checkpoint, () => interruption.requested, bar);
    finished = !interruption.requested;
  } finally {
    bar.stop(finished);
    interruption.dispose();
  }
  if (interruption.requested) {
    say(`Interrupted at step ${progress.step}. Saved to ${options.checkpoint}; go on with --resume.`);
    return;
  }

  say(`Saved to ${options.checkpoint}. Evaluating…`);
  const held = bytes.subarray(validStart, validEnd);
  const positions = Uint32Array.from(held, (_, i) => validStart + i);
  const { bitsPerByte, load } = await evaluate(model, bytes, positions);
  const gzip = gzipBitsPerByte(held);
  const unigram = unigramBitsPerByte(bytes.subarray(0, validStart), held);
  const seed = trainer.seed;
  say(`\nThe model writes on from "${prompt}":\n`);
  say(`${await sample(model, { prompt, bytes: 500, temperature: 0.7, seed })}\n`);
  say(`${loadChart(load)}\n`);
  say(
    `On the ${validEnd < bytes.length ? 'first ' : ''}${held.length.toLocaleString('en')} held-out bytes, after ${progress.step} steps:`,
  );
  say(
    comparison([
      ['this model', bitsPerByte],
      ['gzip -9, held-out text alone', gzip],
      ['byte frequencies of the training text', unigram],
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

function describe({ kind, index, name }: Device): string {
  const details = listDevices().find((device) => device.kind === kind && device.index === index)?.details;
  return kind === 'cpu' ? `${name}, ${details?.threads} threads, ${details?.isa}` : name;
}

/** Makes the checkpoint's folder, now rather than after minutes of training. */
async function checkFolder(checkpoint: string): Promise<void> {
  try {
    await mkdir(dirname(checkpoint), { recursive: true });
    if ((await stat(checkpoint).catch(() => undefined))?.isDirectory()) throw new Error('it is a folder');
  } catch (error) {
    throw new UsageError(`--checkpoint ${checkpoint} cannot be written: ${(error as Error).message}`);
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
