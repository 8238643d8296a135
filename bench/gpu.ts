// Times on a GPU, by its events: a training step in bfloat16 kernel by kernel, each beside the time that its floor of
// bytes takes at the read bandwidth measured in the same run.
import { AdamW, type Device, MoELayer } from '../lib/index.js';
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

/** A table in Markdown. */
export async function timeTable(device: Device, workload: Workload, milliseconds: number): Promise<string> {
  const { name, title, tokens, config, forwardOnly } = workload;
  using layer = new MoELayer(device, { ...config, dtype: 'bfloat16' });
  using input = device.randn([tokens, config.hiddenSize], { seed: 3, dtype: 'bfloat16' });
  using gradOutput = device.randn([tokens, config.hiddenSize], { seed: 4, dtype: 'bfloat16' });
  using optimizer = new AdamW(layer.parameters().values(), { learningRate: 0 });
  const { readBytesPerSecond } = await device.measureLimits();
  const floor = floors({ tokens, config });

  const times: Record<string, Timed[]> = { forward: [], backward: [], optimizer: [] };
  const step = async (keep: boolean) => {
    let pass: ReturnType<MoELayer['forward']> | undefined;
    const parts = {
      forward: () => {
        pass = layer.forward(input, { training: !forwardOnly });
      },
      backward: () => void (forwardOnly || pass?.backward(gradOutput).dispose()),
      optimizer: () => void (forwardOnly || optimizer.step()),
    };
    for (const [part, run] of Object.entries(parts)) {
      const sample = await device.profile(run);
      if (keep) collect(times[part]!, sample);
    }
    pass?.dispose();
  };
  for (let warm = 0; warm < 3; warm++) await step(false);
  const until = performance.now() + milliseconds;
  do await step(true);
  while (performance.now() < until);

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
  for (const part of ['forward', 'backward', 'optimizer'] as const) {
    const least = part === 'optimizer' ? [] : floor[part];
    let [seconds, bytes, flops] = [0, 0, 0];
    for (const { kernel, milliseconds } of times[part]!) {
      const own = least.find((f) => f.kernel === kernel) ?? { bytes: 0, flops: 0 };
      const median = middle(milliseconds) / 1e3;
      seconds += median;
      bytes += own.bytes;
      flops += own.flops;
      lines.push(line(kernel, median, own.bytes, own.flops));
    }
    if (times[part]!.length > 0) lines.push(line(`**${part}**`, seconds, bytes, flops));
  }
  return [...lines, ''].join('\n');
}
