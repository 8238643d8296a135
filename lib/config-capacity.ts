// How many assignments an expert takes, and who is dropped: the options' types, defaults and checks.
import {
  checkBoolean,
  checkInteger,
  checkNumber,
  checkObject,
  checkOneOf,
  checkOptions,
  checkSize,
  invalid,
  maxSize,
  orDefault,
} from './checks.js';

export type CapacityConfig =
  /** No limit; the default. */
  | { type: 'dropless' }
  | {
      type: 'fixed';
      /** Slots per expert C = ⌈factor · K · T / E⌉, in double, with T all tokens of the call, or groupSize. This or `slots`. */
      factor?: number;
      /** Slots per expert as a number. This or `factor`. */
      slots?: number;
      /** The factor outside training. Default: factor. */
      evalFactor?: number;
      /** C is at least this. Default 0. */
      min?: number;
      /** C is rounded up to a multiple of this. Default 1. */
      multipleOf?: number;
      /**
       * Who gets a slot. 'position' (default): token order. 'score': by the score before renormalisation and scale; with
       * firstChoicesFirst tokens queue in every rank by their best score (V-MoE), without it each assignment queues by its
       * own (DeepSpeed, Megatron). 'random': by a draw per token and expert, keyed like noise, also outside training
       * (DeepSpeed's random token selection).
       */
      priority?: 'position' | 'score' | 'random';
      /** All first choices queue before any second choice (GShard). Default true. */
      firstChoicesFirst?: boolean;
      /**
       * What becomes of an assignment that finds its expert full. 'drop' (default): it contributes 0 (Switch). 'residual':
       * weight · x, and still counts as dropped, with routing.weights and kept 0. 'next-choice': in rounds, those without
       * a slot ask the best expert, among those with room at the start of the round, that their token has not tried; slots
       * go in queue order. routing.actual has the experts used; the weights are those of their scores (no token left behind,
       * Switch Transformer). With the caller's weights there is no next choice.
       */
      overflow?: 'drop' | 'next-choice' | 'residual';
      /**
       * ⌈buffer · E · C⌉ extra slots, shared by all experts of a group of tokens: in queue order, whoever finds its
       * expert's own slots taken gets one of them. Default 0.
       */
      buffer?: number;
      /** Slots are per expert and group of this many consecutive tokens, the last may be shorter (GShard). Default: the whole batch. */
      groupSize?: number;
    }
  | {
      type: 'dynamic';
      /** The slots of a call are as few as drop at most this share of its assignments, from 0 to 1 … */
      targetDropRate: number;
      /** … and at most ⌈maxFactor · K · T / E⌉. */
      maxFactor: number;
      /** All first choices queue before any second choice. */
      priority?: 'position' | 'score' | 'random';
      overflow?: 'drop' | 'next-choice' | 'residual';
    };

type Priority = 'position' | 'score' | 'random';
type Overflow = 'drop' | 'next-choice' | 'residual';

export interface FixedCapacity {
  type: 'fixed';
  /** With evalFactor, or else slots. */
  factor?: number;
  evalFactor?: number;
  slots?: number;
  min: number;
  multipleOf: number;
  priority: Priority;
  firstChoicesFirst: boolean;
  overflow: Overflow;
  buffer: number;
  groupSize?: number;
}

export type ResolvedCapacity =
  | { type: 'dropless' }
  | FixedCapacity
  | { type: 'dynamic'; targetDropRate: number; maxFactor: number; priority: Priority; overflow: Overflow };

const priorities = ['position', 'score', 'random'] as const;
const overflows = ['drop', 'next-choice', 'residual'] as const;
const droplessOptions = new Set(['type']);
const dynamicOptions = new Set(['type', 'targetDropRate', 'maxFactor', 'priority', 'overflow']);
const fixedOptions = new Set([
  'type',
  'factor',
  'slots',
  'evalFactor',
  'min',
  'multipleOf',
  'priority',
  'firstChoicesFirst',
  'overflow',
  'buffer',
  'groupSize',
]);

export function resolveCapacity(name: string, value: unknown): ResolvedCapacity {
  const given = checkObject(name, orDefault(value, { type: 'dropless' }));
  const type = checkOneOf(`${name}.type`, given.type, ['dropless', 'fixed', 'dynamic']);
  if (type === 'dropless') {
    checkOptions(name, given, droplessOptions);
    return { type };
  }
  checkOptions(name, given, type === 'fixed' ? fixedOptions : dynamicOptions);
  const priority = checkOneOf(`${name}.priority`, orDefault(given.priority, 'position'), priorities);
  const overflow = checkOneOf(`${name}.overflow`, orDefault(given.overflow, 'drop'), overflows);
  if (type === 'fixed') return resolveFixed(name, given, priority, overflow);
  return {
    type,
    targetDropRate: checkNumber(`${name}.targetDropRate`, given.targetDropRate, { min: 0, max: 1 }),
    maxFactor: checkNumber(`${name}.maxFactor`, given.maxFactor, { above: 0 }),
    priority,
    overflow,
  };
}

function resolveFixed(
  name: string,
  given: Record<string, unknown>,
  priority: Priority,
  overflow: Overflow,
): FixedCapacity {
  const { factor, slots, evalFactor } = given;
  if (factor === undefined && slots === undefined) throw invalid(name, 'a factor, or a number of slots', given);
  if (factor !== undefined && slots !== undefined)
    throw invalid(`${name}.slots`, 'no number of slots beside a factor', slots);
  if (slots !== undefined && evalFactor !== undefined)
    throw invalid(`${name}.evalFactor`, 'no factor beside a number of slots', evalFactor);
  const resolved: FixedCapacity = {
    type: 'fixed',
    min: checkInteger(`${name}.min`, orDefault(given.min, 0), 0, maxSize),
    multipleOf: checkSize(`${name}.multipleOf`, orDefault(given.multipleOf, 1)),
    priority,
    firstChoicesFirst: checkBoolean(`${name}.firstChoicesFirst`, orDefault(given.firstChoicesFirst, true)),
    overflow,
    buffer: checkNumber(`${name}.buffer`, orDefault(given.buffer, 0), { min: 0 }),
  };
  if (slots === undefined) {
    resolved.factor = checkNumber(`${name}.factor`, factor, { above: 0 });
    resolved.evalFactor = checkNumber(`${name}.evalFactor`, orDefault(evalFactor, factor), { above: 0 });
  } else {
    resolved.slots = checkSize(`${name}.slots`, slots);
  }
  if (given.groupSize !== undefined) resolved.groupSize = checkSize(`${name}.groupSize`, given.groupSize);
  return resolved;
}
