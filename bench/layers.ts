// A whole layer on the CPU, and its stages by themselves as they run inside of it.
import { type Device, MoELayer } from '../lib/index.js';
import { checkLayer } from './check.js';
import { type BenchDType, between, figures, measure } from './measure.js';
import type { Pass, Row } from './report.js';
import { usefulBytes, usefulFlops, type Workload } from './workloads.js';

/** The operations of the device that make up a stage, forward and backward. */
const stageOperations = {
  route: ['routeForward', 'routeBackward', 'settleWeights'],
  permute: ['buildPlan', 'buildExpertPlan', 'dispatch'],
  experts: ['expertsForward', 'expertsBackward'],
  combine: ['combine', 'combineBackward', 'carry', 'carryBackward'],
} as const;
export type Stage = keyof typeof stageOperations;
export const stages = Object.keys(stageOperations) as Stage[];

export interface LayerJob {
  workload: Workload;
  pass: Pass;
  dtype: BenchDType;
  /** 'layer' and stages. */
  parts: readonly string[];
  milliseconds: number;
}

export async function benchLayer(device: Device, job: LayerJob): Promise<Row[]> {
  const { workload, pass, dtype, parts, milliseconds } = job;
  const { config, tokens, name } = workload;
  using layer = new MoELayer(device, { ...config, dtype });
  using input = device.randn([tokens, config.hiddenSize], { seed: 3, dtype });
  using gradOutput = device.randn([tokens, config.hiddenSize], { seed: 4, dtype });
  const { expertsHit } = await checkLayer(workload, layer, dtype, input, gradOutput);
  const step = () => {
    using forward = layer.forward(input, { training: pass === 'training' });
    if (pass === 'training') {
      forward.backward(gradOutput).dispose();
      layer.zeroGrad();
    }
  };
  const rows: Row[] = [];
  const work = { flops: usefulFlops(workload, pass), bytes: usefulBytes(workload, pass, dtype, expertsHit), dtype };
  if (parts.includes('layer'))
    rows.push({ workload: name, pass, stage: 'layer', ...work, ...(await measure(device, work, milliseconds, step)) });
  const wanted = stages.filter((stage) => parts.includes(stage));
  if (wanted.length === 0) return rows;

  const samples = Object.fromEntries(stages.map((stage) => [stage, [] as number[]])) as Record<Stage, number[]>;
  const [, limits] = await between(device, dtype, async () => {
    step();
    const until = performance.now() + milliseconds;
    do {
      const times = await device.profile(step);
      for (const stage of stages) {
        const own = times.filter(({ kernel }) => (stageOperations[stage] as readonly string[]).includes(kernel));
        samples[stage].push(own.reduce((sum, { milliseconds }) => sum + milliseconds, 0));
      }
    } while (performance.now() < until);
  });
  for (const stage of wanted) {
    const own = { flops: stage === 'experts' ? work.flops : 0, bytes: stageBytes(job, stage, expertsHit), dtype };
    rows.push({ workload: name, pass, stage, ...own, ...figures(samples[stage], own, limits) });
  }
  return rows;
}

/** What a stage is given, and gives, each once: rows of the assignments in between as well. */
function stageBytes({ workload, pass, dtype }: LayerJob, stage: Stage, expertsHit: number): number {
  const { hiddenSize: H, numExperts: E, topK: K } = workload.config;
  const tokens = workload.tokens * H * (dtype === 'float32' ? 4 : 2);
  const [routed, logits, slots] = [tokens * K, workload.tokens * E * 4, workload.tokens * K * 4];
  const training = pass === 'training';
  switch (stage) {
    case 'route':
      return (training ? 3 : 1) * (tokens + logits + E * H * 4) + 2 * slots;
    case 'permute':
      return 4 * slots;
    case 'combine':
      return (training ? 2 : 1) * (routed + tokens + 2 * slots);
    case 'experts': {
      const layer = usefulBytes(workload, pass, dtype, expertsHit) - (training ? 3 : 1) * E * H * 4;
      return layer + (training ? 2 : 1) * (routed - tokens);
    }
  }
}
