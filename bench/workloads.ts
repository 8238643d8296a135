// The layers that every figure of this project is about, by name.
import type { MoEConfig } from '../lib/index.js';

export interface Workload {
  readonly name: string;
  readonly title: string;
  readonly tokens: number;
  readonly config: Omit<MoEConfig, 'experts'> & { experts: { activation: 'relu' | 'swiglu' } };
  /** Decoding has no backward. */
  readonly forwardOnly?: boolean;
}

function layer(hiddenSize: number, ffnSize: number, numExperts: number, topK: number, activation: 'relu' | 'swiglu') {
  return { hiddenSize, ffnSize, numExperts, topK, experts: { activation }, seed: 1 } as const;
}

export const workloads: readonly Workload[] = [
  { name: 'S1', title: 'switch-small', tokens: 2048, config: layer(512, 2048, 8, 1, 'relu') },
  { name: 'S2', title: 'mixtral-mini', tokens: 2048, config: layer(512, 1792, 8, 2, 'swiglu') },
  { name: 'S3', title: 'deepseek-fine', tokens: 2048, config: layer(512, 256, 64, 6, 'swiglu') },
  { name: 'S4', title: 'decode', tokens: 16, config: layer(1024, 2048, 32, 2, 'swiglu'), forwardOnly: true },
  { name: 'S5', title: 'qwen-moe', tokens: 1024, config: layer(1024, 704, 60, 4, 'swiglu') },
];

/** Small enough for the software GPU, which counts them; see docs/numbers.md. */
export const countedWorkloads: readonly Workload[] = [
  { name: 'C1', title: 'few experts', tokens: 1024, config: layer(512, 896, 8, 2, 'swiglu') },
  { name: 'C2', title: 'many experts', tokens: 1024, config: layer(512, 256, 64, 6, 'swiglu') },
];

const matrices = ({ config }: Workload) => (config.experts.activation === 'swiglu' ? 3 : 2);

/** 2·T·K·(matrices)·H·F: the router and everything else count as zero. */
export function usefulFlops(workload: Workload, pass: 'forward' | 'training'): number {
  const { tokens, config } = workload;
  const forward = 2 * tokens * config.topK * matrices(workload) * config.hiddenSize * config.ffnSize;
  return pass === 'forward' ? forward : 3 * forward;
}

/** Every tensor that a layer is given, and gives, once a pass over it: what it must move when a cache holds all else. */
export function usefulBytes(
  workload: Workload,
  pass: 'forward' | 'training',
  dtype: 'float32' | 'bfloat16',
  expertsHit: number,
): number {
  const { hiddenSize: H, ffnSize: F, numExperts: E } = workload.config;
  const element = dtype === 'float32' ? 4 : 2;
  const weights = expertsHit * matrices(workload) * H * F;
  const router = E * H * 4;
  const rows = workload.tokens * H * element;
  const forward = 2 * rows + weights * element + router;
  // Backward reads the input, the gradient of the output, and the weights again; it writes the gradients of all three.
  return pass === 'forward'
    ? forward
    : forward + 3 * rows + weights * element + E * matrices(workload) * H * F * 4 + 2 * router;
}
