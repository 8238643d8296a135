// Ctrl-C and SIGTERM: the first asks the training loop to save and stop, the second ends the process at once.

/** Under `npm run` one Ctrl-C arrives twice, from the terminal and from npm; what comes this soon is the same one. */
const sameKeyPressMs = 500;

export class Interruption {
  #at: number | undefined;
  readonly #listener = () => {
    const now = performance.now();
    if (this.#at === undefined) {
      this.#at = now;
      this.onRequest();
    } else if (now - this.#at > sameKeyPressMs) process.exit(130);
  };

  constructor(private readonly onRequest: () => void) {
    for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, this.#listener);
  }

  get requested(): boolean {
    return this.#at !== undefined;
  }

  /** Back to Node's own behaviour. */
  dispose(): void {
    for (const signal of ['SIGINT', 'SIGTERM']) process.removeListener(signal, this.#listener);
  }
}
