// The command line: what can be given, what it means, and a clear message for what makes no sense.
import { parseArgs } from 'node:util';

export const usage = `Trains a byte-level mixture-of-experts language model on Moby Dick.

  npm run train -- [options]

  --minutes N         train for N minutes (default 5)
  --steps N           train for N steps in all, instead of --minutes
  --device KIND       auto (default), cpu or cuda
  --seed N            weights, data order and the sample of text (default 1)
  --checkpoint FILE   written every minute and at the end, over an older one
                      (default checkpoints/language-model.safetensors)
  --resume            go on from the checkpoint, with its seed, and with its --minutes or --steps unless given anew
  --ablate            at the end, zero each expert in turn and show what that does to the held-out loss
  --eval-bytes N      evaluate on the first N held-out bytes only (default: all of them)
  --json              standard output is one JSON object; everything else goes to standard error
  --help              this text

Ctrl-C saves the checkpoint and exits with code 0; a second Ctrl-C exits at once with code 130.
`;

/** How long to train: the learning rate's schedule spans it. */
export type Budget = { readonly kind: 'minutes' | 'steps'; readonly amount: number };

export interface Options {
  readonly budget: Budget | undefined;
  readonly device: 'auto' | 'cpu' | 'cuda';
  readonly seed: number | undefined;
  readonly checkpoint: string;
  readonly resume: boolean;
  readonly ablate: boolean;
  readonly evalBytes: number;
  readonly json: boolean;
  readonly help: boolean;
}

/** A mistake of the person at the keyboard, as opposed to one of the program. */
export class UsageError extends Error {}

export function readOptions(args: string[]): Options {
  const values = parse(args);
  if (values.minutes !== undefined && values.steps !== undefined)
    throw new UsageError('--minutes and --steps exclude each other');
  const device = values.device ?? 'auto';
  if (device !== 'auto' && device !== 'cpu' && device !== 'cuda')
    throw new UsageError(`--device must be auto, cpu or cuda, but is "${device}"`);
  if (values.checkpoint === '') throw new UsageError('--checkpoint must be the path of a file, but is ""');
  const minutes = number('--minutes', values.minutes, 'a positive number', (value) => value > 0);
  const steps = number('--steps', values.steps, 'a positive integer', (value) => value > 0 && Number.isInteger(value));
  const positive = (value: number) => Number.isSafeInteger(value) && value > 0;
  return {
    budget: steps ? { kind: 'steps', amount: steps } : minutes ? { kind: 'minutes', amount: minutes } : undefined,
    device,
    seed: number('--seed', values.seed, 'an integer from 0 to 4294967295', (value) => value === value >>> 0),
    checkpoint: values.checkpoint ?? 'checkpoints/language-model.safetensors',
    resume: values.resume ?? false,
    ablate: values.ablate ?? false,
    evalBytes: number('--eval-bytes', values['eval-bytes'], 'a positive integer', positive) ?? Number.POSITIVE_INFINITY,
    json: values.json ?? false,
    help: values.help ?? false,
  };
}

function parse(args: string[]) {
  try {
    return parseArgs({
      args,
      options: {
        minutes: { type: 'string' },
        steps: { type: 'string' },
        device: { type: 'string' },
        seed: { type: 'string' },
        checkpoint: { type: 'string' },
        resume: { type: 'boolean' },
        ablate: { type: 'boolean' },
        'eval-bytes': { type: 'string' },
        json: { type: 'boolean' },
        help: { type: 'boolean', short: 'h' },
      },
    }).values;
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

function number(name: string, text: string | undefined, expected: string, accept: (value: number) => boolean) {
  if (text === undefined) return undefined;
  const value = text.trim() === '' ? Number.NaN : Number(text);
  if (!Number.isFinite(value) || !accept(value)) throw new UsageError(`${name} must be ${expected}, but is "${text}"`);
  return value;
}
