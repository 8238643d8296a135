// `npm run bench -- [S1 … S5 | gemm] [forward | training] [--threads N] [--time MS] [--json]`: every figure as a share of
// what the same cores reach in a bare multiply-add loop in the same run.
import { parseArgs } from 'node:util';
import { type Device, MoELayer, openDevice, ops } from '../lib/index.js';
import { type Figures, measure } from './measure.js';
import { usefulFlops, type Workload, workloads } from './workloads.js';

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

function printTable(rows: readonly Row[], device: Device) {
  console.log(`${device.name}`);
  console.table(
    rows.map((row) => ({
      workload: row.workload,
      stage: row.stage,
      pass: row.pass,
      'median ms': row.milliseconds.median.toFixed(2),
      'p25–p75': `${row.milliseconds.p25.toFixed(2)}–${row.milliseconds.p75.toFixed(2)}`,
      'GFLOP/s': row.gflops.toFixed(1),
      'peak GFLOP/s': row.peakGflops.toFixed(1),
      '% of peak': row.percentOfPeak.toFixed(1),
    })),
  );
}

const names = ['gemm', ...workloads.map((workload) => workload.name)];
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    threads: { type: 'string' },
    time: { type: 'string', default: '1500' },
    json: { type: 'boolean', default: false },
  },
});
const unknown = positionals.find((word) => ![...names, 'forward', 'training'].includes(word));
if (unknown !== undefined) {
  console.error(`unknown workload or pass "${unknown}": expected any of ${names.join(', ')}, forward, training`);
  process.exit(1);
}
const chosen = positionals.filter((word) => names.includes(word));
const passes = (['forward', 'training'] as const).filter(
  (pass) => positionals.includes(pass) || !positionals.some((word) => word === 'forward' || word === 'training'),
);
const wanted = (name: string) => chosen.length === 0 || chosen.includes(name);

using device = openDevice({ kind: 'cpu', ...(values.threads ? { threads: Number(values.threads) } : {}) });
const rows: Row[] = [];
const report = (row: Row) => (values.json ? console.log(JSON.stringify(row)) : rows.push(row));
if (wanted('gemm') && passes.includes('forward')) report(await benchGemm(device, Number(values.time)));
for (const workload of workloads.filter(({ name }) => wanted(name))) {
  for (const pass of passes) {
    if (pass === 'training' && workload.forwardOnly) continue;
    report(await benchLayer(device, workload, pass, Number(values.time)));
  }
}
if (!values.json) printTable(rows, device);
