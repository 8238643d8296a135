// The layers that every figure of this project is about, by name.
import type { MoEConfig } from '../lib/index.js';

export interface Workload {
  readonly name: string;
  readonly title: string;
  readonly tokens: number;
  readonly config: MoEConfig & { topK: number };
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

/** 2·T·K·(matrices)·H·F: the router and everything else count as zero. */
export function usefulFlops({ tokens, config }: Workload, pass: 'forward' | 'training'): number {
  const matrices = config.experts?.activation === 'swiglu' ? 3 : 2;
  const forward = 2 * tokens * config.topK * matrices * config.hiddenSize * config.ffnSize;
  return pass === 'forward' ? forward : 3 * forward;
}
