// The README's training loop, for the tests that run it.
import { readFileSync } from 'node:fs';

export function readmeLoop(): string {
  const readme = readFileSync(new URL('../README.md', import.meta.url), 'utf8');
  const loop = readme.match(/^## A training loop$.*?^```ts\n(.*?)^```$/ms)?.[1];
  if (!loop) throw new Error('README.md has no training loop');
  return loop;
}

/** The losses it prints. */
export function lossesIn(output: string): number[] {
  return [...output.matchAll(/loss ([\d.]+)/g)].map(([, loss]) => Number(loss));
}
