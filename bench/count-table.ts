// A counted step as a table in Markdown, with the floor beside it, and what an H100 could make of it at best.
import { bytesOf, type CountedPart, countStep, kernelOf, type Launch } from './counts.js';
import { type Floor, floors } from './floor.js';
import type { Workload } from './workloads.js';

// The data sheet of the H100 SXM: HBM3, and dense products of 16-bit floats.
const h100 = { bytesPerSecond: 3.35e12, flopsPerSecond: 989e12 };
// An assumption: from one launch of a stream to the next, outside of a graph.
const launchSeconds = 2e-6;

const megabytes = (bytes: number) => (bytes / 1e6).toFixed(3);
const ratio = (a: number, b: number) => (b > 0 ? (a / b).toFixed(3) : '–');
const total = (values: number[]) => values.reduce((sum, value) => sum + value, 0);

const columns = [
  'launch',
  'MB',
  'floor MB',
  '× floor',
  'wavefronts × ideal',
  'tensor GFLOP',
  'useful share',
  'warp instructions',
] as const;

function line(name: string, launches: Launch[], floor: Floor[]): string {
  const sum = (of: (launch: Launch) => number) => total(launches.map(of));
  const [bytes, flops, least] = [sum(bytesOf), sum((l) => l.tensorFlops), total(floor.map((f) => f.bytes))];
  const cells = [
    name,
    megabytes(bytes),
    least > 0 ? megabytes(least) : '–',
    ratio(bytes, least),
    ratio(
      sum((l) => l.sharedWavefronts),
      sum((l) => l.sharedIdealWavefronts),
    ),
    flops > 0 ? (flops / 1e9).toFixed(3) : '–',
    ratio(total(floor.map((f) => f.flops)), flops),
    sum((l) => l.warpInstructions).toLocaleString('en'),
  ];
  return `| ${cells.join(' | ')} |`;
}

/** No launch can end before its bytes have moved and its products are done. */
function estimate(name: string, { launches }: CountedPart): string {
  const seconds = total(
    launches.map((l) => Math.max(bytesOf(l) / h100.bytesPerSecond, l.tensorFlops / h100.flopsPerSecond)),
  );
  const micro = (value: number) => (value * 1e6).toFixed(1);
  return `| ${name} | ${launches.length} | ${micro(seconds)} | ${micro(seconds + launches.length * launchSeconds)} |`;
}

/** Counts one training step of the workload in bfloat16 on the software GPU. */
export function countTable({ name, title, tokens, config, forwardOnly = false }: Workload): string {
  const shape = { tokens, config, optimizer: true, forwardOnly };
  const step = countStep(shape);
  const floor = floors(shape, step.expertsHit);
  const parts = forwardOnly ? (['forward'] as const) : (['forward', 'backward', 'optimizer'] as const);
  const { hiddenSize: H, ffnSize: F, numExperts: E, topK: K } = config;
  const lines = [
    `### ${name} ${title}: T ${tokens}, H ${H}, F ${F}, E ${E}, K ${K}, bfloat16`,
    '',
    `| ${columns.join(' | ')} |`,
    `|${columns.map((_, i) => (i === 0 ? '---' : '--:')).join('|')}|`,
  ];
  for (const part of parts) {
    const least = part === 'optimizer' ? [] : floor[part];
    const { launches } = step[part];
    for (const launch of launches) {
      const own = least.filter(({ kernel }) => kernel === kernelOf(launch));
      lines.push(line(kernelOf(launch), [launch], own));
    }
    lines.push(line(`**${part}**, ${launches.length} launches`, launches, least));
  }
  if (!forwardOnly)
    lines.push('', `Held between forward and backward: ${(step.heldBytes / tokens).toFixed(1)} bytes a token.`);
  lines.push(
    '',
    'Estimate for an H100, from the counts alone:',
    '',
    '| | launches | µs, bytes or products | µs with launches |',
    '|---|--:|--:|--:|',
    ...parts.map((part) => estimate(part, step[part])),
    '',
  );
  return lines.join('\n');
}
