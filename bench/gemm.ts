// The grouped product by itself with one group: rows·weightᵀ.
import { type Device, ops } from '../lib/index.js';
import { type BenchDType, measure } from './measure.js';
import type { Row } from './report.js';

export const gemmShape = { rows: 2048, inFeatures: 512, outFeatures: 2048 };
const tolerance: Record<BenchDType, number> = { float32: 1e-3, bfloat16: 0.5 };

export async function benchGemm(device: Device, dtype: BenchDType, time: number): Promise<Row> {
  const { rows, inFeatures, outFeatures } = gemmShape;
  using input = device.randn([rows, inFeatures], { seed: 1, dtype });
  using weight = device.randn([1, outFeatures, inFeatures], { seed: 2, dtype });
  using indices = device.zeros([rows, 1], 'int32');
  using weights = device.zeros([rows, 1]);
  using plan = ops.plan(indices, weights, 1);
  const product = () => ops.groupedGemm(input, weight, plan).output;
  const operands = [await input.data(), await weight.data()] as const;
  using checked = product();
  checkProduct(...operands, await checked.data(), tolerance[dtype]);
  const work = {
    flops: 2 * rows * inFeatures * outFeatures,
    bytes: (rows * inFeatures + outFeatures * inFeatures + rows * outFeatures) * (dtype === 'float32' ? 4 : 2),
    dtype,
  };
  const stage = `${rows}×${inFeatures}×${outFeatures}`;
  const figures = await measure(device, work, time, () => product().dispose());
  return { workload: 'gemm', pass: 'forward', stage, ...work, ...figures };
}

/** A fast wrong answer is worth nothing: samples of the product against float64. */
function checkProduct(
  input: ArrayLike<number>,
  weight: ArrayLike<number>,
  output: ArrayLike<number>,
  tolerance: number,
) {
  const { rows, inFeatures, outFeatures } = gemmShape;
  for (let sample = 0; sample < 500; sample++) {
    const row = (sample * 7919) % rows;
    const column = (sample * 104729) % outFeatures;
    let expected = 0;
    for (let k = 0; k < inFeatures; k++)
      expected += (input[row * inFeatures + k] ?? 0) * (weight[column * inFeatures + k] ?? 0);
    const got = output[row * outFeatures + column] ?? Number.NaN;
    if (!(Math.abs(got - expected) < tolerance))
      throw new Error(`wrong product at ${row},${column}: ${got}, not ${expected}`);
  }
}
