// The scopes of tidy(): what was made inside a body, and which of it outlives the body. It owns no memory and knows
// neither devices nor tensors, only things that dispose themselves and may belong to a pass.

/** A tensor, a pass or a plan: what tidy() disposes. */
export abstract class Scoped implements Disposable {
  /** @internal The innermost tidy around its making; undefined outside every tidy and for what was kept. */
  scope: Scope | undefined;
  /** @internal The pass that disposes it; undefined for what disposes itself. */
  owner: Scoped | undefined;

  abstract dispose(): void;

  [Symbol.dispose](): void {
    this.dispose();
  }
}

export class Scope {
  readonly #members = new Set<Scoped>();
  readonly parent: Scope | undefined;

  constructor(parent: Scope | undefined) {
    this.parent = parent;
  }

  add(member: Scoped): void {
    this.#members.add(member);
    member.scope = this;
  }

  remove(member: Scoped): void {
    this.#members.delete(member);
    member.scope = undefined;
  }

  /** Disposes the members that `result` does not hold; those it holds go on to the enclosing scope. */
  close(result: unknown): void {
    const found = scopedIn(result);
    // A pass's tensor that is in the result by itself leaves its pass. First, while the passes still are in this scope.
    for (const member of found) {
      if (member.owner?.scope !== this) continue;
      member.owner = undefined;
      this.add(member);
    }
    for (const member of found) {
      if (member.scope !== this) continue;
      this.remove(member);
      this.parent?.add(member);
    }
    this.disposeAll();
  }

  disposeAll(): void {
    for (const member of this.#members) member.dispose();
    this.#members.clear();
  }
}

/** Everything scoped that is `value` or in its arrays and plain objects, however deep; cycles are fine. */
function scopedIn(value: unknown): Set<Scoped> {
  const found = new Set<Scoped>();
  const seen = new Set<object>();
  const open: unknown[] = [value];
  while (open.length > 0) {
    const next = open.pop();
    if (typeof next !== 'object' || next === null || seen.has(next)) continue;
    seen.add(next);
    if (next instanceof Scoped) found.add(next);
    else if (Array.isArray(next)) open.push(...next);
    else if (isPlain(next)) open.push(...Object.values(next));
  }
  return found;
}

function isPlain(value: object): boolean {
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === null || prototype === Object.prototype;
}
