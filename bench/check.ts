// A fast wrong answer is worth nothing: before it is timed, a layer's forward is compared with float64 for some tokens, and
// its backward by what must hold of a sum of products: ⟨gradient of down, down⟩ = ⟨gradient of the output, output⟩.
import type { MoELayer, Tensor } from '../lib/index.js';
import type { BenchDType } from './measure.js';
import type { Workload } from './workloads.js';

const sampledTokens = 4;
/** Of the largest element. */
const tolerance: Record<BenchDType, number> = { float32: 1e-4, bfloat16: 3e-2 };

const act = {
  relu: (_gate: number, up: number) => Math.max(up, 0),
  swiglu: (gate: number, up: number) => (gate / (1 + Math.exp(-gate))) * up,
};

function dot(a: Float32Array, from: number, b: Float32Array | Float64Array, start: number, n: number): number {
  let sum = 0;
  for (let i = 0; i < n; i++) sum += a[from + i]! * b[start + i]!;
  return sum;
}

const floats = async (tensor: Tensor) => (await tensor.data()) as Float32Array;

export async function checkLayer(workload: Workload, layer: MoELayer, dtype: BenchDType, input: Tensor, grad: Tensor) {
  const { hiddenSize: H, ffnSize: F, topK: K } = workload.config;
  const activation = act[workload.config.experts.activation];
  const values = async (name: string) => {
    const parameter = layer.parameters().get(name);
    return parameter ? await floats(parameter.value) : new Float32Array();
  };
  const [gate, up, down] = [await values('experts.gate'), await values('experts.up'), await values('experts.down')];
  using pass = layer.forward(input, { training: !workload.forwardOnly });
  const [x, y] = [await floats(input), await floats(pass.output)];
  const [indices, weights] = [await pass.routing.indices.data(), await floats(pass.routing.weights)];
  const { kept } = await pass.stats();
  const rows = kept.reduce((sum, count) => sum + count, 0);
  if (rows !== workload.tokens * K) throw new Error(`${workload.name} dropped assignments`);

  const largest = y.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  for (let sampled = 0; sampled < sampledTokens; sampled++) {
    const t = Math.floor((sampled * (workload.tokens - 1)) / (sampledTokens - 1));
    const expected = new Float64Array(H);
    for (let k = 0; k < K; k++) {
      const e = indices[t * K + k]!;
      const a = new Float64Array(F);
      for (let f = 0; f < F; f++) {
        const row = (e * F + f) * H;
        a[f] = activation(gate.length > 0 ? dot(gate, row, x, t * H, H) : 0, dot(up, row, x, t * H, H));
      }
      for (let h = 0; h < H; h++) expected[h]! += weights[t * K + k]! * dot(down, (e * H + h) * F, a, 0, F);
    }
    for (let h = 0; h < H; h++)
      if (!(Math.abs(y[t * H + h]! - expected[h]!) <= tolerance[dtype] * largest))
        throw new Error(`${workload.name} is wrong at ${t},${h}: ${y[t * H + h]}, not ${expected[h]}`);
  }

  if (workload.forwardOnly) return { expertsHit: kept.filter((count) => count > 0).length };
  pass.backward(grad).dispose();
  const gradient = await floats(layer.parameters().get('experts.down')!.grad!);
  const left = dot(gradient, 0, down, 0, down.length);
  const g = await floats(grad);
  const right = dot(g, 0, y, 0, y.length);
  const scale = Math.sqrt(dot(g, 0, g, 0, g.length) * dot(y, 0, y, 0, y.length));
  if (!(Math.abs(left - right) <= tolerance[dtype] * scale))
    throw new Error(`${workload.name}: the gradient of down is wrong, ${left}, not ${right}`);
  layer.zeroGrad();
  return { expertsHit: kept.filter((count) => count > 0).length };
}
