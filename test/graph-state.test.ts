/**
 * device.graph() and what is kept beside the queue: gradients that count as zero, writes that passes go by, optimizers,
 * temperatures and seeds; and what a recording that throws leaves behind.
 */

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import {
  AdamW,
  add,
  type Device,
  expandExperts,
  type Graph,
  Linear,
  loadCheckpoint,
  MoELayer,
  type MoEPass,
  type Pass,
  saveCheckpoint,
  type Tensor,
} from '../lib/index.js';
import { onEachDevice } from './devices.js';

const moeError = (code: string, message: RegExp) =>
  expect.objectContaining({ code, message: expect.stringMatching(message) });

const folder = mkdtempSync(join(tmpdir(), 'switchyard-'));
afterAll(() => rmSync(folder, { recursive: true }));

const [TOKENS, HIDDEN] = [9, 8];
const layerConfig = { hiddenSize: HIDDEN, ffnSize: 8, numExperts: 4, topK: 2, seed: 5 };

const makeInput = (device: Device) => device.randn([TOKENS, HIDDEN], { seed: 1 });
const makeLinear = (device: Device) =>
  new Linear(device, { inFeatures: HIDDEN, outFeatures: HIDDEN, bias: false, seed: 2 });
const weightOf = (layer: Linear) => layer.parameters().get('weight')!;

function backward(layer: Linear, x: Tensor): void {
  using pass = layer.forward(x);
  pass.backward(pass.output).dispose();
}

/** Replaces what it has by what `make` gives, as a step does that is run again and again. */
class Slot<Value extends { dispose(): void }> {
  value: Value | undefined;
  set(value: Value): void {
    this.value?.dispose();
    this.value = value;
  }
}

onEachDevice((device) => {
  it('a recording that throws leaves gradients as they were', async () => {
    using x = makeInput(device());
    using layer = makeLinear(device());
    using plain = makeLinear(device());
    using optimizer = new AdamW([weightOf(layer)], { learningRate: 0 });
    let runs = 0;
    const failing = () =>
      device().graph(() => {
        backward(layer, x);
        if (runs++ > 0) throw new Error('of the step');
        optimizer.step();
      });
    expect(failing).toThrow('of the step');
    backward(layer, x);
    backward(plain, x);
    expect(await weightOf(layer).grad.data()).toEqual(await weightOf(plain).grad.data());
  });

  it('what a recording that throws has made cannot be read', async () => {
    using x = makeInput(device());
    const made: Tensor[] = [];
    const failing = () =>
      device().graph(() => {
        made.push(add(x, x));
        if (made.length > 1) throw new Error('of the step');
      });
    expect(failing).toThrow('of the step');
    await made[0]!.data();
    await expect(made[1]!.data()).rejects.toEqual(moeError('ERR_STALE_PASS', /thrown/));
    for (const tensor of made) tensor.dispose();
  });

  it('the gradients and the norm of the first run can be read before a replay', async () => {
    using x = makeInput(device());
    using layer = makeLinear(device());
    using plain = makeLinear(device());
    using optimizer = new AdamW([weightOf(layer)], { learningRate: 0 });
    using _gradients = device().graph(() => {
      layer.zeroGrad();
      backward(layer, x);
    });
    backward(plain, x);
    expect(await weightOf(layer).grad.data()).toEqual(await weightOf(plain).grad.data());
    using _stepping = device().graph(() => {
      layer.zeroGrad();
      backward(layer, x);
      optimizer.step();
    });
    expect(await optimizer.gradNorm()).toBeGreaterThan(0);
    await device().synchronize();
  });

  it('a gradient that is cleared later reads as zeros in a replay, whatever it was when recorded', async () => {
    using x = makeInput(device());
    using layer = makeLinear(device());
    const { grad } = weightOf(layer);
    const sum = new Slot<Tensor>();
    const step = () => sum.set(add(grad, grad));
    const zeros = new Float32Array(HIDDEN * HIDDEN);
    using whileCleared = device().graph(step);
    backward(layer, x);
    expect(() => whileCleared.replay()).toThrow(moeError('ERR_STALE_PASS', /cleared/));
    layer.zeroGrad();
    whileCleared.replay();
    expect(await sum.value!.data()).toEqual(zeros);

    backward(layer, x);
    using whileThere = device().graph(step);
    whileThere.replay();
    expect(await sum.value!.data()).not.toEqual(zeros);
    layer.zeroGrad();
    whileThere.replay();
    expect(await sum.value!.data()).toEqual(zeros);
    sum.value!.dispose();
  });

  it('a replay makes passes stale that it writes the input of, but not those of its own step', async () => {
    using x = makeInput(device());
    using layer = makeLinear(device());
    const doubled = new Slot<Tensor>();
    const own = new Slot<Pass>();
    using graph = device().graph(() => {
      doubled.set(add(x, x));
      own.set(layer.forward(doubled.value!));
    });
    graph.replay();
    using outside = layer.forward(doubled.value!);
    graph.replay();
    expect(() => outside.backward(outside.output)).toThrow(moeError('ERR_STALE_PASS', /written/));
    own.value!.backward(own.value!.output).dispose();
    own.value!.dispose();
    doubled.value!.dispose();
    await device().synchronize();
  });

  it('a backward in the step needs a forward in the step', () => {
    using x = makeInput(device());
    using layer = makeLinear(device());
    const last = new Slot<Pass>();
    const step = () => {
      last.value?.backward(last.value.output).dispose();
      last.set(layer.forward(x));
    };
    expect(() => device().graph(step)).toThrow(moeError('ERR_STALE_PASS', /made before/));
    last.value!.dispose();
  });

  it('a failed replay is told of what was made from it, and by synchronize(), whatever the next one does', async () => {
    using layer = new MoELayer(device(), layerConfig);
    using x = makeInput(device());
    const values = (await x.data()) as Float32Array;
    const slot = new Slot<MoEPass>();
    using graph = device().graph(() => slot.set(layer.forward(x, { training: false })));
    graph.replay();
    using good = slot.value!.output.clone();
    x.write(new Float32Array(x.size).fill(Number.NaN));
    graph.replay();
    using bad = slot.value!.output.clone();
    x.write(values);
    graph.replay();
    await expect(device().synchronize()).rejects.toEqual(moeError('ERR_NON_FINITE', /token 0/));
    await device().synchronize();
    expect(await good.data()).toEqual(await slot.value!.output.data());
    await expect(bad.data()).rejects.toEqual(moeError('ERR_NON_FINITE', /token 0/));
    slot.value!.dispose();
  });

  it('is timed as a whole on a GPU, by stages on the CPU, and may be recorded meanwhile', async () => {
    using x = makeInput(device());
    using layer = new MoELayer(device(), layerConfig);
    const slot = new Slot<MoEPass>();
    const graphs: Graph[] = [];
    const step = () => slot.set(layer.forward(x, { training: false }));
    const recording = await device().profile(() => void graphs.push(device().graph(step)));
    const eager = await device().profile(step);
    expect(recording).toHaveLength(eager.length);
    const replay = await device().profile(() => graphs[0]!.replay());
    if (device().kind === 'cpu') expect(replay).toHaveLength(eager.length);
    else expect(replay).toEqual([{ kernel: 'graph', milliseconds: expect.any(Number) }]);
    graphs[0]!.dispose();
    slot.value!.dispose();
  });

  it('every step of an optimizer clips as it was told', async () => {
    using x = makeInput(device());
    const run = async (asGraph: boolean) => {
      using layer = makeLinear(device());
      using optimizer = new AdamW([weightOf(layer)], { learningRate: 1e-2, betas: [0, 0], epsilon: 1 });
      const step = () => {
        for (const options of [{ maxGradNorm: 1e-3 }, undefined]) {
          backward(layer, x);
          optimizer.step(options);
        }
      };
      if (asGraph) {
        using graph = device().graph(step);
        graph.replay();
      } else {
        step();
        step();
      }
      return await weightOf(layer).value.data();
    };
    expect(await run(true)).toEqual(await run(false));
  });

  it('an optimizer that went over to other parameters, or is gone, is told by replay()', () => {
    using x = makeInput(device());
    using layer = new MoELayer(device(), layerConfig);
    using optimizer = new AdamW(layer.parameters().values(), { learningRate: 1e-2 });
    using graph = device().graph(() => {
      using pass = layer.forward(x);
      pass.backward(pass.output).dispose();
      optimizer.step();
    });
    graph.replay();
    using grown = expandExperts(layer, 6, { optimizer });
    expect(() => graph.replay()).toThrow(moeError('ERR_STALE_PASS', /other parameters/));
    optimizer.dispose();
    expect(() => graph.replay()).toThrow(moeError('ERR_DISPOSED', /optimizer/));
    grown.zeroGrad();
  });

  it('replays follow the temperature of the layer', async () => {
    using x = makeInput(device());
    using layer = new MoELayer(device(), layerConfig);
    const slot = new Slot<MoEPass>();
    using graph = device().graph(() => slot.set(layer.forward(x)));
    graph.replay();
    layer.setTemperature(4);
    graph.replay();
    using eager = layer.forward(x);
    expect(await slot.value!.output.data()).toEqual(await eager.output.data());
    const gradients = [slot.value!, eager].map((pass) => pass.backward(x));
    expect(await gradients[0]!.data()).toEqual(await gradients[1]!.data());
    for (const gradient of gradients) gradient.dispose();
    slot.value!.dispose();
  });

  it('a pass of a step has its draws when the graph is gone', async () => {
    using x = makeInput(device());
    const run = async (release: boolean) => {
      using layer = new MoELayer(device(), { ...layerConfig, experts: { dropout: 0.5 } });
      const slot = new Slot<MoEPass>();
      const graph = device().graph(() => slot.set(layer.forward(x)));
      graph.replay();
      if (release) graph.dispose();
      const others = Array.from({ length: 20 }, (_, i) => device().tensor(new Int32Array(128).fill(i), [128]));
      using gradient = slot.value!.backward(x);
      const values = await gradient.data();
      for (const other of others) other.dispose();
      slot.value!.dispose();
      graph.dispose();
      return values;
    };
    expect(await run(true)).toEqual(await run(false));
  });

  it('draws go by the seed of a loaded checkpoint', async () => {
    if (device().kind !== 'cpu') return;
    const path = join(folder, 'layer.safetensors');
    using x = makeInput(device());
    using ids = device().tensor(
      Int32Array.from({ length: TOKENS }, (_, i) => i * 31),
      [TOKENS],
    );
    const config = { ...layerConfig, router: { type: 'hash' as const } };
    using saved = new MoELayer(device(), { ...config, seed: 6 });
    await saveCheckpoint(path, { modules: { layer: saved } });
    using layer = new MoELayer(device(), config);
    const slot = new Slot<MoEPass>();
    using graph = device().graph(() => slot.set(layer.forward(x, { tokenIds: ids })));
    await loadCheckpoint(path, { modules: { layer } });
    graph.replay();
    using eager = saved.forward(x, { tokenIds: ids });
    expect(await slot.value!.routing.indices.data()).toEqual(await eager.routing.indices.data());
    slot.value!.dispose();
  });
});
