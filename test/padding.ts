/** The same call with masked tokens around its own: padding in front would take the first slots, if it took any. */

import type { Case } from './cases.js';
import { choices, type Problem } from './problem.js';
import { type CapacityOptions, capacityOf } from './reference-capacity.js';

export interface Padding {
  front: number;
  back: number;
}

/** What padding holds, which may be anything. */
const PADDED = {
  input: Number.NaN,
  gradOutput: Number.NaN,
  logits: Number.NaN,
  weights: Number.NaN,
  noise: Number.NaN,
  priorities: Number.NaN,
  indices: -1,
  tokenTypes: -7,
  tokenIds: 0,
  lossMask: 1,
} as const;

/** The padding that leaves groups of tokens and sequences what they are, from that of neither. */
export function alignedPadding({ config }: Case, { front, back }: Padding): Padding {
  const { groupSize = 1 } = config.capacity?.type === 'fixed' ? config.capacity : {};
  const balance = config.losses?.loadBalance;
  const { sequenceLength = 1 } = typeof balance === 'object' ? balance : {};
  return { front: front * groupSize * sequenceLength, back: back * sequenceLength };
}

/** The capacity that has the same slots for `padded` tokens as the case's has for its own. */
function sameSlots(testCase: Case, padded: number): CapacityOptions | undefined {
  const { config, call = {}, tokens } = testCase;
  const { capacity } = config;
  if (!capacity || capacity.type === 'dropless') return capacity;
  const [topK, numExperts] = [choices(testCase), config.numExperts];
  const { training = true, capacityFactor } = call;
  const slots = capacityOf(capacity, { tokens, topK, numExperts, training, capacityFactor })!;
  if (capacity.type === 'dynamic') return { ...capacity, maxFactor: ((slots - 0.5) * numExperts) / (topK * padded) };
  const { factor: _, evalFactor: __, min: ___, multipleOf: ____, ...queue } = capacity;
  return { ...queue, slots };
}

/** Draws are keyed by the token's number: the padded call starts that many before the one to compare it with. */
export function pad(testCase: Case, problem: Problem, { front, back }: Padding): { testCase: Case; problem: Problem } {
  const tokens = front + testCase.tokens + back;
  const padded: Problem = { ...problem, mask: new Int32Array(tokens).fill(1, front, front + testCase.tokens) };
  for (const name of Object.keys(PADDED) as (keyof typeof PADDED)[]) {
    const values = problem[name];
    if (!values) continue;
    const width = values.length / testCase.tokens;
    const wide = values instanceof Int32Array ? new Int32Array(tokens * width) : new Float32Array(tokens * width);
    wide.fill(PADDED[name]).set(values, front * width);
    Object.assign(padded, { [name]: wide });
  }
  const { capacityFactor: _, ...call } = testCase.call ?? {};
  const capacity = sameSlots(testCase, tokens);
  return {
    testCase: {
      ...testCase,
      tokens,
      call: { ...call, tokenOffset: (call.tokenOffset ?? 0) - front },
      config: { ...testCase.config, ...(capacity && { capacity }) },
    },
    problem: padded,
  };
}
