// What parameters start as: Normal(0, 1/√in) for matrices, 0 for biases, 1 for norms, each parameter with draws of its own.
import { describe, expect, it } from 'vitest';
import { Embedding, Linear, type Module, MoELayer, RMSNorm } from '../lib/index.js';
import { onEachDevice } from './devices.js';

/** Values by name, all of them over the standard deviation that they should have. */
async function standardised(
  module: Module,
  stdOf: (shape: readonly number[]) => number,
): Promise<Map<string, number[]>> {
  const values = new Map<string, number[]>();
  for (const [name, { value }] of module.parameters()) {
    const std = stdOf(value.shape);
    values.set(
      name,
      [...(await value.data())].map((x) => x / std),
    );
  }
  return values;
}

/** Standard normal, as far as the count of the draws tells: five standard errors of mean, variance and fourth moment. */
function expectNormal(name: string, draws: number[]): void {
  const moment = (power: number) => draws.reduce((sum, x) => sum + x ** power, 0) / draws.length;
  const margin = 5 / Math.sqrt(draws.length);
  expect(Math.abs(moment(1)), `mean of ${name}`).toBeLessThan(margin);
  expect(Math.abs(moment(2) - 1), `variance of ${name}`).toBeLessThan(margin * Math.sqrt(2));
  expect(Math.abs(moment(4) - 3), `fourth moment of ${name}`).toBeLessThan(margin * Math.sqrt(96));
}

const fanIn = (shape: readonly number[]) => 1 / Math.sqrt(shape.at(-1)!);

onEachDevice((device) => {
  it('of a MoE layer', async () => {
    const config = {
      hiddenSize: 48,
      ffnSize: 80,
      numExperts: 6,
      topK: 2,
      router: { bias: true },
      experts: { bias: true, shared: { ffnSize: 64, gate: 'sigmoid' } },
    } as const;
    using layer = new MoELayer(device(), { ...config, seed: 11 });
    const values = await standardised(layer, fanIn);
    const matrices = [...values].filter(([name]) => !name.toLowerCase().endsWith('bias'));
    expect(matrices).toHaveLength(8);
    for (const [name, draws] of matrices) expectNormal(name, draws);
    for (const [name, draws] of values)
      if (name.toLowerCase().endsWith('bias')) expect(new Set(draws)).toEqual(new Set([0]));

    const starts = matrices.map(([, draws]) => draws.slice(0, 4).map((x) => x.toFixed(4)));
    expect(new Set(starts.flat()).size).toBe(starts.flat().length);
    using again = new MoELayer(device(), { ...config, seed: 11n });
    using other = new MoELayer(device(), { ...config, seed: 12 });
    expect(await standardised(again, fanIn)).toEqual(values);
    expect((await standardised(other, fanIn)).get('experts.up')).not.toEqual(values.get('experts.up'));
  });

  describe('of', () => {
    it('Linear', async () => {
      using layer = new Linear(device(), { inFeatures: 60, outFeatures: 40, seed: 3 });
      const values = await standardised(layer, fanIn);
      expectNormal('weight', values.get('weight')!);
      expect(values.get('bias')).toEqual(new Array(40).fill(0));
    });

    it('Embedding', async () => {
      using layer = new Embedding(device(), { count: 60, size: 40, seed: 3 });
      expectNormal('weight', (await standardised(layer, () => 1)).get('weight')!);
    });

    it('RMSNorm', async () => {
      using layer = new RMSNorm(device(), { size: 9 });
      expect((await standardised(layer, () => 1)).get('weight')).toEqual(new Array(9).fill(1));
    });
  });
});
