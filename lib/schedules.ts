// Plain functions of the step, for forward options and learning rates. Steps count from 0; before it and past the end a
// schedule stays at its first and last value.
import { checkInteger, checkNumber, checkSize, invalid } from './checks.js';

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

/**
 * From `from` at step 0 to `to` at step `steps` by the same factor at every step; both above 0. For temperatures, which act
 * as a quotient (Jang, Gu & Poole 2017 anneal theirs so).
 */
export function exponential(from: number, to: number, steps: number): Schedule {
  checkNumber('from', from, { above: 0 });
  checkNumber('to', to, { above: 0 });
  checkSize('steps', steps);
  return (step) => {
    const share = progress(step, steps);
    return share === 1 ? to : from * (to / from) ** share;
  };
}

/**
 * One schedule after the other: schedules[i] from step boundaries[i - 1] on, with its own steps counted from there. A warm-up
 * before an annealing, or values that change at given steps.
 */
export function join(schedules: readonly Schedule[], boundaries: readonly number[]): Schedule {
  if (!Array.isArray(schedules) || schedules.length === 0 || schedules.some((one) => typeof one !== 'function'))
    throw invalid('schedules', 'an array of at least one schedule', schedules);
  if (!Array.isArray(boundaries) || boundaries.length !== schedules.length - 1)
    throw invalid('boundaries', `${schedules.length - 1} steps, one between any two schedules`, boundaries);
  const starts = [0];
  for (const [i, boundary] of boundaries.entries())
    starts.push(checkInteger(`boundaries[${i}]`, boundary, starts.at(-1)! + 1, Number.MAX_SAFE_INTEGER));
  return (step) => {
    const begun = starts.filter((start) => step >= start).length;
    const current = Math.max(begun - 1, 0);
    return schedules[current]!(step - starts[current]!);
  };
}

/** topK from all experts at step 0 down to `topK` at step `steps`, in whole numbers (EvoMoE's dense-to-sparse gate). */
export function denseToSparse(numExperts: number, topK: number, steps: number): Schedule {
  checkSize('numExperts', numExperts);
  checkInteger('topK', topK, 1, numExperts, 'numExperts');
  const line = linear(numExperts, topK, steps);
  return (step) => Math.round(line(step));
}
