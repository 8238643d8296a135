// What the reader sees while it trains, on standard error: two lines that redraw themselves on a terminal, or one line
// every ten seconds in a file or a pipe.
import type { MoEStats } from 'switchyard';
import type { Budget } from './options.js';
import { type Observer, recipe } from './train.js';

const barSize = 20;
/** Milliseconds between two drawings. */
const everyOnTerminal = 250;
const everyElsewhere = 10_000;
/** Weight of the latest step in the running mean of the loss. */
const smoothing = 0.05;

interface Output {
  write(text: string): unknown;
  readonly isTTY?: boolean;
  readonly columns?: number;
}

const decimals = (value: number) => (Number.isNaN(value) ? '–' : value.toFixed(3));
const whole = (value: number) => Math.round(value).toLocaleString('en');
const clock = (seconds: number) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, '0')}`;

export class ProgressDisplay implements Observer {
  readonly #stream: Output;
  readonly #redraws: boolean;
  readonly #budget: Budget;
  #fraction = 0;
  #seconds = 0;
  #step: number;
  #loss = Number.NaN;
  #imbalance = Number.NaN;
  #dropped = 0;
  #speed = { step: 0, at: performance.now(), perSecond: Number.NaN };
  /** When it was last drawn, and whether that drawing is still on the screen. */
  #drawnAt = Number.NEGATIVE_INFINITY;
  #onScreen = false;
  /** Training loss of the first step, and mean of the latest, in bits per byte. */
  firstBits = Number.NaN;
  get lastBits(): number {
    return this.#loss / Math.LN2;
  }

  constructor(budget: Budget, { step, seconds }: { step: number; seconds: number }, stream: Output = process.stderr) {
    this.#budget = budget;
    this.#stream = stream;
    this.#redraws = stream.isTTY === true && process.env.TERM !== 'dumb';
    this.#step = step;
    this.#seconds = seconds;
    this.#speed.step = step;
  }

  step({ step, seconds, fraction, loss }: Parameters<Observer['step']>[0]): void {
    if (Number.isNaN(this.firstBits)) this.firstBits = loss / Math.LN2;
    this.#loss = Number.isNaN(this.#loss) ? loss : (1 - smoothing) * this.#loss + smoothing * loss;
    this.#step = step;
    this.#seconds = seconds;
    this.#fraction = Math.min(1, fraction);
    const now = performance.now();
    const { step: from, at } = this.#speed;
    if (now - at > 1000)
      this.#speed = { step, at: now, perSecond: ((step - from) * recipe.batchSize * 1000) / (now - at) };
    if (now - this.#drawnAt >= (this.#redraws ? everyOnTerminal : everyElsewhere)) this.#draw(now);
  }

  stats(stats: MoEStats[]): void {
    this.#imbalance = Math.max(...stats.map(({ imbalance }) => imbalance));
    this.#dropped += stats.reduce((sum, { droppedTokens }) => sum + droppedTokens, 0);
  }

  /** A line of text that stays, above what redraws itself. */
  say(text: string): void {
    this.#clear();
    this.#stream.write(`${text}\n`);
  }

  /** The last drawing stays. */
  stop(finished: boolean): void {
    if (finished) this.#fraction = 1;
    this.#draw(performance.now());
    this.#onScreen = false;
  }

  #clear(): void {
    // Up to the first of the two lines, and everything from there on.
    if (this.#onScreen) this.#stream.write('\r\x1b[2A\x1b[J');
    this.#onScreen = false;
  }

  #draw(now: number): void {
    this.#drawnAt = now;
    const filled = Math.floor(this.#fraction * barSize);
    const of = (kind: Budget['kind'], text: string) => (this.#budget.kind === kind ? ` of ${text}` : '');
    const lines = [
      [
        `${'█'.repeat(filled)}${'░'.repeat(barSize - filled)} ${String(Math.floor(100 * this.#fraction)).padStart(3)} %`,
        `${clock(this.#seconds)}${of('minutes', clock(60 * this.#budget.amount))}`,
        `step ${whole(this.#step)}${of('steps', whole(this.#budget.amount))}`,
        `${Number.isNaN(this.#speed.perSecond) ? '–' : whole(this.#speed.perSecond)} tokens/s`,
      ],
      [
        `loss ${decimals(this.#loss)}`,
        `${decimals(this.lastBits)} bits/byte`,
        `imbalance ${Number.isNaN(this.#imbalance) ? '–' : this.#imbalance.toFixed(2)}`,
        `dropped ${whole(this.#dropped)}`,
      ],
    ].map((parts) => parts.join('  '));
    if (!this.#redraws) {
      this.#stream.write(`${lines.join('  ')}\n`);
      return;
    }
    this.#clear();
    const columns = this.#stream.columns || 80;
    this.#stream.write(lines.map((line) => `${line.slice(0, columns - 1)}\n`).join(''));
    this.#onScreen = true;
  }
}
