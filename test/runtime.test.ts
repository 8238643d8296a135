// The library as a guest of Node: memory over many steps, the event loop, tidy, worker threads and exits.
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { AdamW, add, MoELayer, openDevice } from '../lib/index.js';

const run = promisify(execFile);
const entry = JSON.stringify(new URL('../dist/index.js', import.meta.url).href);
const root = fileURLToPath(new URL('..', import.meta.url));

/** Runs a module in a Node of its own; `api` is the built library. */
function script(body: string, ...flags: string[]) {
  const source = `const api = await import(${entry});\n${body}`;
  return run(process.execPath, [...flags, '--input-type=module', '-e', source], { cwd: root, timeout: 120_000 });
}

describe('memory', () => {
  it('stays constant over 2,000 steps with using', async () => {
    using device = openDevice('cpu');
    using layer = new MoELayer(device, { hiddenSize: 16, ffnSize: 24, numExperts: 4, topK: 2, seed: 1 });
    using optimizer = new AdamW(layer.parameters().values(), { learningRate: 1e-3 });
    using input = device.randn([32, 16], { seed: 2 });
    let after10 = device.memory();
    for (let step = 0; step < 2000; step++) {
      using pass = layer.forward(input);
      using gradInput = pass.backward(pass.output);
      optimizer.step();
      expect(gradInput.size).toBe(512);
      if (step === 10) after10 = device.memory();
    }
    expect(device.memory().reserved).toBe(after10.reserved);
    await device.synchronize();
  });

  it('of a loop that forgets to dispose but yields is collected', async () => {
    const { stdout } = await script(`
      const device = api.openDevice('cpu');
      const layer = new api.MoELayer(device, { hiddenSize: 64, ffnSize: 128, numExperts: 4, topK: 2, seed: 1 });
      const input = device.randn([512, 64], { seed: 2 });
      for (let step = 0; step < 1500; step++) {
        layer.forward(input).backward(input);
        await new Promise(setImmediate);
      }
      console.log(device.memory().peak);
      device.dispose();`);
    // Each step holds about 2 MB: uncollected it would be 3 GB.
    expect(Number(stdout)).toBeLessThan(1e9);
  });

  it('of a device that is forgotten stays while work is queued that somebody waits for', async () => {
    const { stdout, stderr } = await script(
      `const keeper = api.openDevice('cpu');
      const waiting = [
        api.openDevice('cpu').measureLimits(),
        api.openDevice('cpu').randn([1 << 20], { seed: 1 }).data(),
        api.openDevice('cpu').randn([1 << 20], { seed: 1 }).to(keeper).data(),
        api.openDevice('cpu').synchronize(),
      ];
      for (let turn = 0; turn < 10; turn++) {
        gc();
        await new Promise(setImmediate);
      }
      console.log((await Promise.allSettled(waiting)).map(({ status }) => status).join());`,
      '--expose-gc',
    );
    expect({ stdout: stdout.trim(), stderr }).toEqual({ stdout: new Array(4).fill('fulfilled').join(), stderr: '' });
  });

  it('goes back to the system with its device, whatever tensors are left', async () => {
    const { stdout } = await script(`
      const device = api.openDevice('cpu');
      const small = device.zeros([1]);
      const large = device.zeros([1 << 26]);
      await large.data();
      const before = process.memoryUsage.rss();
      device.dispose();
      console.log(before - process.memoryUsage.rss(), small.isDisposed, large.isDisposed);
      large.dispose();`);
    expect(Number(stdout.split(' ')[0])).toBeGreaterThan(2 ** 27);
  });

  it('made in a tidy goes with it, except what it returns', () => {
    using device = openDevice('cpu');
    using a = device.randn([8], { seed: 1 });
    const before = device.memory().allocated;
    const kept = device.tidy(() => {
      const b = add(a, a);
      add(b, b);
      return { result: [add(b, a)] };
    });
    expect(device.memory().allocated).toBe(before + 32);
    expect(kept.result[0]!.dataSync()[0]).toBeCloseTo(3 * a.dataSync()[0]!, 5);
    expect(() => device.tidy(async () => {})).toThrowError(expect.objectContaining({ code: 'ERR_INVALID_ARGUMENT' }));
  });
});

describe('the event loop', () => {
  it('runs while a large layer computes', async () => {
    using device = openDevice('cpu');
    using layer = new MoELayer(device, { hiddenSize: 256, ffnSize: 512, numExperts: 8, topK: 2, seed: 1 });
    using input = device.randn([2048, 256], { seed: 2 });
    using pass = layer.forward(input);
    let turns = 0;
    let reading = true;
    const read = pass.output.data().finally(() => {
      reading = false;
    });
    while (reading) {
      await new Promise(setImmediate);
      turns++;
    }
    await read;
    expect(turns).toBeGreaterThan(3);
  });

  it('takes far more calls than the queue holds, unawaited', async () => {
    using device = openDevice('cpu');
    let sum = device.zeros([4]);
    using one = device.tensor([1, 1, 1, 1], [4]);
    for (let i = 0; i < 5000; i++) {
      const next = add(sum, one);
      sum.dispose();
      sum = next;
    }
    expect([...(await sum.data())]).toEqual([5000, 5000, 5000, 5000]);
  });

  it('gives a read what was there when it was asked, and aborts on a signal', async () => {
    using device = openDevice('cpu');
    using tensor = device.tensor([1, 2], [2]);
    const first = tensor.data();
    tensor.write(Float32Array.of(3, 4));
    expect([...(await first)]).toEqual([1, 2]);
    expect([...tensor.dataSync()]).toEqual([3, 4]);
    await expect(tensor.data({ signal: AbortSignal.abort(new Error('enough')) })).rejects.toThrow('enough');
  });
});

const workload = `
  const device = api.openDevice({ kind: 'cpu', threads: 2 });
  const layer = new api.MoELayer(device, { hiddenSize: 128, ffnSize: 256, numExperts: 8, topK: 2, seed: 1 });
  const input = device.randn([512, 128], { seed: 2 });
  const queue = () => { for (let i = 0; i < 200; i++) layer.forward(input).dispose(); };`;

describe('an exit with work queued', () => {
  it.each([
    ['at the end of the program', ''],
    ['by process.exit', 'process.exit(0);'],
    ['with a read pending', 'void input.data(); process.exit(0);'],
    ['after disposing the device', 'const read = input.data(); device.dispose(); await read.catch(() => {});'],
  ])('%s is clean', async (_, ending) => {
    const { stderr } = await script(`${workload}\n queue();\n ${ending}`);
    expect(stderr).toBe('');
  });

  it('of worker threads, terminated amid their reads, is clean', async () => {
    const body = `import { parentPort } from 'node:worker_threads';
      import(${entry}).then(async (api) => {
        ${workload}
        parentPort.postMessage((await layer.forward(input).output.data())[0]);
        for (;;) {
          for (let i = 0; i < 40; i++) { layer.forward(input, { training: false }).dispose(); input.data(); }
          await input.data();
        }
      });`;
    const { stdout, stderr } = await script(`
      const { Worker } = await import('node:worker_threads');
      const values = new Set();
      for (let round = 0; round < 12; round++) {
        const workers = Array.from({ length: 3 }, () => new Worker(${JSON.stringify(body)}, { eval: true }));
        const first = (worker) => new Promise((resolve, reject) => { worker.once('message', resolve); worker.once('error', reject); });
        for (const value of await Promise.all(workers.map(first))) values.add(value);
        await Promise.all(workers.map((worker) => worker.terminate()));
      }
      console.log(values.size);`);
    expect({ stdout: stdout.trim(), stderr }).toEqual({ stdout: '1', stderr: '' });
  });
});
