// `npm run bench -- --help`: every figure as a share of what the same cores reach in a bare multiply-add loop in the same run.
import { parseArgs } from 'node:util';
import { type Device, listDevices, MoELayer, openDevice, ops } from '../lib/index.js';
import { countTable } from './count-table.js';
import { explain } from './explain.js';
import { timeTable } from './gpu.js';
import { type Figures, measure } from './measure.js';
import { countedWorkloads, usefulFlops, type Workload, workloads } from './workloads.js';

interface Row extends Figures {
  workload: string;
  pass: 'forward' | 'training';
  dtype: 'float32';
  stage: string;
}

const gemmShape = { rows: 2048, inFeatures: 512, outFeatures: 2048 };

/** The grouped product by itself with one group: rows·weightᵀ. */
async function benchGemm(device: Device, time: number): Promise<Row> {
  const { rows, inFeatures, outFeatures } = gemmShape;
  using input = device.randn([rows, inFeatures], { seed: 1 });
  using weight = device.randn([1, outFeatures, inFeatures], { seed: 2 });
  using indices = device.zeros([rows, 1], 'int32');
  using weights = device.zeros([rows, 1]);
  using plan = ops.plan(indices, weights, 1);
  await checkProduct(await input.data(), await weight.data(), await product().data());
  function product() {
    return ops.groupedGemm(input, weight, plan).output;
  }
  const figures = await measure(device, 2 * rows * inFeatures * outFeatures, time, () => product().dispose());
  return {
    workload: 'gemm',
    pass: 'forward',
    dtype: 'float32',
    stage: `${rows}×${inFeatures}×${outFeatures}`,
    ...figures,
  };
}

/** A fast wrong answer is worth nothing: samples of the product against float64. */
async function checkProduct(input: ArrayLike<number>, weight: ArrayLike<number>, output: ArrayLike<number>) {
  const { rows, inFeatures, outFeatures } = gemmShape;
  for (let sample = 0; sample < 500; sample++) {
    const row = (sample * 7919) % rows;
    const column = (sample * 104729) % outFeatures;
    let expected = 0;
    for (let k = 0; k < inFeatures; k++) {
      expected += (input[row * inFeatures + k] ?? 0) * (weight[column * inFeatures + k] ?? 0);
    }
    const got = output[row * outFeatures + column] ?? Number.NaN;
    if (!(Math.abs(got - expected) < 1e-3))
      throw new Error(`wrong product at ${row},${column}: ${got}, not ${expected}`);
  }
}

async function benchLayer(
  device: Device,
  workload: Workload,
  pass: 'forward' | 'training',
  time: number,
): Promise<Row> {
  using layer = new MoELayer(device, workload.config);
  using input = device.randn([workload.tokens, workload.config.hiddenSize], { seed: 3 });
  using gradOutput = device.randn([workload.tokens, workload.config.hiddenSize], { seed: 4 });
  const step = () => {
    using forward = layer.forward(input, { training: pass === 'training' });
    if (pass === 'training') {
      forward.backward(gradOutput).dispose();
      layer.zeroGrad();
    }
  };
  using checked = layer.forward(input);
  const { kept } = await checked.stats();
  const rows = kept.reduce((sum, count) => sum + count, 0);
  if (rows !== workload.tokens * workload.config.topK) throw new Error(`${workload.name} dropped assignments`);
  const figures = await measure(device, usefulFlops(workload, pass), time, step);
  return { workload: workload.name, pass, dtype: 'float32', stage: 'layer', ...figures };
}

const columns = ['workload', 'stage', 'pass', 'median ms', 'p25–p75 ms', 'GFLOP/s', 'peak GFLOP/s', '% of peak'];
const widths = [9, 15, 9, 10, 16, 8, 13, 10];

function print(cells: readonly string[]) {
  const padded = cells.map((cell, i) => (i < 3 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0)));
  console.log(padded.join(' '));
}

function printRow({ workload, stage, pass, milliseconds, gflops, peakGflops, percentOfPeak }: Row) {
  const { median, p25, p75 } = milliseconds;
  const numbers = [gflops, peakGflops, percentOfPeak].map((value) => value.toFixed(1));
  print([workload, stage, pass, median.toFixed(2), `${p25.toFixed(2)}–${p75.toFixed(2)}`, ...numbers]);
}

function fail(message: string): never {
  console.error(message);
  process.exit(1);
}

const names = ['gemm', ...[...workloads, ...countedWorkloads].map((workload) => workload.name)];
const usage = `Times layers and the grouped product against the multiply-add peak that the same cores reach in the same run.

  npm run bench -- [workload …] [pass …] [options]

  workloads    gemm: the product ${gemmShape.rows}×${gemmShape.inFeatures}×${gemmShape.outFeatures} by itself;
               ${workloads.map(({ name, title }) => `${name}: ${title}`).join('; ')} (default: all)
  passes       forward, training (default: both)
  --device D   cpu (default), or cuda: a training step in bfloat16, kernel by kernel; on a GPU timed by its events,
               on the software GPU counted, of ${countedWorkloads.map(({ name, title }) => `${name}: ${title}`).join('; ')} unless others are named
  --explain    prints the tiles that the products of each workload would take on GPUs, and measures nothing
  --threads N  CPU threads (default: the cores this process may use)
  --time MS    how long to measure each (default 1500)
  --json       one JSON object a line

On a machine that does other work as well, compare the shares of the peak, and take them with caution.
`;

function readArguments() {
  try {
    return parseArgs({
      allowPositionals: true,
      options: {
        device: { type: 'string', default: 'cpu' },
        explain: { type: 'boolean', default: false },
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

function positive(name: string, text: string): number {
  const value = Number(text);
  return Number.isInteger(value) && value > 0 ? value : fail(`${name} must be a positive integer, but is "${text}"`);
}

const { values, positionals } = readArguments();
if (values.help) {
  console.log(usage);
  process.exit(0);
}
const time = positive('--time', values.time);
const unknown = positionals.find((word) => ![...names, 'forward', 'training'].includes(word));
if (unknown !== undefined)
  fail(`unknown workload or pass "${unknown}": expected any of ${names.join(', ')}, forward, training`);
const chosen = positionals.filter((word) => names.includes(word));
const passes = (['forward', 'training'] as const).filter(
  (pass) => positionals.includes(pass) || !positionals.some((word) => word === 'forward' || word === 'training'),
);
const wanted = (name: string) => chosen.length === 0 || chosen.includes(name);

if (values.explain) {
  for (const workload of [...workloads, ...countedWorkloads].filter(({ name }) => wanted(name)))
    console.log(explain(workload).join('\n'));
  process.exit(0);
}
if (values.device !== 'cpu' && values.device !== 'cuda')
  fail(`--device must be cpu or cuda, but is "${values.device}"`);
if (values.device === 'cuda') {
  const gpu = listDevices().find(({ kind }) => kind === 'cuda');
  if (!gpu?.usable)
    fail(`no GPU can be used: ${gpu?.reason}\nnpm run softgpu -- npm run bench -- --device cuda counts.`);
  const all = [...workloads, ...countedWorkloads];
  if (gpu.name.startsWith('Software GPU')) {
    const counted = chosen.length === 0 ? countedWorkloads : all;
    for (const workload of counted.filter(({ name }) => wanted(name))) console.log(countTable(workload));
  } else {
    using device = openDevice('cuda');
    for (const workload of all.filter(({ name }) => wanted(name))) console.log(await timeTable(device, workload, time));
  }
  process.exit(0);
}

using device = openDevice({ kind: 'cpu', ...(values.threads && { threads: positive('--threads', values.threads) }) });
if (!values.json) {
  console.log(device.name);
  print(columns);
}
const report = (row: Row) => (values.json ? console.log(JSON.stringify(row)) : printRow(row));
if (wanted('gemm') && passes.includes('forward')) report(await benchGemm(device, time));
for (const workload of workloads.filter(({ name }) => wanted(name))) {
  for (const pass of passes) {
    if (pass === 'training' && workload.forwardOnly) continue;
    report(await benchLayer(device, workload, pass, time));
  }
}
