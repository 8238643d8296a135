// Whole programs on the software GPU, each a process of its own: what they leave open when they end is no leak, and the
// order in which the GPU gets things done changes no result.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { root, run } from './command.js';
import { full } from './extent.js';

const simulated = process.env.SWITCHYARD_TEST_CUDA === 'softgpu';
const entry = JSON.stringify(new URL('../dist/index.js', import.meta.url).href);

const model = `
  const api = await import(${entry});
  const device = api.openDevice('cuda');
  const config = { hiddenSize: 40, ffnSize: 48, numExperts: 6, topK: 2, losses: { loadBalance: 0.01 }, seed: 1 };
  const layer = new api.MoELayer(device, config);
  const optimizer = new api.AdamW(layer.parameters().values(), { learningRate: 0.01 });
  const input = device.randn([70, 40], { seed: 2 });
  const step = () => {
    const pass = layer.forward(input);
    const gradInput = pass.backward(pass.output);
    optimizer.step();
    layer.zeroGrad();
    return { pass, gradInput };
  };
`;

/** Layers of 16 bits, one with a queue and one whose experts choose, there and back. */
const narrow = `
  const queued = { type: 'fixed', factor: 0.7, priority: 'random', overflow: 'next-choice' };
  for (const [dtype, options] of [
    ['bfloat16', { capacity: queued, router: { noise: { type: 'gumbel' } }, experts: { dropout: 0.1 } }],
    ['float16', { router: { type: 'expert-choice' }, losses: { z: 0.1 } }],
  ]) {
    const sizes = { hiddenSize: 16, ffnSize: 8, numExperts: 4, topK: 2, dtype, seed: 3 };
    const other = new api.MoELayer(device, { ...sizes, ...options });
    const pass = other.forward(device.randn([20, 16], { seed: 4, dtype }));
    const gradInput = pass.backward(pass.output);
    const gradients = [...other.parameters().values()].map(({ grad }) => grad);
    for (const tensor of [pass.output, pass.routing.indices, gradInput, ...gradients]) hash.update(await tensor.data());
  }
`;

interface Record {
  type: string;
  at?: string;
  calls?: { [call: string]: number };
  faults?: { fault: string }[];
}

describe.skipIf(!simulated)(simulated ? 'a program' : 'a program (skipped: needs the software GPU)', () => {
  let scratch = '';
  beforeAll(() => {
    scratch = mkdtempSync(join(tmpdir(), 'switchyard-'));
  });
  afterAll(() => rmSync(scratch, { recursive: true, force: true }));

  let programs = 0;
  async function program(source: string, env: NodeJS.ProcessEnv = {}) {
    const report = join(scratch, `${++programs}.jsonl`);
    const outcome = await run(process.execPath, ['--expose-gc', '--input-type=module', '-e', source], {
      cwd: root,
      env: { ...process.env, SOFTGPU_REPORT: report, ...env },
    });
    const records: Record[] = readFileSync(report, 'utf8')
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line));
    const faults = records.flatMap((record) => record.faults ?? []).map(({ fault }) => fault);
    return { ...outcome, records, faults };
  }

  const endings: [name: string, source: string][] = [
    ['that just ends', 'const { gradInput } = step(); await gradInput.data();'],
    ['that ends with work queued', 'for (let i = 0; i < 5; i++) step();'],
    ['that disposes its device and nothing else', 'step(); device.dispose();'],
    ['that disposes its device and exits at once', 'step(); device.dispose(); process.exit(0);'],
    ['that disposes its tensors after its device', 'const { pass } = step(); device.dispose(); pass.dispose();'],
    [
      'that drops everything but its device',
      'for (let i = 0; i < 3; i++) step(); globalThis.gc(); await device.synchronize();',
    ],
    ['with a second device', "const other = api.openDevice('cuda'); input.to(other); step();"],
    [
      'whose worker ends with it open',
      `const { Worker } = await import('node:worker_threads');
       const source = \`import(\${JSON.stringify(${entry})}).then(({ openDevice }) => {
         globalThis.kept = openDevice('cuda').randn([1000], { seed: 1 });
       });\`;
       await new Promise((done) => new Worker(source, { eval: true }).on('exit', done));
       step();`,
    ],
  ];
  test.each(endings)('%s leaks nothing', async (_, source) => {
    const { code, stdout, stderr, records, faults } = await program(model + source);
    expect({ code, stdout, stderr, faults }).toEqual({ code: 0, stdout: '', stderr: '', faults: [] });
    // It is by freeing that it leaks nothing: the context has ended, and before the process did.
    const ends = records.filter(({ type }) => type === 'calls').map(({ at }) => at);
    expect(ends).toEqual(['context end', 'exit']);
    const { calls } = records.at(-1)!;
    expect(calls!.cuMemFree).toBe(calls!.cuMemAlloc);
    expect(calls!.cuMemFreeHost).toBe(calls!.cuMemHostAlloc);
    expect(calls!.cuModuleUnload).toBe(calls!.cuModuleLoadData);
    expect(calls!.cuStreamDestroy).toBe(calls!.cuStreamCreate);
    expect(calls!.cuDevicePrimaryCtxRelease).toBe(calls!.cuDevicePrimaryCtxRetain);
  });

  // Node runs no cleanup hook in process.exit(): the driver ends what is open, like at the end of any process.
  test.each([
    ['that waits for a read', 'step().gradInput.data(); process.exit(3);'],
    ['with work queued', 'for (let i = 0; i < 5; i++) step(); process.exit(3);'],
    ['that waits for nothing', 'const { gradInput } = step(); await gradInput.data(); process.exit(3);'],
  ])('%s exits at once, which is no fault', async (_, source) => {
    const { code, stdout, stderr, faults } = await program(model + source);
    expect({ code, stdout, stderr, faults }).toEqual({ code: 3, stdout: '', stderr: '', faults: [] });
  });

  test.each(['8.0', '9.0'])('of capability %s computes the same bits in all orders', async (capability) => {
    const source = `${model}
      const { createHash } = await import('node:crypto');
      const hash = createHash('sha256');
      for (let i = 0; i < 3; i++) {
        const { pass, gradInput } = step();
        hash.update(await pass.output.data()).update(await gradInput.data());
      }
      for (const { value } of layer.parameters().values()) hash.update(await value.data());
      ${capability === '8.0' || full ? narrow : ''}
      console.log(hash.digest('hex'));
      device.dispose();`;
    const results = new Map<string, string>();
    for (const order of ['latest', 'earliest', 'random:1', 'random:2']) {
      const { stdout, stderr, faults } = await program(source, { SOFTGPU_CC: capability, SOFTGPU_ORDER: order });
      expect({ order, stderr, faults }).toEqual({ order, stderr: '', faults: [] });
      results.set(order, stdout);
    }
    expect(results.get('latest')).toMatch(/^[0-9a-f]{64}\n$/);
    expect([...new Set(results.values())]).toHaveLength(1);
  });
});
