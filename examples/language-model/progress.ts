// What the reader sees while it trains, on standard error: two lines that redraw themselves on a terminal, or the same
// every ten seconds in a file or a pipe.
import cliProgress from 'cli-progress';
import type { MoEStats } from 'switchyard';
import type { Budget } from './options.js';
import { type Observer, recipe } from './train.js';

/** Weight of the latest step in the running mean of the loss. */
const smoothing = 0.05;

const display = {
  barsize: 20,
  barCompleteChar: '█',
  barIncompleteChar: '░',
  /** Drawings a second on a terminal, and milliseconds between two elsewhere. */
  fps: 4,
  notTTYSchedule: 10_000,
  noTTYOutput: true,
  /** Ctrl-C is interruption.ts's. */
  gracefulExit: false,
  // What say() writes goes where the lines were.
  forceRedraw: true,
};
const progressLine = '{bar} {percentage} %  {clock}  {step}  {speed} tokens/s';
const qualityLine = 'loss {loss}  {bits} bits/byte  imbalance {imbalance}  dropped {dropped}';

const decimals = (value: number, digits = 3) => (Number.isNaN(value) ? '–' : value.toFixed(digits));
const whole = (value: number) => (Number.isNaN(value) ? '–' : Math.round(value).toLocaleString('en'));
const clock = (seconds: number) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, '0')}`;

export class ProgressDisplay implements Observer {
  readonly #bars: cliProgress.MultiBar;
  readonly #progress: cliProgress.SingleBar;
  readonly #quality: cliProgress.SingleBar;
  readonly #budget: Budget;
  #speed = { step: 0, at: performance.now(), perSecond: Number.NaN };
  #loss = Number.NaN;
  #imbalance = Number.NaN;
  #dropped = 0;
  /** Training loss of the first step, and mean of the latest, in bits per byte. */
  firstBits = Number.NaN;
  get lastBits(): number {
    return this.#loss / Math.LN2;
  }

  constructor(
    budget: Budget,
    { step, seconds }: { step: number; seconds: number },
    stream: NodeJS.WritableStream = process.stderr,
  ) {
    this.#budget = budget;
    this.#speed.step = step;
    this.#bars = new cliProgress.MultiBar({ ...display, stream });
    this.#progress = this.#bars.create(1, 0, this.#pace(step, seconds), { format: progressLine });
    this.#quality = this.#bars.create(1, 0, this.#figures(), { format: qualityLine });
  }

  step({ step, seconds, fraction, loss }: Parameters<Observer['step']>[0]): void {
    if (Number.isNaN(this.firstBits)) this.firstBits = loss / Math.LN2;
    this.#loss = Number.isNaN(this.#loss) ? loss : (1 - smoothing) * this.#loss + smoothing * loss;
    const now = performance.now();
    const { step: from, at } = this.#speed;
    if (now - at > 1000)
      this.#speed = { step, at: now, perSecond: ((step - from) * recipe.batchSize * 1000) / (now - at) };
    this.#progress.update(Math.min(1, fraction), this.#pace(step, seconds));
    this.#quality.update(this.#figures());
  }

  stats(stats: MoEStats[]): void {
    this.#imbalance = Math.max(...stats.map(({ imbalance }) => imbalance));
    this.#dropped += stats.reduce((sum, { droppedTokens }) => sum + droppedTokens, 0);
  }

  /** A line of text that stays, above what redraws itself. */
  say(text: string): void {
    this.#bars.log(`${text}\n`);
    this.#bars.update();
  }

  /** The last drawing stays. */
  stop(finished: boolean): void {
    if (finished) this.#progress.update(1);
    this.#bars.stop();
  }

  #pace(step: number, seconds: number) {
    const of = (kind: Budget['kind'], text: string) => (this.#budget.kind === kind ? ` of ${text}` : '');
    return {
      clock: `${clock(seconds)}${of('minutes', clock(60 * this.#budget.amount))}`,
      step: `step ${whole(step)}${of('steps', whole(this.#budget.amount))}`,
      speed: whole(this.#speed.perSecond),
    };
  }

  #figures() {
    return {
      loss: decimals(this.#loss),
      bits: decimals(this.lastBits),
      imbalance: decimals(this.#imbalance, 2),
      dropped: whole(this.#dropped),
    };
  }
}
