// The training loop: keeps the device's queue filled, never waiting for the step it has just queued.
import { AdamW, loadCheckpoint, type MoEStats, saveCheckpoint, schedules } from 'switchyard';
import { type Book, batchAt, hideBytes, TrainingOrder } from './data.js';
import { InFlight } from './in-flight.js';
import { type LanguageModel, shape } from './model.js';
import { type Budget, UsageError } from './options.js';

export const recipe = {
  batchSize: 512,
  peakLearningRate: 2e-3,
  finalLearningRate: 2e-5,
  warmupSteps: 100,
  betas: [0.9, 0.98],
  weightDecay: 0.1,
  /** Share of the context bytes that training does not show to the model. */
  hiddenBytes: 0.1,
} as const;

/** Steps queued ahead of the one whose loss has been read: enough that the device never waits for JavaScript. */
const stepsInFlight = 3;
const statsEvery = 10;
const checkpointEverySeconds = 60;

export interface Progress {
  step: number;
  /** Time spent in training, over all runs that were resumed from each other. */
  seconds: number;
}

export interface Observer {
  step(progress: Progress & { fraction: number; loss: number }): void;
  stats(stats: MoEStats[]): void;
}

export class Trainer {
  readonly #optimizer: AdamW;
  readonly progress: Progress = { step: 0, seconds: 0 };

  constructor(
    private readonly model: LanguageModel,
    private readonly book: Book,
    public seed: number,
    public budget: Budget,
  ) {
    const { peakLearningRate: learningRate, betas, weightDecay } = recipe;
    this.#optimizer = new AdamW(model.parameters(), { learningRate, betas: [...betas], weightDecay });
  }

  /** How much of the budget is used: a step count, or time, which makes the learning rate depend on the clock. */
  #fraction(): number {
    const { kind, amount } = this.budget;
    return kind === 'steps' ? this.progress.step / amount : this.progress.seconds / 60 / amount;
  }

  /** Linear warm-up over steps, then half a cosine over the budget, however that is measured. */
  #learningRate(fraction: number): number {
    const { peakLearningRate, finalLearningRate, warmupSteps } = recipe;
    const cosine = schedules.cosine(peakLearningRate, finalLearningRate, 1);
    return cosine(fraction) * Math.min(1, (this.progress.step + 1) / warmupSteps);
  }

  /** Trains until the budget is used up or `interrupted` says so. A checkpoint is written every minute and at the end. */
  async run(checkpoint: string, interrupted: () => boolean, observer: Observer): Promise<void> {
    const { bytes, validStart } = this.book;
    const order = new TrainingOrder(validStart, recipe.batchSize, this.seed);
    const { progress } = this;
    const startedAt = performance.now() - progress.seconds * 1000;
    let savedAt = progress.seconds;
    const inFlight = new InFlight(stepsInFlight);

    for (let fraction = this.#fraction(); fraction < 1 && !interrupted(); fraction = this.#fraction()) {
      this.#optimizer.learningRate = this.#learningRate(fraction);
      const batch = batchAt(bytes, order.positions(progress.step), shape.window);
      hideBytes(batch, recipe.hiddenBytes, this.seed, progress.step);
      const { loss, stats } = this.model.step(batch, this.#optimizer, progress.step % statsEvery === 0);
      progress.step += 1;
      const step = progress.step;
      const done = loss.then((value) => observer.step({ step, seconds: progress.seconds, fraction, loss: value }));
      await inFlight.add(Promise.all([done, stats?.then((value) => observer.stats(value))]).then(() => {}));
      progress.seconds = (performance.now() - startedAt) / 1000;
      if (progress.seconds - savedAt >= checkpointEverySeconds) {
        savedAt = progress.seconds;
        await this.save(checkpoint);
      }
    }
    await inFlight.drain();
    progress.seconds = (performance.now() - startedAt) / 1000;
    await this.save(checkpoint);
  }

  async save(path: string): Promise<void> {
    const { seed, budget, progress } = this;
    await saveCheckpoint(path, {
      modules: this.model.modules,
      optimizer: this.#optimizer,
      metadata: { languageModel: JSON.stringify({ shape, batchSize: recipe.batchSize, seed, budget, progress }) },
    });
  }

  /** Weights, optimizer, data order and progress of the run that wrote the checkpoint. */
  async load(path: string): Promise<void> {
    const metadata = await loadCheckpoint(path, { modules: this.model.modules, optimizer: this.#optimizer });
    if (!metadata.languageModel) throw new UsageError(`${path} was not written by this example`);
    const saved = JSON.parse(metadata.languageModel);
    if (JSON.stringify([saved.shape, saved.batchSize]) !== JSON.stringify([shape, recipe.batchSize]))
      throw new UsageError(`${path} holds a model of another shape: ${JSON.stringify(saved.shape)}`);
    this.seed = saved.seed;
    this.budget = saved.budget;
    Object.assign(this.progress, saved.progress);
  }
}
