// Configurations: defaults, what is frozen, what is refused and in which words. No device but where a layer is needed.
import { describe, expect, it } from 'vitest';
import { resolveConfig } from '../lib/config.js';
import { type MoEConfig, MoELayer, openDevice } from '../lib/index.js';
import { failure } from './failure.js';

const sizes = { hiddenSize: 8, ffnSize: 6, numExperts: 4, topK: 2 };

describe('defaults', () => {
  it('are all filled in', () => {
    expect(resolveConfig({ ...sizes, seed: 3 })).toEqual({
      ...sizes,
      seed: 3,
      dtype: 'float32',
      gates: 1,
      router: {
        type: 'top-k',
        scoring: 'softmax',
        selectBy: 'scores',
        renormalize: false,
        renormalizeAfterDrop: false,
        weightScale: 1,
        applyWeightTo: 'output',
        bias: false,
        temperature: 1,
        secondChoice: 'always',
      },
      capacity: { type: 'dropless' },
      experts: { activation: 'swiglu', bias: false, dropout: 0 },
      losses: {},
    });
  });

  it('of nested options too', () => {
    const config = resolveConfig({
      ...sizes,
      router: { renormalize: true },
      capacity: { type: 'fixed', factor: 1.25 },
      experts: { shared: { ffnSize: 3 } },
      losses: { loadBalance: 0.01, importance: { coefficient: 0.1 }, z: 0 },
    });
    expect(config.router.renormalize).toEqual({ p: 1, epsilon: 1e-20 });
    expect(config.capacity).toEqual({
      type: 'fixed',
      factor: 1.25,
      evalFactor: 1.25,
      min: 0,
      multipleOf: 1,
      priority: 'position',
      firstChoicesFirst: true,
      overflow: 'drop',
      buffer: 0,
    });
    expect(config.experts.shared).toEqual({ ffnSize: 3, gate: 'none' });
    expect(config.losses).toEqual({
      loadBalance: { coefficient: 0.01, counts: 'all', scope: 'batch' },
      importance: { coefficient: 0.1, from: 'gates' },
      z: 0,
    });
  });

  it('draw a seed once, and freeze everything', () => {
    using device = openDevice('cpu');
    const given = { ...sizes, router: { renormalize: { p: 2 } } };
    using layer = new MoELayer(device, given);
    const { config } = layer;
    expect(layer.config).toBe(config);
    expect(Number.isSafeInteger(config.seed)).toBe(true);
    expect([config, config.router, config.router.renormalize, config.experts].every(Object.isFrozen)).toBe(true);
    given.router.renormalize.p = 5;
    expect(config.router.renormalize).toMatchObject({ p: 2 });
    using again = new MoELayer(device, config);
    const weights = [layer, again].map((each) => each.parameters().get('router.weight')!.value.dataSync());
    expect(weights[0]).toEqual(weights[1]);
  });

  it('stand for what is absent or undefined', () => {
    const { router, dtype } = resolveConfig({ ...sizes, router: undefined, dtype: undefined });
    expect([router.type, dtype]).toEqual(['top-k', 'float32']);
  });

  // JSON writes NaN as null: that must not become a default unseen.
  it.each<[string, object]>([
    ['dtype', { dtype: null }],
    ['gates', { gates: null }],
    ['seed', { seed: null }],
    ['router', { router: null }],
    ['router.temperature', { router: { temperature: null } }],
    ['router.renormalize', { router: { renormalize: null } }],
    ['router.renormalize.p', { router: { renormalize: { p: null } } }],
    ['capacity', { capacity: null }],
    ['capacity.min', { capacity: { type: 'fixed', factor: 1, min: null } }],
    ['capacity.evalFactor', { capacity: { type: 'fixed', factor: 1, evalFactor: null } }],
    ['experts.activation', { experts: { activation: null } }],
    ['losses', { losses: null }],
    ['losses.loadBalance.scope', { losses: { loadBalance: { coefficient: 1, scope: null } } }],
  ])('do not stand for null: %s', (name, change) => {
    const error = failure(() => resolveConfig({ ...sizes, ...change }));
    expect(error.code).toBe('ERR_INVALID_ARGUMENT');
    expect(error.message).toMatch(new RegExp(`^config\\.${name.replaceAll('.', '\\.')}: expected .*, got null$`));
  });

  it('given as they are, ask for nothing that is missing', () => {
    const capacity = { type: 'fixed', slots: 3, overflow: 'drop', buffer: 0, groupSize: undefined } as never;
    const router = { noise: undefined, secondChoice: 'always', applyWeightTo: 'output', scoring: 'softmax' } as never;
    expect(() =>
      resolveConfig({ ...sizes, gates: 1, dtype: 'float32', router, capacity, experts: { dropout: 0 } }),
    ).not.toThrow();
  });
});

describe('a mistake', () => {
  it.each<[string, object, RegExp]>([
    [
      'missing',
      { hiddenSize: undefined },
      /^config\.hiddenSize: expected an integer from 1 to 2147483647, got undefined$/,
    ],
    ['a string', { ffnSize: '6' }, /^config\.ffnSize: .*"6"$/],
    ['a bigint', { numExperts: 4n }, /^config\.numExperts: .*4n$/],
    ['infinite', { topK: Infinity }, /^config\.topK: expected an integer from 1 to numExperts \(4\), got Infinity$/],
    ['too large', { hiddenSize: 2 ** 31 }, /^config\.hiddenSize: .*2147483648$/],
    ['past 2^53', { hiddenSize: 2 ** 30, ffnSize: 2 ** 30 }, /^config: .*2\^53.*1073741824/],
    ['a list', { router: [] }, /^config\.router: expected an object of options, got \[\]$/],
    ['a typo', { router: { temprature: 2 } }, /^config\.router\.temprature: .*did you mean temperature\?$/],
    ['a typo deep', { losses: { loadBalance: { coeficient: 1 } } }, /coeficient.*did you mean coefficient\?$/],
    ['of another kind', { capacity: { type: 'dropless', factor: 1 } }, /^config\.capacity\.factor: unknown option/],
    ['no capacity', { capacity: { type: 'fixed' } }, /^config\.capacity: expected a factor, or a number of slots/],
    ['two capacities', { capacity: { type: 'fixed', factor: 1, slots: 2 } }, /^config\.capacity\.slots/],
    ['eval with slots', { capacity: { type: 'fixed', slots: 2, evalFactor: 2 } }, /^config\.capacity\.evalFactor/],
    ['multipleOf 0', { capacity: { type: 'fixed', slots: 2, multipleOf: 0 } }, /^config\.capacity\.multipleOf/],
    ['0 as a float32', { router: { temperature: 1e-320 } }, /^config\.router\.temperature: .*above 0, got 1e-320$/],
    ['infinite as a float32', { router: { weightScale: 1e300 } }, /^config\.router\.weightScale: .*float32.*1e\+300$/],
    ['a norm', { router: { renormalize: { p: 1e-4 } } }, /^config\.router\.renormalize\.p: .*at least 0\.01, got/],
    ['a norm by name', { router: { renormalize: 'L1' } }, /^config\.router\.renormalize: .*"L1"$/],
    ['no length', { losses: { loadBalance: { coefficient: 1, scope: 'sequence' } } }, /sequenceLength.*undefined$/],
    ['a length', { losses: { loadBalance: { coefficient: 1, sequenceLength: 4 } } }, /sequenceLength.*batch.*4$/],
    ['a sign', { losses: { z: -1 } }, /^config\.losses\.z: .*at least 0, got -1$/],
    ['an object', { losses: { importance: {} } }, /^config\.losses\.importance\.coefficient: .*undefined$/],
    [
      'half a clamp',
      { experts: { activation: { type: 'clamped-swiglu', alpha: 1 } } },
      /activation\.limit: .*undefined$/,
    ],
    [
      'a bare clamp',
      { experts: { activation: 'clamped-swiglu' } },
      /^config\.experts\.activation: .*"clamped-swiglu"$/,
    ],
    ['a shared expert of 0', { experts: { shared: { ffnSize: 0 } } }, /^config\.experts\.shared\.ffnSize: .*got 0$/],
    ['dropout of 1', { experts: { dropout: 1 } }, /^config\.experts\.dropout: .*below 1, got 1$/],
    ['a large seed', { seed: 2n ** 64n }, /^config\.seed: .*2\^64.*18446744073709551616n$/],
    [
      'groups that do not divide',
      { router: { groups: { count: 3, keep: 1, score: 'max' } } },
      /divisor of numExperts \(4\)/,
    ],
    [
      'more experts than the kept groups have',
      { topK: 3, router: { groups: { count: 2, keep: 1, score: 'max' } } },
      /^config\.topK: expected at most the 2 experts of router\.groups\.keep groups, got 3$/,
    ],
    [
      'a load without noise',
      { losses: { load: 1 } },
      /^config\.losses\.load: .*'gaussian'.*'learned', got "no noise"$/,
    ],
    [
      'a load with noise on the input',
      { losses: { load: 1 }, router: { noise: { type: 'jitter', epsilon: 0.1 } } },
      /^config\.losses\.load: expected a router\.noise/,
    ],
    [
      'a load balance of experts that choose',
      { router: { type: 'expert-choice' }, losses: { loadBalance: 0.1 } },
      /^config\.losses\.loadBalance: expected no such loss with router\.type 'expert-choice'/,
    ],
    [
      'a queue for experts that choose',
      { router: { type: 'expert-choice' }, capacity: { type: 'fixed', factor: 1, priority: 'score' } },
      /^config\.capacity\.priority: expected no queue with router\.type 'expert-choice', got "score"/,
    ],
    [
      'a selection bias of a Sinkhorn router',
      { router: { type: 'sinkhorn', selectionBias: { rate: 1 } } },
      /^config\.router\.selectionBias: expected the default with router\.type 'sinkhorn'/,
    ],
    [
      'a bias of a hash router',
      { router: { type: 'hash', bias: true } },
      /^config\.router\.bias: expected the default with router\.type 'hash'/,
    ],
    ['a load with noise 0', { losses: { load: 1 }, router: { noise: { type: 'gaussian', std: 0 } } }, /above 0/],
    [
      'an expert too many',
      { router: { allowedExperts: [[0, 4]] } },
      /^config\.router\.allowedExperts\[0\]\[1\]: .*got 4$/,
    ],
  ])('%s is ERR_INVALID_ARGUMENT', (_, change, message) => {
    const error = failure(() => resolveConfig({ ...sizes, ...change }));
    expect({ code: error.code, message: error.message }).toEqual({
      code: 'ERR_INVALID_ARGUMENT',
      message: expect.stringMatching(message),
    });
  });

  it.each<[unknown]>([[undefined], [null], [7], [[]]])('a configuration of %j is ERR_INVALID_ARGUMENT', (config) => {
    expect(failure(() => resolveConfig(config))).toMatchObject({ code: 'ERR_INVALID_ARGUMENT' });
  });

  it('that the memory cannot hold is found before anything is made', () => {
    using device = openDevice({ memoryLimit: 1 << 20 });
    const error = failure(() => new MoELayer(device, { ...sizes, ffnSize: 100_000 }));
    expect(error).toMatchObject({ code: 'ERR_OUT_OF_MEMORY', hint: expect.stringContaining('memoryLimit') });
    expect(error.message).toMatch(/38400128 bytes.*1048576/);
    expect(device.memory().allocated).toBe(0);
    using layer = new MoELayer(device, sizes);
    expect(layer.parameters().size).toBe(4);
  });
});

describe('options of a call', () => {
  it('name a gate that there is, and the layer goes on after a mistake', () => {
    using device = openDevice('cpu');
    using layer = new MoELayer(device, { ...sizes, gates: 2 });
    using input = device.zeros([3, 8]);
    for (const gate of [-1, 2, 0.5])
      expect(failure(() => layer.forward(input, { gate })).message).toMatch(/options\.gate: expected an integer.*got/);
    using pass = layer.forward(input, { gate: 1, tokenOffset: 0, noise: undefined } as never);
    expect(pass.output.shape).toEqual([3, 8]);
  });

  it('scale a capacity that goes by a factor, that of experts that choose by themselves too', async () => {
    using device = openDevice('cpu');
    using input = device.zeros([6, 8]);
    const capacities: [MoEConfig['capacity'], MoEConfig['router'], boolean][] = [
      [{ type: 'fixed', factor: 2 }, {}, true],
      [{ type: 'fixed', factor: 2 }, { type: 'expert-choice' }, true],
      [undefined, { type: 'expert-choice' }, true],
      [undefined, {}, false],
      [{ type: 'fixed', slots: 2 }, {}, false],
      [{ type: 'fixed', slots: 2 }, { type: 'expert-choice' }, false],
      [{ type: 'dynamic', targetDropRate: 0, maxFactor: 2 }, {}, false],
    ];
    for (const [capacity, router, allowed] of capacities) {
      using layer = new MoELayer(device, { ...sizes, ...(capacity && { capacity }), ...(router && { router }) });
      if (allowed) {
        using pass = layer.forward(input, { capacityFactor: 0.5 });
        const { capacity: slots } = await pass.stats();
        expect(slots, JSON.stringify([capacity, router])).toBe(2);
      } else {
        expect(failure(() => layer.forward(input, { capacityFactor: 0.5 })).message).toMatch(
          /^options\.capacityFactor: expected a layer .*fixed by a factor.*dropless.*'expert-choice', got 0\.5$/,
        );
      }
    }
  });
});
