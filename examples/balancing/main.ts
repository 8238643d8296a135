// What each way of balancing does on a stream that is skewed: npm run balance. Tokens come from a few topics, the commonest
// of which has most of them, and a topic's tokens resemble each other; so a router that is left alone sends most tokens to
// the same experts, and the capacity drops what is too much. Prints one row for each way.
import { AdamW, type MoEConfig, MoELayer, type MoEStats, openDevice } from 'switchyard';
import { random } from '../language-model/random.js';

const steps = 500;
const last = 100;
const tokens = 512;
const hiddenSize = 32;
const topics = 16;
const streamKey = 1;

const base: MoEConfig = {
  hiddenSize,
  ffnSize: 64,
  numExperts: 8,
  topK: 2,
  capacity: { type: 'fixed', factor: 1.25 },
  router: { renormalize: true },
  seed: 1,
};

const ways: [string, Partial<MoEConfig>][] = [
  ['none', {}],
  ['Switch loss, 0.01', { losses: { loadBalance: 0.01 } }],
  [
    'importance + load, 0.1',
    { router: { renormalize: true, noise: { type: 'learned' } }, losses: { importance: 0.1, load: 0.1 } },
  ],
  ['selection bias, 0.01', { router: { renormalize: true, scoring: 'sigmoid', selectionBias: { rate: 0.01 } } }],
  ['expert choice', { router: { type: 'expert-choice' }, capacity: { type: 'fixed', factor: 1 } }],
];

/** The topic of rank r is drawn 1/r² as often as the first; a token is its topic's centre and noise, its target a function of its topic's. */
class Stream {
  #drawn = 0;
  readonly #centres = this.#normals(topics * hiddenSize);
  readonly #maps = this.#normals(topics * hiddenSize * hiddenSize);
  /** The share of the topics up to each. */
  readonly #upTo: number[] = [];

  constructor() {
    let sum = 0;
    for (let rank = 1; rank <= topics; rank++) {
      sum += 1 / rank ** 2;
      this.#upTo.push(sum);
    }
  }

  #uniform(): number {
    return random(streamKey, this.#drawn++);
  }

  #normals(count: number): Float32Array {
    return Float32Array.from({ length: count }, () => this.#normal());
  }

  #normal(): number {
    return Math.sqrt(-2 * Math.log(1 - this.#uniform())) * Math.cos(2 * Math.PI * this.#uniform());
  }

  #topic(): number {
    const at = this.#uniform() * this.#upTo.at(-1)!;
    return this.#upTo.findIndex((sum) => at < sum);
  }

  batch(): { input: Float32Array; target: Float32Array } {
    const input = new Float32Array(tokens * hiddenSize);
    const target = new Float32Array(tokens * hiddenSize);
    for (let t = 0; t < tokens; t++) {
      const topic = this.#topic();
      const x = input.subarray(t * hiddenSize, (t + 1) * hiddenSize);
      for (let h = 0; h < hiddenSize; h++) x[h] = this.#centres[topic * hiddenSize + h]! + 0.5 * this.#normal();
      for (let h = 0; h < hiddenSize; h++) {
        let sum = 0;
        for (let i = 0; i < hiddenSize; i++) sum += this.#maps[(topic * hiddenSize + h) * hiddenSize + i]! * x[i]!;
        target[t * hiddenSize + h] = Math.tanh(sum / Math.sqrt(hiddenSize));
      }
    }
    return { input, target };
  }
}

/** Means over the steps. */
class Means {
  imbalance = 0;
  droppedAssignments = 0;
  droppedTokens = 0;
  error = 0;

  constructor(readonly count: number) {}

  add(stats: MoEStats, error: number): void {
    const assigned = stats.assigned.reduce((sum, count) => sum + count, 0);
    this.imbalance += stats.imbalance / this.count;
    this.droppedAssignments += stats.droppedAssignments / assigned / this.count;
    this.droppedTokens += stats.droppedTokens / tokens / this.count;
    this.error += error / this.count;
  }
}

async function train(config: MoEConfig): Promise<{ all: Means; end: Means }> {
  using device = openDevice('cpu');
  const layer = new MoELayer(device, config);
  const optimizer = new AdamW(layer.parameters().values(), { learningRate: 3e-3, weightDecay: 0 });
  const stream = new Stream();
  const means = { all: new Means(steps), end: new Means(last) };
  for (let step = 1; step <= steps; step++) {
    const { input, target } = stream.batch();
    using x = device.tensor(input, [tokens, hiddenSize]);
    using pass = layer.forward(x);
    const output = await pass.output.data();
    const difference = Float32Array.from(output, (y, i) => y - target[i]!);
    const gradient = difference.map((d) => (2 * d) / difference.length);
    using gradOutput = device.tensor(gradient, [tokens, hiddenSize]);
    pass.backward(gradOutput).dispose();
    optimizer.step({ maxGradNorm: 1 });
    if (layer.config.router.selectionBias) layer.updateSelectionBias();

    const stats = await pass.stats();
    const error = difference.reduce((sum, d) => sum + d * d, 0) / difference.length;
    means.all.add(stats, error);
    if (step > steps - last) means.end.add(stats, error);
  }
  return means;
}

const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;

console.log(`| balancing | imbalance, all steps | last ${last} | dropped assignments, all steps | last ${last} | tokens without an expert, last ${last} | squared error, last ${last} |
| --- | --: | --: | --: | --: | --: | --: |`);
for (const [name, way] of ways) {
  const { all, end } = await train({ ...base, ...way });
  const figures = [
    all.imbalance.toFixed(2),
    end.imbalance.toFixed(2),
    percent(all.droppedAssignments),
    percent(end.droppedAssignments),
    percent(end.droppedTokens),
    end.error.toFixed(3),
  ];
  console.log(`| ${name} | ${figures.join(' | ')} |`);
}
