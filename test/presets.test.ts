// The presets: their numbers against the published ones and, by the totals of parameters, against the whole models; and each
// of them scaled down against the reference.
import { describe, expect, it } from 'vitest';
import { type MoEConfig, presets } from '../lib/index.js';
import type { Case } from './case.js';
import { compareWithReference } from './compare-case.js';
import { onEachDevice } from './devices.js';
import { failure } from './failure.js';
import { makeProblem } from './problem.js';
import { type LayerConfig, parameterShapes } from './reference.js';
import { makeLayer, observe } from './run-case.js';

type Name = keyof typeof presets;

const small: Record<Name, Partial<MoEConfig>> = {
  mixtral8x7b: {},
  deepseekMoE16b: { numExperts: 12 },
  deepseekV2: { numExperts: 24, topK: 5 },
  deepseekV3: { numExperts: 16, topK: 4 },
  qwen15MoEA27b: { numExperts: 15 },
  dbrx: {},
  switchBase: { numExperts: 5 },
  glam: { numExperts: 6 },
  vMoE: { capacity: { type: 'fixed', factor: 1.05, multipleOf: 4, groupSize: 14 } },
  gptOss: { numExperts: 9 },
};
const names = Object.keys(small) as Name[];

/**
 * What the sources that lib/presets.ts cites publish, typed from them. Load balances of Hugging Face's formula (Mixtral,
 * Qwen, DBRX) are times K, which is what it gives at balance.
 */
const published: Record<Name, MoEConfig> = {
  mixtral8x7b: {
    hiddenSize: 4096,
    ffnSize: 14336,
    numExperts: 8,
    topK: 2,
    router: { renormalize: true },
    losses: { loadBalance: 0.04 },
  },
  deepseekMoE16b: {
    hiddenSize: 2048,
    ffnSize: 1408,
    numExperts: 64,
    topK: 6,
    experts: { shared: { ffnSize: 2816 } },
    losses: { loadBalance: 0.001 },
  },
  deepseekV2: {
    hiddenSize: 5120,
    ffnSize: 1536,
    numExperts: 160,
    topK: 6,
    router: { groups: { count: 8, keep: 3, score: 'max' }, weightScale: 16 },
    experts: { shared: { ffnSize: 3072 } },
    losses: { loadBalance: 0.003 },
  },
  deepseekV3: {
    hiddenSize: 7168,
    ffnSize: 2048,
    numExperts: 256,
    topK: 8,
    router: {
      scoring: 'sigmoid',
      groups: { count: 8, keep: 4, score: 'top2-sum' },
      selectionBias: { rate: 0.001 },
      renormalize: true,
      weightScale: 2.5,
    },
    experts: { shared: { ffnSize: 2048 } },
    losses: { loadBalance: { coefficient: 0.0001, counts: 'unbiased' } },
  },
  qwen15MoEA27b: {
    hiddenSize: 2048,
    ffnSize: 1408,
    numExperts: 60,
    topK: 4,
    experts: { shared: { ffnSize: 5632, gate: 'sigmoid' } },
    losses: { loadBalance: 0.004 },
  },
  dbrx: {
    hiddenSize: 6144,
    ffnSize: 10752,
    numExperts: 16,
    topK: 4,
    router: { renormalize: { p: 1, epsilon: 0 } },
    losses: { loadBalance: 0.2 },
  },
  switchBase: {
    hiddenSize: 768,
    ffnSize: 3072,
    numExperts: 128,
    topK: 1,
    router: { noise: { type: 'jitter', epsilon: 0.01 } },
    capacity: { type: 'fixed', factor: 1.25, evalFactor: 2, min: 4 },
    experts: { activation: 'relu' },
    losses: { loadBalance: 0.01 },
  },
  glam: {
    hiddenSize: 8192,
    ffnSize: 32768,
    numExperts: 64,
    topK: 2,
    router: { renormalize: { p: 1, epsilon: 1e-9 } },
    capacity: { type: 'fixed', factor: 1 },
    experts: { activation: 'relu' },
    losses: { loadBalance: { coefficient: 0.01, counts: 'first-choice' } },
  },
  vMoE: {
    hiddenSize: 768,
    ffnSize: 3072,
    numExperts: 8,
    topK: 2,
    router: { noise: { type: 'gaussian', std: 0.125 } },
    capacity: { type: 'fixed', factor: 1.05, multipleOf: 4, groupSize: 1576 },
    experts: { activation: 'gelu-tanh', bias: true },
    losses: {
      importance: { coefficient: 0.005, from: 'softmax' },
      load: { coefficient: 0.005, threshold: 'kth' },
    },
  },
  gptOss: {
    hiddenSize: 2880,
    ffnSize: 2880,
    numExperts: 128,
    topK: 4,
    router: { selectBy: 'logits', bias: true },
    experts: { activation: { type: 'clamped-swiglu', alpha: 1.702, limit: 7 }, bias: true },
  },
};

const elements = (config: MoEConfig): number =>
  Object.values(parameterShapes(config as LayerConfig))
    .map((shape) => shape.reduce((a, b) => a * b, 1))
    .reduce((a, b) => a + b, 0);

describe('presets', () => {
  it.each(names)('%s has the published numbers', (name) => {
    expect(presets[name]()).toEqual(published[name]);
  });

  // MoE layers, and the parameters of the whole model in billions: attention and embeddings are the rest.
  it.each([
    ['mixtral8x7b', 32, 46.7],
    ['deepseekMoE16b', 27, 16.4],
    ['deepseekV2', 59, 236],
    ['deepseekV3', 58, 671],
    ['qwen15MoEA27b', 24, 14.3],
    ['dbrx', 40, 132],
    ['switchBase', 12, 7.4],
    ['glam', 32, 1200],
    ['gptOss', 36, 116.8],
  ] as const)('%s: %d layers make most of the %d billion published parameters', (name, layers, billions) => {
    const share = (layers * elements(presets[name]())) / (billions * 1e9);
    expect(share).toBeGreaterThan(0.9);
    expect(share).toBeLessThan(1);
  });

  it('vMoE: an expert is the MLP of ViT-B, whose 12 blocks have all but the embeddings of 86 million parameters', () => {
    const expert = elements(presets.vMoE()) / 8 - 768;
    const attention = 4 * (768 * 768 + 768);
    const share = (12 * (expert + attention)) / 86e6;
    expect(share).toBeGreaterThan(0.98);
    expect(share).toBeLessThan(1);
  });

  it('follow the sizes that are overridden', () => {
    expect(presets.deepseekMoE16b({ ffnSize: 10 }).experts?.shared?.ffnSize).toBe(20);
    expect(presets.qwen15MoEA27b().experts?.shared?.ffnSize).toBe(5632);
    expect(presets.qwen15MoEA27b({ ffnSize: undefined } as never).ffnSize).toBe(1408);
    expect(presets.vMoE({ numExperts: 4 }).router?.noise).toEqual({ type: 'gaussian', std: 0.25 });
    expect(presets.mixtral8x7b({ topK: 3 }).losses?.loadBalance).toBeCloseTo(0.06);
    expect(presets.dbrx({ topK: 2 }).losses?.loadBalance).toBeCloseTo(0.1);
    expect(presets.mixtral8x7b({ losses: {}, router: { bias: true } })).toEqual({
      hiddenSize: 4096,
      ffnSize: 14336,
      numExperts: 8,
      topK: 2,
      router: { bias: true },
      losses: {},
    });
    expect(presets.gptOss({ ffnSize: 8 })).not.toBe(presets.gptOss({ ffnSize: 8 }));
    expect(failure(() => presets.glam({ hiddenSzie: 3 } as never)).message).toMatch(
      /^presets\.glam\(overrides\)\.hiddenSzie: unknown option; did you mean hiddenSize\?$/,
    );
    expect(failure(() => presets.mixtral8x7b({ topK: 1n } as never)).message).toMatch(
      /^presets\.mixtral8x7b\(overrides\)\.topK: expected an integer from 1 to \d+, got 1n$/,
    );
  });
});

onEachDevice((device) => {
  it.each(names)('%s, scaled down, agrees with the reference', async (name) => {
    const config = presets[name]({ hiddenSize: 19, ffnSize: 14, ...small[name] }) as LayerConfig;
    const testCase: Case = { name, tokens: 26, distribution: 'skewed', config };
    const problem = makeProblem(testCase);
    using layer = makeLayer(device(), testCase, problem);
    compareWithReference(testCase, problem, await observe(layer, testCase, problem), true);
  });
});
