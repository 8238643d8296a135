// The same layer forward by what else npm has for it, in this process and on the same number of threads: installed on the
// spot, into a folder that npm never publishes, and never a dependency.
import { spawnSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { type Device, MoELayer } from '../lib/index.js';
import { between, figures, sample } from './measure.js';
import { onnxruntime } from './peer-onnxruntime.js';
import { tensorflow } from './peer-tensorflow.js';
import type { Row } from './report.js';
import { usefulBytes, usefulFlops, type Workload } from './workloads.js';

/** What a peer is given: matrices as they lie in the layer, row by row. */
export interface PeerLayer {
  workload: Workload;
  threads: number;
  input: Float32Array;
  router: Float32Array;
  /** Of gated activations. */
  gate: Float32Array | undefined;
  up: Float32Array;
  down: Float32Array;
}

export interface Peer {
  name: string;
  packages: Record<string, string>;
  /** What computes the layer's output again at each call. */
  prepare(load: NodeJS.Require, layer: PeerLayer): Promise<() => Promise<Float32Array>>;
}

const peers: readonly Peer[] = [onnxruntime, tensorflow];
const tolerance = 1e-3;

function install(packages: Record<string, string>): NodeJS.Require {
  const folder = join(import.meta.dirname, '..', 'node_modules', '.cache', 'switchyard-peers');
  mkdirSync(folder, { recursive: true });
  const wanted = Object.entries(packages).map(([name, version]) => `${name}@${version}`);
  // Their scripts fetch libraries for GPUs.
  const words = [
    'install',
    '--prefix',
    folder,
    '--ignore-scripts',
    '--no-audit',
    '--no-fund',
    '--loglevel=error',
    ...wanted,
  ];
  const npm = spawnSync('npm', words, { stdio: ['ignore', 'ignore', 'pipe'], encoding: 'utf8' });
  if (npm.status !== 0) throw new Error(`npm ${words.join(' ')} failed:\n${npm.error?.message ?? npm.stderr}`);
  return createRequire(join(folder, 'package.json'));
}

export interface PeerJob {
  workload: Workload;
  threads: number;
  milliseconds: number;
}

/** A row for each peer that can be installed; why not, for the others, goes to `say`. */
export async function benchPeers(device: Device, job: PeerJob, say: (text: string) => void): Promise<Row[]> {
  const { workload, threads, milliseconds } = job;
  const { config, tokens, name } = workload;
  // onnxruntime knows no other weights than the softmax over the chosen.
  using layer = new MoELayer(device, { ...config, router: { renormalize: true } });
  using input = device.randn([tokens, config.hiddenSize], { seed: 3 });
  const pass = layer.forward(input, { training: false });
  const expected = (await pass.output.data()) as Float32Array;
  const value = async (parameter: string) => {
    const found = layer.parameters().get(parameter);
    return found && ((await found.value.data()) as Float32Array);
  };
  const given: PeerLayer = {
    workload,
    threads,
    input: (await input.data()) as Float32Array,
    router: (await value('router.weight'))!,
    gate: await value('experts.gate'),
    up: (await value('experts.up'))!,
    down: (await value('experts.down'))!,
  };
  const expertsHit = new Set(await pass.routing.indices.data()).size;
  pass.dispose();
  const work = {
    flops: usefulFlops(workload, 'forward'),
    bytes: usefulBytes(workload, 'forward', 'float32', expertsHit),
    dtype: 'float32' as const,
  };
  const rows: Row[] = [];
  for (const peer of peers) {
    try {
      const run = await peer.prepare(install(peer.packages), given);
      const output = await run();
      const largest = expected.reduce((most, v) => Math.max(most, Math.abs(v)), 0);
      const wrong = expected.findIndex((v, i) => !(Math.abs(output[i]! - v) <= tolerance * largest));
      if (wrong >= 0) throw new Error(`its output differs at ${wrong}: ${output[wrong]}, not ${expected[wrong]}`);
      const [samples, limits] = await between(device, 'float32', () =>
        sample(milliseconds, async () => void (await run())),
      );
      rows.push({
        workload: name,
        pass: 'forward',
        stage: 'layer',
        peer: peer.name,
        ...work,
        ...figures(samples, work, limits),
      });
    } catch (error) {
      say(`${peer.name} does not run ${name}: ${(error as Error).message}`);
    }
  }
  return rows;
}
