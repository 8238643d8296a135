// Results that are awaited a few behind the work that makes them, so that the device's queue never runs dry.

export class InFlight {
  readonly #pending: Promise<void>[] = [];

  constructor(private readonly limit: number) {}

  /** Waits only when more than `limit` are outstanding, and then for the oldest. */
  async add(result: Promise<void>): Promise<void> {
    // Its error is thrown where it is awaited; until then it must not count as unhandled.
    result.catch(() => {});
    this.#pending.push(result);
    if (this.#pending.length > this.limit) await this.#pending.shift();
  }

  async drain(): Promise<void> {
    while (this.#pending.length > 0) await this.#pending.shift();
  }
}
