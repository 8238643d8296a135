// What a bench says: a row for each measurement, as a table or as JSON.
import type { BenchDType, Figures, Work } from './measure.js';

export type Pass = 'forward' | 'training';

export interface Row extends Figures, Work {
  workload: string;
  pass: Pass;
  dtype: BenchDType;
  /** 'layer', or one of its stages. */
  stage: string;
  /** Who else did it, with --compare. */
  peer?: string;
}

const columns: readonly [title: string, width: number, text: (row: Row) => string][] = [
  ['workload', -8, ({ workload }) => workload],
  ['pass', -8, ({ pass }) => pass],
  ['dtype', -8, ({ dtype }) => dtype],
  ['stage', -13, ({ stage, peer }) => peer ?? stage],
  ['median ms', 10, ({ milliseconds }) => milliseconds.median.toFixed(3)],
  ['p25–p75 ms', 18, ({ milliseconds: { p25, p75 } }) => `${p25.toFixed(3)}–${p75.toFixed(3)}`],
  ['GFLOP/s', 8, ({ gflops }) => (gflops > 0 ? gflops.toFixed(1) : '–')],
  ['peak', 7, ({ peakGflops }) => peakGflops.toFixed(1)],
  ['% of peak', 9, ({ gflops, percentOfPeak }) => (gflops > 0 ? percentOfPeak.toFixed(1) : '–')],
  ['% of bandwidth', 14, ({ percentOfBandwidth }) => percentOfBandwidth.toFixed(1)],
];

const line = (cells: readonly string[]) =>
  cells
    .map((cell, i) => (columns[i]![1] < 0 ? cell.padEnd(-columns[i]![1]) : cell.padStart(columns[i]![1])))
    .join(' ')
    .trimEnd();

export const tableHead = () => line(columns.map(([title]) => title));
export const tableLine = (row: Row) => line(columns.map(([, , text]) => text(row)));

/** One line. */
export function json({ workload, pass, dtype, stage, peer, milliseconds, ...rest }: Row): string {
  const { gflops, percentOfPeak, percentOfBandwidth, peakGflops, peakGigabytes, samples } = rest;
  const numbers = { gflops, percentOfPeak, percentOfBandwidth, peakGflops, peakGigabytes, samples };
  return JSON.stringify({ workload, pass, dtype, stage, peer, milliseconds, ...numbers });
}
