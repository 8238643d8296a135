// How the products of a workload would be tiled on GPUs of given size: the choice depends on shapes alone, so no GPU is
// needed to see it.
import { dtypeCode, native } from '../lib/binding.js';
import type { Workload } from './workloads.js';

const gpus = [
  { name: 'A100', multiprocessors: 108, sharedBytesPerBlock: 163 << 10 },
  { name: 'H100', multiprocessors: 132, sharedBytesPerBlock: 227 << 10 },
];

export function explain({ name, title, tokens, config, forwardOnly }: Workload): string[] {
  const { hiddenSize, ffnSize, numExperts, topK } = config;
  const shape = {
    hiddenSize,
    ffnSize,
    numExperts,
    rows: tokens * topK,
    gated: config.experts?.activation === 'swiglu',
  };
  const lines = [`${name} ${title}: ${shape.rows} rows, H ${hiddenSize}, F ${ffnSize}, E ${numExperts}, bfloat16`];
  for (const { name: gpu, ...size } of gpus) {
    const products = native.cudaTiles({ ...shape, ...size, dtype: dtypeCode.bfloat16 });
    for (const { kernel, tile } of forwardOnly ? products.slice(0, 2) : products)
      lines.push(`  ${gpu}  ${kernel.padEnd(26)}  ${tile}`);
  }
  return lines;
}
