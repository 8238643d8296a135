// Times on a GPU, by its events: a training step in bfloat16 kernel by kernel, each beside the time that its floor of
// bytes takes at the read bandwidth measured in the same run.
import { AdamW, type Device, MoELayer, type MoEPass } from '../lib/index.js';
import { kernelOf } from './counts.js';
import { floors } from './floor.js';
import type { Workload } from './workloads.js';

interface Timed {
  kernel: string;
  /** Of every sample. */
  milliseconds: number[];
}

const middle = (values: number[]) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;

function collect(all: Timed[], sample: { kernel: string; milliseconds: number }[]) {
  sample.forEach(({ kernel, milliseconds }, i) => {
    all[i] ??= { kernel: kernelOf({ kernel }), milliseconds: [] };
    all[i].milliseconds.push(milliseconds);
  });
}

const columns = ['launch', 'median µs', 'floor MB', 'GB/s of the floor', '% of read bandwidth', 'TFLOP/s'];

/** Elements whose draws keep a GPU busy while the host queues what is timed, which then goes at the GPU's own pace. */
const aheadOfHost = 1 << 28;

/** A table in Markdown. */
export async function timeTable(
  device: Device,
  workload: Workload,
  milliseconds: number,
  ahead = aheadOfHost,
): Promise<string> {
  const { name, title, tokens, config, forwardOnly = false } = workload;
  using layer = new MoELayer(device, { ...config, dtype: 'bfloat16' });
  using input = device.randn([tokens, config.hiddenSize], { seed: 3, dtype: 'bfloat16' });
  using gradOutput = device.randn([tokens, config.hiddenSize], { seed: 4, dtype: 'bfloat16' });
  using optimizer = new AdamW(layer.parameters().values(), { learningRate: 0 });
  const { readBytesPerSecond } = await device.measureLimits();
  const training = !forwardOnly;

  /** Draws come first: an event before anything else would wait for the host, not for the GPU. They also empty its L2. */
  const profileBehind = async (run: () => void) => {
    const [, ...sample] = await device.profile(() => {
      device.randn([ahead], { seed: 5 }).dispose();
      run();
    });
    return sample;
  };
  let pass: MoEPass | undefined;
  const parts: Record<string, () => void> = {
    forward: () => {
      pass = layer.forward(input, { training });
    },
    ...(training && {
      backward: () => pass?.backward(gradOutput).dispose(),
      optimizer: () => optimizer.step(),
    }),
  };
  const times: Record<string, Timed[]> = {};
  const step = async (keep: boolean) => {
    for (const [part, run] of Object.entries(parts)) {
      times[part] ??= [];
      const sample = await profileBehind(run);
      if (keep) collect(times[part], sample);
    }
  };
  for (let warm = 0; warm < 3; warm++) {
    await step(false);
    pass?.dispose();
  }
  for (const until = performance.now() + milliseconds; ; ) {
    await step(true);
    if (performance.now() >= until) break;
    pass?.dispose();
  }
  const { kept } = await pass!.stats();
  pass!.dispose();
  const floor = floors({ tokens, config, forwardOnly }, kept.filter((rows) => rows > 0).length);

  const line = (label: string, seconds: number, bytes: number, flops: number) => {
    const rate = bytes / seconds;
    const cells = [
      label,
      (seconds * 1e6).toFixed(1),
      bytes > 0 ? (bytes / 1e6).toFixed(3) : '–',
      bytes > 0 ? (rate / 1e9).toFixed(1) : '–',
      bytes > 0 ? ((100 * rate) / readBytesPerSecond).toFixed(1) : '–',
      flops > 0 ? (flops / seconds / 1e12).toFixed(1) : '–',
    ];
    return `| ${cells.join(' | ')} |`;
  };
  const lines = [
    `### ${name} ${title} on ${device.name}, bfloat16; read bandwidth ${(readBytesPerSecond / 1e9).toFixed(0)} GB/s`,
    '',
    `| ${columns.join(' | ')} |`,
    `|${columns.map((_, i) => (i === 0 ? '---' : '--:')).join('|')}|`,
  ];
  for (const [part, timed] of Object.entries(times)) {
    const least = part === 'forward' || part === 'backward' ? floor[part] : [];
    let [seconds, bytes, flops] = [0, 0, 0];
    for (const { kernel, milliseconds } of timed) {
      const own = least.find((f) => f.kernel === kernel) ?? { bytes: 0, flops: 0 };
      const median = middle(milliseconds) / 1e3;
      seconds += median;
      bytes += own.bytes;
      flops += own.flops;
      lines.push(line(kernel, median, own.bytes, own.flops));
    }
    lines.push(line(`**${part}**, its kernels`, seconds, bytes, flops));
  }

  // With what lies between the kernels, and before and after them for statuses: one event before a graph, one after it.
  const total = (part: 'forward' | 'backward', of: 'bytes' | 'flops') =>
    floor[part].reduce((sum, own) => sum + own[of], 0);
  const wholes = {
    forward: { run: () => layer.forward(input, { training }).dispose(), of: ['forward'] },
    ...(training && {
      'forward and backward': {
        run: () => {
          using own = layer.forward(input);
          own.backward(gradOutput).dispose();
          layer.zeroGrad();
        },
        of: ['forward', 'backward'],
      },
    }),
  } as const;
  for (const [label, { run, of }] of Object.entries(wholes)) {
    using graph = device.graph(run);
    const samples: number[] = [];
    for (const until = performance.now() + milliseconds; ; ) {
      const [replay] = await profileBehind(() => graph.replay());
      samples.push(replay!.milliseconds);
      if (samples.length > 3 && performance.now() >= until) break;
    }
    const [bytes, flops] = (['bytes', 'flops'] as const).map((kind) =>
      (of as readonly ('forward' | 'backward')[]).reduce((sum, part) => sum + total(part, kind), 0),
    );
    lines.push(line(`**${label}**, a graph`, middle(samples.slice(1)) / 1e3, bytes!, flops!));
  }
  return [...lines, ''].join('\n');
}
