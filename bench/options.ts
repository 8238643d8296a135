// The command line of the bench.
import { parseArgs } from 'node:util';
import { gemmShape } from './gemm.js';
import { stages } from './layers.js';
import { type BenchDType, dtypes } from './measure.js';
import type { Pass } from './report.js';
import { type StudyName, studyNames } from './studies.js';
import { countedWorkloads, workloads } from './workloads.js';

const workloadNames = ['gemm', ...[...workloads, ...countedWorkloads].map(({ name }) => name)];
const passes: readonly Pass[] = ['forward', 'training'];
const stageNames = ['layer', ...stages];
/** Short names that words may have. */
const aliases: Record<string, string> = { bf16: 'bfloat16', f32: 'float32' };

const titles = (list: typeof workloads) => list.map(({ name, title }) => `${name} ${title}`).join(', ');

const usage = `Times layers, their stages and the grouped product against what the same cores reach in the same run: multiply-adds
from registers (of bfloat16: dot products, where the machine has them) and reads of main memory.

  npm run bench -- [workload …] [pass …] [dtype …] [stage …] [study …] [options]

  workloads    gemm (the product ${gemmShape.rows}×${gemmShape.inFeatures}×${gemmShape.outFeatures} by itself), ${titles(workloads)} (default: all)
  passes       forward, training (default: both)
  dtypes       float32, bfloat16 or bf16 (default: both)
  stages       layer (default), ${stages.join(', ')}, or stages for all of them: inside of the layer
  studies      latency (of a small operation and of one token), and of S1, S2, S3 and S5 unless others are named: scaling
               (one thread against all), skew (half of the tokens on one expert against even routing), memory (of a
               step); only what is named runs
  --device D   cpu (default), or cuda: a training step in bfloat16, kernel by kernel; on a GPU timed by its events, on
               the software GPU counted, of ${titles(countedWorkloads)} unless others are named
  --compare    also runs the forwards by onnxruntime-node and TensorFlow.js, installed on the spot
  --explain    prints the tiles that the products of each workload would take on GPUs, and measures nothing
  --plot FILE  draws a roofline of the run, as an SVG
  --threads N  CPU threads (default: the cores this process may use)
  --time MS    how long to measure each (default 1500)
  --json       one JSON object a line

On a machine that does other work as well, compare the shares of the limits, and take them with caution.
`;

export interface Options {
  device: 'cpu' | 'cuda';
  /** Empty: none was named. */
  workloads: readonly string[];
  passes: readonly Pass[];
  dtypes: readonly BenchDType[];
  stages: readonly string[];
  /** Instead of all else, when there are any. */
  studies: readonly StudyName[];
  /** What was asked for that has a meaning on the CPU alone, and what has none for studies. */
  ofCpuAlone: readonly string[];
  ofLayersAlone: readonly string[];
  compare: boolean;
  explain: boolean;
  plot?: string;
  threads?: number;
  milliseconds: number;
  json: boolean;
}

export function fail(message: string): never {
  console.error(message);
  process.exit(1);
}

function positive(name: string, text: string): number {
  const value = Number(text);
  return Number.isInteger(value) && value > 0 ? value : fail(`${name} must be a positive integer, but is "${text}"`);
}

function parse() {
  try {
    return parseArgs({
      allowPositionals: true,
      options: {
        device: { type: 'string', default: 'cpu' },
        compare: { type: 'boolean', default: false },
        explain: { type: 'boolean', default: false },
        plot: { type: 'string' },
        threads: { type: 'string' },
        time: { type: 'string', default: '1500' },
        json: { type: 'boolean', default: false },
        help: { type: 'boolean', short: 'h', default: false },
      },
    });
  } catch (error) {
    return fail(`${(error as Error).message.replace(/\. To specify.*/s, '')}\nSee npm run bench -- --help.`);
  }
}

export function readOptions(): Options {
  const { values, positionals } = parse();
  if (values.help) {
    console.log(usage);
    process.exit(0);
  }
  const words = positionals.map((word) => aliases[word] ?? word);
  const known = [...workloadNames, ...passes, ...dtypes, ...stageNames, 'stages', ...studyNames];
  const unknown = words.find((word) => !known.includes(word));
  if (unknown !== undefined) fail(`unknown word "${unknown}": expected any of ${known.join(', ')}`);
  const named = <Name extends string>(names: readonly Name[], byDefault: readonly Name[] = names) => {
    const own = names.filter((name) => words.includes(name));
    return own.length > 0 ? own : byDefault;
  };
  const given = (...names: ('json' | 'plot' | 'compare' | 'threads')[]) =>
    names.filter((name) => values[name]).map((name) => `--${name}`);
  const { device } = values;
  if (device !== 'cpu' && device !== 'cuda') fail(`--device must be cpu or cuda, but is "${device}"`);
  return {
    device,
    workloads: named(workloadNames, []),
    passes: named(passes),
    dtypes: named(dtypes),
    stages: words.includes('stages') ? stageNames : named(stageNames, ['layer']),
    studies: named(studyNames, []),
    ofCpuAlone: [
      ...words.filter((word) => !workloadNames.includes(word) && word !== 'bfloat16'),
      ...given('json', 'plot', 'compare', 'threads'),
    ],
    ofLayersAlone: [...words.filter((word) => [...stageNames, 'stages'].includes(word)), ...given('plot', 'compare')],
    compare: values.compare,
    explain: values.explain,
    ...(values.plot !== undefined && { plot: values.plot }),
    ...(values.threads !== undefined && { threads: positive('--threads', values.threads) }),
    milliseconds: positive('--time', values.time),
    json: values.json,
  };
}
