// What the reader sees: the progress bar while it trains, and the report at the end. All of it goes to one stream.
import cliProgress from 'cli-progress';
import type { MoEStats } from 'switchyard';
import type { Ablation } from './evaluate.js';
import { type Observer, recipe } from './train.js';

const format =
  '{bar} {percentage}% | {clock} | step {step} | loss {loss} | {bits} bits/byte | {speed} tokens/s | imbalance {imbalance} | dropped {dropped}';

const decimals = (value: number) => (Number.isNaN(value) ? '–' : value.toFixed(3));

/** A bar that redraws itself on a terminal, and a line every ten seconds in a file or a pipe. */
export class ProgressBar implements Observer {
  readonly #bar = new cliProgress.SingleBar(
    {
      format,
      barsize: 20,
      fps: 4,
      noTTYOutput: true,
      notTTYSchedule: 10_000,
      hideCursor: true,
      stream: process.stderr,
    },
    cliProgress.Presets.shades_classic,
  );
  #loss = Number.NaN;
  #imbalance = 1;
  #dropped = 0;
  #last = { step: 0, at: performance.now(), speed: 0 };
  /** Mean training loss of the first steps, and of the latest, in bits per byte. */
  firstBits = Number.NaN;
  get lastBits(): number {
    return this.#loss / Math.LN2;
  }

  start(step: number): void {
    this.#last = { step, at: performance.now(), speed: 0 };
    this.#bar.start(1000, 0, this.#payload(step, 0));
  }

  step({ step, seconds, fraction, loss }: Parameters<Observer['step']>[0]): void {
    if (Number.isNaN(this.firstBits)) this.firstBits = loss / Math.LN2;
    this.#loss = Number.isNaN(this.#loss) ? loss : 0.95 * this.#loss + 0.05 * loss;
    const now = performance.now();
    if (now - this.#last.at > 1000) {
      const speed = ((step - this.#last.step) * recipe.batchSize * 1000) / (now - this.#last.at);
      this.#last = { step, at: now, speed };
    }
    this.#bar.update(Math.floor(fraction * 1000), this.#payload(step, seconds));
  }

  stats(stats: MoEStats[]): void {
    this.#imbalance = Math.max(...stats.map(({ imbalance }) => imbalance));
    this.#dropped += stats.reduce((sum, { droppedTokens }) => sum + droppedTokens, 0);
  }

  stop(finished: boolean): void {
    if (finished) this.#bar.update(1000);
    this.#bar.stop();
  }

  #payload(step: number, seconds: number): object {
    return {
      step,
      clock: `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, '0')}`,
      loss: decimals(this.#loss),
      bits: decimals(this.lastBits),
      speed: Math.round(this.#last.speed).toLocaleString('en'),
      imbalance: this.#imbalance.toFixed(2),
      dropped: this.#dropped,
    };
  }
}

const bar = (share: number, width: number) => '█'.repeat(Math.max(0, Math.round(share * width)));

/** Share of the assignments that each expert got; 1/E each would be perfect balance. */
export function loadChart(load: number[][]): string {
  return load
    .map((counts, block) => {
      const total = counts.reduce((a, b) => a + b, 0);
      const most = Math.max(...counts);
      const rows = counts.map((count, expert) => {
        const percent = ((100 * count) / total).toFixed(1).padStart(5);
        return `  expert ${expert} ${percent} % ${bar(count / most, 40)}`;
      });
      return [`Block ${block}, load per expert on the held-out text:`, ...rows].join('\n');
    })
    .join('\n');
}

export function comparison(rows: readonly (readonly [name: string, bitsPerByte: number])[]): string {
  const most = Math.max(...rows.map(([, bits]) => bits));
  return rows
    .map(([name, bits]) => `  ${name.padEnd(30)} ${bits.toFixed(3)} bits/byte ${bar(bits / most, 30)}`)
    .join('\n');
}

export function ablationTable(results: readonly Ablation[], bytes: number): string {
  const rows = results.map(
    ({ block, expert, bitsPerByte, increase }) =>
      `  block ${block}, expert ${expert}   ${bitsPerByte.toFixed(3)} bits/byte   ${increase > 0 ? '+' : ''}${increase.toFixed(4)}`,
  );
  return [
    `Each expert zeroed in turn, on ${bytes.toLocaleString('en')} bytes spread over the held-out text:`,
    ...rows,
  ].join('\n');
}
