/** The table's cases of the experts: weights of their input, dropout. */

import { ALL_LOSSES, type Case, odd } from './case.js';

const INPUT = { applyWeightTo: 'input' } as const;

export const EXPERTS: Case[] = [
  odd('weights of the input', { config: { router: INPUT, losses: ALL_LOSSES } }),
  odd('weights of the input, bias', { config: { topK: 3, router: INPUT, experts: { bias: true } } }),
  odd('weights of the input, K = 1, sigmoid (Llama 4)', {
    config: {
      topK: 1,
      router: { ...INPUT, selectBy: 'logits', scoring: 'sigmoid' },
      experts: { shared: { ffnSize: 13 } },
    },
  }),
  ...(
    ['relu', 'gelu', 'gelu-tanh', 'silu', 'geglu', 'reglu', { type: 'clamped-swiglu', alpha: 1.7, limit: 0.8 }] as const
  ).map((activation) => {
    const name = typeof activation === 'object' ? activation.type : activation;
    return odd(`weights of the input, ${name}, bias`, {
      tokens: 23,
      config: { router: { ...INPUT, renormalize: true, weightScale: 1.5 }, experts: { activation, bias: true } },
    });
  }),
  odd('weights of the input, gated shared expert', {
    config: { router: INPUT, experts: { bias: true, shared: { ffnSize: 19, gate: 'sigmoid' } } },
  }),
  odd('weights of the input, drops and masks', {
    tokens: 29,
    distribution: 'skewed',
    mask: 'scattered',
    lossMask: 'scattered',
    config: { router: INPUT, capacity: { type: 'fixed', factor: 0.6 }, experts: { bias: true }, losses: ALL_LOSSES },
  }),
  odd("weights of the input, the caller's", {
    routing: 'weights',
    config: { topK: 3, router: INPUT, experts: { bias: true } },
  }),
  odd('weights of the input, evaluation', {
    call: { training: false },
    config: { router: INPUT, experts: { bias: true } },
  }),
  odd('weights of the input, large and ragged', {
    tokens: 193,
    distribution: 'one-expert',
    config: { hiddenSize: 72, ffnSize: 136, numExperts: 3, router: INPUT, experts: { activation: 'gelu', bias: true } },
  }),
  odd('weights of the input, more rows than one wave', {
    tokens: 4500,
    distribution: 'skewed',
    config: { hiddenSize: 3, ffnSize: 2, numExperts: 2, router: INPUT, experts: { bias: true } },
  }),
  ...[0.1, 0.5, 0.9].flatMap((dropout) => [
    odd(`dropout ${dropout}`, { tokens: 23, config: { experts: { dropout }, losses: ALL_LOSSES } }),
    odd(`dropout ${dropout}, bias, shared expert`, {
      tokens: 23,
      config: { experts: { activation: 'gelu', bias: true, dropout, shared: { ffnSize: 11, gate: 'sigmoid' } } },
    }),
  ]),
  odd('dropout, weights of the input', {
    tokens: 23,
    config: { topK: 3, router: INPUT, experts: { bias: true, dropout: 0.3, shared: { ffnSize: 21 } } },
  }),
  odd('dropout, a named step, an offset, masks, drops', {
    tokens: 29,
    mask: 'scattered',
    distribution: 'skewed',
    call: { noiseStep: 3, tokenOffset: 2 ** 40 + 5 },
    config: { experts: { dropout: 0.4 }, capacity: { type: 'fixed', factor: 0.6 } },
  }),
  ...(['next-choice', 'residual'] as const).map((overflow) =>
    odd(`dropout, weights of the input, overflow ${overflow}`, {
      tokens: 29,
      distribution: 'skewed',
      config: {
        topK: 3,
        router: { ...INPUT, renormalizeAfterDrop: overflow === 'residual' },
        capacity: { type: 'fixed', factor: 0.5, overflow },
        experts: { bias: true, dropout: 0.2 },
        losses: ALL_LOSSES,
      },
    }),
  ),
  // Experts of few tokens have loops of their own, over blocks of features and vectors of rows; odd and even widths differ.
  ...[
    [101, 211],
    [104, 208],
  ].flatMap(([hiddenSize, ffnSize]) => {
    const config = { hiddenSize: hiddenSize!, ffnSize: ffnSize!, numExperts: 3 };
    const few = (name: string, tokens: number, more: Partial<Case['config']>) =>
      odd(`few tokens of wide experts: ${name}, ${hiddenSize}×${ffnSize}`, { tokens, config: { ...config, ...more } });
    return [
      few('one or two an expert, biases', 2, { experts: { activation: 'geglu', bias: true } }),
      few('weights of the input', 3, { router: INPUT, experts: { activation: 'gelu', bias: true } }),
      few('dropout', 8, { experts: { activation: 'relu', dropout: 0.3 } }),
    ];
  }),
  odd('dropout, no effect in evaluation', {
    call: { training: false },
    config: { experts: { dropout: 0.9, shared: { ffnSize: 6 } } },
  }),
  odd('dropout, large and ragged', {
    tokens: 161,
    config: { hiddenSize: 40, ffnSize: 134, numExperts: 3, experts: { bias: true, dropout: 0.25 } },
  }),
  odd('dropout, one expert with more rows than a block', {
    tokens: 611,
    distribution: 'one-expert',
    config: { hiddenSize: 22, ffnSize: 38, numExperts: 3, topK: 1, router: INPUT, experts: { dropout: 0.2 } },
  }),
];
