/** What a case of the table is: a layer, a call, and how its numbers are made. */

import type { Call, LayerConfig } from './reference.js';

export interface Case {
  name: string;
  config: LayerConfig;
  tokens: number;
  /** Where the tokens want to go. 'ties': whole-number logits, many of them equal, computed without rounding. */
  distribution?: 'random' | 'one-expert' | 'idle-experts' | 'skewed' | 'ties';
  /** Which tokens are padding (and hold NaN), which count in no loss. */
  mask?: 'scattered' | 'second-half' | 'all';
  lossMask?: 'scattered' | 'all';
  /** Routing given by the caller: indices alone, or with weights. */
  routing?: 'replay' | 'weights';
  /** Logits given by the caller. */
  ownLogits?: boolean;
  /** Noise given by the caller. */
  ownNoise?: boolean;
  /** Priorities given by the caller. */
  ownPriorities?: boolean;
  call?: Pick<
    Call,
    'training' | 'losses' | 'topK' | 'capacityFactor' | 'temperature' | 'noiseStep' | 'tokenOffset' | 'gate'
  >;
  lossScale?: number;
  /** Multiplies the experts' first matrices, to reach the tails of the activations. */
  gain?: number;
  /** Gradients that are zero in exact arithmetic: rounding has no digits to agree in, so they are held below 1e-5. */
  vanishing?: readonly string[];
}

/** Sizes that are multiples of nothing, so that every tail of every loop is used. */
const ODD = { hiddenSize: 17, ffnSize: 13, numExperts: 7, topK: 2 };

type Options = Omit<Case, 'name' | 'config' | 'tokens'> & { config?: Partial<LayerConfig>; tokens?: number };

export function odd(name: string, { config, tokens = 12, ...rest }: Options = {}): Case {
  return { name, tokens, config: { ...ODD, ...config }, ...rest };
}

export const ALL_LOSSES = { loadBalance: 0.5, importance: 0.3, z: 0.1 };
