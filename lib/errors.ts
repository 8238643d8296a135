// The one error class of the library.

export type MoEErrorCode =
  | 'ERR_INVALID_ARGUMENT'
  | 'ERR_SHAPE'
  | 'ERR_DTYPE'
  | 'ERR_DEVICE_MISMATCH'
  | 'ERR_DISPOSED'
  | 'ERR_STALE_PASS'
  | 'ERR_NON_FINITE'
  | 'ERR_OUT_OF_MEMORY'
  | 'ERR_DEVICE_UNAVAILABLE'
  | 'ERR_DEVICE_LOST'
  | 'ERR_UNSUPPORTED'
  | 'ERR_IO'
  | 'ERR_CORRUPT_FILE'
  | 'ERR_COLLECTIVE'
  | 'ERR_INTERNAL';

/** Every error the library throws: `code` is stable, the message names the parameter, what was expected, what came. */
export class MoEError extends Error {
  override readonly name = 'MoEError';
  readonly code: MoEErrorCode;
  /** What to do about it, where there is something to do. */
  readonly hint?: string;

  constructor(code: MoEErrorCode, message: string, hint?: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
    if (hint) this.hint = hint;
  }
}
