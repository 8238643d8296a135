// The presets: their sizes against the published totals of parameters, and each of them scaled down against the reference.
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
  vMoE: {},
  gptOss: { numExperts: 9 },
};
const names = Object.keys(small) as Name[];

const elements = (config: MoEConfig): number =>
  Object.values(parameterShapes(config as LayerConfig))
    .map((shape) => shape.reduce((a, b) => a * b, 1))
    .reduce((a, b) => a + b, 0);

describe('presets', () => {
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

  it('follow the sizes that are overridden', () => {
    expect(presets.deepseekMoE16b({ ffnSize: 10 }).experts?.shared?.ffnSize).toBe(20);
    expect(presets.qwen15MoEA27b().experts?.shared?.ffnSize).toBe(5632);
    expect(presets.qwen15MoEA27b({ ffnSize: undefined } as never).ffnSize).toBe(1408);
    expect(presets.vMoE({ numExperts: 4 }).router?.noise).toEqual({ type: 'gaussian', std: 0.25 });
    expect(presets.mixtral8x7b({ topK: 3 }).losses?.loadBalance).toBeCloseTo(0.06);
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
