// The error that a call throws.
import { expect } from 'vitest';
import { MoEError } from '../lib/index.js';

export function failure(call: () => unknown): MoEError {
  try {
    call();
  } catch (error) {
    expect(error).toBeInstanceOf(MoEError);
    return error as MoEError;
  }
  throw new Error('the call did not throw');
}
