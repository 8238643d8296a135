// What the reader sees at the end: the load of each expert, the comparison, and what each expert contributes.
import type { Ablation } from './evaluate.js';

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
  const width = Math.max(...rows.map(([name]) => name.length));
  return rows
    .map(([name, bits]) => `  ${name.padEnd(width)}  ${bits.toFixed(3)} bits/byte ${bar(bits / most, 24)}`)
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
