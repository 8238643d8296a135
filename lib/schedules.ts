// Plain functions of the step, for learning rates and ForwardOptions. Steps count from 0; past the end the last value holds.
import { checkInteger, checkNumber } from './checks.js';

export type Schedule = (step: number) => number;

export function constant(value: number): Schedule {
  checkNumber('value', value);
  return () => value;
}

/** From `from` at step 0 to `to` at step `steps`, in a straight line. */
export function linear(from: number, to: number, steps: number): Schedule {
  checkNumber('from', from);
  checkNumber('to', to);
  checkInteger('steps', steps, 1, Number.MAX_SAFE_INTEGER);
  return (step) => from + (to - from) * Math.min(Math.max(step / steps, 0), 1);
}

/** A linear warm-up from 0 to `from` over `warmup` steps, then half a cosine down to `to` at step `steps`. */
export function cosine(from: number, to: number, steps: number, warmup = 0): Schedule {
  checkNumber('from', from);
  checkNumber('to', to);
  checkInteger('steps', steps, 1, Number.MAX_SAFE_INTEGER);
  checkInteger('warmup', warmup, 0, steps, 'steps');
  return (step) => {
    if (step < warmup) return (from * Math.max(step, 0)) / warmup;
    const progress = steps === warmup ? 1 : Math.min((step - warmup) / (steps - warmup), 1);
    return to + ((from - to) * (1 + Math.cos(Math.PI * progress))) / 2;
  };
}

/** Dense routing (K = E) at step 0 down to topK at step `steps`: whole numbers for ForwardOptions.topK. */
export function denseToSparse(numExperts: number, topK: number, steps: number): Schedule {
  checkInteger('numExperts', numExperts, 1, 2 ** 31 - 1);
  checkInteger('topK', topK, 1, numExperts, 'numExperts');
  const line = linear(numExperts, topK, steps);
  return (step) => Math.round(line(step));
}
