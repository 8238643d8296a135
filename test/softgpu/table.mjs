// Renders a report of the software GPU as a table: node test/softgpu/table.mjs REPORT
import { readFileSync } from 'node:fs';

const path = process.argv[2];
if (!path) {
  console.error('usage: node test/softgpu/table.mjs REPORT');
  process.exit(2);
}
const records = readFileSync(path, 'utf8')
  .split('\n')
  .filter(Boolean)
  .map((line) => JSON.parse(line));

const per = (sum, count) => (count ? (sum / count).toFixed(2) : '-');
// Everything is counted from PTX semantics, not profiled.
const columns = [
  ['kernel', (r) => r.kernel],
  ['grid', (r) => r.grid.join('×')],
  ['block', (r) => r.block.join('×')],
  ['warp instr', (r) => r.warpInstructions],
  ['lanes', (r) => per(r.threadInstructions, r.warpInstructions)],
  ['load sect/req', (r) => per(r.globalLoadSectors, r.globalLoadRequests)],
  ['store sect/req', (r) => per(r.globalStoreSectors, r.globalStoreRequests)],
  ['cold read', (r) => r.uniqueReadBytes],
  ['cold write', (r) => r.uniqueWrittenBytes],
  ['shared waves', (r) => r.sharedWavefronts],
  ['ideal', (r) => r.sharedIdealWavefronts],
  ['mma', (r) => r.tensorOps],
  ['barriers', (r) => r.barriers],
  ['div. branches', (r) => `${r.divergentBranches}/${r.branches}`],
  ['atomics', (r) => r.atomics],
  ['faults', (r) => r.faults.map((f) => f.fault).join(' ') || '-'],
];
const rows = [columns.map(([name]) => name)];
for (const r of records.filter((r) => r.type === 'launch')) rows.push(columns.map(([, of]) => String(of(r))));
const widths = columns.map((_, k) => Math.max(...rows.map((row) => row[k].length)));
for (const row of rows)
  console.log(row.map((cell, k) => (k === 0 ? cell.padEnd(widths[k]) : cell.padStart(widths[k]))).join('  '));

for (const r of records.filter((r) => r.type === 'fault'))
  console.log(`fault: ${r.faults.map((f) => `${f.fault} ${f.detail}`).join('; ')}`);
for (const r of records.filter((r) => r.type === 'calls')) {
  console.log(
    `driver calls until ${r.at}: ${r.launching} launching, ${r.enqueueing} enqueueing, ${r.synchronising} synchronising, ` +
      `${r.querying} querying, ${r.blockingCopy} blocking copies, ${r.allocating} allocating, ${r.freeing} freeing, ` +
      `${r.other} other`,
  );
}
