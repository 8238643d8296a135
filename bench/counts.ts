// What a training step asks of a GPU, counted on the software GPU: launches, bytes, shared-memory wavefronts, work on
// tensor cores, instructions. Counts of PTX semantics; nothing here is a time.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { MoEConfig } from '../lib/index.js';
import { build, buildFolder } from '../test/softgpu/build.mjs';

export interface CountedShape {
  readonly tokens: number;
  readonly config: MoEConfig & { topK: number };
  /** Whether the optimizer steps; it costs the software GPU most of the time. */
  readonly optimizer?: boolean;
  /** Decoding has no backward, and its forward saves nothing. */
  readonly forwardOnly?: boolean;
  /** What is not trained: the parameters whose names begin so. */
  readonly frozen?: 'router.' | 'experts.';
}

/** The record of one launch in the software GPU's report; see test/softgpu/README.md. */
export interface Launch {
  kernel: string;
  dynamicShared: number;
  warpInstructions: number;
  globalLoadSectors: number;
  globalLoadBytes: number;
  globalStoreSectors: number;
  globalStoreBytes: number;
  wideLoadSectors: number;
  wideLoadBytes: number;
  uniqueReadBytes: number;
  uniqueWrittenBytes: number;
  sharedWavefronts: number;
  sharedIdealWavefronts: number;
  tensorOps: number;
  tensorFlops: number;
  faults: unknown[];
}

export type Part = 'forward' | 'backward' | 'optimizer';

export interface CountedPart {
  launches: Launch[];
  /** Driver calls that put work on the GPU besides launches: memsets and copies on the device. */
  otherWork: string[];
  bytes: number;
}

export interface CountedStep extends Record<Part, CountedPart> {
  /** Held by the pass after forward, the output and the input not counted. */
  heldBytes: number;
  /** Experts with rows: the weights of no other are read. */
  expertsHit: number;
}

const parts: readonly Part[] = ['forward', 'backward', 'optimizer'];
const program = fileURLToPath(new URL('counted-step.ts', import.meta.url));

/** "expertsUp" of "expertsUpWide_bfloat16". */
export function kernelOf({ kernel }: { kernel: string }): string {
  return kernel.replace(/_\w+$/, '').replace(/(Wide|Flat)$/, '');
}

export const bytesOf = (launch: Launch): number => launch.uniqueReadBytes + launch.uniqueWrittenBytes;

interface Mark {
  type: 'mark';
  part: string;
  heldBytes?: number;
  expertsHit?: number;
}

/** The records of each part, and the marks. */
function split<T extends { type: string }>(path: string) {
  const records: Record<string, T[]> = {};
  const marks: Mark[] = [];
  let part = 'setup';
  for (const line of readFileSync(path, 'utf8').split('\n').filter(Boolean)) {
    const record = JSON.parse(line) as T | Mark;
    if (record.type === 'mark') {
      marks.push(record as Mark);
      part = (record as Mark).part;
    } else {
      records[part] ??= [];
      records[part]!.push(record as T);
    }
  }
  return { records, marks };
}

/** Runs one step of the shape on the software GPU. */
export function countStep(shape: CountedShape, capability = '8.0'): CountedStep {
  build();
  const folder = mkdtempSync(join(tmpdir(), 'switchyard-counts-'));
  try {
    const [report, trace] = [join(folder, 'report.jsonl'), join(folder, 'trace.jsonl')];
    for (const file of [report, trace]) writeFileSync(file, '');
    const done = spawnSync(process.execPath, ['--import', 'tsx', program, JSON.stringify(shape)], {
      encoding: 'utf8',
      env: {
        ...process.env,
        LD_LIBRARY_PATH: [buildFolder, process.env.LD_LIBRARY_PATH].filter(Boolean).join(':'),
        SOFTGPU_CC: capability,
        SOFTGPU_ORDER: 'latest',
        SOFTGPU_REPORT: report,
        SOFTGPU_TRACE: trace,
      },
    });
    if (done.status !== 0) throw new Error(`${program} failed:\n${done.stdout}${done.stderr}`);
    const launches = split<Launch & { type: string }>(report);
    const calls = split<{ type: string; call: string }>(trace).records;
    const counted = Object.fromEntries(
      parts.map((part): [Part, CountedPart] => {
        const of = (launches.records[part] ?? []).filter(({ type }) => type === 'launch');
        const otherWork = (calls[part] ?? []).map(({ call }) => call).filter((call) => /Memset|MemcpyDtoD/.test(call));
        return [part, { launches: of, otherWork, bytes: of.reduce((sum, launch) => sum + bytesOf(launch), 0) }];
      }),
    ) as Record<Part, CountedPart>;
    const { heldBytes = Number.NaN, expertsHit = Number.NaN } = Object.assign({}, ...launches.marks) as Mark;
    return { ...counted, heldBytes, expertsHit };
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/**
 * Warp instructions other than mma for each mma in a kernel's main loop: of two launches whose tiles differ in depth
 * alone, everything outside of the main loop cancels out.
 */
export function othersPerMma(shallow: Launch, deep: Launch): number {
  const mma = deep.tensorOps - shallow.tensorOps;
  return (deep.warpInstructions - shallow.warpInstructions - mma) / mma;
}
