// Plain functions of the step, for forward options and learning rates. Steps count from 0; before it and past the end a
// schedule stays at its first and last value.
import { checkInteger, checkNumber, checkSize } from './checks.js';

export type Schedule = (step: number) => number;

/** How far `step` is on the way from 0 to `steps`, from 0 to 1. */
const progress = (step: number, steps: number): number => Math.min(Math.max(step / steps, 0), 1);

export function constant(value: number): Schedule {
  checkNumber('value', value);
  return () => value;
}

/** A straight line from `from` at step 0 to `to` at step `steps`. */
export function linear(from: number, to: number, steps: number): Schedule {
  checkNumber('from', from);
  checkNumber('to', to);
  checkSize('steps', steps);
  return (step) => {
    const share = progress(step, steps);
    return share === 1 ? to : from + (to - from) * share;
  };
}

/**
 * A straight line from 0 to `from` over the first `warmup` steps (default 0), then half a cosine down, or up, to `to` at
 * step `steps`, which counts the warm-up (Loshchilov & Hutter 2017).
 */
export function cosine(from: number, to: number, steps: number, warmup = 0): Schedule {
  checkNumber('from', from);
  checkNumber('to', to);
  checkSize('steps', steps);
  checkInteger('warmup', warmup, 0, steps, 'steps');
  return (step) => {
    if (step < warmup) return from * progress(step, warmup);
    if (step >= steps) return to;
    return to + ((from - to) * (1 + Math.cos(Math.PI * progress(step - warmup, steps - warmup)))) / 2;
  };
}

/** topK from all experts at step 0 down to `topK` at step `steps`, in whole numbers (EvoMoE's dense-to-sparse gate). */
export function denseToSparse(numExperts: number, topK: number, steps: number): Schedule {
  checkSize('numExperts', numExperts);
  checkInteger('topK', topK, 1, numExperts, 'numExperts');
  const line = linear(numExperts, topK, steps);
  return (step) => Math.round(line(step));
}
