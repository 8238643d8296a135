// What the reports of the software GPU tell of faults.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** The faults in what a report has gained since it had `from` bytes. A killed process may leave half a line at its end. */
export function faultsIn(report, from = 0) {
  const lines = existsSync(report) ? readFileSync(report).subarray(from).toString().split('\n').slice(0, -1) : [];
  return lines.flatMap((line) => JSON.parse(line).faults ?? []);
}

/** "3 × shared-race in combine_float32", for everything that the reports of a folder tell. */
export function faultsInFolder(folder) {
  const counts = new Map();
  for (const file of readdirSync(folder))
    for (const { fault, kernel } of faultsIn(join(folder, file))) {
      const what = kernel ? `${fault} in ${kernel}` : fault;
      counts.set(what, (counts.get(what) ?? 0) + 1);
    }
  return [...counts].map(([what, count]) => `${count} × ${what}`);
}
