// Writes text with a model, one byte at a time.
import { type LanguageModel, shape } from './model.js';
import { purpose, random } from './random.js';

export async function sample(
  model: LanguageModel,
  options: { prompt: string; bytes: number; temperature: number; seed: number },
): Promise<string> {
  const written = [...new TextEncoder().encode(options.prompt)];
  for (let i = 0; i < options.bytes; i++) {
    const context = new Int32Array(shape.window);
    const recent = written.slice(-shape.window);
    context.set(recent, shape.window - recent.length);
    written.push(draw(await model.next(context), options.temperature, random(purpose.sampling, options.seed, i)));
  }
  // The end may cut a character in two, and an untrained model writes bytes that would command a terminal.
  const text = new TextDecoder().decode(Uint8Array.from(written)).replace(/\uFFFD+$/, '');
  return text.replace(/(?!\n)\p{Cc}/gu, '\uFFFD');
}

/** The byte at which the cumulated softmax(logits / temperature) passes `uniform`. */
function draw(logits: Float32Array, temperature: number, uniform: number): number {
  const highest = logits.reduce((a, b) => Math.max(a, b));
  const weights = logits.map((logit) => Math.exp((logit - highest) / temperature));
  let rest = uniform * weights.reduce((a, b) => a + b);
  const byte = weights.findIndex((weight) => {
    rest -= weight;
    return rest < 0;
  });
  return byte < 0 ? weights.length - 1 : byte;
}
