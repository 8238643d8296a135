// The bytes that each launch of a training step cannot do without: every tensor that it needs once, whatever the kernels
// do. Of a dropless layer in 16 bits, with no options that add work.
import type { CountedShape } from './counts.js';

export interface Floor {
  /** The kernel's name without its tile and dtype. */
  kernel: string;
  bytes: number;
  /** Of the products on tensor cores, multiply and add counted both. */
  flops: number;
}

const element = 2;
const word = 4;

/** In the order of the launches. expertsHit: those with rows; the weights of no other are read. */
export function floors(
  { tokens, config, frozen, forwardOnly }: CountedShape,
  expertsHit = config.numExperts,
): Record<'forward' | 'backward', Floor[]> {
  const trainsExperts = frozen !== 'experts.';
  const trainsRouter = frozen !== 'router.';
  const { hiddenSize: H, ffnSize: F, numExperts: E, topK: K } = config;
  const activation = config.experts?.activation ?? 'swiglu';
  const ups = ['relu', 'gelu', 'gelu-tanh', 'silu'].includes(activation as string) ? 1 : 2; // with a gate, two
  const rows = tokens * K;
  const x = tokens * H * element;
  const wide = rows * H * element; // a row of the layer's width for each assignment
  const narrow = rows * F * element;
  const read = expertsHit * F * H * element;
  const gradient = E * F * H * word;
  const saved = forwardOnly ? 0 : ups;
  const logits = tokens * E * word;
  const routerWeight = E * H * word;
  const perRow = rows * word; // one index or weight for each assignment
  const product = 2 * rows * H * F;
  return {
    forward: [
      { kernel: 'route', bytes: x + routerWeight + logits + 3 * perRow, flops: 0 },
      { kernel: 'routeLosses', bytes: 0, flops: 0 },
      { kernel: 'buildPlan', bytes: 5 * perRow + tokens * word, flops: 0 },
      {
        kernel: 'expertsUp',
        bytes: x + ups * read + (saved + 1) * narrow + perRow,
        flops: ups * product,
      },
      { kernel: 'rowProduct', bytes: narrow + read + wide, flops: product },
      { kernel: 'combine', bytes: wide + x + 3 * perRow + tokens * word, flops: 0 },
    ],
    backward: [
      {
        kernel: 'downBackward',
        bytes: x + read + (2 * ups + (trainsExperts ? 1 : 0)) * narrow + 4 * perRow,
        flops: product,
      },
      {
        kernel: 'weightGradients',
        bytes: (ups + 1) * narrow + 2 * x + (ups + 1) * gradient + perRow,
        flops: (ups + 1) * product,
      },
      {
        kernel: 'rowGradient',
        bytes: ups * narrow + ups * read + wide + 2 * perRow,
        flops: ups * product,
      },
      { kernel: 'routeTokensBackward', bytes: 2 * logits + 2 * perRow, flops: 0 },
      { kernel: 'routeProducts', bytes: x + logits + routerWeight, flops: 0 },
      { kernel: 'combineRouted', bytes: wide + x + perRow + tokens * word + logits + routerWeight, flops: 0 },
    ].filter(
      ({ kernel }) => (trainsExperts || kernel !== 'weightGradients') && (trainsRouter || kernel !== 'routeProducts'),
    ),
  };
}
