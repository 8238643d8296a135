// What a training step asks of a GPU, counted on the software GPU at capability 8.0, against the floor of bench/floor.ts.
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { beforeAll, describe, expect, test } from 'vitest';
import {
  type CountedPart,
  type CountedShape,
  type CountedStep,
  countStep,
  kernelOf,
  type Launch,
  othersPerMma,
} from '../bench/counts.js';
import { type Floor, floors } from '../bench/floor.js';
import { full } from './extent.js';
import { cudaTool } from './softgpu/build.mjs';

const counted = process.env.SWITCHYARD_TEST_CUDA === 'softgpu';

function shape(tokens: number, H: number, F: number, E: number, topK: number): CountedShape {
  return { tokens, config: { hiddenSize: H, ffnSize: F, numExperts: E, topK, seed: 1 } };
}

// The share of the work on tensor cores that is no padding of ragged tiles.
const shapes: { name: string; shape: CountedShape; useful: number; fewRows?: boolean }[] = [
  ...(full
    ? [
        { name: 'few experts', shape: shape(1024, 512, 896, 8, 2), useful: 0.9 },
        { name: 'many experts', shape: shape(1024, 512, 256, 64, 6), useful: 0.8 },
      ]
    : [{ name: 'a small layer', shape: shape(512, 256, 384, 8, 2), useful: 0.8 }]),
  // Gradients of weights are tiled by the weights: with 16 rows an expert most of their depth is padding.
  { name: 'few rows an expert', shape: shape(128, 256, 384, 16, 2), useful: 0.4, fewRows: true },
];

const products = ['expertsUp', 'rowProduct', 'downBackward', 'weightGradients', 'rowGradient'];
const sum = (values: number[]) => values.reduce((total, value) => total + value, 0);

function find({ launches }: CountedPart, kernel: string): Launch {
  return launches.find((launch) => kernelOf(launch) === kernel)!;
}

describe.skipIf(!counted)(counted ? 'counts' : 'counts (skipped: need the software GPU)', () => {
  describe.each(shapes)('of $name', ({ shape, useful, fewRows = false }) => {
    let step: CountedStep;
    let floor: ReturnType<typeof floors>;
    beforeAll(() => {
      step = countStep(shape);
      floor = floors(shape);
    }, 20 * 60_000);

    const passes = ['forward', 'backward'] as const;

    test.each(passes)('%s launches the kernels of the floor and nothing else', (part) => {
      expect(step[part].launches.map(kernelOf)).toEqual(floor[part].map(({ kernel }) => kernel));
      expect(step[part].otherWork).toEqual([]);
    });

    test.each(passes)('%s moves at most a tenth more bytes than it must', (part) => {
      const least = sum(floor[part].map(({ bytes }) => bytes));
      expect(step[part].bytes).toBeGreaterThanOrEqual(0.99 * least);
      expect(step[part].bytes).toBeLessThanOrEqual(1.1 * least);
    });

    test.each(products)('%s meets no bank conflicts and uses whole sectors', (kernel) => {
      const launch = find(step.forward, kernel) ?? find(step.backward, kernel);
      expect(launch.sharedWavefronts).toBeLessThanOrEqual(1.05 * launch.sharedIdealWavefronts);
      // Of what is looked up for a row, its token or its weight, a sector brings more than is wanted.
      expect(launch.globalLoadBytes).toBeGreaterThanOrEqual((fewRows ? 0.94 : 0.95) * 32 * launch.globalLoadSectors);
      // These two write a word for each row besides, where its token's choice is.
      const scatters = kernel === 'downBackward' || kernel === 'rowGradient';
      const written = (scatters ? 0.85 : 0.95) * 32 * launch.globalStoreSectors;
      expect(launch.globalStoreBytes).toBeGreaterThanOrEqual(written);
      // Two blocks share the 164 KB of a multiprocessor, of which each takes 1 KB for itself.
      expect(2 * (launch.dynamicShared + 1024)).toBeLessThanOrEqual(164 * 1024);
    });

    test('the products of few rows are tiled flat', () => {
      expect(find(step.forward, 'expertsUp').kernel).toBe(`expertsUp${fewRows ? 'Flat' : 'Wide'}_bfloat16`);
    });

    test.each([
      ['forward', 'route'],
      ['backward', 'routeProducts'],
    ] as const)('the router’s products meet no bank conflicts and use whole sectors: %s, %s', (part, kernel) => {
      const launch = find(step[part], kernel);
      expect(launch.sharedWavefronts).toBeLessThanOrEqual(1.05 * launch.sharedIdealWavefronts);
      expect(launch.globalLoadBytes).toBeGreaterThanOrEqual(0.94 * 32 * launch.globalLoadSectors);
    });

    test.each(passes)('the combine of %s uses whole sectors', (part) => {
      const launch = find(step[part], part === 'forward' ? 'combine' : 'combineRouted');
      // A token's list of rows is read besides, in words.
      const { topK, hiddenSize } = shape.config;
      expect(launch.wideLoadBytes).toBeGreaterThanOrEqual(shape.tokens * topK * hiddenSize * 2);
      expect(launch.wideLoadBytes).toBeGreaterThanOrEqual(0.95 * 32 * launch.wideLoadSectors);
      expect(launch.globalStoreBytes).toBeGreaterThanOrEqual(0.95 * 32 * launch.globalStoreSectors);
    });

    test('tensor cores work on little padding', () => {
      const launches = passes.flatMap((part) => step[part].launches);
      const needed = sum(passes.flatMap((part) => floor[part].map(({ flops }: Floor) => flops)));
      const issued = sum(launches.map(({ tensorFlops }) => tensorFlops));
      expect(issued).toBeGreaterThanOrEqual(needed);
      expect(needed / issued).toBeGreaterThanOrEqual(useful);
    });

    test('a pass holds pre-activations, logits and the plan, and nothing else', () => {
      const { ffnSize: F, numExperts: E, topK: K } = shape.config;
      expect(step.heldBytes / shape.tokens).toBeLessThanOrEqual(4 * K * F + 4 * E + 64 * K);
    });
  });

  test('slots in order of position cost no launch', () => {
    const capacity = { type: 'fixed', factor: 1 } as const;
    const base = shape(128, 64, 64, 4, 2);
    const step = countStep({ ...base, config: { ...base.config, capacity } });
    const floor = floors(base);
    for (const part of ['forward', 'backward'] as const) {
      expect(step[part].launches.map(kernelOf)).toEqual(floor[part].map(({ kernel }) => kernel));
      expect(step[part].otherWork).toEqual([]);
    }
  });

  test('the optimizer launches one kernel for the norm and one for the update', () => {
    const { launches, otherWork } = countStep({ ...shape(16, 64, 64, 4, 2), optimizer: true }).optimizer;
    expect(launches.map(kernelOf)).toEqual(['adamwNorm', 'adamwUpdate']);
    expect(otherWork).toEqual([]);
  });

  describe('of fine-tuning', () => {
    const trained = shapes[0]!.shape;
    const { hiddenSize: H, numExperts: E, ffnSize: F } = trained.config;
    const steps = new Map<CountedShape['frozen'], CountedStep>();
    beforeAll(() => {
      for (const frozen of [undefined, 'router.', 'experts.'] as const)
        steps.set(frozen, countStep(frozen ? { ...trained, frozen } : trained));
    }, 20 * 60_000);

    const cases = [
      ['router.', E * H, 1],
      ['experts.', 3 * E * F * H, 0.5],
    ] as const;

    test.each(cases)('a frozen %s costs no launch, no byte and no product', (frozen, parameters, share) => {
      const [all, some] = [steps.get(undefined)!.backward, steps.get(frozen)!.backward];
      const floor = floors({ ...trained, frozen }).backward;
      expect(some.launches.map(kernelOf)).toEqual(floor.map(({ kernel }) => kernel));
      expect(some.otherWork).toEqual([]);
      expect(some.bytes).toBeLessThanOrEqual(1.1 * sum(floor.map(({ bytes }) => bytes)));
      const written = ({ launches }: CountedPart) => sum(launches.map(({ uniqueWrittenBytes }) => uniqueWrittenBytes));
      expect(written(all) - written(some)).toBeGreaterThanOrEqual(4 * parameters);
      const flops = ({ launches }: CountedPart) => sum(launches.map(({ tensorFlops }) => tensorFlops));
      expect(flops(some) / flops(all)).toBeCloseTo(share, 1);
    });
  });

  describe('main loops', () => {
    const steps = new Map<string, CountedStep>();
    beforeAll(() => {
      steps.set('base', countStep(shape(256, 256, 256, 1, 1)));
      steps.set('wider', countStep(shape(256, 512, 256, 1, 1)));
      steps.set('more features', countStep(shape(256, 256, 512, 1, 1)));
      steps.set('more rows', countStep(shape(512, 256, 256, 1, 1)));
    }, 20 * 60_000);

    test.each([
      ['forward', 'expertsUp', 'wider'],
      ['forward', 'rowProduct', 'more features'],
      ['backward', 'downBackward', 'wider'],
      ['backward', 'weightGradients', 'more rows'],
      ['backward', 'rowGradient', 'more features'],
    ] as const)('%s: %s has at most 2 other instructions for each mma', (part, kernel, deeper) => {
      const [shallow, deep] = [steps.get('base')!, steps.get(deeper)!].map((step) => find(step[part], kernel));
      expect(deep!.tensorOps).toBe(2 * shallow!.tensorOps);
      expect(othersPerMma(shallow!, deep!)).toBeLessThanOrEqual(2);
    });
  });
});

const nvcc = cudaTool('nvcc');
const compiles = full && nvcc !== undefined;

describe.skipIf(!compiles)(compiles ? 'machine code' : 'machine code (skipped: npm run test:full, with nvcc)', () => {
  test.each(['80', '90'])('for %s leaves registers for the blocks that are launched', (architecture) => {
    for (const name of ['experts', 'experts-wgrad']) {
      const source = fileURLToPath(new URL(`../cuda/${name}.cu`, import.meta.url));
      const target = ['-cubin', `-gencode=arch=compute_${architecture},code=sm_${architecture}`, '-o', '/dev/null'];
      const { stderr, stdout, status } = spawnSync(nvcc!, ['-O3', '-std=c++20', '-Xptxas=-v', ...target, source], {
        encoding: 'utf8',
      });
      expect(status, stderr).toBe(0);
      const found = [
        ...(stdout + stderr).matchAll(
          /entry function '(\w+)' for '\w+'[^']*?(\d+) bytes spill stores[^']*?Used (\d+) reg/gs,
        ),
      ];
      const kernels = found.filter(([, kernel]) => products.some((product) => kernel!.startsWith(product)));
      expect(kernels).toHaveLength(name === 'experts' ? 36 : 3);
      // Of 65,536 registers a block of 128 threads gets each thread's rounded up to a multiple of 8.
      for (const [, kernel, spills, registers] of kernels) {
        const blocks = /Flat_(bfloat16|float16)$/.test(kernel!) ? 3 : 2; // native/cuda/tiles.cpp
        expect(Number(spills), kernel).toBe(0);
        expect(blocks * 128 * Math.ceil(Number(registers) / 8) * 8, kernel).toBeLessThanOrEqual(65_536);
      }
    }
  });
});
