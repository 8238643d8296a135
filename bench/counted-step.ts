// The program that bench/counts.ts runs on the software GPU: one training step of a layer in bfloat16, with marks between
// its parts in the report of launches and in the trace of driver calls.
import { appendFileSync } from 'node:fs';
import { AdamW, MoELayer, openDevice } from '../lib/index.js';
import type { CountedShape } from './counts.js';

const shape = JSON.parse(process.argv[2]!) as CountedShape;
const files = [process.env.SOFTGPU_REPORT!, process.env.SOFTGPU_TRACE!];

using device = openDevice('cuda');
using layer = new MoELayer(device, { ...shape.config, dtype: 'bfloat16' });
using input = device.randn([shape.tokens, shape.config.hiddenSize], { seed: 1, dtype: 'bfloat16' });
using gradOutput = device.randn([shape.tokens, shape.config.hiddenSize], { seed: 2, dtype: 'bfloat16' });
for (const [name, parameter] of layer.parameters())
  if (shape.frozen && name.startsWith(shape.frozen)) parameter.trainable = false;
using optimizer = new AdamW(layer.parameters().values(), { learningRate: 1e-3 });

const mark = async (values: Record<string, unknown>) => {
  await device.synchronize();
  for (const file of files) appendFileSync(file, `${JSON.stringify({ type: 'mark', ...values })}\n`);
};

// What a backend sets up once belongs to no step.
device.tidy(() => layer.forward(device.zeros([1, shape.config.hiddenSize], 'bfloat16')).dispose());
await mark({ part: 'forward' });
const before = device.memory().allocated;
const pass = layer.forward(input, { training: !shape.forwardOnly });
const outputBytes = pass.output.size * 2;
const heldBytes = device.memory().allocated - before - outputBytes;
await mark({ part: 'backward', heldBytes });
if (!shape.forwardOnly) pass.backward(gradOutput);
await mark({ part: 'optimizer' });
if (shape.optimizer && !shape.forwardOnly) optimizer.step();
await mark({ part: 'end' });
const { kept } = await pass.stats();
await mark({ part: 'statistics', expertsHit: kept.filter((rows) => rows > 0).length });
